"""``ttt-bench``: time and memory of the inner loop and of whole models, and what the GPU kernels take."""

import re
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from ttt.cli.compose import method, run_with_config
from ttt.cli.errors import stop
from ttt.cli.help import comment, print_help_if_asked
from ttt.config.assets import assets
from ttt.config.bench import (
    InnerBenchConfig,
    KernelBenchConfig,
    LatencyBenchConfig,
    Method,
    Methods,
    ModelBenchConfig,
    ModelsConfig,
)

HELP = """\
ttt-bench measures time and memory, form against form, and says what the GPU kernels take of a GPU.

usage: ttt-bench inner [KEY=VALUE ...]    the inner loop of one TTT layer, on this machine's processor
       ttt-bench model [KEY=VALUE ...]    a whole language model there: training and decoding
       ttt-bench latency [KEY=VALUE ...]  training, prefill and decoding of whole models against the context, here
       ttt-bench kernels [KEY=VALUE ...]  registers, memory and operations of the Triton kernels; needs no GPU

  ttt-bench inner inner_model=linear                 TTT-Linear alone
  ttt-bench inner mini_batch_size=1,4,16,64,256      several mini-batch sizes, for ttt-plot mini_batch_size
  ttt-bench model model=ttt_linear,transformer       two models
  ttt-bench model model=ttt_mlp tokens=2048,32768    does time per token stay the same?
  ttt-bench latency                                  a laptop size at contexts 512 to 16k: which curves are flat?
  ttt-bench latency scale=paper device=cuda          the paper's 1.3B on a GPU, contexts 1k to 32k, the kernels alone
  ttt-bench kernels targets=sm_90,gfx942             compiled for two architectures; --targets sm_90,gfx942 too

The numbers are printed and kept in runs/, where ttt-plot finds them. Form plain, against which the others are held,
is the dual form by ordinary operators with every state kept; dual with checkpoint_group=0 is plain once more, and
shows how much two equal things differ here. Nothing of latency and kernels has been run on a GPU yet.

`ttt-bench inner --help` lists the keys, and so for the others."""

KEYS = """\
usage: ttt-bench {kind} [KEY=VALUE ...]

Keys, with their defaults:

{keys}"""

SCHEMAS: dict[str, type[Any]] = {
    "inner": InnerBenchConfig,
    "model": ModelBenchConfig,
    "latency": LatencyBenchConfig,
    "kernels": KernelBenchConfig,
}

KEY = re.compile(r"^(?:  - (?:override /)?)?(\w+): (.+?) # (.+)$", re.MULTILINE)
"""A key of a YAML file or a choice in its list of defaults: name, value and the comment beside it."""


def main() -> None:
    """Entry point of ``ttt-bench``."""
    kind = sys.argv.pop(1) if len(sys.argv) > 1 else "--help"
    if kind in ("-h", "--help"):
        print(HELP)
        return
    if kind not in SCHEMAS:
        stop(f"{kind}: no such benchmark; choose one of {', '.join(SCHEMAS)}", 2)
    print_help_if_asked(lambda: KEYS.format(kind=kind, keys=describe_keys(kind)))
    schema = SCHEMAS[kind]
    sys.argv[1:] = [as_list(argument, schema) for argument in as_pairs(sys.argv[1:], schema)]
    commands: dict[str, Callable[[Any, list[str]], None]] = {
        "inner": inner,
        "model": model,
        "latency": latency,
        "kernels": kernels,
    }
    run_with_config(f"bench_{kind}", schema, commands[kind])


def inner(config: InnerBenchConfig, overrides: list[str]) -> None:  # noqa: ARG001 - as every command
    """Measures the inner loop, prints it and says where it is kept.

    Raises:
        UserError: a value that cannot be.
    """
    config.check()
    # A mistake in the numbers is answered before torch is imported.
    from ttt.bench.run import bench_inner

    print(bench_inner(config))


def model(config: ModelBenchConfig, overrides: list[str]) -> None:  # noqa: ARG001 - as every command
    """Measures language models, prints them and says where they are kept.

    Raises:
        UserError: a value that cannot be.
    """
    config.check()
    from ttt.bench.run import bench_model

    print(bench_model(config, _methods(config)))


def latency(config: LatencyBenchConfig, overrides: list[str]) -> None:  # noqa: ARG001 - as every command
    """Measures the latency of models and kernels, prints it and says where it is kept.

    Raises:
        UserError: a value that cannot be, or a device that is not there.
    """
    config.check()
    from ttt.bench.run import bench_latency

    print(bench_latency(config, _methods(config)))


def kernels(config: KernelBenchConfig, overrides: list[str]) -> None:  # noqa: ARG001 - as every command
    """Compiles and counts the Triton kernels, prints it and says where it is kept.

    Raises:
        UserError: a value that cannot be, or no Triton.
        RunError: a kernel that does not compile.
    """
    config.check()
    from ttt.bench.kernels import bench_kernels

    print(bench_kernels(config))


def _methods(config: ModelsConfig) -> Methods:
    found = {(name, tokens): method(name, tokens) for name in config.models for tokens in config.tokens}
    return {key: Method(its.layer, config.backbone or its.backbone) for key, its in found.items()}


def as_pairs(arguments: list[str], schema: type[Any]) -> list[str]:
    """``--targets sm_80,sm_90`` and ``--targets=sm_80,sm_90`` -> ``targets=sm_80,sm_90`` for keys of the benchmark."""
    keys = [field.name for field in fields(schema)]
    pairs, rest = [], iter(arguments)
    for argument in rest:
        key, equals, value = argument.removeprefix("--").partition("=")
        if argument.startswith("--") and key in keys:
            pairs.append(f"{key}={value if equals else next(rest, '')}")
        else:
            pairs.append(argument)
    return pairs


def as_list(argument: str, schema: type[Any]) -> str:
    """``tokens=512,2048`` -> ``tokens=[512,2048]`` for keys that hold a list, and ``model=`` -> ``models=``.

    ``model`` is a group to Hydra, and of a group it takes one option.
    """
    key, equals, value = argument.partition("=")
    key = "models" if key == "model" and issubclass(schema, ModelsConfig) else key
    hints = get_type_hints(schema)
    lists = [field.name for field in fields(schema) if get_origin(hints[field.name]) is list]
    value = f"[{value}]" if equals and key in lists and not value.startswith("[") else value
    return f"{key}{equals}{value}"


def describe_keys(kind: str) -> str:
    """A line for each key of ``conf/bench_<kind>.yaml``, and for latency of each scale below ``conf/scale/``."""
    conf = assets() / "conf"
    parts = [_described(conf / f"bench_{kind}.yaml")]
    if kind == "latency":
        scales = sorted((conf / "scale").glob("*.yaml"))
        parts += [f"scale={file.stem}, {comment(file)}:\n\n{_described(file)}" for file in scales]
    return "\n\n".join(parts)


def _described(file: Path) -> str:
    """A line for each key of a YAML file, with its default and the comment beside it."""
    found = KEY.findall(file.read_text(encoding="utf-8"))
    keys = [(f"{key.replace('models', 'model')}={value.replace(' ', '')}", what) for key, value, what in found]
    width = max(len(key) for key, _ in keys) + 2
    return "\n".join(f"  {key:<{width}}{what}" for key, what in keys)


if __name__ == "__main__":
    main()
