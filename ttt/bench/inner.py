"""The inner loop of one TTT layer.

Shapes: B batch, H heads, T tokens, D head width, b mini-batch size.
"""

import time
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ttt.bench.case import DTYPES, PLAIN, Case, Setting, Variant, Work, variants
from ttt.config.bench import InnerBenchConfig
from ttt.config.errors import bad_value
from ttt.inner.dual import Gradients, dual_outputs, dual_update
from ttt.inner.eta import token_scale
from ttt.inner.flops import inner_flops
from ttt.inner.layer_norm import LayerNormParams
from ttt.inner.loop import InnerLoop, Tokens
from ttt.inner.models.base import InnerModel, Params
from ttt.inner.models.registry import BUILT_IN, make_inner_model
from ttt.inner.rule import rule_of
from ttt.inner.scan import piece_lengths
from ttt.kernels.dispatch import choose_form

HIDDEN = {"linear": (), "mlp": (4,)}
"""Hidden layers of the paper's inner models, in head widths."""

INIT_STD = 0.02


class Inputs(NamedTuple):
    """Everything an inner loop reads, each a leaf whose gradient is asked for."""

    tokens: Tokens
    tau: Tensor
    norm: LayerNormParams
    W_init: Params

    @property
    def leaves(self) -> list[Tensor]:
        """All tensors in one row."""
        return [*(x for x in self.tokens if x is not None), self.tau, *self.norm, *self.W_init]


def cases(config: InnerBenchConfig) -> Iterator[Case]:
    """Every inner model at every length and mini-batch size.

    Raises:
        UserError: an inner model or a form that does not exist.
    """
    for name in config.inner_model:
        if name not in BUILT_IN:
            raise bad_value("inner_model", name, f"choose from {', '.join(BUILT_IN)}")
    chosen = variants(config.kernels, config.checkpoint_group)
    for name in config.inner_model:
        for tokens in config.tokens:
            for b in config.mini_batch_size:
                yield Case(Setting(name, tokens, b, config.batch), chosen, partial(inner_work, config, name, b))


def inner_work(config: InnerBenchConfig, name: str, b: int, variant: Variant, tokens: int) -> Work:
    """The inner loop of one layer over ``config.batch`` sequences of ``tokens`` tokens, all forms with equal inputs.

    Raises:
        UserError: a form that cannot compute this inner model.
    """
    head_dim = config.width // config.heads
    model = make_inner_model(name, head_dim, HIDDEN[name], "gelu", True)
    loop = InnerLoop(model)
    form = choose_form(variant.kernel, loop)
    inputs = random_inputs(config, model, b, tokens)
    upstream = torch.randn_like(inputs.tokens.q)

    def outputs() -> Tensor:
        state = loop.start(inputs.W_init, config.batch)
        return form(loop, inputs.norm, state, inputs.tokens, inputs.tau)[0]

    def gradients() -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(outputs(), inputs.leaves, upstream, allow_unused=True)

    flops = config.batch * config.heads * inner_flops(model, head_dim, tokens, b)
    split = [partial(split_times, loop, inputs)] if config.split and variant == PLAIN else []
    return Work(torch.no_grad()(outputs), gradients, flops, split)


def random_inputs(config: InnerBenchConfig, model: InnerModel, b: int, tokens: int) -> Inputs:
    """Views like those of a layer at its start: normal, eta up to 1 / D for every token, tau 1 / i, W_0 small."""
    torch.manual_seed(config.seed)
    head_dim, dtype = config.width // config.heads, DTYPES[config.dtype]
    q, k, v = torch.randn(3, config.batch, config.heads, tokens, head_dim, dtype=dtype)
    eta = torch.rand(config.batch, config.heads, tokens, dtype=dtype) / head_dim
    scale = torch.ones(config.heads, 1, head_dim, dtype=dtype)
    W_init = model.initial(config.heads, head_dim, INIT_STD).values()
    inputs = Inputs(
        Tokens(q, k, v, eta),
        token_scale(torch.zeros(b, dtype=dtype)),
        LayerNormParams(scale, torch.zeros_like(scale)),
        tuple(w.to(dtype) for w in W_init),
    )
    for leaf in inputs.leaves:
        leaf.requires_grad_()
    return inputs


@torch.no_grad()
def split_times(loop: InnerLoop, inputs: Inputs) -> dict[str, float]:
    """A forward pass of the plain form, with the seconds for W (gradients and update) and for z, over all pieces."""
    state = loop.start(inputs.W_init, inputs.tokens.q.shape[0])
    seconds = {"W": 0.0, "z": 0.0}
    for piece in inputs.tokens.split(piece_lengths(inputs.tokens.q.shape[2], inputs.tau.numel())):
        started = time.perf_counter()
        gradients, rule = Gradients(loop, inputs.norm, state.W, piece.k, piece.v), rule_of(loop.momentum, piece)
        after = dual_update(loop, state, piece, inputs.tau, gradients, rule)
        between = time.perf_counter()
        dual_outputs(loop, inputs.norm, state, piece, inputs.tau, gradients, rule)
        seconds["W"] += between - started
        seconds["z"] += time.perf_counter() - between
        state = after
    return seconds
