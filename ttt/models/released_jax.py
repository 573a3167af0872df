"""Parameter names and shapes of the authors' JAX model, translated to those of their PyTorch model.

| JAX                                           | shape         | PyTorch                            | shape         |
|-----------------------------------------------|---------------|------------------------------------|---------------|
| kernel of a projection, w2, wq, ...           | [in, out]     | weight                             | [out, in]     |
| kernel of a convolution                       | [K, 1, C]     | weight                             | [C, 1, K]     |
| ``learnable_ttt_lr/kernel``                   | [H, C, 1]     | ``learnable_ttt_lr_weight``        | [H, 1, C]     |
| ``ttt_dense_0``, ``ttt_bias_0``, ...          | [H, in, out]  | ``W1``, ``b1``, ...                | [H, in, out]  |
| norms, embedding, ``learnable_token_idx``     |               | the same                           |               |

C model width, H heads, K width of a convolution.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from ttt.config.errors import UserError, bad_value

Change = Callable[[Tensor], Tensor]


def _same(value: Tensor) -> Tensor:
    return value


def _last_two(value: Tensor) -> Tensor:
    return value.transpose(-1, -2)


def _reversed(value: Tensor) -> Tensor:
    return value.permute(2, 1, 0)


MODEL: dict[str, tuple[str, Change]] = {
    "model/wte/embedding": ("model.embed_tokens.weight", _same),
    "model/ln_f/kernel": ("model.norm.weight", _same),
    "lm_head/kernel": ("lm_head.weight", _last_two),
}
"""Parameter outside the blocks -> name, change of shape."""

LAYER = "seq_modeling_block"

BLOCK: dict[str, tuple[str, Change]] = {
    "seq_norm/kernel": ("seq_norm.weight", _same),
    "ffn_norm/kernel": ("ffn_norm.weight", _same),
    "conv/conv_norm/kernel": ("conv.norm.weight", _same),
    "conv/conv1/kernel": ("conv.conv.weight", _reversed),
    "conv/conv1/bias": ("conv.conv.bias", _same),
    "feed_forward/w1/kernel": ("mlp.gate_proj.weight", _last_two),
    "feed_forward/w2/kernel": ("mlp.down_proj.weight", _last_two),
    "feed_forward/w3/kernel": ("mlp.up_proj.weight", _last_two),
    **{f"{LAYER}/w{x}/kernel": (f"{LAYER}.{x}_proj.weight", _last_two) for x in "qkvog"},
    **{f"{LAYER}/conv_{x}/kernel": (f"{LAYER}.conv_{x}.weight", _reversed) for x in "qk"},
    **{f"{LAYER}/conv_{x}/bias": (f"{LAYER}.conv_{x}.bias", _same) for x in "qk"},
    **{f"{LAYER}/ttt_dense_{n}": (f"{LAYER}.W{n + 1}", _same) for n in range(2)},
    **{f"{LAYER}/ttt_bias_{n}": (f"{LAYER}.b{n + 1}", _same) for n in range(2)},
    f"{LAYER}/ttt_norm/scale": (f"{LAYER}.ttt_norm_weight", _same),
    f"{LAYER}/ttt_norm/bias": (f"{LAYER}.ttt_norm_bias", _same),
    f"{LAYER}/post_norm/scale": (f"{LAYER}.post_norm.weight", _same),
    f"{LAYER}/post_norm/bias": (f"{LAYER}.post_norm.bias", _same),
    f"{LAYER}/learnable_ttt_lr/kernel": (f"{LAYER}.learnable_ttt_lr_weight", _last_two),
    f"{LAYER}/learnable_ttt_lr/bias": (f"{LAYER}.learnable_ttt_lr_bias", _same),
    f"{LAYER}/learnable_token_idx": (f"{LAYER}.learnable_token_idx", _same),
}
"""Parameter of a block, without ``model/h/NUMBER/`` -> name without ``model.layers.NUMBER.``, change of shape."""


def from_jax(weights: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    """Return the weights of the JAX model under the names and in the shapes of the PyTorch model.

    Args:
        weights: path of the parameter, joined by slashes -> tensor.
        file: where they are from, for errors.

    Raises:
        UserError: parameters that the JAX model with a TTT layer does not have, all of which are counted.
    """
    state: dict[str, Tensor] = {}
    unknown = []
    for path, value in weights.items():
        prefix, name, change = _translated(path)
        if change is None or not isinstance(value, Tensor):
            unknown.append(path)
        else:
            state[f"{prefix}{name}"] = change(value).contiguous()
    if unknown or not state:
        raise _not_theirs(file, sorted(unknown))
    return state


def _translated(path: str) -> tuple[str, str, Change | None]:
    if path in MODEL:
        return ("", *MODEL[path])
    parts = path.split("/", 3)
    if parts[:2] == ["model", "h"] and len(parts) == 4 and parts[2].isdecimal() and parts[3] in BLOCK:
        return (f"model.layers.{parts[2]}.", *BLOCK[parts[3]])
    return "", "", None


def _not_theirs(file: Path, unknown: list[str]) -> UserError:
    more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
    found = f"{', '.join(unknown[:3])}{more}" if unknown else "no parameter at all"
    return bad_value("from", file, f"has not the layout of the authors' JAX models with a TTT layer: {found}")
