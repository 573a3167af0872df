"""The inner loop of one TTT layer.

Shapes: B batch, H heads, T tokens, D head width, b mini-batch size.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ttt.bench.measurement import DTYPES, PLAIN, Implementation, Measurement, Workload, implementations, matmul, passes
from ttt.config.bench import InnerBenchConfig
from ttt.config.errors import bad_value
from ttt.inner.dual import TokenGradients, dual_outputs, dual_update
from ttt.inner.eta import token_scale
from ttt.inner.flops import inner_flops
from ttt.inner.layer_norm import LayerNormParams
from ttt.inner.loop import InnerInputs, InnerLoop, InnerSpec
from ttt.inner.models.base import InnerModel, Params
from ttt.inner.models.registry import BUILT_IN, make_inner_model
from ttt.inner.rule import update_rule
from ttt.inner.scan import chunk_lengths
from ttt.kernels.dispatch import choose_kernel

HIDDEN = {"linear": (), "mlp": (4,)}
"""Hidden layers of the paper's inner models, as multiples of the head width."""

INIT_STD = 0.02


class Inputs(NamedTuple):
    """All inputs of an inner loop; gradients are computed for each."""

    tokens: InnerInputs
    loop: InnerLoop
    W_init: Params

    @property
    def leaves(self) -> list[Tensor]:
        """All tensors in one list."""
        return [*(x for x in self.tokens if x is not None), self.loop.tau, *self.loop.norm, *self.W_init]


def inner_groups(config: InnerBenchConfig) -> Iterator[list[Measurement]]:
    """Yield the measurements of every inner model at every length and mini-batch size.

    Raises:
        UserError: an inner model or kernel does not exist, or the kernel cannot compute the inner model.
    """
    for name in config.inner_model:
        if name not in BUILT_IN:
            raise bad_value("inner_model", name, f"choose from {', '.join(BUILT_IN)}")
    head_dim = config.width // config.heads
    for name in config.inner_model:
        for tokens in config.tokens:
            for b in config.mini_batch_size:
                workload = Workload(name, tokens, b, config.batch)
                group = [matmul(workload, config.dtype)]
                flops = config.batch * config.heads * inner_flops(inner_model(name, head_dim), head_dim, tokens, b)
                for implementation in implementations(config):
                    choose_kernel(implementation.config, InnerSpec(inner_model(name, head_dim)))
                    build = partial(inner_functions, config, name, b, implementation)
                    group += passes(workload, implementation, build, flops, config.backward)
                    if config.split and implementation == PLAIN:
                        group.append(Measurement(workload, PLAIN, "split", build, times_itself=True))
                yield group


def inner_functions(
    config: InnerBenchConfig, name: str, b: int, implementation: Implementation, tokens: int
) -> dict[str, Callable[[], object]]:
    """Return functions for the passes of one layer's inner loop over ``tokens`` tokens; all kernels get equal inputs.

    Raises:
        UserError: the kernel cannot compute this inner model.
    """
    spec = InnerSpec(inner_model(name, config.width // config.heads))
    kernel = choose_kernel(implementation.config, spec)
    inputs = random_inputs(config, spec, b, tokens)
    upstream = torch.randn_like(inputs.tokens.q)

    def outputs() -> Tensor:
        return kernel(inputs.loop, spec.start(inputs.W_init, config.batch), inputs.tokens)[0]

    def gradients() -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(outputs(), inputs.leaves, upstream, allow_unused=True)

    return {
        "forward": torch.no_grad()(outputs),
        "forward_backward": gradients,
        "split": partial(split_times, inputs),
    }


def inner_model(name: str, head_dim: int) -> InnerModel:
    """Return the paper's inner model of this name, with LN and residual."""
    return make_inner_model(name, head_dim, HIDDEN[name], "gelu", True)


def random_inputs(config: InnerBenchConfig, spec: InnerSpec, b: int, tokens: int) -> Inputs:
    """Return inputs like an untrained layer's: normal views, eta up to 1 / D, tau_i = 1 / i, and a small W_0."""
    torch.manual_seed(config.seed)
    head_dim, dtype = config.width // config.heads, DTYPES[config.dtype]
    q, k, v = torch.randn(3, config.batch, config.heads, tokens, head_dim, dtype=dtype)
    eta = torch.rand(config.batch, config.heads, tokens, dtype=dtype) / head_dim
    scale = torch.ones(config.heads, 1, head_dim, dtype=dtype)
    W_init = spec.model.initial(config.heads, head_dim, INIT_STD).values()
    tau = token_scale(torch.zeros(b, dtype=dtype))
    loop = InnerLoop(spec, LayerNormParams(scale, torch.zeros_like(scale)), tau)
    inputs = Inputs(InnerInputs(q, k, v, eta), loop, tuple(w.to(dtype) for w in W_init))
    for leaf in inputs.leaves:
        leaf.requires_grad_()
    return inputs


@torch.no_grad()
def split_times(inputs: Inputs) -> dict[str, float]:
    """Run a forward pass in the paper's dual form; return the seconds for W (gradients and update), z, and both.

    Each mini-batch is whole, as the paper's O(T b d) operations have it. The plain kernel reads a long mini-batch in
    chunks instead, which takes less time and memory.
    """
    loop, tokens = inputs.loop, inputs.tokens
    state = loop.spec.start(inputs.W_init, tokens.q.shape[0])
    seconds = {"W": 0.0, "z": 0.0}
    b = loop.mini_batch_size
    for chunk in tokens.split(chunk_lengths(tokens.length, b, longest=b)):
        started = time.perf_counter()
        gradients, rule = TokenGradients(loop, state.W, chunk), update_rule(loop.spec.momentum, chunk)
        after = dual_update(loop, state, chunk, gradients, rule)
        between = time.perf_counter()
        dual_outputs(loop, state, chunk, gradients, rule)
        seconds["W"] += between - started
        seconds["z"] += time.perf_counter() - between
        state = after
    return seconds | {"total": seconds["W"] + seconds["z"]}
