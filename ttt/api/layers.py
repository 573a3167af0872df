"""Sequence layers outside a language model.

Shapes: B batch, T tokens, C model width.
"""

from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from ttt.api.errors import as_value_error
from ttt.api.settings import layer_config, layer_spec, read_settings
from ttt.config.layers import TTTConfig
from ttt.layers.by_kernel import set_kernel
from ttt.layers.registry import build_layer as build
from ttt.layers.state import State
from ttt.layers.ttt import TTT


class _Standalone(TTT):
    """A TTT layer with the standard settings of ``model=NAME``, built from its width and number of heads."""

    NAME: ClassVar[str]

    @as_value_error()
    def __init__(
        self, width: int, heads: int, *, kernel: str = "auto", conv_gate: bool = False, **settings: Any
    ) -> None:
        config = layer_config(settings | {"name": self.NAME})
        assert isinstance(config, TTTConfig)
        config.check()
        spec = layer_spec({"width": width, "heads": heads}, kernel, conv_gate)
        super().__init__(config, spec)
        set_kernel(self, spec.kernel)
        self.width = width

    def forward(self, x_BTC: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Map x [B, T, C] to y [B, T, C].

        Args:
            x_BTC: the tokens, of the layer's dtype.
            state: the state after the tokens before these; None at the start of a sequence.

        Returns:
            y and the state after the last token, a flat dictionary of tensors whose size does not depend on T.

        Raises:
            ValueError: x has another shape or dtype.
        """
        shape = tuple(x_BTC.shape)
        if len(shape) != 3 or shape[2] != self.width or 0 in shape:
            raise ValueError(f"x has shape {list(shape)}; give [B, T, C] with C = {self.width}")
        if not x_BTC.is_floating_point():
            raise ValueError(f"x has dtype {x_BTC.dtype}; give vectors of floating-point numbers, not token ids")
        return super().forward(x_BTC, state)

    if TYPE_CHECKING:

        def __call__(self, x_BTC: Tensor, state: State | None = None) -> tuple[Tensor, State]: ...


class TTTLinear(_Standalone):
    """TTT-Linear: the hidden state of each head is a linear model. x [B, T, C] -> y [B, T, C] and the state.

    A sequence can be read in chunks, down to single tokens:

        layer = TTTLinear(width=256, heads=4)
        y, state = layer(x)
        y_next, state = layer(x_next, state)

    Args:
        width: C, of x and y.
        heads: number of heads; each has the even width C / heads.
        kernel: computes the inner loop: auto (the fastest), cpu, triton, dual or primal.
        conv_gate: add Mamba's convolutions on queries and keys, and its output gate, as in ``backbone=mamba``.
        settings: keys of the model, such as ``mini_batch_size=4`` or ``eta_base=0.5``, as ``ttt-train --help`` lists
            them under ``model.``. The others have the values of ``model=ttt_linear``.

    Raises:
        ValueError: a setting that does not exist, or a value out of its range. The message is one line.
    """

    NAME = "ttt_linear"


class TTTMLP(_Standalone):
    """TTT-MLP: the hidden state of each head is a two-layer MLP. See ``TTTLinear``; the settings are ``ttt_mlp``'s."""

    NAME = "ttt_mlp"


@as_value_error()
def build_layer(
    source: str | PathLike[str] | Mapping[str, Any],
    width: int | None = None,
    heads: int | None = None,
    *,
    kernel: str = "auto",
    **settings: Any,
) -> nn.Module:
    """Return an untrained sequence layer of any type: x [B, T, C] -> y [B, T, C] and the state.

    Args:
        source: the name of a layer, such as ``mamba``; a YAML file with a ``model`` section, such as a run's
            ``config.yaml`` or a file of ``conf/model/``; or a mapping with the keys of such a section or file.
        width: C; None: ``size.width`` of the file.
        heads: number of heads; None: ``size.heads`` of the file. Layers without heads ignore it.
        kernel: computes the inner loop: auto (the fastest), cpu, triton, dual or primal.
        settings: keys of the model, which replace those of the source. Keys that neither gives have the values of
            ``model=NAME``.

    Raises:
        ValueError: a file that cannot be read; a key that is missing, unknown or out of its range. The message is one
            line that names the file or the key.
    """
    model, size, conv_gate = read_settings(source)
    given = {"width": width, "heads": heads}
    size |= {key: value for key, value in given.items() if value is not None}
    return build(layer_config(model | settings), layer_spec(size, kernel, conv_gate))
