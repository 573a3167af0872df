"""The command ``ttt-generate`` on a tiny run."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ttt.cli import generate as command
from ttt.cli import train

Generate = Callable[..., tuple[str, str]]

PROMPTS = [
    "def main(",
    "x = 1",
    "a,b",
    "'single' and \"double\"",
    "it's",
    "line\nline\n\ttab ",
    "{1: [2, (3)]}",
    "back\\slash \\' \\\\",
    "${nowhere} $HOME `ls` ~",
    "???",
    "null",
    "né 漢字",
    "=",
    "--help",
]

MISTAKES = [
    (["tokens=0"], "tokens=0: must be at least 1"),
    (["temperature=-0.5"], "temperature=-0.5: must be at least 0"),
    (["temperature=nan"], "temperature=nan: must be at least 0"),
    (["threads=-1"], "threads=-1: must be at least 0"),
    (["top_k=0"], "top_k=0: must be at least 1, or null"),
    (["temperature=inf"], "temperature=inf: must be finite"),
    (["seed=4294967296"], "seed=4294967296: must be at least 0 and at most 4294967295"),
    (["seed=-1"], "seed=-1: must be at least 0"),
    (["prompt=\udcff"], r"prompt='\udcff': is not text in UTF-8"),
    (["prompt"], "prompt: not of the form key=value"),
    (["promt=x"], "promt: no such key; did you mean prompt?"),
    (["device=tpu"], "device=tpu: choose one of auto, cpu"),
    (["kernel=cuda"], "kernel=cuda: choose one of auto, cpu, dual, fla, mamba_ssm, primal, triton"),
    (["run=nowhere"], "nowhere/record.json: cannot be read"),
]


@pytest.fixture(scope="module")
def run(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a run of a few steps."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        patch.setattr(sys, "argv", ["ttt-train", *tiny, "trainer.max_steps=3", f"run={folder}"])
        train.main()
    return folder


@pytest.fixture
def generate(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Generate:
    """Run the command; return its standard output and standard error."""

    def shown(*arguments: str) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["ttt-generate", f"run={run}", "device=cpu", *arguments])
        command.main()
        captured = capsys.readouterr()
        return captured.out, captured.err

    return shown


@pytest.mark.slow
@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_prompt_is_taken_as_it_is_typed(generate: Generate, prompt: str) -> None:
    text, speed = generate(f"prompt={prompt}", "tokens=4")
    assert text.startswith(prompt)
    assert len(text) > len(prompt) + 1
    threads, line = speed.splitlines()
    assert threads == "1 thread: the model is small; threads=N changes it"
    assert re.fullmatch(r"prefill: \d+ tokens, [\d,]+ tokens/s; decode: 4 tokens, [\d,]+ tokens/s", line)


@pytest.mark.slow
def test_equal_seeds_give_equal_text(generate: Generate) -> None:
    first, again, other = (generate("prompt=import", "tokens=30", f"seed={seed}")[0] for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_temperature_zero_takes_the_likeliest(generate: Generate) -> None:
    assert len({generate("prompt=import", "tokens=10", "temperature=0", f"seed={seed}")[0] for seed in (0, 1)}) == 1


def test_without_a_prompt_a_document_begins(generate: Generate) -> None:
    text, speed = generate("tokens=5", "top_k=null")
    assert text
    assert speed.splitlines()[-1].startswith("prefill: 1 tokens")


@pytest.mark.parametrize(
    ("arguments", "line"), MISTAKES, ids=[" ".join(map(ascii, mistake[0])) for mistake in MISTAKES]
)
def test_a_mistake_gets_one_line(
    generate: Generate, capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        generate(*arguments)
    shown = capsys.readouterr()
    assert stopped.value.code == 2
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1, shown.err
    assert line in shown.err


def test_a_run_without_a_checkpoint_is_named(
    generate: Generate, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run, tmp_path / "bare", ignore=shutil.ignore_patterns("*.ckpt"))
    with pytest.raises(SystemExit):
        generate(f"run={tmp_path}/bare")
    assert "bare: has no checkpoint" in capsys.readouterr().err


@pytest.mark.slow
def test_any_kernel_continues_the_text(generate: Generate) -> None:
    texts = {generate("prompt=import", "tokens=8", "temperature=0", f"kernel={name}")[0] for name in ("primal", "dual")}
    assert texts == {generate("prompt=import", "tokens=8", "temperature=0")[0]}


@pytest.mark.slow
def test_a_closed_pipe_ends_it_quietly(run: Path) -> None:
    arguments = [f"run={run}", "device=cpu", "tokens=100000", "prompt=import"]
    with subprocess.Popen(
        [sys.executable, "-m", "ttt.cli.generate", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(6) == "import"
        process.stdout.close()
        assert process.stderr.read() == "1 thread: the model is small; threads=N changes it\n"
    assert process.returncode == 141
