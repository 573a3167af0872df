"""The claims, their verdicts from the table of results, and the formats in which verdicts are written."""

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass

from ttt.analysis.recall import on_text
from ttt.analysis.store import Results
from ttt.claims import context, inside, quality, recall, speed, verdict
from ttt.claims.verdict import Part, Verdict, corrected, together, with_spread_of_seeds
from ttt.config.text_table import wrapped, wrapped_command

THEN = ", then of each run "
"""What stands between the commands of ``Claim.give``."""

COLUMNS = (
    *("claim", "verdict", "part", "part_verdict", "effect", "low", "high", "paper", "pairs", "needed", "unit"),
    *("run_ids", "give", "copying", "split"),
)


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, or about its layers.

    Attributes:
        number: its position in ``CLAIMS``, from 1.
        text: the claim in words.
        give: the command that produces the runs that it needs.
        parts: returns the comparisons for which the results have runs.
        asks: it is about runs on questions with answers (``data=mqar``), not on text.
    """

    number: int
    text: str
    give: str
    parts: Callable[[Results], list[Part]]
    asks: bool = False


@dataclass(frozen=True)
class Judged:
    """A claim with its verdict."""

    claim: Claim
    verdict: Verdict
    parts: list[Part]

    @property
    def lacks_runs(self) -> bool:
        """Whether there is no part, or one that was not measured."""
        return not self.parts or any(not part.pairs for part in self.parts)


CLAIMS = (
    Claim(
        1,
        "The rows of Table 1 stand in the paper's order, the steps of LN and residual and of the mini-batch first",
        "ttt-sweep submit sweep=ablation scale=laptop slurm=local",
        quality.table_1,
    ),
    Claim(
        2,
        "A smaller mini-batch size b gives a lower perplexity, down to b = 1",
        "ttt-sweep submit sweep=mini_batch_size scale=laptop slurm=local",
        quality.smaller_mini_batches,
    ),
    Claim(
        3,
        "TTT-MLP (T) beats TTT-Linear (T); the Mamba backbone helps TTT-Linear more than TTT-MLP",
        "ttt-sweep submit sweep=books_scaling scale=laptop slurm=local",
        quality.backbones,
    ),
    Claim(
        4,
        "TTT uses context far back: its own text gains more over another document's as the context grows, more than "
        "in Mamba",
        "ttt-sweep submit sweep=context_gain scale=laptop slurm=local, then of each run "
        "ttt-eval run=FOLDER probe=context_gain longest=8192",
        context.far_context,
    ),
    Claim(
        5,
        "The inner loss falls: loss(W_t) < loss(W_t-1) < loss(W_0), and the gap to W_0 grows with t",
        "ttt-sweep submit sweep=inner_loss scale=laptop slurm=local, then of each run "
        "ttt-eval run=FOLDER probe=inner_loss",
        inside.inner_loss,
    ),
    Claim(
        6,
        "Time per token is flat in the context for TTT and Mamba, linear for the Transformer",
        "ttt-bench latency",
        speed.time_per_token,
    ),
    Claim(
        7,
        "The difference TTT - Mamba falls as the context grows",
        "ttt-sweep submit sweep=context_gain scale=laptop slurm=local, then of each run "
        "ttt-eval run=FOLDER probe=context_gain longest=8192",
        context.against_mamba,
    ),
    Claim(
        8,
        "A Transformer finetuned at a longer context beats one trained at it only",
        "ttt-sweep submit sweep=context_gain scale=laptop slurm=local, then of each run "
        "ttt-eval run=FOLDER probe=context_gain longest=8192",
        context.finetuning,
    ),
    Claim(
        9,
        "TTT-MLP recalls more than TTT-Linear, and TTT-Linear more than linear attention, at equal width (not in the "
        "paper)",
        "ttt-sweep submit sweep=mqar scale=laptop slurm=local",
        recall.more_recall,
        asks=True,
    ),
)


def judge_all(results: Results) -> list[Judged]:
    """Judge every claim."""
    text = on_text(results)
    unjudged = [(claim, claim.parts(results if claim.asks else text)) for claim in CLAIMS]
    every = [part for _, parts in unjudged for part in parts]
    by_claim = [(claim, corrected(with_spread_of_seeds(parts, every))) for claim, parts in unjudged]
    return [Judged(claim, together([part.verdict for part in parts]), parts) for claim, parts in by_claim]


def as_text(judged: list[Judged]) -> str:
    """Format for the terminal, in 80 columns: one paragraph per claim, one item per part."""
    paragraphs = []
    for item in judged:
        lines = [wrapped(item.claim.text, f"{item.claim.number}. ", "   ")]
        lines.append(wrapped(f"{item.verdict.upper()}{_counts(item.parts)}", "   ", "   "))
        lines += [wrapped(f"{part.name}: {numbers(part)}: {part.verdict}", "   - ", "     ") for part in item.parts]
        if not item.parts:
            lines += _commands("the runs", item.claim.give)
        elif item.lacks_runs:
            lines += _commands("the missing runs", item.claim.give)
        elif any(part.pairs < 2 for part in item.parts):
            lines += _commands("a single pair has no interval; another seed", item.claim.give)
        paragraphs.append("\n".join(lines))
    rules = (
        *(f"Rule: {verdict.RULE}", f"Claim 6: {speed.RULE}", f"Claims 4, 7, 8: {context.RULE}"),
        f"Claim 9: {recall.RULE}",
    )
    return "\n\n".join([*paragraphs, *map(wrapped, rules)])


def _commands(label: str, give: str) -> list[str]:
    """Return the lines that say how runs are made, each command in a line of its own."""
    first, *others = give.split(THEN)
    lines = [f"   {label}:", wrapped_command(first, "     ")]
    return lines + [line for other in others for line in ("   then of each run:", wrapped_command(other, "     "))]


def numbers(part: Part) -> str:
    """Format the effect of a part with its interval, the paper's effect, the number of pairs, and which runs copy."""
    if not part.pairs:
        return "not measured"
    count = f"{part.pairs} {part.counted}" + "s" * (part.pairs > 1)
    copying = f"; {part.copying}" if part.copying else ""
    if math.isnan(part.effect):
        return f"{count}{copying}"
    unit = "" if part.unit == "1" else f" {part.unit}"
    ends = "" if math.isnan(part.low) else f" [{part.low:+.3f}, {part.high:+.3f}]"
    paper = "" if part.paper is None else f" (paper {part.paper:+.3f})"
    needed = f"; {part.needed:,} needed" if part.needed and part.needed > part.pairs else ""
    spread = "" if part.spread_elsewhere is None else f"; seeds elsewhere: SD {part.spread_elsewhere:.3f}"
    spread += ", another seed might change the sign" if part.within_seeds else ""
    return f"{part.effect:+.3f}{ends}{unit}{paper}, {count}{needed}{spread}{copying}"


def as_markdown(judged: list[Judged]) -> str:
    """Format as a Markdown table: one bold row per claim, below it one row per part."""
    lines = ["| claim, and what it is judged by | verdict | measured |", "|---|---|---|"]
    for item in judged:
        give = f"`{item.claim.give}`" if item.lacks_runs else ""
        lines.append(f"| **{item.claim.number}. {item.claim.text}** | **{item.verdict}** | {give} |")
        lines += [f"| {part.name} | {part.verdict} | {numbers(part)} |" for part in item.parts]
    return "\n".join(lines) + "\n"


def as_csv(judged: list[Judged]) -> str:
    """Format as CSV: one row per part, and one for a claim without parts."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for item in judged:
        whole = item.claim.number, item.verdict.value
        for part in item.parts:
            ids = " ".join(part.run_ids)
            values = [_text(number) for number in (part.effect, part.low, part.high, part.paper)]
            needed = "" if part.needed is None else part.needed
            words = part.name, part.verdict.value
            counts = part.pairs, needed, part.unit
            writer.writerow([*whole, *words, *values, *counts, ids, item.claim.give, part.copying, part.split])
        if not item.parts:
            writer.writerow([*whole, "", "", "", "", "", "", 0, "", "", "", item.claim.give, "", ""])
    return out.getvalue()


def as_json(judged: list[Judged]) -> str:
    """Format everything with the rules as JSON; a number that is not finite becomes null."""
    claims = [
        {
            "number": item.claim.number,
            "text": item.claim.text,
            "verdict": item.verdict,
            "give": item.claim.give,
            "parts": [_finite(asdict(part)) for part in item.parts],
        }
        for item in judged
    ]
    rules = {"rule": verdict.RULE, "rule_of_claim_6": speed.RULE, "rule_of_claims_4_7_8": context.RULE}
    rules |= {"rule_of_claim_9": recall.RULE}
    return json.dumps(rules | {"claims": claims}, indent=2, ensure_ascii=False) + "\n"


def _finite(part: dict[str, object]) -> dict[str, object]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in part.items()
    }


def _text(number: float | None) -> str:
    return "" if number is None or math.isnan(number) else f"{number:.6g}"


def _counts(parts: list[Part]) -> str:
    if not parts:
        return ""
    counts = Counter(part.verdict for part in parts)
    return " (" + ", ".join(f"{counts[kind]} {kind}" for kind in Verdict if counts[kind]) + ")"
