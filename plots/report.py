"""One self-contained HTML page with every figure, the claims, and the provenance of the runs."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

from ttt.analysis.comparison import is_stopped

from .files import drawn, runs_note
from .registry import Figure

if TYPE_CHECKING:
    from pandas import Series

    from ttt.analysis.store import Results
    from ttt.claims.table import Judged

PAPER = "https://arxiv.org/abs/2407.04620"

PROVENANCE = {
    "run_id": "run",
    "status": "status",
    "data": "data",
    "size": "size",
    "ctx": "context",
    "seed": "seed",
    "learning_rate": "peak rate",
    "steps": "steps",
    "steps_planned": "steps planned",
    "tokens": "tokens",
    "training_flops": "FLOPs",
    "validation_perplexity": "validation perplexity",
    "test_perplexity": "test perplexity",
    "seconds": "seconds",
    "device": "device",
    "precision": "precision",
    "commit": "commit",
    "data_digest": "data digest",
    "error": "error",
}
"""Column of ``Results.runs`` -> its heading."""

SCORES = {
    "task": "task",
    "metric": "metric",
    "run_id": "run",
    "score": "score",
    "error": "standard error",
    "documents": "documents",
    "num_fewshot": "examples",
    "judged_ctx": "context",
    "weights": "weights",
    "part_of": "part of",
}
"""Column of ``Results.scores`` -> its heading."""

SHORTENED = {"commit": 10, "data_digest": 10}
"""Columns of hashes -> characters shown."""

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc; }
img { max-width: 100%; height: auto; display: block; margin: .5rem 0; }
table { border-collapse: collapse; font-size: 13px; } th, td { padding: .2rem .6rem; border-bottom: 1px solid #ddd; }
th { text-align: left; position: sticky; top: 0; background: #fff; } td.number { text-align: right; }
td { vertical-align: top; } td.measured { white-space: nowrap; }
.wide { overflow: auto; max-height: 32rem; } .small { color: #555; font-size: 13px; }
code { font-size: 90%; } .verdict { font-weight: 600; white-space: nowrap; }
.verdict::before { content: "\\25CB\\00A0"; } .held::before { content: "\\2713\\00A0"; }
.reversed::before { content: "\\2717\\00A0"; } .held { color: #005f8a; } .reversed { color: #a03c00; }
"""


def report(results: Results, figures: Sequence[Figure]) -> str:
    """Return the page as HTML. Equal results give equal bytes.

    Args:
        results: all runs and benchmarks.
        figures: the figures to draw. Those without runs are listed with the command that produces the runs.
    """
    from ttt.claims.table import judge_all

    tables = {figure: figure.table(figure.of(results)) for figure in figures}
    available = [figure for figure in figures if len(tables[figure])]
    missing = [figure for figure in figures if figure not in available]
    sections = [
        f"<h1>TTT: figures, claims and runs</h1>\n<p>{_summary(results)}</p>\n{_contents(available)}",
        f'<h2 id="claims">Claims</h2>\n{_claims(judge_all(results))}',
        '<h2 id="figures">Figures</h2>',
        *(
            _figure(figure, drawn(figure, tables[figure], ["png"], runs_note(figure.of(results), tables[figure])))
            for figure in available
        ),
        _missing(missing),
        _scores(results),
        f'<h2 id="runs">Runs</h2>\n{_provenance(results)}',
    ]
    return _page("\n".join(sections))


def _page(body: str) -> str:
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    title = "<title>TTT: figures, claims and runs</title>"
    head = f"<head>{head}{title}<style>{STYLE}</style></head>"
    return f'<!doctype html>\n<html lang="en">{head}<body>\n{body}\n</body></html>\n'


def _summary(results: Results) -> str:
    counts = _states(results).value_counts().sort_index()
    by_status = ", ".join(f"{count} {status}" for status, count in counts.items())
    benchmarks = results.benchmarks["benchmark_id"].nunique()
    return (
        f'From {len(results.runs)} runs ({by_status or "none"}) and {benchmarks} benchmarks, for <a href="{PAPER}">'
        f"<em>Learning to (Learn at Test Time): RNNs with Expressive Hidden States</em></a>. "
        f"Every number is measured, except those that a figure marks as stated in the paper."
    )


def _states(results: Results) -> Series:
    return results.runs["status"].mask(is_stopped(results.runs), "stopped early")


def _contents(figures: Iterable[Figure]) -> str:
    links = [_link("claims", "Claims"), *(_link(figure.id, figure.title) for figure in figures), _link("runs", "Runs")]
    return f"<ul>{''.join(f'<li>{link}</li>' for link in links)}</ul>"


def _link(anchor: str, text: str) -> str:
    return f'<a href="#{anchor}">{escape(text)}</a>'


def _claims(judged: Iterable[Judged]) -> str:
    from ttt.claims import context, speed
    from ttt.claims.verdict import RULE

    rows = [row for claim in judged for row in _claim(claim)]
    head = "<tr><th>claim</th><th>verdict</th><th>measured: effect [95% interval] (the paper's), pairs</th></tr>"
    rules = f"{RULE} Claim 6: {speed.RULE} Claims 4, 7, 8: {context.RULE}"
    return f"<table>{head}{''.join(rows)}</table>\n<p class='small'>{escape(rules)}</p>"


def _claim(judged: Judged) -> Iterator[str]:
    from ttt.claims.table import numbers

    whole = _verdict(judged.verdict.name, judged.verdict.value)
    give = f"<code>{escape(judged.claim.give)}</code>" if judged.lacks_runs else ""
    yield f"<tr><td><b>{judged.claim.number}. {escape(judged.claim.text)}</b></td><td>{whole}</td><td>{give}</td></tr>"
    for part in judged.parts:
        verdict = _verdict(part.verdict.name, part.verdict.value)
        measured = f"<td class='measured'>{escape(numbers(part))}</td>"
        yield f"<tr><td>{escape(part.name)}</td><td>{verdict}</td>{measured}</tr>"


def _verdict(name: str, text: str) -> str:
    return f'<span class="verdict {name.lower()}">{escape(text)}</span>'


def _figure(figure: Figure, contents: dict[str, bytes]) -> str:
    png, csv = (base64.b64encode(contents[kind]).decode() for kind in ("png", "csv"))
    return (
        f'<h3 id="{figure.id}">{escape(figure.title)}</h3>\n<p class="small">Paper: {escape(figure.paper)}. '
        f'<a download="{figure.id}.csv" href="data:text/csv;base64,{csv}">Numbers with run ids (CSV)</a>. '
        f"Runs: <code>{escape(figure.give)}</code></p>\n"
        f'<img alt="{escape(figure.title)}" src="data:image/png;base64,{png}">'
    )


def _missing(figures: Sequence[Figure]) -> str:
    items = [
        f"<li>{escape(figure.title)}: needs {escape(figure.needs)}: <code>{escape(figure.give)}</code></li>"
        for figure in figures
    ]
    return f"<h3>Not drawn</h3>\n<ul>{''.join(items)}</ul>" if items else ""


def _scores(results: Results) -> str:
    """Return the table of all scores on tasks; empty if no run has any."""
    if not len(results.scores):
        return ""
    head = "".join(f"<th>{escape(heading)}</th>" for heading in SCORES.values())
    lines = results.scores.sort_values(["task", "metric", "run_id"])[[*SCORES]].to_dict("records")
    rows = "".join(f"<tr>{''.join(_cell(str(column), value) for column, value in line.items())}</tr>" for line in lines)
    table = f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    return f'<h2 id="scores">Scores on tasks of lm-evaluation-harness</h2>\n{table}'


def _provenance(results: Results) -> str:
    head = "".join(f"<th>{escape(heading)}</th>" for heading in PROVENANCE.values())
    runs = results.runs.assign(status=_states(results))
    lines = runs.sort_values("run_id")[[*PROVENANCE]].to_dict("records")
    rows = "".join(f"<tr>{''.join(_cell(str(column), value) for column, value in line.items())}</tr>" for line in lines)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _cell(column: str, value: object) -> str:
    if isinstance(value, int | float):
        text = f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
        return f'<td class="number">{"" if value != value else text}</td>'
    text = "" if str(value) in ("<NA>", "nan", "None") else str(value)
    return f"<td>{escape(text[: SHORTENED.get(column)])}</td>"
