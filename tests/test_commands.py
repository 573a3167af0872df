"""The commands in documents, help texts, figures and claims are valid as written."""

import re
import shlex
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

import ttt.cli.bench
import ttt.cli.claims
import ttt.cli.data
import ttt.cli.eval
import ttt.cli.export
import ttt.cli.generate
import ttt.cli.importing
import ttt.cli.plot
import ttt.cli.runs
import ttt.cli.sweep.main
import ttt.cli.train
from ttt.claims.table import CLAIMS
from ttt.cli.command import Command
from ttt.cli.compose import as_object, compose
from ttt.cli.sweep.expand import change_cluster, load_cluster, load_sweep
from ttt.cli.sweep.files import budget_file, read_yaml
from ttt.cli.sweep.overrides import with_overrides
from ttt.cli.sweep.request import parse
from ttt.config.assets import assets
from ttt.config.budget import read_budget
from ttt.config.keys import check_keys
from ttt.plots.registry import figures

DOCUMENTS = (
    "README.md",
    "REPRODUCE.md",
    "CONTRIBUTING.md",
    "slurm/README.md",
    "sweeps/README.md",
    "docs/kernels.md",
    "docs/data.md",
    "docs/gpu.md",
    "docs/layers.md",
    "docs/memory.md",
    "docs/recall.md",
    "docs/recipe.md",
    "docs/released.md",
    "docs/speed.md",
)

PLACES = re.compile(r"`(ttt-[^`\n]+)`|^ +(ttt-.+)$|\| xargs -I\{\} (ttt-[^`\n]+)", re.MULTILINE)
"""Positions of commands: in backquotes, on a separate line, or after a pipe."""

END = re.compile(r"[ ]{2}|[ ]*(?:\||;|#|, then)")
"""The end of a command; after two blanks, an explanation follows."""

TEMPLATE = re.compile(r"FIGURE|GROUP|KEY|CLUSTER|my_cluster|my\.yaml|sweep=NAME|data=NAME")
"""Commands with names to be filled in, which cannot be looked up."""

EXAMPLES = re.compile(r"model=ema|swiglu|parallel|data=numbers|data=folder|optimizer=sgd|constant|ttt-plot final")
"""Commands of CONTRIBUTING.md that need its example files; ``tests/test_contributing.py`` runs them."""


def texts() -> Iterator[str]:
    yield from ((assets() / name).read_text(encoding="utf-8") for name in DOCUMENTS)
    commands = (
        ttt.cli.train,
        ttt.cli.eval,
        ttt.cli.export,
        ttt.cli.importing,
        ttt.cli.generate,
        ttt.cli.data,
        ttt.cli.bench,
    )
    yield from (command.HELP for command in (*commands, ttt.cli.sweep.main))
    yield from (f"`{command}`" for figure in figures().values() for command in figure.give.split("; "))
    yield from (f"`{command}`" for claim in CLAIMS for command in re.split(r", then of each run ", claim.give))


def commands() -> list[str]:
    """Return all commands, each once, without explanations and without commands that have no arguments."""
    found = ["".join(match.groups(default="")) for text in texts() for match in PLACES.finditer(text)]
    # Keys may be aligned in columns: two blanks before a key do not begin an explanation.
    ends = [END.split(re.sub(r" +(?=[\w.]+=)", " ", command))[0].rstrip(".,:") for command in found]
    return sorted({end for end in ends if " " in end and not TEMPLATE.search(end) and not EXAMPLES.search(end)})


def composed(command: Command, words: list[str]) -> Any:
    """Return the configuration of a command line: without ``-m``, and with the first of several values of a key."""
    given = [word for word in words if word not in ("-m", "--help", "--cfg", "job")]
    if command is ttt.cli.train.COMMAND:
        given = [re.sub(r",[^=\]]*$", "", word) for word in given]
    return as_object(compose(command.config_name, command.for_hydra(given)[0]), command.schema)


def data(words: list[str]) -> None:
    check_keys(composed(ttt.cli.data.COMMANDS[words[0]], words[1:]))


def bench(words: list[str]) -> None:
    kind, *rest = [word for word in words if word != "--help"]
    composed(ttt.cli.bench.COMMANDS[kind], rest).check()


def sweep(words: list[str]) -> None:
    request = parse(words)
    if "sweep" in request.options:
        with_overrides(load_sweep(request.options["sweep"], request.options.get("scale")), request.overrides)
    if "budget" in request.options and not request.options["budget"].endswith(".yaml"):
        file = budget_file(request.options["budget"])
        parts = [part for part in read_budget(file.name, read_yaml(file.path)).first if part.sweep is not None]
        with_overrides(load_sweep(str(parts[0].sweep), "gpu"), [*parts[0].words, *request.overrides])
    if "slurm" in request.options:
        change_cluster(load_cluster(request.options["slurm"], []), request.cluster_changes)


def plot(words: list[str]) -> None:
    names = {name for name in ttt.cli.plot.arguments_of(words).names if not name.startswith("runs/")}
    assert names <= {*figures(), ttt.cli.plot.REPORT, ttt.cli.plot.COMPARE}


COMMANDS: dict[str, Callable[[list[str]], object]] = {
    "ttt-train": partial(composed, ttt.cli.train.COMMAND),
    "ttt-eval": partial(composed, ttt.cli.eval.COMMAND),
    "ttt-export": partial(composed, ttt.cli.export.COMMAND),
    "ttt-import": partial(composed, ttt.cli.importing.COMMAND),
    "ttt-generate": partial(composed, ttt.cli.generate.COMMAND),
    "ttt-data": data,
    "ttt-bench": bench,
    "ttt-sweep": sweep,
    "ttt-plot": plot,
    "ttt-claims": ttt.cli.claims.arguments_of,
    "ttt-runs": ttt.cli.runs.arguments_of,
}


@pytest.mark.usefixtures("configure")
@pytest.mark.parametrize("line", commands())
def test_a_command_of_the_documents_is_understood(line: str) -> None:
    name, *words = shlex.split(line)
    COMMANDS[name](words)


def test_all_of_the_documents_are_read() -> None:
    """Check that the patterns above find the commands."""
    found = commands()
    assert {line.split()[0] for line in found} >= set(COMMANDS)
    for line in ("ttt-sweep plan sweep=books_scaling", "ttt-eval run=runs/NAME split=test", "ttt-plot per_token"):
        assert line in found
