"""The inner losses of a model on a text, token by token."""

import pandas as pd
from torch import Tensor, nn

from ttt.evaluate.inner_loss import observed
from ttt.layers.observing import Observation, ttt_layers
from ttt.results.inner_loss import LOSSES, dimension_factor


def inner_loss(model: nn.Module, ids: Tensor) -> pd.DataFrame:
    """Return the inner loss of every token before and after its update: one row per TTT layer, head and token.

    The model reads the tokens in the primal form, token by token, from the start of a sequence.

    Args:
        model: a language model with TTT layers, such as of ``ttt.load``.
        ids: token ids [B, T] or [T] on the model's device, such as ``tokenizer.encode(text)``.

    Returns:
        Columns ``layer`` (from 1), ``head`` (from 0), ``position`` (token index, from 1), and as float64, means over
        the B sequences: ``loss_initial``, the token's loss under W_0, ``loss_before``, under the weights after the
        tokens before it, and ``loss_after``, after its own update, as mean squared errors per dimension; and
        ``update_norm`` and ``weight_norm``, the norms of its update and of the weights after it.

    Raises:
        ValueError: the model has no TTT layer, or ids of another shape.
    """
    layers = ttt_layers(model)
    if not layers:
        raise ValueError("the model has no TTT layer, and so no inner loss")
    if ids.ndim not in (1, 2) or ids.numel() == 0:
        raise ValueError(f"ids have shape {list(ids.shape)}; give [B, T] or [T] with at least one token")
    ids_BT = ids.reshape(-1, ids.shape[-1])
    model.eval()
    values = observed(model, ids_BT) / len(ids_BT)
    numbers = [(layer, head) for layer in range(len(layers)) for head in range(layers[layer].heads)]
    parts = []
    for layer, head in numbers:
        columns = dict(zip(Observation._fields, values[layer, :, head].numpy(), strict=True))
        factor = dimension_factor(layers[layer].head_dim, layers[layer].config.halved_loss)
        columns |= {name: factor * columns[name] for name in LOSSES}
        part = pd.DataFrame({"layer": layer + 1, "head": head, "position": range(1, ids_BT.shape[1] + 1)})
        parts.append(part.assign(**columns))
    return pd.concat(parts, ignore_index=True)
