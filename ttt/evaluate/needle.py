"""A probe for recall: lines planted at a depth of a long text, and a question about them at its end.

As "needle in a haystack" and RULER (arXiv 2404.06654), but the question is the start of a planted line, so that models
without instruction tuning can be probed, and all names and values are words that are one token of the run's tokenizer:

========  ===================================================================  ========================
task      planted lines                                                        end of the text -> answer
========  ===================================================================  ========================
single    ``river = stone``                                                    ``river =`` -> `` stone``
several   ``river = stone`` and three others, ``cloud = garden`` ..., anywhere ``river =`` -> `` stone``
variable  ``river = stone``, later ``cloud = river``, then ``tree = cloud``    ``tree ==`` -> `` stone``
========  ===================================================================  ========================

The text between the lines is that of the run's data, whatever document it is of. Depth and length are chosen, the text
and the lines are drawn with a fixed seed, so that runs with one tokenizer read the same tokens.

Shapes: N cases, S = length + 1 tokens of a text.
"""

import hashlib
import re
from itertools import product

import numpy as np

from ttt.config.errors import bad_value
from ttt.config.progress import progress_bar
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

WORD = re.compile(rb" ([a-z]{3,})")
"""The bytes of a token that is a word after a blank."""

LEAST_WORDS = 2 * LINES


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
    cells = list(product((SINGLE, SEVERAL, VARIABLE), sorted(lengths), DEPTHS))
    shown = progress_bar(cells, desc="needle", unit="cell", leave=False, show=run.reading.show_progress)
    found = [
        _measure(run, maker, task, length, depth, max(1, (eval_tokens or CASES * length) // length))
        for task, length, depth in shown
    ]
    if run.stores_probe(split):
        write_needle(run.record.folder.needle, run.record.run_id, split, run.step, found)
    return found


class Maker:
    """Makes texts with planted lines.

    Args:
        documents: the text between the lines.
        vocabulary: of the run.

    Raises:
        UserError: the vocabulary has too few words.
    """

    def __init__(self, documents: Documents, vocabulary: Vocabulary) -> None:
        self.documents, self.vocabulary = documents, vocabulary
        found = ((WORD.fullmatch(vocabulary.bytes_of(token)), token) for token in range(vocabulary.size))
        self.words = {match[1].decode(): token for match, token in found if match}
        if len(self.words) < LEAST_WORDS:
            have = f"needs {LEAST_WORDS} words that are one token each; the run's tokenizer has {len(self.words)}"
            raise bad_value("probe", "needle", have)
        longest = max(len(self._encode(f"\n{word} =")) for word in self.words)
        self.shortest = 2 * (LINES + 1) * (longest + 2)

    def case(self, task: str, length: int, depth: float, number: int) -> np.ndarray:
        """Return the text of case ``number``, int64 [S]; its last token is the answer. Equal arguments, equal texts.

        Args:
            task: ``SINGLE``, ``SEVERAL`` or ``VARIABLE``.
            length: input tokens, at least ``shortest``.
            depth: share of the text before the line that has the answer.
            number: of the case.
        """
        generator = np.random.default_rng([number, length, round(100 * depth), len(task)])
        words = generator.permutation(sorted(self.words)).tolist()
        names, values = words[:LINES], words[LINES : 2 * LINES]
        places, lines = [depth], [(names[0], values[0])]
        if task == SEVERAL:
            places += generator.random(LINES - 1).tolist()
            lines += zip(names[1:], values[1:], strict=True)
        elif task == VARIABLE:
            places += [depth + (1 - depth) * hop / HOPS for hop in range(1, HOPS + 1)]
            lines += [(names[hop], names[hop - 1]) for hop in range(1, HOPS + 1)]
        question = f"\n{names[HOPS]} ==" if task == VARIABLE else f"\n{names[0]} ="
        end = [*self._encode(question), self.words[values[0]]]
        planted = [self._line(*line) for line in lines]
        room = length + 1 - len(end) - sum(map(len, planted))
        start = int(generator.integers(len(self.documents.tokens) - room + 1))
        text = self.documents.tokens[start : start + room].astype(np.int64)
        # In the order of the text, and lines at one place in the order in which they were planted.
        order = np.argsort(places, kind="stable")
        parts = np.split(text, [round(places[line] * room) for line in order])
        pieces = [piece for line, part in zip(order, parts[1:], strict=True) for piece in (planted[line], part)]
        return np.concatenate([parts[0], *pieces, end])

    def _line(self, name: str, value: str) -> np.ndarray:
        return np.array([*self._encode(f"\n{name} ="), self.words[value], *self._encode("\n")], np.int64)

    def _encode(self, text: str) -> list[int]:
        return self.vocabulary.encode([text])[0][:-1].tolist()


def _measure(run: TrainedRun, maker: Maker, task: str, length: int, depth: float, number: int) -> Found:
    ids_NS = np.stack([maker.case(task, length, depth, index) for index in range(number)])
    digest = hashlib.sha256(ids_NS.astype("<i8").tobytes()).hexdigest()[:16]
    reading = run.reading
    windows = Windows(ids_NS.ravel(), np.arange(number) * (length + 1), length)
    what = f"needle, {task}, {length} tokens, depth {depth:g}"
    predictions = window_predictions(run.model, windows, reading.device, reading.device_tokens, False, what)
    losses, right = zip(*((losses_BT[:, -1], right_BT[:, -1]) for losses_BT, right_BT, _ in predictions), strict=True)
    mean = float(sum(batch.sum() for batch in losses)) / number
    return Found(digest, task, length, depth, number, sum(int(batch.sum()) for batch in right) / number, mean)


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
