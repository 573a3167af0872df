"""A probe for recall: lines planted at a depth of a long text, and a question about them at its end.

As "needle in a haystack" and RULER (arXiv 2404.06654), but the lines look like code or plain text, no instruction is
needed, and the question is the start of a planted line, so that models without instruction tuning can be probed:

========  =================================================================  ======================
task      planted lines                                                      end of the text -> answer
========  =================================================================  ======================
single    ``river = 4821``                                                   ``river = `` -> ``4821``
several   ``river = 4821`` and three others, ``stone = 1730`` ..., anywhere  ``river = `` -> ``4821``
variable  ``river = 4821``, later ``stone = river``, then ``cloud = stone``  ``cloud == `` -> ``4821``
========  =================================================================  ======================

The text between the lines is that of the run's data, whatever document it is of. Depth and length are chosen, the text
and the lines are drawn with a fixed seed, so that runs with one tokenizer read the same tokens.

Shapes: N cases, S = length + 1 tokens of a text.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from ttt.config.errors import bad_value
from ttt.config.text_table import text_table
from ttt.data.corpus import Documents
from ttt.data.vocabulary import Vocabulary, open_vocabulary
from ttt.data.windows import Windows
from ttt.evaluate.losses import window_predictions
from ttt.evaluate.run import TrainedRun
from ttt.results.metrics import Split
from ttt.results.needle import Found, write_needle

SINGLE, SEVERAL, VARIABLE = "single", "several", "variable"
"""Tasks."""

DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)

LENGTHS = 5
"""Lengths of a probe, each half of the next."""

BEYOND = 4
"""The longest text, in contexts of the training."""

CASES = 16
"""Texts of each task, length and depth."""

LINES = 4
"""Planted lines of the task ``several``."""

HOPS = 2
"""Lines of the task ``variable`` after the first."""

NAMES = (
    *("river", "stone", "cloud", "garden", "window", "silver", "forest", "bridge", "candle", "market", "winter"),
    *("orange", "pocket", "mirror", "island", "basket"),
)
"""Names in planted lines; those of a case differ."""


@dataclass(frozen=True)
class Case:
    """A text: its tokens, int64 [S], and the number of its last tokens that are the answer."""

    ids: np.ndarray
    answer: int


def probe_needle(run: TrainedRun, split: Split, longest: int | None, eval_tokens: int | None) -> list[Found]:
    """Probe a run with planted lines; what is stored is written into ``needle.parquet``.

    See ``TrainedRun.stores_probe``.

    Args:
        run: the run.
        split: the documents between the planted lines.
        longest: tokens of the longest text; None: ``BEYOND`` times the run's context.
        eval_tokens: maximum number of tokens to read for each task, length and depth; None: ``CASES`` texts.

    Raises:
        UserError: there is no such split, its text is too short, or it is no text.
        DivergedError: the model's loss is not finite.
    """
    documents = run.documents(split)
    if documents.answers is not None:
        raise bad_value("probe", "needle", f"needs text, and data={documents.data} has none; give another by data=")
    longest = longest or BEYOND * run.reading.ctx
    if len(documents.tokens) <= longest:
        have = f"the {split} documents of data={documents.data} have {len(documents.tokens)} tokens together"
        raise bad_value("longest", longest, f"is more than there is: {have}; choose fewer")
    maker = Maker(documents, open_vocabulary(run.corpus.folder))
    lengths = [length for length in (longest >> halvings for halvings in range(LENGTHS)) if length >= maker.shortest]
    if not lengths:
        raise bad_value("longest", longest, f"is too short for the planted lines; give at least {maker.shortest}")
    found = [
        _measure(run, maker, task, length, depth, max(1, (eval_tokens or CASES * length) // length))
        for task in (SINGLE, SEVERAL, VARIABLE)
        for length in sorted(lengths)
        for depth in DEPTHS
    ]
    if run.stores_probe(split):
        write_needle(run.record.folder.needle, run.record.run_id, split, run.step, found)
    return found


class Maker:
    """Makes texts with planted lines.

    Args:
        documents: the text between the lines.
        vocabulary: of the run.
    """

    def __init__(self, documents: Documents, vocabulary: Vocabulary) -> None:
        self.documents, self.vocabulary = documents, vocabulary
        # Names have the same number of letters, and values of digits, but not always of tokens.
        line = max(len(self._encode(f"\n{name} = ")) for name in NAMES) + len(b"0000\n")
        self.shortest = 2 * (LINES + 1) * line

    def case(self, task: str, length: int, depth: float, number: int) -> Case:
        """Return case ``number`` of a task: equal arguments give equal texts.

        Args:
            task: ``SINGLE``, ``SEVERAL`` or ``VARIABLE``.
            length: input tokens, at least ``shortest``.
            depth: share of the text before the line that has the answer.
            number: of the case.
        """
        generator = np.random.default_rng([number, length, round(100 * depth), len(task)])
        names = generator.permutation(NAMES).tolist()
        values = [str(value) for value in generator.choice(np.arange(1000, 10000), LINES, replace=False)]
        answer, sign = self._encode(values[0]), "=="
        planted = [(depth, self._line(names[0], answer))]
        if task == VARIABLE:
            places = (depth + (1 - depth) * hop / HOPS for hop in range(1, HOPS + 1))
            steps = zip(places, names[1:], names, strict=False)
            planted += [(place, self._line(name, self._encode(before))) for place, name, before in steps]
            asked = names[HOPS]
        else:
            asked, sign = names[0], "="
            others = LINES - 1 if task == SEVERAL else 0
            lines = zip(generator.random(others).tolist(), names[1:], values[1:], strict=False)
            planted += [(place, self._line(name, self._encode(value))) for place, name, value in lines]
        question = self._encode(f"\n{asked} {sign} ")
        planted.sort(key=lambda line: line[0])
        room = length + 1 - len(question) - len(answer) - sum(len(ids) for _, ids in planted)
        start = int(generator.integers(len(self.documents.tokens) - room + 1))
        text = np.asarray(self.documents.tokens[start : start + room]).astype(np.int64)
        places = [round(place * room) for place, _ in planted]
        parts = np.split(text, places)
        pieces = [
            parts[0],
            *(piece for line, part in zip(planted, parts[1:], strict=True) for piece in (line[1], part)),
        ]
        return Case(np.concatenate([*pieces, question, answer]), len(answer))

    def _line(self, name: str, value: np.ndarray) -> np.ndarray:
        """Return the tokens of a line; a value has the same tokens here and as the answer."""
        return np.concatenate([self._encode(f"\n{name} = "), value, self._encode("\n")])

    def _encode(self, text: str) -> np.ndarray:
        return self.vocabulary.encode([text])[0][:-1].astype(np.int64)


def _measure(run: TrainedRun, maker: Maker, task: str, length: int, depth: float, number: int) -> Found:
    cases = [maker.case(task, length, depth, index) for index in range(number)]
    ids = np.stack([case.ids for case in cases])
    digest = hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest()[:16]
    windows = Windows(ids.ravel(), np.arange(number) * (length + 1), length)
    what = f"needle, {task}, {length} tokens, depth {depth:g}"
    rows = _rows(run, windows, what)
    losses, right = [], 0
    for case, (losses_T, right_T) in zip(cases, rows, strict=True):
        losses.append(losses_T[-case.answer :])
        right += bool(right_T[-case.answer :].all())
    return Found(digest, task, length, depth, number, right / number, float(torch.cat(losses).mean()))


def _rows(run: TrainedRun, windows: Windows, what: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the losses and whether the most likely token was right, each [T], of every window."""
    reading = run.reading
    predictions = window_predictions(
        run.model, windows, reading.device, reading.device_tokens, reading.show_progress, what
    )
    for losses_BT, right_BT, _ in predictions:
        yield from zip(losses_BT, right_BT, strict=True)


def describe(found: list[Found]) -> str:
    """Return a table of the share of right answers: a row for each task and length, a column for each depth."""
    depths = sorted({row.depth for row in found})
    right = {(row.task, row.length, row.depth): row.right for row in found}
    losses: dict[tuple[str, int], list[float]] = {}
    for row in found:
        losses.setdefault((row.task, row.length), []).append(row.loss)
    rows = [["task", "tokens", *(f"depth {depth:g}" for depth in depths), "loss"]]
    for (task, length), of_depths in losses.items():
        shares = (f"{right[task, length, depth]:.0%}" for depth in depths)
        rows.append([task, str(length), *shares, f"{np.mean(of_depths):.3f}"])
    return text_table(rows)
