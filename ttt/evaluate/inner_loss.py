"""What the inner loops of a model do at every token: Figure 7 of the submission.

Shapes: B sequences at once, H heads, T context length, n tokens of a piece.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ttt.data.windows import Windows
from ttt.layers.observing import Observation, observing
from ttt.layers.state import State

PIECE = 512
"""Tokens that go through the model at once: what a long context takes grows by a few numbers a token."""


@dataclass(frozen=True)
class InnerLosses:
    """What each TTT layer did.

    Attributes:
        layers: from the first TTT layer to the last, [H, T] float64 on the CPU, the mean over sequences.
        sequences: how many.
        lost: input ids [B, T] of the first sequences in which a number was not finite; None: all were.
    """

    layers: list[Observation]
    sequences: int
    lost: Tensor | None = None


def measure_inner_losses(
    model: nn.Module, windows: Windows, device: torch.device, device_tokens: int, show_progress: bool
) -> InnerLosses:
    """Reads ``windows`` token by token, in the primal form.

    Args:
        model: a language model with TTT layers, on ``device``.
        windows: what to read, each from the start of a document.
        device: where to compute.
        device_tokens: tokens of sequences that are read side by side.
        show_progress: whether to show a progress bar.
    """
    batch = max(1, device_tokens // windows.ctx)
    total, lost = torch.zeros(()), None
    model.eval()
    with tqdm(total=len(windows), desc="inner loss", unit="sequence", leave=False, disable=not show_progress) as bar:
        for start in range(0, len(windows), batch):
            ids_BT = windows.batch(range(start, min(start + batch, len(windows))))[:, :-1].to(device)
            summed = observed(model, ids_BT)
            if lost is None and not summed.isfinite().all():
                lost = ids_BT
            total = total + summed
            bar.update(len(ids_BT))
    means = [Observation(*layer) for layer in total / len(windows)]
    return InnerLosses(means, len(windows), lost)


@torch.no_grad()
def observed(model: nn.Module, ids_BT: Tensor) -> Tensor:
    """Every number of ``Observation`` for every TTT layer, summed over sequences: [layers, 5, H, T] float64."""
    pieces: list[Tensor] = []
    state: State = {}
    with observing(model) as seen:
        for ids_Bn in ids_BT.split(PIECE, dim=1):
            _, state = model(ids_Bn, state=state)
            pieces.append(torch.stack([torch.stack(layer).cpu().double().sum(1) for layer in seen]))
            seen.clear()
    return torch.cat(pieces, dim=-1)
