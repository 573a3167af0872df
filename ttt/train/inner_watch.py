"""Watching a model's inner loops while it trains: one that grows without bound is noticed before it diverges."""

import sys

import lightning.pytorch as pl
from torch import Tensor
from tqdm import tqdm

from ttt.evaluate.growth import unbounded_growth
from ttt.evaluate.inner_loss import observed
from ttt.layers.observing import Observation, ttt_layers
from ttt.results.record import Record, put_warnings
from ttt.train.callbacks import StepEnd, checkpoint_due
from ttt.train.module import TrainingModule

MOST_TOKENS, MOST_MINI_BATCHES = 256, 64
"""What one look reads at most. Its cost goes by mini-batches, and must not show beside the training."""


class InnerWatch(StepEnd):
    """Looks into the inner loops whenever a checkpoint is due, and warns once of each that grows without bound.

    It takes no random numbers and leaves model, modes and gradients as they are: a run with it is the run without it.

    Args:
        record: where the warnings go besides standard error.
        window: a training window [T + 1], always the same.
        every: optimizer steps between two checkpoints; 0: the last step alone.
    """

    def __init__(self, record: Record, window: Tensor, every: int) -> None:
        super().__init__()
        self.record, self.window, self.every = record, window, every
        # A resumed run does not repeat what it said before.
        self.warned = {line.partition(": ")[0] for line in record.get("warnings", [])}

    def on_step(self, trainer: pl.Trainer, module: TrainingModule, step: int) -> None:
        """Looks when it is time, in one process of a distributed run."""
        if not trainer.is_global_zero or not checkpoint_due(step, module.plan.steps, self.every):
            return
        new = {subject: text for subject, text in self._found(module, step).items() if subject not in self.warned}
        self.warned |= new.keys()
        put_warnings(self.record, new)
        for subject, text in new.items():
            tqdm.write(f"warning: {subject}: {text}", file=sys.stderr)

    def _found(self, module: TrainingModule, step: int) -> dict[str, str]:
        mini_batch_size = ttt_layers(module.model)[0].config.mini_batch_size
        tokens = min(len(self.window) - 1, MOST_TOKENS, MOST_MINI_BATCHES * mini_batch_size)
        seen = observed(module.model, self.window[None, :tokens].to(module.device))
        growths = unbounded_growth([Observation(*layer) for layer in seen])
        return {f"train, {growth.place}": f"at step {step} {growth}" for growth in growths}
