"""A run as a model of lm-evaluation-harness.

Shapes: B sequences at once, S tokens, T = S - 1.
"""

import codecs
import os
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib.metadata import version
from io import StringIO
from math import isfinite
from typing import Any

import torch
from lm_eval import evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from ttt.config.errors import DivergedError, bad_value
from ttt.config.identity import context_name
from ttt.config.progress import progress_bar
from ttt.data.vocabulary import Vocabulary, open_vocabulary
from ttt.evaluate.generate import Sampling
from ttt.evaluate.harness import Tasks
from ttt.evaluate.run import TrainedRun
from ttt.evaluate.together import continue_together
from ttt.layers.diagnose import with_diagnosis
from ttt.models.language_model import token_predictions
from ttt.results.task_scores import TaskScores

DRAWS = 1000
"""Samples of the bootstrap by which the harness finds the standard error of perplexities."""

MOST_WRITTEN = 256
"""Tokens of an answer of a task that does not say; the harness's own default."""

Pair = tuple[list[int], list[int]]
"""The tokens before a text and those of the text."""


def score_tasks(run: TrainedRun, tasks: Tasks, num_fewshot: int | None, limit: int | None) -> dict[str, TaskScores]:
    """Score the run's model on tasks; write the scores into its record unless ``limit`` is given.

    Args:
        run: the run, at the context of its evaluations.
        tasks: the tasks, ready to be scored.
        num_fewshot: the number of examples that was asked for; None: the tasks' own.
        limit: score only this many documents of each task; None: all.

    Returns:
        Name of each score in the record -> the scores.

    Raises:
        DivergedError: the model's loss is not finite.
        UserError: an answer is longer than the context, or the record cannot be written.
    """
    # One process for the bootstrap: others would copy the model, and their number depends on the machine.
    os.environ["DISABLE_MULTIPROC"] = "1"
    # The bootstrap prints its name, where the user expects the scores.
    with redirect_stdout(StringIO()):
        found = evaluate(
            lm=HarnessModel(run),
            task_dict={"tasks": tasks.tasks, "groups": tasks.groups},
            limit=limit,
            bootstrap_iters=DRAWS,
            log_samples=False,
        )
    scores = {}
    for task in found["results"]:
        parts = [task, f"{num_fewshot}shot" if num_fewshot is not None else "", run.weights]
        if run.reading.ctx != run.record.content["config"]["ctx"]["length"]:
            parts.insert(1, context_name(run.reading.ctx))
        of_task = _scores(run, tasks, task, found)
        if of_task["scores"]:
            scores["-".join(filter(None, parts))] = of_task
    if limit is None and run.stores("validation"):
        run.record.scored(scores)
    return scores


def _scores(run: TrainedRun, tasks: Tasks, task: str, found: dict[str, Any]) -> TaskScores:
    values: dict[str, float | None] = {}
    errors, better = {}, {}
    for key, value in found["results"][task].items():
        metric, comma, kind = key.partition(",")
        if not comma or not isinstance(value, int | float):
            continue
        if metric.endswith("_stderr"):
            errors[_name(metric.removesuffix("_stderr"), kind)] = float(value)
        else:
            values[_name(metric, kind)] = float(value) if isfinite(value) else None
            better[_name(metric, kind)] = bool(found["higher_is_better"].get(task, {}).get(metric, True))
    scored: TaskScores = {
        "task": task,
        "scores": values,
        "errors": errors,
        "higher_is_better": better,
        "documents": int(found["results"][task].get("sample_len", 0)),
        "ctx": run.reading.ctx,
        "num_fewshot": int(found["n-shot"].get(task, 0)),
        "version": str(found["versions"].get(task)),
        "harness": version("lm_eval"),
        "step": run.step,
    }
    if run.weights:
        scored["weights"] = run.weights
    if task in tasks.part_of:
        scored["part_of"] = tasks.part_of[task]
    return scored


def _name(metric: str, kind: str) -> str:
    return metric if kind == "none" else f"{metric},{kind}"


class Answer:
    """An answer as it is written.

    Attributes:
        text: the text so far, without a stop text.
        most: maximum number of tokens.
        sampling: the choice of each token.
    """

    def __init__(self, options: dict[str, Any], vocabulary: Vocabulary) -> None:
        stops = options.get("until") or []
        self._stops = [stop for stop in ([stops] if isinstance(stops, str) else stops) if stop]
        temperature = options.get("temperature", 1.0) if options.get("do_sample") else 0
        self.sampling = Sampling(temperature=temperature, top_k=options.get("top_k"), seed=0)
        self.text, self.most = "", int(options.get("max_gen_toks", MOST_WRITTEN))
        self._left, self._vocabulary = self.most, vocabulary
        self._characters = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token: int) -> bool:
        """Add a token; return whether the answer goes on."""
        if self._left <= 0 or token == self._vocabulary.end:
            return False
        self._left -= 1
        self.text += self._characters.decode(self._vocabulary.bytes_of(token))
        places = [self.text.find(stop) for stop in self._stops if stop in self.text]
        if places:
            self.text = self.text[: min(places)]
        return self._left > 0 and not places


class HarnessModel(TemplateLM):
    """The model of a run, with its tokenizer. A text begins after the token that ends a document, as in training.

    Texts and continuations are scored and answers written in batches of the run's ``device_tokens``, in contexts of at
    most the run's ``reading.ctx`` tokens.
    """

    def __init__(self, run: TrainedRun) -> None:
        super().__init__()
        self._run, self._vocabulary = run, open_vocabulary(run.tokenizer().parent)
        run.model.eval()

    @property
    def eot_token_id(self) -> int:
        """The token before the first one of a text."""
        return self._vocabulary.end

    @property
    def max_length(self) -> int:
        """Most tokens that the model reads before the one that it predicts."""
        return self._run.reading.ctx

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:  # noqa: ARG002
        """Return the tokens of a text, without one that ends it."""
        return [int(token) for token in self._vocabulary.encode([string])[0][:-1]]

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:  # noqa: ARG002
        """Return the log likelihood of each text after its context, in nats, and whether greedy decoding writes it."""
        scores: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return scores

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        return self._score([(before, text) for _, before, text in requests])

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:  # noqa: ARG002
        """Return the log likelihood of whole texts in nats, each token predicted once, in windows of the context."""
        owners: list[int] = []
        pairs: list[Pair] = []
        for number, request in enumerate(requests):
            ids = self.tok_encode(request.args[0])
            for window in get_rolling_token_windows(ids, self.eot_token_id, self.max_length, context_len=1):
                owners.append(number)
                pairs.append(make_disjoint_window(window))
        sums = [0.0] * len(requests)
        for number, (likelihood, _) in zip(owners, self._score(pairs), strict=True):
            sums[number] += likelihood
        return sums

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:  # noqa: ARG002
        """Return an answer to each prompt: to a stop text, the end of a document, or ``max_gen_toks`` tokens."""
        reading = self._run.reading
        answers = [Answer(request.args[1], self._vocabulary) for request in requests]
        prompts = [self.tok_encode(request.args[0])[-self.max_length :] or [self.eot_token_id] for request in requests]
        # Sorted by length, because a batch reads all of its prompts in step.
        order = sorted(range(len(prompts)), key=lambda number: -len(prompts[number]))
        with progress_bar(total=len(order), desc="answers", show=reading.show_progress, leave=False) as progress:
            while order:
                longest = max(len(prompts[number]) + answers[number].most for number in order)
                batch = max(1, reading.device_tokens // longest)
                chosen, order = order[:batch], order[batch:]
                together = [answers[number] for number in chosen]
                continue_together(
                    self._run.model,
                    [prompts[number] for number in chosen],
                    [answer.sampling for answer in together],
                    [answer.add for answer in together],
                    reading.device_tokens,
                )
                progress.update(len(chosen))
        return [answer.text for answer in answers]

    @torch.no_grad()
    def _score(self, pairs: list[Pair]) -> list[tuple[float, bool]]:
        """Return the log likelihood in nats of each text, and whether all its tokens were the most likely ones.

        Raises:
            DivergedError: a loss is not finite.
            UserError: a text has more tokens than the context.
        """
        reading = self._run.reading
        longest = max((len(text) for _, text in pairs), default=0)
        if longest > reading.ctx:
            raise bad_value("ctx", reading.ctx, f"an answer has {longest} tokens; choose a longer context")
        rows = [(before + text)[-reading.ctx - 1 :] for before, text in pairs]
        # The longest first: a batch that does not fit into memory fails at once, and neighbours are of similar length.
        order = sorted(range(len(rows)), key=lambda number: -len(rows[number]))
        scores: list[tuple[float, bool]] = [(0.0, True)] * len(rows)
        with progress_bar(total=len(rows), desc="scores", show=reading.show_progress, leave=False) as progress:
            while order:
                batch = max(1, reading.device_tokens // len(rows[order[0]]))
                chosen, order = order[:batch], order[batch:]
                ends = [(len(rows[number]) - 1, len(pairs[number][1])) for number in chosen]
                losses_BT, right_BT = self._predictions([rows[number] for number in chosen])
                for number, (end, count), losses_T, right_T in zip(chosen, ends, losses_BT, right_BT, strict=True):
                    text = slice(end - count, end)
                    scores[number] = -float(losses_T[text].sum()), bool(right_T[text].all())
                progress.update(len(chosen))
        return scores

    def _predictions(self, rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the losses, float64 [B, T] on the CPU, and whether the most likely token was the right one."""
        # Tokens after a sequence change nothing before them: the model is causal.
        ids_BS = torch.zeros(len(rows), len(rows[0]), dtype=torch.long)
        for ids_S, row in zip(ids_BS, rows, strict=True):
            ids_S[: len(row)] = torch.tensor(row)
        ids_BS = ids_BS.to(self._run.reading.device)
        losses_BT, right_BT = token_predictions(self._run.model, ids_BS)
        if not losses_BT.isfinite().all():
            raise DivergedError(with_diagnosis("tasks: the loss is not finite", self._run.model, ids_BS[:, :-1]))
        return losses_BT.cpu().double(), right_BT.cpu()
