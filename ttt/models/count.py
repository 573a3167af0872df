"""Count parameters, state and FLOPs of a configuration without allocating a model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ttt.config.layers import HybridConfig
from ttt.config.schema import KernelConfig, TrainConfig
from ttt.layers.flops import count_flops
from ttt.models.build import build_model
from ttt.models.flops import of_training
from ttt.models.language_model import LanguageModel

DRAWN = (Tensor.normal_, Tensor.uniform_, Tensor.mul_, Tensor.div_)
"""Functions that draw initial values in place, or scale them."""


class WithoutDrawing(TorchFunctionMode):
    """Draw no initial values. The system gives a tensor its memory only when it is written, so it then takes none."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call ``function``, or return its tensor as it is."""
        given = dict(kwargs or {})
        if getattr(function, "__module__", "") == "torch.nn.init" or function in DRAWN:
            return args[0] if args else given["tensor"]
        return (torch.empty if function is torch.randn else function)(*args, **given)


@dataclass(frozen=True)
class Counted:
    """The size of a model.

    Attributes:
        parameters: of the model, the tied embedding once.
        embedding: of the embedding alone.
        repeats: number of times that the model has the blocks of ``model``.
        model: the model with one block, or with the pattern of a hybrid, on the meta device.
    """

    parameters: int
    embedding: int
    repeats: int
    model: LanguageModel

    def flops(self, ctx: int, tokens: int) -> float:
        """Return the FLOPs of training on ``tokens`` tokens in sequences of ``ctx``."""
        others = (self.repeats - 1) * sum(count_flops(block, ctx) for block in self.model.blocks)
        return of_training(self.model.flops(ctx) + others) * tokens / ctx


def counted_model(config: TrainConfig) -> Counted:
    """Return the size of a configuration's model, for a vocabulary of ``data.vocab_size``.

    Only one block is built, because all are alike, or the pattern of a hybrid. Building it on the meta device would
    import torch._dynamo, which takes as long as all of a sweep's models.

    Raises:
        UserError: the model cannot be built.
    """
    size = replace(config.size, blocks=pattern_length(config))
    with WithoutDrawing():
        model = build_model(config.model, size, config.backbone, config.kernel, config.data.vocab_size)
    model.to("meta")
    repeats = config.size.blocks // size.blocks
    parameters = sum(parameter.numel() for parameter in model.parameters())
    parameters += (repeats - 1) * sum(parameter.numel() for parameter in model.blocks.parameters())
    return Counted(parameters, model.embedding.weight.numel(), repeats, model)


def count(config: TrainConfig, tokens: int) -> tuple[int, float]:
    """Return the parameters of a configuration's model, and the FLOPs of training it on ``tokens`` tokens.

    Raises:
        UserError: the model cannot be built.
    """
    counted = counted_model(config)
    return counted.parameters, counted.flops(config.ctx.length, tokens)


def state_numbers(config: TrainConfig) -> tuple[int, int]:
    """Return the numbers in the state of one sequence after its first token, and those that each further token adds.

    One block reads two tokens, in the form that every inner model has; the meta device does not run all layers.

    Raises:
        UserError: the model cannot be built.
    """
    size = replace(config.size, blocks=pattern_length(config))
    model = build_model(config.model, size, config.backbone, KernelConfig("primal"), vocab_size=1)
    with torch.no_grad():
        states = [model(torch.zeros(1, tokens, dtype=torch.long), state={})[1] for tokens in (1, 2)]
    repeats = config.size.blocks // size.blocks
    first, second = (repeats * sum(part.numel() for part in state.values()) for state in states)
    return first, second - first


def pattern_length(config: TrainConfig) -> int:
    """Return the number of blocks after which the model repeats itself."""
    return len(config.model.pattern) if isinstance(config.model, HybridConfig) else 1
