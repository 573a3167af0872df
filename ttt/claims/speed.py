"""The claim about time: flat in the context for TTT and Mamba, linear for the Transformer."""

import math

import numpy as np
import pandas as pd

from ttt.analysis.labels import method_label
from ttt.analysis.latency import latencies
from ttt.analysis.store import Results
from ttt.claims.student import critical
from ttt.claims.verdict import Part, Verdict

FLAT = 0.05
"""The largest slope of log time per token on log tokens, up or down, that counts as flat."""

LINEAR = 0.8
"""The smallest slope over the last two octaves that counts as linear; the constant part of the time hides the rest."""

OCTAVES = 2

RULE = (
    "The slope is that of log time per token on log context, with its 95% confidence interval over contexts. Flat is "
    f"held if the interval lies within ±{FLAT}, reversed if it lies outside. Linear is held if the slope over the last "
    f"{OCTAVES} doublings of the context is above {LINEAR}, and reversed if time is flat."
)
"""The rule for the verdicts of this claim."""


def time_per_token(results: Results) -> list[Part]:
    """Return two parts per model, for prefill and decoding; ``effect`` is the slope."""
    parts = []
    for measure in ("prefill", "decode"):
        for _, rows in latencies(results, measure).groupby(["model", "backbone"]):
            model, backbone = map(str, rows[["model", "backbone"]].iloc[0])
            if rows["tokens"].nunique() > 1:
                parts.append(_part(f"{method_label(model, backbone)}: {measure}", model, rows.sort_values("tokens")))
    return parts


def _part(subject: str, model: str, rows: pd.DataFrame) -> Part:
    slope, low, high = _slope(rows)
    verdict, shape, paper = _shape(low, high), "flat", 0.0
    if model == "transformer":
        last = rows[rows["tokens"] >= rows["tokens"].max() / 2**OCTAVES]
        verdict, shape, paper = _linear(verdict, last), "linear", 1.0
        slope, low, high = _slope(last)
    first, longest = rows["tokens"].min(), rows["tokens"].max()
    name = f"{subject} time per token {shape} from {first:,} to {longest:,} tokens (slope)"
    ids = tuple(rows["benchmark_id"].unique())
    return Part(name, verdict, slope, low, high, paper, len(rows), None, "1", ids, counted="context")


def _slope(rows: pd.DataFrame) -> tuple[float, float, float]:
    """Return the slope with its confidence interval, whose ends are NaN for fewer than three contexts."""
    x, y = (np.log(rows[name].astype(float)) for name in ("tokens", "seconds_per_token"))
    deviations = x - x.mean()
    slope = float((deviations * y).sum() / (deviations**2).sum())
    if len(rows) < 3:
        return slope, math.nan, math.nan
    residuals = y - y.mean() - slope * deviations
    error = math.sqrt((residuals**2).sum() / (len(rows) - 2) / (deviations**2).sum())
    half = critical(len(rows) - 2) * error
    return slope, slope - half, slope + half


def _shape(low: float, high: float) -> Verdict:
    """Return the verdict on flat time from the interval of the slope."""
    if max(abs(low), abs(high)) <= FLAT:
        return Verdict.HELD
    return Verdict.REVERSED if low > FLAT or high < -FLAT else Verdict.UNRESOLVED


def _linear(flat: Verdict, last: pd.DataFrame) -> Verdict:
    if flat == Verdict.HELD:
        return Verdict.REVERSED
    return Verdict.HELD if len(last) > 1 and _slope(last)[0] > LINEAR else Verdict.UNRESOLVED
