"""``ttt-bench``: time and memory of the inner loop and of whole models, form against form."""

import re
import sys
from dataclasses import fields
from typing import get_origin, get_type_hints

from ttt.cli.compose import layer_config, run_with_config
from ttt.cli.errors import stop
from ttt.cli.help import print_help_if_asked
from ttt.config.assets import assets
from ttt.config.bench import BenchConfig, InnerBenchConfig, ModelBenchConfig

HELP = """\
ttt-bench measures time and memory, form against form, on this machine's processor.

usage: ttt-bench inner [KEY=VALUE ...]    the inner loop of one TTT layer
       ttt-bench model [KEY=VALUE ...]    a whole language model: training and decoding

  ttt-bench inner inner_model=linear                 TTT-Linear alone
  ttt-bench inner mini_batch_size=1,4,16,64,256      several mini-batch sizes, for ttt-plot mini_batch_size
  ttt-bench model model=ttt_linear,transformer       two models
  ttt-bench model model=ttt_mlp tokens=2048,32768    does time per token stay the same?

The numbers are printed and kept in runs/, where ttt-plot finds them. Form plain, against which the others are held,
is the dual form by ordinary operators with every state kept; dual with checkpoint_group=0 is plain once more, and
shows how much two equal things differ here.

`ttt-bench inner --help` and `ttt-bench model --help` list the keys."""

KEYS = """\
usage: ttt-bench {kind} [KEY=VALUE ...]

Keys, with their defaults:

{keys}"""

SCHEMAS: dict[str, type[BenchConfig]] = {"inner": InnerBenchConfig, "model": ModelBenchConfig}

KEY = re.compile(r"^(\w+): (.+?) # (.+)$", re.MULTILINE)


def main() -> None:
    """Entry point of ``ttt-bench``."""
    kind = sys.argv.pop(1) if len(sys.argv) > 1 else "--help"
    if kind in ("-h", "--help"):
        print(HELP)
        return
    if kind not in SCHEMAS:
        stop(f"{kind}: no such benchmark; choose one of {', '.join(SCHEMAS)}", 2)
    print_help_if_asked(lambda: KEYS.format(kind=kind, keys=describe_keys(kind)))
    sys.argv[1:] = [as_list(argument, SCHEMAS[kind]) for argument in sys.argv[1:]]
    if kind == "inner":
        run_with_config("bench_inner", InnerBenchConfig, inner)
    else:
        run_with_config("bench_model", ModelBenchConfig, model)


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
    layers = {(name, tokens): layer_config(name, tokens) for name in config.models for tokens in config.tokens}
    from ttt.bench.run import bench_model

    print(bench_model(config, layers))


def as_list(argument: str, schema: type[BenchConfig]) -> str:
    """``tokens=512,2048`` -> ``tokens=[512,2048]`` for keys that hold a list, and ``model=`` -> ``models=``.

    ``model`` is a group to Hydra, and of a group it takes one option.
    """
    key, equals, value = argument.partition("=")
    key = "models" if key == "model" and schema is ModelBenchConfig else key
    hints = get_type_hints(schema)
    lists = [field.name for field in fields(schema) if get_origin(hints[field.name]) is list]
    value = f"[{value}]" if equals and key in lists and not value.startswith("[") else value
    return f"{key}{equals}{value}"


def describe_keys(kind: str) -> str:
    """A line for each key of ``conf/bench_<kind>.yaml``, with its default and the comment beside it."""
    text = (assets() / "conf" / f"bench_{kind}.yaml").read_text(encoding="utf-8")
    keys = [
        (f"{key.replace('models', 'model')}={value.replace(' ', '')}", what) for key, value, what in KEY.findall(text)
    ]
    keys += [("backbone=transformer", "how a layer sits in a block: mamba, own or transformer")] * (kind == "model")
    width = max(len(key) for key, _ in keys) + 2
    return "\n".join(f"  {key:<{width}}{what}" for key, what in keys)


if __name__ == "__main__":
    main()
