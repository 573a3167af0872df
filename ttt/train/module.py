"""The language model as a Lightning module.

Shapes: B sequences on a device at once, T context length, S = T + 1.
"""

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from ttt.config.errors import DivergedError
from ttt.config.plan import StepPlan
from ttt.config.schema import RecipeConfig
from ttt.data.answers import Answers
from ttt.layers.diagnose import with_diagnosis
from ttt.models.language_model import LanguageModel, token_losses
from ttt.train.optim import clip_gradients, decayed_parameters, make_optimizer, schedule, warmup_steps
from ttt.train.processes import first_message


class TrainingModule(pl.LightningModule):
    """Next-token prediction with the recipe's optimizer; only of ``answers``, if there are any.

    Attributes:
        step_loss: mean loss in nats per token of the last finished optimizer step, on this device.
        gradient_norm: the step's total gradient norm before clipping.
    """

    def __init__(
        self, model: LanguageModel, recipe: RecipeConfig, plan: StepPlan, answers: Answers | None = None
    ) -> None:
        super().__init__()
        self.model, self.recipe, self.plan, self.answers = model, recipe, plan, answers
        self.step_loss = torch.tensor(float("nan"))
        self.gradient_norm = float("nan")
        self._losses: list[Tensor] = []
        self._decayed = decayed_parameters(model, recipe.decay)
        hooks = (getattr(module, "set_warmup", None) for module in model.modules())
        self._set_warmups: list[Callable[[float], None]] = [hook for hook in hooks if hook is not None]

    def training_step(self, ids_BS: Tensor, batch_idx: int) -> Tensor:  # noqa: ARG002 - Lightning's signature
        """Return the mean loss of the windows of a device batch, or of their answers.

        Raises:
            DivergedError: the loss is infinite or NaN.
        """
        if self.answers is None:
            loss = token_losses(self.model, ids_BS).mean()
        else:
            losses_BT = token_losses(self.model, ids_BS, self.answers.inputs(ids_BS))
            loss = losses_BT[self.answers.marked(ids_BS)].mean()
        finite = bool(torch.isfinite(loss))
        # All processes stop together, and the first one, which writes the record, gets the message.
        if not self.trainer.strategy.reduce_boolean_decision(finite, all=True):
            message = None if finite else self._divergence(loss.item(), ids_BS)
            raise DivergedError(first_message(message))
        self._losses.append(loss.detach())
        return loss

    def _divergence(self, loss: float, ids_BS: Tensor) -> str:
        message = f"the loss became {loss} at step {self.global_step}"
        # All ranks must read a sharded model together, but the loss of other ranks may be finite.
        sharded = isinstance(self.trainer.strategy, FSDPStrategy)
        return message if sharded else with_diagnosis(message, self.model, ids_BS[:, :-1])

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:  # noqa: ARG002 - Lightning's signature
        """Advance the warm-up of layers that have one, such as that of eta_base in TTT-MLP."""
        warmup = warmup_steps(self.recipe, self.plan.schedule_steps)
        for set_warmup in self._set_warmups:
            set_warmup(self.global_step / warmup if warmup else 1.0)

    def configure_gradient_clipping(self, *_: Any, **__: Any) -> None:
        """Clip by the total norm. Lightning calls this once per optimizer step, after the last device batch."""
        wrapped = self.trainer.strategy.model
        self.gradient_norm = float(clip_gradients(wrapped if wrapped is not None else self, self.recipe.clip))
        self.step_loss = torch.stack(self._losses).mean()
        self._losses.clear()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return the optimizer and its schedule, which is stepped once per optimizer step."""
        optimizer = make_optimizer(self.model, self._decayed, self.recipe)
        scheduler = schedule(optimizer, self.recipe, self.plan.schedule_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
