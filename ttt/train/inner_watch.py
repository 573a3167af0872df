"""Watching a model's inner loops during training, to report unbounded growth before the run diverges."""

import sys

import lightning.pytorch as pl
from torch import Tensor
from tqdm import tqdm

from ttt.evaluate.growth import unbounded_growth
from ttt.evaluate.inner_loss import observed
from ttt.layers.observing import Observation, ttt_layers
from ttt.results.run_record import RunRecord
from ttt.train.callbacks import OnOptimizerStep, checkpoint_due
from ttt.train.module import TrainingModule

MOST_TOKENS, MOST_MINI_BATCHES = 256, 64
"""Limits of one probe. Its cost grows with the number of mini-batches and must be negligible against training."""


class InnerWatch(OnOptimizerStep):
    """Probes the inner loops whenever a checkpoint is due, and warns once of each loop that grows without bound.

    It draws no random numbers and leaves the model, its modes and its gradients unchanged.

    Args:
        record: receives the warnings; they also go to standard error.
        ids_S: a training window [T + 1], always the same.
        every: optimizer steps between two checkpoints; 0: only after the last step.
    """

    def __init__(self, record: RunRecord, ids_S: Tensor, every: int) -> None:
        super().__init__()
        self.record, self.ids_S, self.every = record, ids_S, every
        # A resumed run does not repeat its earlier warnings.
        self.warned = set(record.warnings)

    def on_step(self, trainer: pl.Trainer, module: TrainingModule, step: int) -> None:
        """Probe if a checkpoint is due, only in the first process of a distributed run."""
        if not trainer.is_global_zero or not checkpoint_due(step, module.plan.steps, self.every):
            return
        new = {subject: text for subject, text in self._warnings(module, step).items() if subject not in self.warned}
        self.warned |= new.keys()
        self.record.warn(new)
        for subject, text in new.items():
            tqdm.write(f"warning: {subject}: {text}", file=sys.stderr)

    def _warnings(self, module: TrainingModule, step: int) -> dict[str, str]:
        mini_batch_size = ttt_layers(module.model)[0].config.mini_batch_size
        tokens = min(len(self.ids_S) - 1, MOST_TOKENS, MOST_MINI_BATCHES * mini_batch_size)
        seen = observed(module.model, self.ids_S[None, :tokens].to(module.device))
        growths = unbounded_growth([Observation(*layer) for layer in seen])
        return {f"train, {growth.inner_loop}": f"at step {step} {growth}" for growth in growths}
