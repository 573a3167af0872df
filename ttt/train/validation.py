"""Validation while a run trains: a curve to watch, which changes nothing of the training."""

import time

import lightning.pytorch as pl

from ttt.data.corpus import Documents
from ttt.data.windows import windows_within
from ttt.evaluate.losses import window_predictions
from ttt.evaluate.perplexity import mean_loss
from ttt.evaluate.run import Reading
from ttt.results.metrics import VALIDATION_WHILE_TRAINING, MetricLog
from ttt.results.run_record import RunRecord
from ttt.train.callbacks import OnOptimizerStep
from ttt.train.module import TrainingModule


class Validation(OnOptimizerStep):
    """Measures the validation loss every ``every`` steps, on the windows of the evaluation at the end.

    It draws no random numbers and leaves the model, its modes and its gradients unchanged. Every process of a
    distributed run reads the same text, so that none waits for another and all notice a loss that is not finite.

    Args:
        documents: the validation split.
        reading: settings of the evaluation.
        metrics: the run's table.
        record: the run's record; validation does not count into its tokens per second.
        every: optimizer steps between two validations.
    """

    def __init__(
        self, documents: Documents, reading: Reading, metrics: MetricLog, record: RunRecord, every: int
    ) -> None:
        super().__init__()
        self.reading, self.metrics, self.record, self.every = reading, metrics, record, every
        self.windows = windows_within(documents, reading.ctx).subset(max(1, reading.eval_tokens // reading.ctx))

    def on_step(self, trainer: pl.Trainer, module: TrainingModule, step: int) -> None:
        """Add the loss to the table and the loggers if a validation is due.

        Raises:
            DivergedError: the loss is not finite.
        """
        if step % self.every:
            return
        started, training = time.monotonic(), module.model.training
        what = f"validation at step {step}"
        predictions = window_predictions(
            module.model, self.windows, module.device, self.reading.device_tokens, show_progress=False, what=what
        )
        loss = mean_loss(predictions)
        module.model.train(training)
        self.metrics.add("validation", step, VALIDATION_WHILE_TRAINING, loss, "nats/token")
        for logger in trainer.loggers:
            logger.log_metrics({"validation_loss": loss}, step)
        self.record.paused(time.monotonic() - started)
