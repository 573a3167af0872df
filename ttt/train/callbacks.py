"""Callbacks that report the progress of a training: progress bar, logs and the table of metrics."""

import math
import sys
import time
from abc import ABC, abstractmethod
from typing import Any, NamedTuple, cast

import lightning.pytorch as pl
import torch
from torch import Tensor
from tqdm import tqdm

from ttt.config.gpus import GIGA
from ttt.config.progress import progress_bar
from ttt.config.trainer import TrainerConfig
from ttt.results.metrics import MetricLog
from ttt.train.module import TrainingModule, is_asynchronous
from ttt.train.optim import learning_rate
from ttt.train.speed import Speed


def checkpoint_due(step: int, last: int, every: int) -> bool:
    """Return whether to save a checkpoint after ``step``: every ``every`` steps (0: never) and after the last one."""
    return step == last or (every > 0 and step % every == 0)


class OnOptimizerStep(pl.Callback, ABC):
    """Base of callbacks with a method ``on_step``, which is called once per optimizer step, not per device batch."""

    def __init__(self) -> None:
        self._done = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:  # noqa: ARG002 - Lightning's signature
        """Store the number of steps that a resumed run has done."""
        self._done = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        """Call ``on_step`` if an optimizer step is complete."""
        if trainer.global_step > self._done:
            self._done = trainer.global_step
            self.on_step(trainer, pl_module, trainer.global_step)

    @abstractmethod
    def on_step(self, trainer: pl.Trainer, module: TrainingModule, step: int) -> None:
        """Act after optimizer step ``step``, counted from 1."""


class Row(NamedTuple):
    """A number of a step; a tensor stays on its device until it is written."""

    step: int
    metric: str
    value: Tensor | float
    unit: str


class Metrics(OnOptimizerStep):
    """Writes loss, learning rate and gradient norm to the run's table and to Lightning's loggers.

    On a GPU they are collected there, and transferred every ``trainer.fetch_every`` steps and before whatever reads
    the weights, because each transfer waits for the device.

    Args:
        metrics: the run's table.
        config: the run's keys ``log_every``, ``fetch_every``, and those of checkpoints and validations.
        speed: relates tokens per second to the devices.

    Attributes:
        shown: the newest values by name, with those of ``Speed.values``.
    """

    def __init__(self, metrics: MetricLog, config: TrainerConfig, speed: Speed) -> None:
        super().__init__()
        self.metrics, self.config, self.speed = metrics, config, speed
        self.shown: dict[str, float] = {}
        self._rows: list[Row] = []
        self._clock: tuple[int, float] | None = None

    def on_step(self, trainer: pl.Trainer, module: TrainingModule, step: int) -> None:
        """Collect the step's rows; write them if it is time."""
        # The speed leaves out the first step, in which kernels are compiled.
        self._clock = self._clock or (step, time.perf_counter())
        if step % self.config.log_every == 0:
            # The optimizer has the rate of the next step by now.
            rate = learning_rate(step - 1, module.recipe, module.plan.schedule_steps)
            self._add(step, "loss", module.step_loss, "nats/token")
            self._add(step, "learning_rate", rate, "1")
            self._add(step, "gradient_norm", module.gradient_norm, "1")
        if not is_asynchronous(module.device) or self._is_due(step, module.plan.steps):
            self.write(trainer, module, step)

    def _add(self, step: int, metric: str, value: Tensor | float, unit: str) -> None:
        self._rows.append(Row(step, metric, value, unit))

    def _is_due(self, step: int, last: int) -> bool:
        config = self.config
        every = (config.fetch_every, config.keep_every, config.eval_every)
        return checkpoint_due(step, last, config.checkpoint_every) or any(n > 0 and step % n == 0 for n in every)

    def write(self, trainer: pl.Trainer, module: TrainingModule, step: int) -> None:
        """Write what was collected up to ``step``. All processes must call this together; it waits for their devices.

        Raises:
            DivergedError: a loss is not finite; the steps before it are written.
        """
        rows, self._rows = self._rows, []
        try:
            module.check_losses()
        finally:
            written = fetched([row for row in rows if row.step <= module.finite_steps], trainer)
            for row in written:
                self.metrics.add("train", row.step, row.metric, float(row.value), row.unit)
            self._log(trainer, module, step, written)

    def _log(self, trainer: pl.Trainer, module: TrainingModule, step: int, rows: list[Row]) -> None:
        """Give the values of each step to the loggers, and the speed with those of the last one."""
        by_step: dict[int, dict[str, float]] = {}
        for row in rows:
            by_step.setdefault(row.step, {})[row.metric] = float(row.value)
        if by_step and self._clock is not None and step > self._clock[0]:
            now = time.perf_counter()
            tokens = (step - self._clock[0]) * module.plan.tokens_per_step
            by_step[max(by_step)] |= self.speed.values(tokens / (now - self._clock[1]))
            self._clock = step, now
        for number, values in by_step.items():
            self.shown |= values
            for logger in trainer.loggers:
                logger.log_metrics(values, number)


def fetched(rows: list[Row], trainer: pl.Trainer) -> list[Row]:
    """Return rows of numbers, the mean over the processes of those on devices, in one transfer."""
    tensors = [row.value for row in rows if isinstance(row.value, Tensor)]
    if not tensors:
        return rows
    mean = trainer.strategy.reduce(torch.stack(tensors).float(), reduce_op="mean")
    numbers = iter(cast(Tensor, mean).tolist())
    return [row._replace(value=next(numbers)) if isinstance(row.value, Tensor) else row for row in rows]


class Progress(OnOptimizerStep):
    """Progress bar with steps, loss, speed, memory and time left; without a terminal it is a line at most every 10 s.

    The bar begins after the first step, in which kernels are compiled, so that the time left does not count it.

    Args:
        kernel: the kernel that the first step may compile; None: there is none.
        compiles: torch.compile compiles the blocks in the first step.
        reported: has the newest loss, which is read from the device only there.
    """

    _bar: tqdm | None = None

    def __init__(self, kernel: str | None, compiles: bool, reported: Metrics) -> None:
        super().__init__()
        self._kernel, self._compiles, self._reported = kernel, compiles, reported

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Print what the first step waits for; only the first of several processes shows it."""
        super().on_train_start(trainer, pl_module)
        if trainer.is_global_zero and self._kernel:
            line = f"first step: kernel={self._kernel} is compiled unless it was compiled before"
            print(line, file=sys.stderr, flush=True)
        if trainer.is_global_zero and self._compiles:
            print("first step: trainer.compile=true compiles the blocks, for minutes", file=sys.stderr, flush=True)

    def _open(self, steps: int, step: int) -> None:
        self._first, self._started = step, time.perf_counter()
        self._bar = progress_bar(total=steps, initial=step, desc="training", unit="step", dynamic_ncols=True)

    def on_step(self, trainer: pl.Trainer, module: TrainingModule, step: int) -> None:
        """Open the bar after the first step, then advance it."""
        if self._bar is None:
            if trainer.is_global_zero:
                self._open(module.plan.steps, step)
        else:
            tokens = (step - self._first) * module.plan.tokens_per_step
            self._bar.set_postfix_str(self._text(tokens / (time.perf_counter() - self._started)), refresh=False)
            self._bar.update()

    def _text(self, tokens_per_second: float) -> str:
        """Return loss, speed, and as far as they are known the share of the peak rate and the memory."""
        parts = [f"loss {self._reported.shown.get('loss', math.nan):.3f}", f"{tokens_per_second:,.0f} tokens/s"]
        if (mfu := self._reported.speed.mfu(tokens_per_second)) is not None:
            parts.append(f"{100 * mfu:.0f}% MFU")
        if (memory := self._reported.shown.get("peak_memory")) is not None:
            parts.append(f"{memory / GIGA:.2g} GB")
        return ", ".join(parts)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:  # noqa: ARG002 - Lightning's signature
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:  # noqa: ARG002
        """Close the bar."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
