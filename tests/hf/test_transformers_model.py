"""An exported run is a model of transformers: its logits, its generated tokens, its files."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, dynamic_module_utils

import ttt
import ttt.hf
from ttt.cli.compose import as_object, compose
from ttt.cli.eval import evaluate
from ttt.cli.export import export
from ttt.cli.train import train
from ttt.config.errors import UserError
from ttt.config.exchange import ExportConfig
from ttt.config.schema import ContextConfig, EvalConfig, KernelConfig, TrainConfig
from ttt.evaluate.generate import Sampling, continuation
from ttt.evaluate.run import load_run
from ttt.results.record import RunFolder

PROMPT = "def main(self):\n    return <|endoftext|> 1"
GREEDY = Sampling(temperature=0, top_k=None, seed=0)


@pytest.fixture(scope="session")
def runs(tiny: list[str], hydra: Hydra, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """Return a function of a model's name (more overrides may follow it): a run of two steps, and its export."""
    made: dict[str, tuple[Path, Path]] = {}

    def make(model: str) -> tuple[Path, Path]:
        if model not in made:
            start = tmp_path_factory.mktemp(model.split()[0])
            GlobalHydra.instance().hydra = hydra
            overrides = [*tiny, *f"model={model}".split(), f"run={start}/run", "trainer.max_steps=2"]
            train(as_object(compose("train", overrides), TrainConfig), overrides)
            evaluate(EvalConfig(run=f"{start}/run", ctx=ContextConfig(32), device="cpu"), [])
            export(ExportConfig(run=f"{start}/run", hf=f"{start}/hf"), [])
            made[model] = start / "run", start / "hf"
        return made[model]

    return make


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    yield
    GlobalHydra.instance().clear()


MODELS = [
    "ttt_linear",
    pytest.param("transformer", marks=pytest.mark.slow),
    pytest.param("mamba", marks=pytest.mark.slow),
    pytest.param("hybrid size.blocks=2", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_greedy_tokens_are_the_runs(runs: Callable, name: str) -> None:
    run, folder = runs(name)
    own = load_run(RunFolder(run), torch.device("cpu"), kernel=KernelConfig()).model.eval()
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    _, text = ttt.load(run, device="cpu")
    assert torch.equal(ids, text.encode(PROMPT))
    assert tokenizer.decode(ids[0]) == PROMPT
    with torch.no_grad():
        assert (model(ids).logits - own(ids)).abs().max() < 1e-6
    written = zip(range(20), continuation(own, ids[0].tolist(), GREEDY), strict=False)
    expected = [token for _, token in written]
    if tokenizer.eos_token_id in expected:
        expected = expected[: expected.index(tokenizer.eos_token_id) + 1]
    for cached in (True, False):
        made = model.generate(ids, max_new_tokens=20, do_sample=False, use_cache=cached)
        assert made[0, ids.shape[1] :].tolist() == expected


def test_the_state_is_the_cache(runs: Callable) -> None:
    """Each step after the prompt reads one token, so that the time of a step does not grow."""
    model = AutoModelForCausalLM.from_pretrained(runs("ttt_linear")[1])
    lengths = []
    model.model.register_forward_hook(lambda _, inputs, __: lengths.append(inputs[0].shape[1]))
    ids = torch.randint(0, 400, (2, 30), generator=torch.Generator().manual_seed(0))
    model.generate(ids, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert lengths == [30, 1, 1, 1]
    beams = [
        model.generate(ids, max_new_tokens=6, num_beams=3, do_sample=False, use_cache=cached)
        for cached in (True, False)
    ]
    assert torch.equal(*beams)


def test_the_loss_is_a_mean_over_labels(runs: Callable) -> None:
    model = AutoModelForCausalLM.from_pretrained(runs("ttt_linear")[1])
    ids = torch.randint(0, 400, (2, 9), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[1, 5:] = -100
    with torch.no_grad():
        output = model(ids, labels=labels)
    losses = torch.nn.functional.cross_entropy(output.logits[:, :-1].mT, ids[:, 1:], reduction="none")
    torch.testing.assert_close(output.loss, torch.cat([losses[0], losses[1, :4]]).mean())
    padded = torch.ones_like(ids)
    padded[1, 5:] = 0
    with torch.no_grad():
        assert torch.equal(model(ids, attention_mask=padded).logits, output.logits)
    for mask, options in ((padded.flip(1), {}), (padded, {"use_cache": True})):
        with pytest.raises(ValueError, match="attention_mask: a sequence has padding"):
            model(ids, attention_mask=mask, **options)


def test_the_folder_loads_itself(runs: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """With trust_remote_code the module in the folder finds the classes, without ``import ttt.hf``."""
    folder = runs("ttt_linear")[1]
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert isinstance(config, ttt.hf.TTTSuiteConfig)
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    assert isinstance(model, ttt.hf.TTTSuiteForCausalLM)
    monkeypatch.setitem(sys.modules, "ttt.hf", None)
    code = (folder / "modeling_ttt_suite.py").read_text()
    with pytest.raises(ImportError, match="needs the package ttt-suite"):
        exec(compile(code, "modeling_ttt_suite.py", "exec"), {})


def test_a_model_that_is_saved_again_is_the_same(runs: Callable, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(runs("ttt_linear")[1])
    model.save_pretrained(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_the_card_has_what_the_record_says(runs: Callable) -> None:
    run, folder = runs("ttt_linear")
    card, record = (folder / "README.md").read_text(), json.loads((run / "record.json").read_text())
    result = record["results"]["validation"]
    for part in (
        "library_name: transformers",
        f"{record['parameters']['total']:,}",
        record["data"]["digest"][:16],
        f"| pycode, validation | {result['perplexity']:.2f} | {result['loss']:.4f} | {result['tokens']:,} | 64 |",
        "| 32 |",
        "ttt-train",
        "model=ttt_linear",
        record["git"]["commit"],
    ):
        assert part in card


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({}, "no folder to write is given; give out=FOLDER, or hf=FOLDER for transformers"),
        ({"out": "a", "hf": "b"}, "out= and hf= are both given"),
        ({"out": "a", "push": "me/it"}, "push=me/it: uploads a folder for transformers"),
        ({"hf": "b", "released": True}, "hf=b: has the suite's names"),
    ],
    ids=str,
)
def test_keys_that_exclude_each_other(options: dict, line: str) -> None:
    with pytest.raises(UserError) as caught:
        export(ExportConfig(run="runs/NAME", **options), [])
    assert str(caught.value).startswith(line)


def test_the_folder_is_uploaded(
    runs: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = runs("ttt_linear")
    calls: dict[str, dict] = {}

    def create_repo(name: str, **options: object) -> str:
        calls["create"] = {"name": name, **options}
        return f"https://hub/{name}"

    api = SimpleNamespace(create_repo=create_repo, upload_folder=lambda **options: calls.update(upload=options))
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
    export(ExportConfig(run=str(run), hf=f"{tmp_path}/hf", push="me/it"), [])
    assert calls["create"] == {"name": "me/it", "private": True, "exist_ok": True}
    assert calls["upload"]["folder_path"] == tmp_path / "hf"
    assert capsys.readouterr().out.splitlines()[-1] == "https://hub/me/it"

    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("Name or service not known\nand more")

    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: SimpleNamespace(create_repo=refuse))
    with pytest.raises(UserError, match=r"^push=me/it: cannot be written \(ConnectionError: Name .* the files are in "):
        export(ExportConfig(run=str(run), hf=f"{tmp_path}/hf", push="me/it", overwrite=True), [])
