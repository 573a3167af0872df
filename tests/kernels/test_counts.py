"""The counts of FLOPs and bytes, compared with the interpreter's operations and with counts by hand.

Letters: B batch, H heads, T tokens, D head width, F hidden width, b mini-batch size.
"""

from dataclasses import replace

import pytest
import torch
from kernel_cases import Arguments, rotation
from kernel_traffic import Seen, watched
from torch.utils.flop_counter import FlopCounterMode

from ttt.inner.dual import dual_mini_batch
from ttt.inner.layer_norm import LayerNormParams
from ttt.inner.loop import InnerInputs, InnerLoop, InnerSpec
from ttt.inner.models.mlp import InnerMLP
from ttt.inner.scan import scan
from ttt.kernels.triton import op
from ttt.kernels.triton.counts import MULTIPROCESSORS, PROGRAMS, RECOMPUTED_BY, Sizes, count, linear_state, mlp_state
from ttt.kernels.triton.decoding import decode_token
from ttt.kernels.triton.sizes import DEFAULT_GROUP, GROUP_SCRATCH, default_group

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="counts what Triton's interpreter does, on a CPU")

B, H, MINI_BATCHES, GROUP = 1, 2, 4, 2

WEIGHTS = {"W1_kept", "b1_kept", "W2_kept", "b2_kept"}
WORK = {"W1_last", "b1_last", "W2_last", "b2_last"}
SUMS = {"dW1", "db1", "dW2", "db2", "dscale", "dshift", "dtau"}
ROOM = {"G1_kept", "G2_kept", "Z1_scratch", "slope_bar", "X2_scratch", "X2_bar_scratch", "dZ1_part", "dH"}

SCRATCH = {
    "linear_recompute": WEIGHTS | WORK,
    "linear_backward": WEIGHTS | SUMS,
    "mlp_backward": WORK | SUMS | ROOM,
}
"""Arguments that the same launch or the next one reads after they are written."""


def inputs(D: int, F: int, b: int, dtype: torch.dtype) -> Arguments:
    """Return random views in the memory order of the kernels, so that none is copied; all sequences share W_0."""
    generator = torch.Generator().manual_seed(D + F + b)
    T = b * MINI_BATCHES
    shapes = [(D, F), (1, F), (F, D), (1, D)] if F else [(D, D), (1, D)]
    W = tuple((0.02 * torch.randn(H, *shape, generator=generator)).expand(B, H, *shape) for shape in shapes)
    q, k, v = (torch.randn(B, T, H, D, generator=generator).to(dtype).transpose(1, 2) for _ in range(3))
    eta = torch.rand(B, H, T, generator=generator) / D
    tau = 1 / torch.arange(1.0, b + 1)
    return Arguments(W, torch.ones(H, 1, D), torch.zeros(H, 1, D), q, k, v, eta, tau)


def run_everything(given: Arguments) -> dict[str, Seen]:
    """Train on all tokens, decode one token, and return the counts by kernel."""
    table = rotation(given)
    with pytest.MonkeyPatch.context() as patch, watched(patch) as seen:
        leaves = [given.q.clone(memory_format=torch.preserve_format).requires_grad_(), given.k, given.v]
        z, W_last = op.inner_loop(given.W, given.scale, given.shift, *leaves, given.eta, given.tau, GROUP, table)
        torch.autograd.grad(z.float().sum() + sum(w.sum() for w in W_last), leaves[0])
        token = given.first_token()
        step = tuple(torch.zeros_like(w) for w in token.W)
        decode_token(token.W, step, *token[1:], 1, table)
    return dict(seen)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("F", "D", "b", "dtype"),
    [
        (0, 32, 16, torch.float16),
        (0, 24, 8, torch.float32),
        (0, 72, 16, torch.float16),
        (64, 32, 16, torch.float32),
        (64, 24, 8, torch.float32),
        (64, 24, 8, torch.float16),
        pytest.param(256, 64, 16, torch.float16, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_counts_equal_the_work_of_the_kernels(
    F: int, D: int, b: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted FLOPs are exact; counted bytes omit tau and masked padding, a few percent. Scratch is known by name."""
    monkeypatch.setattr("ttt.kernels.triton.counts.L2_BYTES", 10**12)
    sizes = Sizes(D, F, b, dtype.itemsize, b * MINI_BATCHES, GROUP)
    seen = run_everything(inputs(D, F, b, dtype))
    uses = {name: name.removesuffix("_on_chip").partition("_")[2] for name in seen}
    assert set(uses.values()) == {"forward", "backward", "decode"} | (set() if F else {"recompute"})
    for name, done in seen.items():
        counted, use = count(name, sizes), uses[name]
        if name in RECOMPUTED_BY:
            before = count(RECOMPUTED_BY[name], sizes)
            own = {key: getattr(counted, key) - getattr(before, key) for key in ("flops", "l2_bytes", "device_bytes")}
            counted = replace(counted, **own)
        tokens = B * H * (1 if use == "decode" else sizes.tokens)
        if use == "decode":
            assert done.flops == 0, "one token has no matrix products"
        else:
            assert done.flops == counted.flops * tokens, name
        assert done.moved() == pytest.approx(counted.l2_bytes * tokens, rel=0.02), name
        # All programs read one table of RoPE.
        crossed = done.crossed(SCRATCH.get(name, set()) | {"rotation"})
        if use == "forward":
            # W_last also holds W between mini-batches: each of its bytes that is loaded was stored before.
            crossed -= sum(done.read.get(argument, 0) for argument in WORK)
        if use == "backward":
            # All groups share the buffer of dW, which is counted at each launch.
            crossed += 2 * B * H * (mlp_state(sizes) if F else linear_state(sizes))
        if name == "mlp_backward":
            # Read twice: to recompute a group, and for its backward pass.
            crossed += done.read["k"] + done.read["v"] + done.read["eta"]
        assert crossed == pytest.approx(counted.device_bytes * tokens, rel=0.03), name


def test_counts_by_hand() -> None:
    """Check TTT-Linear with D = b = 16, float32 views and two mini-batches, of which the first W is kept."""
    sizes = Sizes(D=16, F=64, b=16, element=4, tokens=32, group=2)
    forward = count("linear_forward", sizes)
    product = 2 * 16 * 16 * 16
    assert forward.flops == 5 * product / 16
    W, LN, view, eta = 4 * (16 * 16 + 16), 4 * 2 * 16, 4 * 16, 4
    assert forward.least_bytes == 4 * view + eta + (2 * W + LN) / 32
    assert forward.device_bytes == forward.least_bytes + W / 32
    assert forward.l2_bytes == forward.device_bytes + 4 * 16 * 16 / 32, "the table of RoPE comes from L2"
    decode = count("mlp_decode", sizes)
    W = 4 * (2 * 16 * 64 + 64 + 16)
    assert decode.device_bytes == decode.least_bytes == 4 * view + eta + 3 * W + LN
    backward = count("linear_backward", sizes)
    W = 4 * (16 * 16 + 16)
    assert backward.least_bytes == 7 * view + 2 * eta + (2 * W + LN) / 32
    assert backward.flops == (2 + 14) * product / 16
    # The recomputation reads k, v, eta, the kept W and LN.
    assert backward.device_bytes == backward.least_bytes + 2 * view + eta + (W + LN) / 32


STEPS, WORK_OF_MLP = 32 * 16 * 320 * 2, 2 * 132_352 + 6 * 16 * 256 * 2
"""Bytes of G1 and G2 of 32 mini-batches, and of W, dW and six tensors of one mini-batch."""


@pytest.mark.parametrize(
    ("name", "scratch", "programs", "per_group", "per_mini_batch"),
    [
        ("linear_backward", 270_336, PROGRAMS, 2 * 270_336, 0),
        ("mlp_backward", STEPS + WORK_OF_MLP, MULTIPROCESSORS, 2 * STEPS, 0),
        # W forward, W and dW backward; activations once out and once in.
        ("mlp_backward", WORK_OF_MLP, MULTIPROCESSORS, 0, 6 * 132_352 + 12 * 16 * 256 * 2),
        ("mlp_forward", 132_352, PROGRAMS, 0, 2 * 132_352),
    ],
)
def test_scratch_larger_than_l2_is_counted_as_device_memory(
    name: str, scratch: int, programs: int, per_group: int, per_mini_batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TTT-Linear's scratch is W and b of 32 mini-batches; TTT-MLP's is for a group and for one mini-batch."""
    sizes = Sizes(64, 256, 16, 2, 2048, 32)
    assert count(name, sizes).scratch >= scratch
    monkeypatch.setattr("ttt.kernels.triton.counts.L2_BYTES", scratch * programs)
    fits = count(name, sizes).device_bytes
    monkeypatch.setattr("ttt.kernels.triton.counts.L2_BYTES", scratch * programs - 1)
    assert count(name, sizes).device_bytes == pytest.approx(fits + per_group / 512 + per_mini_batch / 16)


@pytest.mark.parametrize("F", [0, 128])
def test_a_kernel_computes_at_least_what_the_dual_form_does(F: int) -> None:
    """At most 1.5 times in the forward pass: Z1 is computed twice, and the bias of the query in another product."""
    D, b, T = 32, 16, 64
    given = inputs(D, F, b, torch.float32)
    spec = InnerSpec(InnerMLP((F // D,)) if F else InnerMLP())
    loop = InnerLoop(spec, LayerNormParams(given.scale, given.shift), given.tau)
    with FlopCounterMode(display=False) as counter:
        start = spec.start(tuple(w[0] for w in given.W), B)
        scan(dual_mini_batch, loop, start, InnerInputs(given.q, given.k, given.v, given.eta))
    plain = counter.get_total_flops() / (B * H * T)
    counted = count("mlp_forward" if F else "linear_forward", Sizes(D, F, b, 4, T, GROUP)).flops
    assert plain <= counted <= 1.5 * plain


def test_groups_of_ttt_linear_are_as_large_as_their_scratch_allows() -> None:
    """At D = 64 in half precision: 512 programs of 16 mini-batches have more scratch than that, fewer programs less."""
    groups = {programs: default_group(1, programs, 64, 2) for programs in (1, 8, 32, 64, 132, 512)}
    assert groups == {1: 128, 8: 128, 32: 64, 64: 32, 132: 16, 512: 16}
    for programs, group in groups.items():
        scratch = programs * count("linear_backward", Sizes(64, 256, 16, 2, 32_768, group)).scratch
        assert scratch <= GROUP_SCRATCH or group == DEFAULT_GROUP[1]
    assert {default_group(2, programs, 64, 2) for programs in groups} == {64}


@pytest.mark.parametrize(("name", "layers"), [("linear", 1), ("mlp", 2)])
def test_the_forward_kernel_moves_little_more_than_it_must(name: str, layers: int) -> None:
    """In half precision with b = 16, 2048 tokens and the default group."""
    counted = count(f"{name}_forward", Sizes(64, 256, 16, 2, 2048, DEFAULT_GROUP[layers]))
    assert counted.device_bytes <= 1.25 * counted.least_bytes


@pytest.mark.parametrize(("name", "layers", "times"), [("linear", 1, 1.5), ("mlp", 2, 2.7)])
def test_the_backward_kernel_moves_little_more_than_it_must(name: str, layers: int, times: float) -> None:
    """TTT-MLP also writes and reads G1 and G2, 1.2 times the least bytes."""
    counted = count(f"{name}_backward", Sizes(64, 256, 16, 2, 2048, DEFAULT_GROUP[layers]))
    assert counted.device_bytes <= times * counted.least_bytes
