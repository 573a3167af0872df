"""The rows of the paper's Table 1: their settings, the perplexities that the paper states, and their runs."""

from dataclasses import dataclass

import pandas as pd

from ttt.results.comparison import TRIED, compare, standard
from ttt.results.store import Results

WHOLE_CONTEXT = "whole context"
"""Stands for a mini-batch as long as the context."""

PAPER_TEXT = {"inner_bias": "False", "halved_loss": "False", "eta_over_dim": "False", "token_scale": "False"}
"""Settings of the paper's text that differ from the released code, as in ``conf/ablation/paper_text.yaml``."""

THEOREM_1 = PAPER_TEXT | {
    "mini_batch_size": WHOLE_CONTEXT,
    "W_init": "zero",
    "norm": "False",
    "learnable_norm": "False",
    "residual": "False",
    "learnable_eta": "False",
}
ROW_4 = THEOREM_1 | {"W_init": "learnable"}
ROW_5 = ROW_4 | {"norm": "True", "learnable_norm": "True", "residual": "True"}
ROW_6 = ROW_5 | {"mini_batch_size": "16"}
ROW_7 = ROW_6 | {"learnable_eta": "True"}


@dataclass(frozen=True)
class Rung:
    """A row of Table 1.

    Attributes:
        differs: the difference from the previous row, in words.
        model: the layer.
        backbone: the backbone around it.
        settings: of the layer, where they differ from the standard.
        stated: the perplexity in the paper's Table 1, at 125M on the Pile with a context of 2048.
    """

    differs: str
    model: str
    backbone: str
    settings: dict[str, str]
    stated: float


TABLE_1: dict[int, Rung] = {
    1: Rung("linear attention, feature map, normaliser", "linear_attention", "transformer", {}, 15.91),
    2: Rung(
        "without feature map and normaliser",
        "linear_attention",
        "transformer",
        {"feature_map": "none", "normaliser": "False"},
        15.23,
    ),
    3: Rung("= TTT layer of Theorem 1", "ttt_linear", "transformer", THEOREM_1, 15.23),
    4: Rung("+ learnable W_0", "ttt_linear", "transformer", ROW_4, 15.27),
    5: Rung("+ LN and residual in f", "ttt_linear", "transformer", ROW_5, 14.05),
    6: Rung("+ mini-batch b = 16", "ttt_linear", "transformer", ROW_6, 12.35),
    7: Rung("+ learnable eta", "ttt_linear", "transformer", ROW_7, 11.99),
    8: Rung("+ Mamba backbone", "ttt_linear", "mamba", ROW_7, 11.09),
}
"""Number -> row."""

STATED = "Table 1 of the paper: 125M, the Pile, context of 2,048"
"""The source of ``Rung.stated``."""


def ladder(results: Results) -> pd.DataFrame:
    """Return the runs that are rows of Table 1, with the column ``row`` and the columns of ``compare``."""
    triples = zip(results.runs["run_id"], results.runs["model"], results.runs["backbone"], strict=True)
    numbers = [_row_of(results.settings[run_id], model, backbone) for run_id, model, backbone in triples]
    rows = results.runs.assign(row=pd.array(numbers, dtype="Int64"))
    rows = rows[rows["row"].notna() & rows["parent"].isna()]
    return compare(results, rows, ["row"])


def _row_of(settings: dict[str, str], model: str, backbone: str) -> int | None:
    for number, rung in TABLE_1.items():
        if (rung.model, rung.backbone) == (model, backbone) and _fits(settings, rung):
            return number
    return None


def _fits(settings: dict[str, str], rung: Rung) -> bool:
    wanted = standard("model", rung.model) | {f"model.{key}": value for key, value in rung.settings.items()}
    if wanted.get("model.mini_batch_size") == WHOLE_CONTEXT:
        wanted["model.mini_batch_size"] = settings["ctx.length"]
    return all(settings.get(key, value) == value for key, value in wanted.items() if key not in TRIED)
