"""Losses of a model on windows of text, by token.

Shapes: B windows at once, T context length, S = T + 1.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ttt.config.errors import DivergedError
from ttt.config.progress import progress_bar
from ttt.data.windows import Windows
from ttt.layers.diagnose import with_diagnosis
from ttt.models.language_model import token_predictions

CPU_TOKENS = 2**12
"""Tokens that a CPU reads at once at most: it computes more no faster, and new memory for them costs it time."""


def window_losses(
    model: nn.Module, windows: Windows, device: torch.device, device_tokens: int, show_progress: bool, what: str
) -> Iterator[Tensor]:
    """Yield the losses of ``window_predictions``."""
    for losses_BT, _, _ in window_predictions(model, windows, device, device_tokens, show_progress, what):
        yield losses_BT


@torch.no_grad()
def window_predictions(
    model: nn.Module, windows: Windows, device: torch.device, device_tokens: int, show_progress: bool, what: str
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the losses, whether the most likely token was right, and whether it is judged, of all windows in order.

    Losses are the cross entropy in nats, [B, T] float64; the other tensors are bool [B, T]. All are on the CPU. Every
    token is judged unless ``windows.answers`` names some.

    Args:
        model: a language model on ``device``.
        windows: the windows to read.
        device: where to compute.
        device_tokens: tokens on the device at once; on a CPU no more than ``CPU_TOKENS``.
        show_progress: show a progress bar.
        what: name of the measure, for progress bar and errors.

    Raises:
        DivergedError: a loss is not finite.
    """
    at_once = min(device_tokens, CPU_TOKENS) if device.type == "cpu" else device_tokens
    batch = max(1, at_once // windows.ctx)
    model.eval()
    starts = range(0, len(windows), batch)
    for start in progress_bar(starts, desc=what, unit="batch", leave=False, show=show_progress):
        indices = range(start, min(start + batch, len(windows)))
        ids_BS = windows.batch(indices).to(device)
        answers = windows.answers
        losses_BT, right_BT = token_predictions(model, ids_BS, None if answers is None else answers.inputs(ids_BS))
        if not losses_BT.isfinite().all():
            raise DivergedError(with_diagnosis(f"{what}: the loss is not finite", model, ids_BS[:, :-1]))
        judged_BT = torch.ones_like(right_BT) if answers is None else answers.marked(ids_BS)
        yield losses_BT.cpu().double(), right_BT.cpu(), judged_BT.cpu()
