"""``ttt-bench``: time and memory of the inner loop and of whole models, and resources of the GPU kernels."""

import sys
from dataclasses import fields
from typing import Any

from ttt.cli.command import Command, subcommand
from ttt.cli.compose import composed_run, method
from ttt.config.bench import (
    InnerBenchConfig,
    KernelBenchConfig,
    LatencyBenchConfig,
    MemoryBenchConfig,
    Method,
    Methods,
    ModelBenchConfig,
    ModelsConfig,
    StepBenchConfig,
)
from ttt.config.schema import TrainConfig

HELP = """\
ttt-bench measures time and memory, kernel against kernel, and reports the
resources that the GPU kernels need.

usage: ttt-bench inner [KEY=VALUE ...]
       ttt-bench model [KEY=VALUE ...]
       ttt-bench latency [KEY=VALUE ...]
       ttt-bench kernels [KEY=VALUE ...]
       ttt-bench memory [KEY=VALUE ...]
       ttt-bench step [GROUP=OPTION ...] [KEY=VALUE ...]

  inner     the inner loop of one TTT layer, on this machine's processor
  model     training and decoding of a whole language model, on the processor
  latency   training, prefill and decoding of whole models at several contexts
  kernels   registers, memory and operations of the Triton kernels; needs no GPU
  memory    what fits on which GPU: the memory of a training step at every size
            and context, counted; needs no GPU
  step      where the time of a training step goes, with the keys of ttt-train

  ttt-bench inner inner_model=linear       TTT-Linear only
  ttt-bench inner mini_batch_size=1,4,16,64,256
                                           several mini-batch sizes, for
                                           ttt-plot mini_batch_size
  ttt-bench model model=ttt_linear,transformer
                                           two models
  ttt-bench model model=ttt_mlp tokens=2048,32768
                                           is time per token constant?
  ttt-bench latency                        a laptop size at contexts 512 to 16k:
                                           which curves are flat?
  ttt-bench latency scale=paper device=cuda
                                           the paper's 1.3B on a GPU, contexts
                                           1k to 32k, and the kernels
  ttt-bench kernels targets=sm_90,gfx942   compile for two architectures (or
                                           --targets sm_90,gfx942)
  ttt-bench memory size=125m ctx=8k,32k model=ttt_mlp,mamba
                                           two models at one size and two
                                           contexts
  ttt-bench step model=ttt_mlp ctx=2k      the parts of a step of this run

Results are printed and saved in runs/ for ttt-plot. Every kernel is compared
with plain: the dual form in ordinary operators, with every inner state stored.
dual with checkpoint_group=0 is the same computation, so that its difference
from plain is the noise of this machine. Nothing of latency and kernels has been
run on a GPU yet.

`ttt-bench inner --help` lists the keys of inner, and so on."""

USAGE = "usage: ttt-bench {} [KEY=VALUE ...]"


def inner(config: InnerBenchConfig, overrides: list[str]) -> None:  # noqa: ARG001 - as every command
    """Measure the inner loop; print a table and the path of its file.

    Raises:
        UserError: a value out of its range.
    """
    # Errors in the values are printed before torch is imported.
    config.check()
    from ttt.bench.run import bench_inner

    print(bench_inner(config))


def model(config: ModelBenchConfig, overrides: list[str]) -> None:  # noqa: ARG001 - as every command
    """Measure language models; print a table and the path of its file.

    Raises:
        UserError: a value out of its range.
    """
    config.check()
    from ttt.bench.run import bench_model

    print(bench_model(config, _methods(config)))


def latency(config: LatencyBenchConfig, overrides: list[str]) -> None:  # noqa: ARG001 - as every command
    """Measure the latency of models and kernels; print a table and the path of its file.

    Raises:
        UserError: a value out of its range, or an unavailable device.
    """
    config.check()
    from ttt.bench.run import bench_latency

    print(bench_latency(config, _methods(config)))


def kernels(config: KernelBenchConfig, overrides: list[str]) -> None:  # noqa: ARG001 - as every command
    """Compile the Triton kernels and count their operations; print a table and the path of its file.

    Raises:
        UserError: a value out of its range, or no Triton.
        RunError: a kernel that does not compile.
    """
    config.check()
    from ttt.bench.kernels import bench_kernels

    print(bench_kernels(config))


def memory(config: MemoryBenchConfig, overrides: list[str]) -> None:  # noqa: ARG001 - as every command
    """Count the memory of training steps; print two tables.

    Raises:
        UserError: a value out of its range, or no such option.
    """
    config.check()
    places = [(size, name, ctx) for size in config.sizes for name in config.models for ctx in config.contexts]
    runs = {place: composed_run(*place, config.vocab) for place in places}
    from ttt.bench.fits import bench_memory

    bench_memory(config, runs)


def step(config: StepBenchConfig, overrides: list[str]) -> None:  # noqa: ARG001 - as every command
    """Time the steps of a run; print the parts of one.

    Raises:
        UserError: as ``ttt-train``, or several devices.
    """
    config.check()
    from ttt.bench.step import bench_step

    run = TrainConfig(**{item.name: getattr(config, item.name) for item in fields(TrainConfig)})
    bench_step(run, config.rounds)


def _methods(config: ModelsConfig) -> Methods:
    defaults = {(name, tokens): method(name, tokens) for name in config.models for tokens in config.tokens}
    return {key: Method(default.layer, config.backbone or default.backbone) for key, default in defaults.items()}


# ``model=`` sets the key ``models``, because Hydra accepts only one option of its group ``model``.
MODELS = {"model": "models"}

COMMANDS: dict[str, Command[Any]] = {
    "inner": Command("bench_inner", InnerBenchConfig, inner, USAGE.format("inner")),
    "model": Command("bench_model", ModelBenchConfig, model, USAGE.format("model"), aliases=MODELS),
    "latency": Command(
        "bench_latency", LatencyBenchConfig, latency, USAGE.format("latency"), more_groups=("scale",), aliases=MODELS
    ),
    "kernels": Command("bench_kernels", KernelBenchConfig, kernels, USAGE.format("kernels")),
    "memory": Command(
        "bench_memory",
        MemoryBenchConfig,
        memory,
        USAGE.format("memory"),
        aliases={**MODELS, "size": "sizes", "ctx": "contexts"},
    ),
    "step": Command(
        "bench_step",
        StepBenchConfig,
        step,
        "usage: ttt-bench step [GROUP=OPTION ...] [KEY=VALUE ...]",
        more_groups=("+ablation",),
        aliases={"from": "parent.run"},
    ),
}


def main() -> None:
    """Run ``ttt-bench``."""
    subcommand(COMMANDS, HELP, "benchmark", sys.argv[1:])


if __name__ == "__main__":
    main()
