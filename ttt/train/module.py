"""The language model as Lightning trains it.

Shapes: B sequences a device holds at once, T context length.
"""

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from ttt.config.errors import RunError
from ttt.config.plan import StepPlan
from ttt.config.schema import RecipeConfig
from ttt.layers.diagnose import with_diagnosis
from ttt.models.language_model import LanguageModel, token_losses
from ttt.train.optim import adamw, clip_gradients, decayed_parameters, schedule, warmup_steps
from ttt.train.processes import first_of_all


class DivergedError(RunError):
    """The training loss became infinite or not a number after ``step`` optimizer steps."""

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


class TrainingModule(pl.LightningModule):
    """Next-token prediction with the recipe's optimizer.

    Attributes:
        step_loss: mean loss in nats per token of the last finished optimizer step, on this device.
        gradient_norm: the step's total gradient norm before clipping.
    """

    def __init__(self, model: LanguageModel, recipe: RecipeConfig, plan: StepPlan) -> None:
        super().__init__()
        self.model, self.recipe, self.plan = model, recipe, plan
        self.step_loss = torch.tensor(float("nan"))
        self.gradient_norm = float("nan")
        self._losses: list[Tensor] = []
        self._decayed = decayed_parameters(model)
        found = (getattr(module, "set_warmup", None) for module in model.modules())
        self._set_warmups: list[Callable[[float], None]] = [
            set_warmup for set_warmup in found if set_warmup is not None
        ]

    def training_step(self, windows: Tensor, batch_idx: int) -> Tensor:  # noqa: ARG002 - Lightning's signature
        """Mean loss of a device batch [B, T + 1].

        Raises:
            DivergedError: the loss is infinite or not a number.
        """
        loss = token_losses(self.model, windows).mean()
        finite = bool(torch.isfinite(loss))
        # All processes end together, and the first, which alone writes, learns why.
        if not self.trainer.strategy.reduce_boolean_decision(finite, all=True):
            message = None if finite else self._explained(loss.item(), windows)
            raise DivergedError(first_of_all(message), self.global_step)
        self._losses.append(loss.detach())
        return loss

    def _explained(self, loss: float, windows: Tensor) -> str:
        message = f"the loss became {loss} at step {self.global_step}"
        # All ranks read a sharded model together, and the others' loss may be finite.
        sharded = isinstance(self.trainer.strategy, FSDPStrategy)
        return message if sharded else with_diagnosis(message, self.model, windows[:, :-1])

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:  # noqa: ARG002 - Lightning's signature
        """Warms up what the layers warm up themselves, such as eta_base of TTT-MLP."""
        warmup = warmup_steps(self.recipe, self.plan.schedule_steps)
        for set_warmup in self._set_warmups:
            set_warmup(self.global_step / warmup if warmup else 1.0)

    def configure_gradient_clipping(self, *_: Any, **__: Any) -> None:
        """Clips by the total norm; called once an optimizer step, after the last device batch."""
        wrapped = self.trainer.strategy.model
        self.gradient_norm = float(clip_gradients(wrapped if wrapped is not None else self, self.recipe.clip))
        self.step_loss = torch.stack(self._losses).mean()
        self._losses.clear()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW with warm-up and cosine, stepped once an optimizer step."""
        optimizer = adamw(self.model, self._decayed, self.recipe)
        scheduler = schedule(optimizer, self.recipe, self.plan.schedule_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
