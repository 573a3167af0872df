"""The claim about time: flat in the context for TTT and Mamba, linear for the Transformer."""

import numpy as np
import pandas as pd

from ttt.claims.verdict import Part, Verdict
from ttt.claims.words import named
from ttt.results.latency import latencies
from ttt.results.store import Results

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
                parts.append(_part(f"{named(model, backbone)}: {measure}", model, rows.sort_values("tokens")))
    return parts


def _part(what: str, model: str, rows: pd.DataFrame) -> Part:
    first, last = rows.iloc[0], rows.iloc[-1]
    ratio = last["seconds_per_token"] / first["seconds_per_token"]
    least, most = last["low"] / first["high"], last["high"] / first["low"]
    is_flat = True if most <= FLAT else False if least > FLAT else None
    verdict = _linear(is_flat, rows) if model == "transformer" else _flat(is_flat)
    shape = "linear" if model == "transformer" else "flat"
    name = f"{what} time per token {shape} from {first['tokens']:,} to {last['tokens']:,} tokens (ratio)"
    ids = tuple(rows["benchmark_id"].unique())
    return Part(name, verdict, float(ratio), float(most - least) / 2, len(rows), "1", ids)


def _flat(is_flat: bool | None) -> Verdict:
    return {True: Verdict.HELD, False: Verdict.FAILED, None: Verdict.UNDECIDED}[is_flat]


def _linear(is_flat: bool | None, rows: pd.DataFrame) -> Verdict:
    if is_flat is None or len(rows) < 3:
        return Verdict.UNDECIDED
    if is_flat:
        return Verdict.FAILED
    fits = np.corrcoef(rows["tokens"].astype(float), rows["seconds_per_token"])[0, 1] ** 2 >= LINE_FITS
    return Verdict.HELD if fits else Verdict.FAILED
