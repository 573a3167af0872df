"""Training learns: the loss on real text falls below that of any model without context."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ttt.cli.train import train
from ttt.config.schema import TrainConfig
from ttt.data.corpus import load_corpus


def unigram_loss(config: TrainConfig) -> float:
    """Return the validation loss in nats of token frequencies in training, the best model without context."""
    corpus = load_corpus(config.data, show_progress=False)
    counts = np.bincount(corpus.splits["train"].tokens[:], minlength=corpus.vocab_size) + 1.0
    return float(-np.log(counts / counts.sum())[corpus.splits["validation"].tokens[:]].mean())


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ["model=ttt_linear"],
        ["model=ttt_mlp"],
        # With its normaliser in the Transformer backbone, it averages over all previous tokens and learns slowly.
        ["model=linear_attention", "backbone=mamba"],
        ["model=transformer"],
        ["model=mamba"],
    ],
    ids=" ".join,
)
def test_the_loss_falls_below_a_unigram_models(
    configure: Callable[..., TrainConfig], tmp_path: Path, overrides: list[str]
) -> None:
    config = configure(
        *overrides,
        f"run={tmp_path}/run",
        "size.width=32",
        "recipe.steps=150",
        "recipe.tokens_per_step=512",
        "recipe.learning_rate=1e-2",
        "data.eval_tokens=4096",
    )
    train(config, [])
    reached = json.loads((tmp_path / "run/record.json").read_text())["results"]["validation"]["loss"]
    assert reached < unigram_loss(config) - 0.3
