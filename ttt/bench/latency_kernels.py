"""What is timed of the Triton kernels alone, and the FLOPs and bytes that ``ttt-bench kernels`` counts of it.

Shapes: B batch, H heads, T tokens, D head width, b mini-batch size.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from ttt.bench.case import Setting, Variant
from ttt.bench.inner import HIDDEN, INIT_STD
from ttt.bench.latency_models import DTYPES
from ttt.bench.turns import Task
from ttt.config.bench import LatencyBenchConfig
from ttt.inner.eta import token_scale
from ttt.inner.models.registry import make_inner_model

MINI_BATCH_SIZE = 16
"""The paper's b."""


def kernel_tasks(config: LatencyBenchConfig, name: str, tokens: int) -> Iterator[Task]:
    """The Triton operators alone, on random views of ``tokens`` tokens, a multiple of ``MINI_BATCH_SIZE``.

    Args:
        config: the benchmark.
        name: linear or mlp.
        tokens: T.
    """
    from ttt.kernels.triton import op
    from ttt.kernels.triton.configurations import Layer
    from ttt.kernels.triton.counts import Sizes, count

    B, H, D, b = config.inner_batch, config.heads, config.width // config.heads, MINI_BATCH_SIZE
    dtype, group, layers = DTYPES[config.dtype], config.checkpoint_group[0] or 0, 1 + len(HIDDEN[name])
    sizes = Sizes(D, 4 * D, b, dtype.itemsize, tokens, group or op.DEFAULT_GROUP[layers])
    layer = Layer(dtype, D, b, 4 * D if layers == 2 else 0)
    launched = (layer.forward(keeps=True), layer.backward(), layer.decode(begun=True, ends=False))
    forward, backward, decoding = (count(configuration.kernel, sizes) for configuration in launched)
    setting, variant = Setting(name, tokens, b, B), Variant("triton", config.checkpoint_group[0])

    def task(measure: str, read: int, moved: float, flops: float) -> Task:
        build = partial(kernel_work, config, name, measure)
        return Task(setting, variant, measure, build, B * read, moved=B * H * read * moved, flops=flops)

    read = B * H * tokens
    if config.train:
        moved, flops = forward.device_bytes + backward.device_bytes, forward.flops + backward.flops
        yield task("inner_train", tokens, moved, read * flops)
    # Without a backward pass no W is kept, and nothing but inputs and outputs moves.
    yield task("inner_forward", tokens, forward.least_bytes, read * forward.flops)
    # Of one token memory alone is the bound.
    yield task("inner_decode", 1, decoding.device_bytes, 0.0)


def kernel_work(config: LatencyBenchConfig, name: str, measure: str, tokens: int) -> Callable[[], object]:
    """One of the operators with its inputs: both passes, the forward pass, or one token."""
    from ttt.kernels.triton import op

    B, H, D, b = config.inner_batch, config.heads, config.width // config.heads, MINI_BATCH_SIZE
    model, group = make_inner_model(name, D, HIDDEN[name], "gelu", True), config.checkpoint_group[0] or 0
    torch.manual_seed(config.seed)
    W = tuple(w.float().expand(B, *w.shape) for w in model.initial(H, D, INIT_STD).values())
    q, k, v = torch.randn(3, B, tokens, H, D, dtype=DTYPES[config.dtype]).transpose(2, 3)
    eta, tau = torch.rand(B, H, tokens) / D, token_scale(torch.zeros(b))
    scale, shift = torch.ones(H, 1, D), torch.zeros(H, 1, D)
    leaves = [x.requires_grad_() for x in (*W, scale, shift, q, k, v, eta, tau)]
    upstream = torch.randn_like(q)

    def outputs() -> Tensor:
        return op.inner_loop(W, scale, shift, q, k, v, eta, tau, group)[0]

    def gradients() -> object:
        return torch.autograd.grad(outputs(), leaves, upstream)

    step = tuple(torch.zeros_like(w) for w in W)
    q_t, k_t, v_t, eta_t = (x[:, :, :1].detach() for x in (q, k, v, eta))

    def one_token() -> object:
        return op.decode_token(W, step, scale, shift, q_t, k_t, v_t, eta_t, tau, b // 2)

    works: dict[str, Callable[[], object]] = {
        "inner_train": gradients,
        "inner_forward": torch.no_grad()(outputs),
        "inner_decode": torch.no_grad()(one_token),
    }
    return works[measure]
