"""Comparisons of runs that copy from context with runs that do not, and the words for their verdicts."""

from dataclasses import replace

import pandas as pd

from ttt.claims.verdict import Part, Verdict


def told_apart(part: Part, copies: pd.DataFrame, counted: str = "seed") -> Part:
    """Return the part with words about which of its runs copy, if some do and others do not.

    If the runs of a pair differ in it, the part is not resolved, whatever its interval, and no number of pairs is
    needed: more of them would not tell the layer from the copying.

    Args:
        part: the comparison.
        copies: whether the run copies, bool [pairs, cases], missing if it was not measured; columns are the names of
            the cases.
        counted: singular noun for the rows of ``copies``.
    """
    counts = {str(case): (int(runs.sum()), len(runs)) for case in copies if len(runs := copies[case].dropna())}
    if len({k > 0 for k, _ in counts.values()} | {k == n for k, n in counts.values()}) < 2:
        return part
    words = _words(counts, counted)
    if (copies.nunique(axis="columns") > 1).any():
        return replace(part, verdict=Verdict.UNRESOLVED, p=None, needed=None, copying=words)
    return replace(part, copying=words)


def _words(counts: dict[str, tuple[int, int]], counted: str) -> str:
    """Return in words which cases copy; ``counts``: case -> the number of its runs that copy, and of all."""
    whole = [case for case, (k, n) in counts.items() if k == n]
    none = [case for case, (k, _) in counts.items() if not k]
    clauses = [f"{', '.join(whole)} {'copies' if len(whole) == 1 else 'copy'} from context"] if whole else []
    for case, (k, n) in counts.items():
        if 0 < k < n:
            clauses.append(f"{case}{'' if clauses else ' copies from context'} in {k} of {n} {counted}s")
    if none:
        clauses.append(f"{', '.join(none)} {'does' if len(none) == 1 else 'do'} not")
    return ", ".join(clauses)
