"""Every command in documents, helps, figures and claims is one that is understood as it stands."""

import re
import shlex
from collections.abc import Callable, Iterator

import pytest
from hydra import compose

import ttt.cli.bench
import ttt.cli.claims
import ttt.cli.plot
import ttt.cli.sweep.main
from ttt.claims.table import CLAIMS
from ttt.cli.compose import as_object, quote_option, spelled_out
from ttt.cli.sweep.expand import change_cluster, load_cluster, load_sweep
from ttt.cli.sweep.request import parse
from ttt.config.assets import assets
from ttt.config.schema import EvalConfig, ExportConfig, GenerateConfig, InspectConfig, PrepareConfig, TrainConfig
from ttt.plots.registry import figures

DOCUMENTS = ("README.md", "REPRODUCE.md", "CONTRIBUTING.md", "slurm/README.md", "sweeps/README.md", "docs/kernels.md")

PLACES = re.compile(r"`(ttt-[^`\n]+)`|^ +(ttt-.+)$|\| xargs -I\{\} (ttt-[^`\n]+)", re.MULTILINE)
"""Of a command: in backquotes, on a line of its own, or behind a pipe."""

END = re.compile(r"[ ]{2}|[ ]*(?:\||;|#|, then)")
"""Of a command; what follows two blanks explains."""

A_FORM = re.compile(r"FIGURE|GROUP|KEY|CLUSTER|my_cluster|my\.yaml|sweep=NAME|data=NAME")
"""Of commands that are shown as a form, with names to fill in that cannot be looked up."""

EXAMPLES = re.compile(r"model=ema|swiglu|data=numbers|ttt-plot final")
"""Commands of CONTRIBUTING.md that need its example files: ``tests/test_docs.py`` runs them."""


def texts() -> Iterator[str]:
    yield from ((assets() / name).read_text(encoding="utf-8") for name in DOCUMENTS)
    yield from (ttt.cli.bench.HELP, ttt.cli.sweep.main.HELP)
    yield from (f"`{command}`" for figure in figures().values() for command in figure.give.split("; "))
    yield from (f"`{command}`" for claim in CLAIMS for command in re.split(r", then of each run ", claim.give))


def commands() -> list[str]:
    """Each once, without explanations; the bare names of commands are left out."""
    found = ["".join(match.groups(default="")) for text in texts() for match in PLACES.finditer(text)]
    # Keys stand in columns, so that blanks before one explain nothing.
    ends = [END.split(re.sub(r" +(?=[\w.]+=)", " ", command))[0].rstrip(".,:") for command in found]
    return sorted({end for end in ends if " " in end and not A_FORM.search(end) and not EXAMPLES.search(end)})


def composed(name: str, schema: type, words: list[str]) -> None:
    """``words`` without ``-m``, of several values of a key the first."""
    chosen = [re.sub(r",[^=\]]*$", "", spelled_out(word)) for word in words if word != "-m"]
    as_object(compose(name, [quote_option(word) for word in chosen]), schema)


def train(words: list[str]) -> None:
    composed("train", TrainConfig, [word for word in words if word != "--help"])


def data(words: list[str]) -> None:
    composed(words[0], {"prepare": PrepareConfig, "inspect": InspectConfig}[words[0]], words[1:])


def generate(words: list[str]) -> None:
    # A prompt is text to the command, not a value of Hydra's.
    composed("generate", GenerateConfig, [word for word in words if not word.startswith("prompt=")])


def bench(words: list[str]) -> None:
    kind, *rest = [word for word in words if word != "--help"]
    schema = ttt.cli.bench.SCHEMAS[kind]
    rest = [ttt.cli.bench.as_list(word, schema) for word in ttt.cli.bench.as_pairs(rest, schema)]
    as_object(compose(f"bench_{kind}", rest), schema).check()


def sweep(words: list[str]) -> None:
    request = parse(words)
    if "sweep" in request.own:
        load_sweep(request.own["sweep"], request.own.get("scale")).changed(request.overrides)
    if "slurm" in request.own:
        change_cluster(load_cluster(request.own["slurm"], []), request.cluster)


def plot(words: list[str]) -> None:
    assert {*ttt.cli.plot.arguments_of(words).names} <= {*figures(), ttt.cli.plot.REPORT}


COMMANDS: dict[str, Callable[[list[str]], object]] = {
    "ttt-train": train,
    "ttt-eval": lambda words: composed("eval", EvalConfig, words),
    "ttt-export": lambda words: composed("export", ExportConfig, [word for word in words if word != "--released"]),
    "ttt-generate": generate,
    "ttt-data": data,
    "ttt-bench": bench,
    "ttt-sweep": sweep,
    "ttt-plot": plot,
    "ttt-claims": ttt.cli.claims.arguments_of,
}


@pytest.mark.usefixtures("configure")
@pytest.mark.parametrize("line", commands())
def test_a_command_of_the_documents_is_understood(line: str) -> None:
    name, *words = shlex.split(line)
    COMMANDS[name](words)


def test_all_of_the_documents_are_read() -> None:
    """That the patterns above find what is there."""
    found = commands()
    assert {line.split()[0] for line in found} >= {name for name in COMMANDS if name != "ttt-export"}
    for line in ("ttt-sweep plan sweep=books_scaling", "ttt-eval run=runs/NAME split=test", "ttt-plot per_token"):
        assert line in found
