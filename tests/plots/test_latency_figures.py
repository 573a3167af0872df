import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import LATENCY, make_latency

from ttt.analysis.latency import latencies
from ttt.analysis.store import load_results
from ttt.plots.registry import figures
from ttt.plots.style import paper_style
from ttt.results.benchmarks import PLAIN_RECURRENCE, PLAIN_SCAN

FIGURES = figures()


def write(path: Path, benchmark: dict[str, Any]) -> None:
    path.write_text(json.dumps({key: value for key, value in benchmark.items() if key != "sha256"}))


@pytest.mark.parametrize(("name", "passes"), [("training", 3), ("prefill", 1), ("decode", 2)])
def test_latency_is_per_token_with_a_line_a_model(name: str, passes: int, tmp_path: Path) -> None:
    make_latency(tmp_path, contexts=(512, 4096))
    figure = FIGURES[f"{name}_latency"]
    table = figure.table(load_results(tmp_path))
    flat, more = LATENCY["transformer"]
    line = table[table["model"] == "transformer"].sort_values("tokens")
    np.testing.assert_allclose(line["seconds_per_token"], [passes * (flat + more * T) for T in (512, 4096)])
    with paper_style():
        canvas = figure.draw(table)
    (axes,) = canvas.axes
    assert len(axes.lines) == len(LATENCY)
    unit = "s per 1,000 tokens" if name == "training" else "ms per token"
    assert unit in axes.get_ylabel()
    assert ("The paper states" in canvas.get_supxlabel()) == (name == "training")


def test_every_line_is_of_its_own_backbone(tmp_path: Path) -> None:
    make_latency(tmp_path, contexts=(512, 4096))
    figure = FIGURES["decode_latency"]
    (axes,) = figure.draw(figure.table(load_results(tmp_path))).axes
    labels = {line.get_label() for line in axes.lines}
    assert labels == {"TTT-Linear (M)", "TTT-MLP (M)", "Transformer", "Mamba"}


def test_a_benchmark_with_one_backbone_for_all_is_read(tmp_path: Path) -> None:
    path = make_latency(tmp_path, {"mamba": (1e-3, 0.0)}, contexts=(512,))
    benchmark = json.loads(path.read_text())
    benchmark["settings"]["backbone"] = {"name": "transformer"}
    for row in benchmark["rows"]:
        del row["backbone"]
    write(path, benchmark)
    assert latencies(load_results(tmp_path), "train")["backbone"].tolist() == ["transformer"]


def test_batches_that_differ_between_contexts_are_named(tmp_path: Path) -> None:
    path = make_latency(tmp_path, {"mamba": (1e-3, 0.0)}, contexts=(512, 1024))
    benchmark = json.loads(path.read_text())
    for row in benchmark["rows"]:
        row["batch"] = 2048 // row["tokens"]
    write(path, benchmark)
    figure = FIGURES["training_latency"]
    table = figure.table(load_results(tmp_path))
    assert table["batch"].tolist() == [4, 2]
    assert "batch 2–4" in " ".join(figure.draw(table).get_supxlabel().split())


@pytest.mark.parametrize(
    ("model", "package", "plain", "words"),
    [
        ("mamba", "mamba-ssm", PLAIN_SCAN, "Mamba runs without its authors' kernels"),
        ("gla", "flash-linear-attention", PLAIN_RECURRENCE, "In plain PyTorch: GLA."),
    ],
)
def test_a_layer_without_its_kernels_is_named(model: str, package: str, plain: str, words: str, tmp_path: Path) -> None:
    path = make_latency(tmp_path, {model: (1e-3, 0.0)}, contexts=(512,))
    benchmark = json.loads(path.read_text())
    figure = FIGURES["decode_latency"]
    for form in (package, plain):
        for row in benchmark["rows"]:
            row["form"] = form
        write(path, benchmark)
        drawn = " ".join(figure.draw(figure.table(load_results(tmp_path))).get_supxlabel().split())
        assert (words in drawn) == (form == plain)


@pytest.mark.parametrize(
    ("name", "half_weights", "words"),
    [
        ("decode", True, "bfloat16, on"),
        ("prefill", True, "bfloat16, on"),
        ("training", True, "bfloat16 by autocast over float32 weights, on"),
        ("decode", False, "bfloat16 by autocast over float32 weights, on"),
        ("decode", None, "bfloat16 by autocast over float32 weights, on"),  # an older benchmark
    ],
)
def test_the_dtype_of_the_weights_and_points_measured_again_are_named(
    name: str, half_weights: bool | None, words: str, tmp_path: Path
) -> None:
    path = make_latency(tmp_path, {"mamba": (1e-3, 0.0)}, contexts=(512, 1024, 2048))
    benchmark = json.loads(path.read_text())
    benchmark["settings"] |= {"dtype": "bfloat16"} | ({} if half_weights is None else {"half_weights": half_weights})
    for row in benchmark["rows"]:
        row |= {"remeasured": 1} if row["tokens"] != 512 else {}
    write(path, benchmark)
    figure = FIGURES[f"{name}_latency"]
    table = figure.table(load_results(tmp_path))
    shown = " ".join(figure.draw(table).get_supxlabel().split())
    assert words in shown
    assert "Measured again because they stood out: 2 points." in shown
    assert table["remeasured"].tolist() == [0, 1, 1]


def test_the_newest_benchmark_of_a_machine_counts(tmp_path: Path) -> None:
    make_latency(tmp_path, {"mamba": (1e-3, 0.0)}, contexts=(512,))
    newest = make_latency(tmp_path, {"mamba": (2e-3, 0.0)}, contexts=(512,))
    table = latencies(load_results(tmp_path), "prefill")
    assert table["benchmark_id"].tolist() == [newest.parent.name]
    np.testing.assert_allclose(table["seconds_per_token"], 2e-3)
