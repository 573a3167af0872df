"""The claim about time: flat in the context for TTT and Mamba, linear for the Transformer."""

import numpy as np
import pandas as pd

from ttt.analysis.labels import method_label
from ttt.analysis.latency import latencies
from ttt.analysis.store import Results
from ttt.claims.verdict import Part, Verdict

FLAT = 1.1
"""The largest ratio of time per token, longest context over shortest, that counts as flat."""

LINE_FITS = 0.95
"""The share of the variance of time per token that a straight line in the context must explain."""

RULE = (
    f"Time per token is flat if the time at the longest context is at most {FLAT} times the time at the shortest over "
    f"the whole range between the quartiles, and not flat if it is more over that whole range. It is linear if it is "
    f"not flat and a straight line in the context explains at least {LINE_FITS:.0%} of its variance, from at least "
    f"three contexts."
)
"""The rule for the verdicts of this claim."""


def time_per_token(results: Results) -> list[Part]:
    """Return two parts per model, for prefill and decoding; ``mean`` is the ratio of longest to shortest context."""
    parts = []
    for measure in ("prefill", "decode"):
        for _, rows in latencies(results, measure).groupby(["model", "backbone"]):
            model, backbone = map(str, rows[["model", "backbone"]].iloc[0])
            if rows["tokens"].nunique() > 1:
                parts.append(_part(f"{method_label(model, backbone)}: {measure}", model, rows.sort_values("tokens")))
    return parts


def _part(subject: str, model: str, rows: pd.DataFrame) -> Part:
    first, last = rows.iloc[0], rows.iloc[-1]
    ratio = last["seconds_per_token"] / first["seconds_per_token"]
    least, most = last["low"] / first["high"], last["high"] / first["low"]
    flat = Verdict.HELD if most <= FLAT else Verdict.FAILED if least > FLAT else Verdict.UNDECIDED
    verdict, shape = (_linear(flat, rows), "linear") if model == "transformer" else (flat, "flat")
    name = f"{subject} time per token {shape} from {first['tokens']:,} to {last['tokens']:,} tokens (ratio)"
    ids = tuple(rows["benchmark_id"].unique())
    return Part(name, verdict, float(ratio), float(most - least) / 2, len(rows), "1", ids, counted="context")


def _linear(flat: Verdict, rows: pd.DataFrame) -> Verdict:
    if flat == Verdict.UNDECIDED or len(rows) < 3:
        return Verdict.UNDECIDED
    if flat == Verdict.HELD:
        return Verdict.FAILED
    fits = np.corrcoef(rows["tokens"].astype(float), rows["seconds_per_token"])[0, 1] ** 2 >= LINE_FITS
    return Verdict.HELD if fits else Verdict.FAILED
