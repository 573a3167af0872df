"""Latency of the Triton kernels without a model, with the FLOPs and bytes that ``ttt-bench kernels`` counts.

Shapes: B batch, H heads, T tokens, D head width, b mini-batch size.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from ttt.bench.inner import HIDDEN, INIT_STD, inner_model
from ttt.bench.measurement import DTYPES, Implementation, Measurement, Workload
from ttt.config.bench import LatencyBenchConfig
from ttt.inner.eta import token_scale
from ttt.layers.rope import rotations

MINI_BATCH_SIZE = 16
"""The paper's b."""

ROPE_BASE = 10_000.0


def kernel_measurements(config: LatencyBenchConfig, name: str, tokens: int) -> Iterator[Measurement]:
    """Yield the measurements of the Triton operators on random views.

    Args:
        config: the benchmark.
        name: linear or mlp.
        tokens: T, a multiple of ``MINI_BATCH_SIZE``.
    """
    from ttt.kernels.triton.configurations import Layer
    from ttt.kernels.triton.counts import Sizes, count
    from ttt.kernels.triton.sizes import default_group

    B, H, D, b = config.inner_batch, config.heads, config.width // config.heads, MINI_BATCH_SIZE
    dtype, group, layers = DTYPES[config.dtype], config.checkpoint_group[0] or 0, 1 + len(HIDDEN[name])
    group = group or default_group(layers, B * H, D, dtype.itemsize)
    sizes = Sizes(D, 4 * D, b, dtype.itemsize, tokens, group)
    layer = Layer(dtype, D, b, 4 * D if layers == 2 else 0)
    launched = (layer.forward(keeps=True), layer.backward(), layer.decode())
    forward, backward, decoding = (count(configuration.kernel, sizes) for configuration in launched)
    workload, implementation = Workload(name, tokens, b, B), Implementation("triton", config.checkpoint_group[0])

    def measurement(measure: str, read: int, moved: float, flops: float) -> Measurement:
        build, moved = partial(kernel_functions, config, name), B * H * read * moved
        return Measurement(workload, implementation, measure, build, B * read, moved=moved, flops=flops)

    read = B * H * tokens
    if config.train:
        moved, flops = forward.device_bytes + backward.device_bytes, forward.flops + backward.flops
        yield measurement("inner_train", tokens, moved, read * flops)
    # Without a backward pass no W is kept: only inputs and outputs cross device memory.
    yield measurement("inner_forward", tokens, forward.least_bytes, read * forward.flops)
    # One token is limited by memory only.
    yield measurement("inner_decode", 1, decoding.device_bytes, 0.0)


def kernel_functions(config: LatencyBenchConfig, name: str, tokens: int) -> dict[str, Callable[[], object]]:
    """Return the operators with their inputs: both passes, the forward pass, and one token."""
    from ttt.kernels.triton import decoding, op

    B, H, D, b = config.inner_batch, config.heads, config.width // config.heads, MINI_BATCH_SIZE
    model, group = inner_model(name, D), config.checkpoint_group[0] or 0
    torch.manual_seed(config.seed)
    W = tuple(w.float().expand(B, *w.shape) for w in model.initial(H, D, INIT_STD).values())
    q, k, v = torch.randn(3, B, tokens, H, D, dtype=DTYPES[config.dtype]).transpose(2, 3)
    eta, tau = torch.rand(B, H, tokens) / D, token_scale(torch.zeros(b))
    scale, shift = torch.ones(H, 1, D), torch.zeros(H, 1, D)
    leaves = [x.requires_grad_() for x in (*W, scale, shift, q, k, v, eta, tau)]
    upstream = torch.randn_like(q)
    rotation = torch.view_as_real(rotations(torch.arange(b), D, ROPE_BASE, torch.float32)).flatten(1)

    def outputs() -> Tensor:
        return op.inner_loop(W, scale, shift, q, k, v, eta, tau, group, rotation)[0]

    def gradients() -> object:
        return torch.autograd.grad(outputs(), leaves, upstream)

    step = tuple(torch.zeros_like(w) for w in W)
    q_t, k_t, v_t, eta_t = (x[:, :, :1].detach() for x in (q, k, v, eta))

    def one_token() -> object:
        return decoding.decode_token(W, step, scale, shift, q_t, k_t, v_t, eta_t, tau, b // 2, rotation)

    return {
        "inner_train": gradients,
        "inner_forward": torch.no_grad()(outputs),
        "inner_decode": torch.no_grad()(one_token),
    }
