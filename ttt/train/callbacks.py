"""Callbacks that report the progress of a training: progress bar, logs and the table of metrics."""

import sys
import time
from abc import ABC, abstractmethod
from typing import Any

import lightning.pytorch as pl
from tqdm import tqdm

from ttt.config.progress import progress_bar
from ttt.results.metrics import MetricLog
from ttt.train.module import TrainingModule
from ttt.train.optim import learning_rate


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


class Metrics(OnOptimizerStep):
    """Writes loss, learning rate and gradient norm to the run's table and to Lightning's loggers.

    Args:
        metrics: the run's table.
        every: optimizer steps between two rows.
    """

    def __init__(self, metrics: MetricLog, every: int) -> None:
        super().__init__()
        self.metrics, self.every = metrics, every
        self._clock: tuple[int, float] | None = None

    def on_step(self, trainer: pl.Trainer, module: TrainingModule, step: int) -> None:
        """Add the step's rows; the loggers' speed leaves out the first step, in which kernels are compiled."""
        started = self._clock = self._clock or (step, time.perf_counter())
        if step % self.every:
            return
        loss = float(trainer.strategy.reduce(module.step_loss, reduce_op="mean"))
        # The optimizer has the rate of the next step by now.
        rate = learning_rate(step - 1, module.recipe, module.plan.schedule_steps)
        self.metrics.add("train", step, "loss", loss, "nats/token")
        self.metrics.add("train", step, "learning_rate", rate, "1")
        self.metrics.add("train", step, "gradient_norm", module.gradient_norm, "1")
        values = {"loss": loss, "learning_rate": rate}
        if step > started[0]:
            self._clock = step, time.perf_counter()
            tokens = (step - started[0]) * module.plan.tokens_per_step
            values["tokens_per_second"] = tokens / (self._clock[1] - started[1])
        for logger in trainer.loggers:
            logger.log_metrics(values, step)


class Progress(OnOptimizerStep):
    """Progress bar with steps, loss, tokens/s and time left; without a terminal it is a line at most every 10 s.

    The bar begins after the first step, in which kernels are compiled, so that the time left does not count it.

    Args:
        kernel: the kernel that the first step may compile; None: there is none.
    """

    _bar: tqdm | None = None

    def __init__(self, kernel: str | None) -> None:
        super().__init__()
        self._kernel = kernel

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Print what the first step waits for; only the first of several processes shows it."""
        super().on_train_start(trainer, pl_module)
        if trainer.is_global_zero and self._kernel:
            line = f"first step: kernel={self._kernel} is compiled unless it was compiled before"
            print(line, file=sys.stderr, flush=True)

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
            tokens_per_second = tokens / (time.perf_counter() - self._started)
            self._bar.set_postfix_str(f"loss {module.step_loss:.3f}, {tokens_per_second:,.0f} tokens/s", refresh=False)
            self._bar.update()

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:  # noqa: ARG002 - Lightning's signature
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:  # noqa: ARG002
        """Close the bar."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
