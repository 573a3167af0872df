"""The language model as a Lightning module.

Shapes: B sequences on a device at once, T context length, S = T + 1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim import Optimizer

from ttt.config.errors import DivergedError
from ttt.config.plan import StepPlan
from ttt.config.schema import RecipeConfig
from ttt.data.answers import Answers
from ttt.layers.diagnose import with_diagnosis
from ttt.models.language_model import LanguageModel, mean_loss, token_losses
from ttt.train.optim import clip_gradients, decayed_parameters, make_optimizer, schedule, warmup_steps
from ttt.train.processes import first_message


@dataclass(frozen=True)
class _Batch:
    """A device batch [B, S] of the step after ``step`` steps, and its loss, on the device."""

    step: int
    ids: Tensor
    loss: Tensor


def is_asynchronous(device: torch.device) -> bool:
    """Return whether a device computes behind the host, which waits when it reads a number."""
    return device.type != "cpu"


class TrainingModule(pl.LightningModule):
    """Next-token prediction with the recipe's optimizer; only of ``answers``, if there are any.

    Reading a number from a GPU waits until the GPU has computed it. So losses stay there until ``check_losses``; on a
    CPU, where nothing waits, each is checked at once.

    Attributes:
        step_loss: mean loss in nats per token of the last finished optimizer step, a scalar on this device.
        gradient_norm: the step's total gradient norm before clipping, a scalar on this device.
        finite_steps: number of steps whose losses are known to be finite.
    """

    def __init__(
        self, model: LanguageModel, recipe: RecipeConfig, plan: StepPlan, answers: Answers | None = None
    ) -> None:
        super().__init__()
        self.model, self.recipe, self.plan, self.answers = model, recipe, plan, answers
        self.step_loss = torch.tensor(float("nan"))
        self.gradient_norm = torch.tensor(float("nan"))
        self.finite_steps = 0
        self._losses: list[Tensor] = []
        self._unchecked: list[_Batch] = []
        self._diverged: Tensor | None = None
        self._decayed = decayed_parameters(model, recipe.decay)
        hooks = (getattr(module, "set_warmup", None) for module in model.modules())
        self._set_warmups: list[Callable[[float], None]] = [hook for hook in hooks if hook is not None]

    def training_step(self, ids_BS: Tensor, batch_idx: int) -> Tensor:  # noqa: ARG002 - Lightning's signature
        """Return the mean loss of the windows of a device batch, or of their answers.

        Raises:
            DivergedError: the loss is infinite or NaN; on a GPU ``check_losses`` raises it.
        """
        if self.answers is None:
            loss = mean_loss(self.model, ids_BS)
        else:
            losses_BT = token_losses(self.model, ids_BS, self.answers.inputs(ids_BS))
            loss = losses_BT[self.answers.marked(ids_BS)].mean()
        self._losses.append(loss.detach())
        self._unchecked.append(_Batch(self.global_step, ids_BS, loss.detach()))
        if not is_asynchronous(self.device):
            self.check_losses()
        return loss

    def check_losses(self) -> None:
        """Check the losses since the last call. All processes must call this together; it waits for their devices.

        Raises:
            DivergedError: one of them is infinite or NaN, on any device.
        """
        batches, self._unchecked = self._unchecked, []
        finite = not batches or bool(torch.stack([batch.loss for batch in batches]).isfinite().all())
        # All processes stop together, and the first one, which writes the record, gets the message.
        if self.trainer.strategy.reduce_boolean_decision(finite, all=True):
            self.finite_steps = self.global_step
            return
        bad = None if finite else next(batch for batch in batches if not batch.loss.isfinite())
        self.finite_steps = self.global_step if bad is None else bad.step
        raise DivergedError(first_message(None if bad is None else self._divergence(bad.loss.item(), bad)))

    def _divergence(self, loss: float, batch: "_Batch") -> str:
        message = f"the loss became {loss} at step {batch.step}"
        # All ranks must read a sharded model together, but the loss of other ranks may be finite.
        sharded = isinstance(self.trainer.strategy, FSDPStrategy)
        return message if sharded else with_diagnosis(message, self.model, batch.ids[:, :-1])

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:  # noqa: ARG002 - Lightning's signature
        """Advance the warm-up of layers that have one, such as that of eta_base in TTT-MLP."""
        warmup = warmup_steps(self.recipe, self.plan.schedule_steps)
        for set_warmup in self._set_warmups:
            set_warmup(self.global_step / warmup if warmup else 1.0)

    def configure_gradient_clipping(self, optimizer: Optimizer, *_: Any, **__: Any) -> None:
        """Clip by the total norm. Lightning calls this once per optimizer step, after the last device batch."""
        wrapped = self.trainer.strategy.model
        self.gradient_norm = clip_gradients(wrapped if wrapped is not None else self, self.recipe.clip).detach()
        self.step_loss = torch.stack(self._losses).mean()
        self._losses.clear()
        if all(group.get("fused") for group in optimizer.param_groups):
            self._keep_weights(optimizer)

    def _keep_weights(self, optimizer: Optimizer) -> None:
        """Let a fused optimizer make no step after a loss that is not finite, which the host does not know yet.

        The diagnosis then reads the weights that gave the loss. Fused optimizers have ``found_inf`` for 16-mixed.
        """
        now = self.step_loss.isfinite().logical_not().float()
        self._diverged = now if self._diverged is None else torch.maximum(self._diverged, now)
        optimizer.found_inf = self._diverged  # type: ignore[attr-defined]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let this device decide whether the optimizer is fused, not the one on which the checkpoint was written."""
        fused = self.trainer.strategy.root_device.type == "cuda" or None
        for state in checkpoint["optimizer_states"]:
            for group in state["param_groups"]:
                if "fused" in group:
                    group["fused"] = fused

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return the optimizer and its schedule, which is stepped once per optimizer step."""
        optimizer = make_optimizer(self.model, self._decayed, self.recipe)
        scheduler = schedule(optimizer, self.recipe, self.plan.schedule_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
