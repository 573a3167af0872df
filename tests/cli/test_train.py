"""The command ``ttt-train``: help, mistakes, and the two ways to run several configurations."""

import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
import torch
from starter import Starter

from ttt.cli import train as command
from ttt.cli.compose import added_layers
from ttt.cli.train import train
from ttt.config.errors import UserError
from ttt.config.schema import TrainConfig
from ttt.data.corpus import load_corpus

Configure = Callable[..., TrainConfig]

MAIN = "from ttt.cli.train import main; main()"

MISTAKES = [
    (
        ["model=rwkv"],
        "model=rwkv: choose one of deltanet, gated_deltanet, gla, hybrid, linear_attention, mamba, mamba2, "
        "transformer, ttt_linear, ttt_mlp",
    ),
    (["ctx=5k"], "ctx=5k: choose one of 256, 512, 1k"),
    (["ctx=500"], "ctx=500: choose one of"),
    (["trainer=null"], "trainer=null: choose one of"),
    (["backbone=transformr"], "backbone=transformr: choose one of mamba, own, transformer"),
    (["trainer.max_stps=2"], "trainer.max_stps: no such key; did you mean max_steps?"),
    (["model.mini_batch=2"], "model.mini_batch: no such key; did you mean mini_batch_size?"),
    (["model=mamba", "model.eta_base=1"], "model.eta_base: no such key; choose one of name, state_size"),
    (["+model.heads=2"], "model.heads=2: no such key"),
    (["eta_base=1"], "eta_base: no such key; did you mean model.eta_base?"),
    (["frobnicate=1"], "frobnicate: no such key; choose one of model, size"),
    (
        ["trainer.max_steps=many"],
        "trainer.max_steps=many: Value 'many' of type 'str' could not be converted to Integer",
    ),
    (["recipe.warmup=[1]"], "recipe.warmup=[1]: "),
    (["run_dir=x"], "run_dir=x: this key is now called run; write run=x"),
    (["runs_dir=x"], "runs_dir=x: this key is now called runs; write runs=x"),
    (["recipe.weight_decay=-1"], "recipe.weight_decay=-1.0: must be at least 0"),
    (["size"], "size: not of the form key=value"),
    (["seed"], "seed: not of the form key=value"),
    (["=3"], "=3: not of the form key=value"),
    (["recipe.steps=${nowhere}"], "Interpolation key 'nowhere' not found"),
    (["model.mini_batch_size=0"], "model.mini_batch_size=0: must be at least 1"),
    (["model.inner_model=cnn"], "model.inner_model=cnn: choose one of linear, mlp"),
    (["model=linear_attention", "model.feature_map=relu"], "model.feature_map=relu: choose one of elu, none"),
    (
        ["model=linear_attention", "model.feature_map=none"],
        "model.normaliser=true: could be zero with model.feature_map",
    ),
    (["model.eta_base=0"], "model.eta_base=0.0: must be positive"),
    (
        ["model.eta_base=0.5", "model.eta_base_start=1"],
        "model.eta_base_start=1.0: must be at most model.eta_base=0.5, to which",
    ),
    (["kernel.name=fast"], "kernel.name=fast: choose one of auto, primal, dual"),
    (["model=mamba", "backbone=mamba"], "backbone=mamba: model=mamba sits in own or transformer"),
    (["size.heads=5"], "size.heads=5: must divide size.width=64"),
    (["size.heads=64"], "size.heads=64: must leave an even head width, not 1"),
    (["size.width=128"], "size.width=128: size.heads=1 of size=w64 would make heads 128 wide, not 64; give size.heads"),
    (["model=mamba", "model.conv_kernel=600"], "model.conv_kernel=600: must be at most ctx.length=512"),
    (
        ["model=hybrid", "model.pattern=[attention,deltanet]", "model.deltanet.conv_kernel=600"],
        "model.deltanet.conv_kernel=600: must be at most ctx.length=512",
    ),
    (["model.rope_period=3"], "model.rope_period=3: must divide model.mini_batch_size=16"),
    (["trainer.device_batch=3"], "trainer.device_batch=3: must divide the 8 sequences"),
    (["recipe.tokens_per_step=1000"], "recipe.tokens_per_step=1000: must be a multiple of ctx.length x devices = 512"),
    (["trainer.devices=2"], "trainer.strategy=single: is for one device"),
    (["trainer.device=tpu"], "trainer.device=tpu: choose one of auto, cpu, cuda, mps"),
    (["trainer.precision=8"], "trainer.precision=8: choose one of"),
    (["recipe.betas=[0.9]"], "recipe.betas=[0.9]: must be two numbers"),
    (["recipe.learning_rate=0"], "recipe.learning_rate=0.0: must be positive"),
    (["recipe.learning_rate=1e-6"], "recipe.final_learning_rate=1e-05: must be at most the peak, recipe.learning_rate"),
    (["recipe.learning_rate=inf"], "recipe.learning_rate=inf: must be finite"),
    (["recipe.learning_rate=1e300"], "recipe.learning_rate=1e+300: must be at most 1e+15"),
    (["recipe.steps=10000000000000000"], "recipe.steps=10000000000000000: must be at most 1e+15"),
    (["size.width=100000000000"], "size.width=100000000000: must be at least 1 and at most 1000000"),
    (["data.vocab_size=10000000000"], "data.vocab_size=10000000000: must be at least 1 and at most 10000000"),
    (["recipe.clip=inf"], "recipe.clip=inf: must be finite"),
    (["seed=4294967296"], "seed=4294967296: must be at least 0 and at most 4294967295"),
    (["trainer.threads=100000"], "trainer.threads=100000: must be at least 0 and at most 4096"),
    (["data.workers=100000"], "data.workers=100000: must be at least 0 and at most 4096"),
    (["data.max_chars=10", "data.min_chars=11"], "data.min_chars=11: must be at most data.max_chars=10"),
    (["data.validation_fraction=0.5", "data.test_fraction=0.5"], "data.test_fraction=0.5: with data.validation"),
    (["trainer.strategy=fsdp", "trainer.device=cpu"], "trainer.strategy=fsdp: needs GPUs (trainer.device=cuda), not"),
    (["trainer.precision=16-mixed", "trainer.device=cpu"], "trainer.precision=16-mixed: needs a GPU"),
    (["trainer.device=mps", "trainer.devices=2", "trainer.strategy=ddp"], "trainer.devices=2: must be 1 with mps"),
    (["ckpt=step-3"], "ckpt=step-3: choose one of last, or null"),
    (["ckpt=last", "overwrite=true"], "overwrite=true ckpt=last: start over or resume, not both"),
    (["data.packages=[nosuchpackage]"], "nosuchpackage"),
    (["data.vocab_size=10"], "data.vocab_size=10: must be at least"),
    (["ctx.length=10000000"], "no train document"),
]


@pytest.mark.slow
def test_fsdp_without_a_gpu_is_refused(configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"trainer.strategy=fsdp: needs GPUs \(trainer.device=cuda\), not cpu"):
        train(configure(f"run={tmp_path}/run", "trainer.strategy=fsdp", "trainer.device=auto"), [])


def run_in_process(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["ttt-train", *arguments])
    try:
        command.main()
    except SystemExit as stopped:
        return cast(int, stopped.code)
    return 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "line"), MISTAKES, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_a_mistake_gets_one_line_and_writes_nothing(
    arguments: list[str],
    line: str,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    quick = [] if any(argument.startswith("data.packages") for argument in arguments) else ["data.packages=[networkx]"]
    common = [*quick, f"data.cache_dir={cache}", "trainer.progress=false"]
    assert run_in_process([*common, *arguments], monkeypatch) == 2
    shown = capsys.readouterr()
    errors = shown.err.splitlines()
    assert len(errors) == 1, shown.err
    assert errors[0].startswith("error: ")
    assert line in errors[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["model=hybrid", "model.pattern=[ttt_linear,attention]", "size.blocks=3"],
            "model.pattern=[ttt_linear,attention]: has 2 layers, which must divide size.blocks=3",
        ),
        (["model=gla", "model.expand_k=0.3"], "model.expand_k=0.3: leaves 19.2 channels for each of 1 heads"),
        (["model=mamba2", "model.groups=3"], "model.groups=3: must divide the 2 heads"),
        (["model=gla", "kernel=fla"], "kernel.name=fla: needs the package flash-linear-attention, which is not"),
        (["model=mamba2", "kernel=mamba_ssm"], "kernel.name=mamba_ssm: needs the package mamba-ssm, which is not"),
        (["model=gated_deltanet", "kernel=mamba_ssm"], "kernel.name=mamba_ssm: has no kernel for this layer; choose"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_layer_that_cannot_be_is_refused_before_data_are_prepared(
    arguments: list[str],
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for package in ("fla", "mamba_ssm"):
        monkeypatch.setitem(sys.modules, package, None)
    data = ["data=mqar", "ctx=256", f"data.cache_dir={tmp_path}/cache"]
    assert run_in_process([*data, *arguments], monkeypatch) == 2
    assert capsys.readouterr().err.startswith(f"error: {line}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_help_names_every_option(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_in_process(["--help"], monkeypatch) == 0
    shown = capsys.readouterr().out
    for word in ("ttt_linear", "TTT-MLP", "1.3b", "32k", "pycode", "run=runs/NAME", "fsdp"):
        assert word in shown


@pytest.mark.slow
def test_a_run_folder_that_cannot_be_written_is_named(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.chdir(tmp_path)
    assert run_in_process([*tiny, f"run={tmp_path}/file/run"], monkeypatch) == 2
    errors = capsys.readouterr().err
    assert f"{tmp_path}/file/run" in errors.splitlines()[-1]
    assert "Traceback" not in errors


@pytest.mark.slow
def test_a_full_disk_leaves_earlier_files_intact(
    configure: Configure, starter: Starter, tiny: list[str], tmp_path: Path
) -> None:
    """A limit on the size of files replaces the disk: metrics and records are below it, checkpoints above."""
    load_corpus(configure().data, False)
    limited = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000)); from ttt.cli.train import main; main()"
    )
    done = starter.run(limited, [*tiny, f"run={tmp_path}/run"], cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "step-00000012.ckpt: cannot be written" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "run/checkpoints").iterdir())
    record = (tmp_path / "run/record.json").read_text()
    assert '"status": "failed"' in record
    assert "cannot be written" in record
    assert (tmp_path / "run/metrics.parquet").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "axes", "runs"),
    [
        ("basic", ["model=ttt_linear,transformer", "seed=0,1"], 4),
        pytest.param("submitit_local", ["seed=0"], 1, marks=pytest.mark.slow),
    ],
)
def test_multirun_trains_every_combination(
    starter: Starter, tiny: list[str], tmp_path: Path, launcher: str, axes: list[str], runs: int
) -> None:
    sweep = ["-m", f"hydra/launcher={launcher}", *axes, "trainer.max_steps=1", f"runs={tmp_path}/runs"]
    done = starter.run(MAIN, [*tiny, *sweep], name="ttt-train", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names = sorted(path.parent.name for path in (tmp_path / "runs").glob("*/record.json"))
    assert len(names) == runs
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


@pytest.mark.slow
def test_two_processes_train_one_model(configure: Configure, starter: Starter, tiny: list[str], tmp_path: Path) -> None:
    """DDP over gloo, with recomputed blocks: the steps of one process with the whole batch, up to the order of sums."""
    import torch

    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    train(configure(f"run={tmp_path}/one"), [])
    both = [
        "trainer.strategy=ddp",
        "trainer.devices=2",
        "trainer.activation_checkpointing=blocks",
        f"run={tmp_path}/two",
    ]
    # Lightning starts the second process from a file.
    (program := tmp_path / "train.py").write_text(MAIN)
    done = starter.run(MAIN, [*tiny, *both], name=str(program), cwd=tmp_path, environment={"MASTER_PORT": str(port)})
    assert done.returncode == 0, done.stderr

    def weights(name: str) -> dict[str, torch.Tensor]:
        path = tmp_path / name / "checkpoints/step-00000012.ckpt"
        return torch.load(path, weights_only=True)["state_dict"]

    for name, value in weights("one").items():
        torch.testing.assert_close(weights("two")[name], value, rtol=2e-3, atol=2e-4)


def test_the_shipped_layers_need_no_import() -> None:
    assert added_layers() == {}
