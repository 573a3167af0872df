"""The Triton kernels of one token against the definition: with new states, and in place."""

import pytest
import torch
from kernel_cases import (
    DEVICE,
    TOLERANCE,
    Arguments,
    Case,
    assert_close,
    decoded_in_place,
    exact,
    of,
    primal,
    rotated_primal,
    rotation,
)
from torch import Tensor

from ttt.kernels.triton import op
from ttt.kernels.triton.configurations import Layer
from ttt.kernels.triton.decoding import decode_token
from ttt.kernels.triton.op import inner_loop

SMALL = [Case(16, 0, 4, 8), Case(16, 32, 4, 8)]


def functional(given: Arguments, table: Tensor | None = None) -> dict[str, Tensor]:
    """Decode token by token, rotated by ``table``, with a new state for each."""
    W, step, outputs, b = given.W, (), [], given.tau.numel()
    for t in range(given.q.shape[2]):
        token = (x[:, :, t : t + 1] for x in (given.q, given.k, given.v, given.eta))
        z, after = decode_token(W, step, given.scale, given.shift, *token, given.tau, t % b, table)
        outputs.append(z)
        W, step = (after, ()) if t % b == b - 1 else (W, after)
    return {"z": torch.cat(outputs, dim=2)} | {str(i): w for i, w in enumerate(W)}


@pytest.mark.slow
@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize(
    "case", [*SMALL, Case(64, 0, 4, 8), Case(96, 0, 2, 4), Case(64, 256, 2, 4), Case(96, 96, 2, 4)], ids=str
)
def test_token_by_token_is_the_definition(case: Case, dtype: torch.dtype) -> None:
    given = of(case, dtype).map(Tensor.detach)
    before = [x.clone() for x in given.tensors()]
    found = functional(given, rotation(given))
    z, W_last = rotated_primal(exact(given))
    # Only the views and z are rounded to half precision.
    assert_close(found, {"z": z} | {str(i): w for i, w in enumerate(W_last)}, TOLERANCE[dtype])
    assert all(map(torch.equal, before, given.tensors()))


def test_decoding_is_not_refused_for_the_shared_memory_of_other_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    given = of(SMALL[0]).map(Tensor.detach)
    monkeypatch.setattr(Layer, "shared_memory", 300 * 1024)
    monkeypatch.setattr(op, "_shared_memory", lambda device: device and 99 * 1024)
    with pytest.raises(RuntimeError, match="need 300 KB of shared memory"):
        inner_loop(*given)
    token = (x[:, :, :1] for x in (given.q, given.k, given.v, given.eta))
    z, _ = decode_token(given.W, (), given.scale, given.shift, *token, given.tau, 0)
    assert z.isfinite().all()


def test_a_derivative_of_decoding_is_refused() -> None:
    given = of(SMALL[0])
    token = (x[:, :, :1] for x in (given.q, given.k, given.v, given.eta))
    z, _ = decode_token(given.W, (), given.scale, given.shift, *token, given.tau, 0)
    with pytest.raises(RuntimeError, match="decode kernel has no derivatives"):
        z.sum().backward()


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_decoding_in_place_gives_the_bytes_of_new_states(case: Case) -> None:
    given = of(case, batch=2).map(Tensor.detach)
    table = rotation(given)
    expected = functional(given, table)
    for name, x in decoded_in_place(given, torch.float32, table).items():
        assert torch.equal(x, expected[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("case", [*SMALL, Case(64, 0, 4, 8)], ids=str)
def test_a_state_in_half_precision_is_rounded_once_a_token(case: Case) -> None:
    given = of(case).map(Tensor.detach)
    z, W_last = primal(exact(given))
    expected = {"z": z} | {str(i): w for i, w in enumerate(W_last)}
    found = decoded_in_place(given, torch.float16)
    assert {x.dtype for name, x in found.items() if name != "z"} == {torch.float16}
    assert_close(found, expected, TOLERANCE[torch.float16])
    error = (found["0"].double() - expected["0"]).norm() / expected["0"].norm()
    assert error > 1e-5, "the state was rounded"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda W, step, place: ([w[:1].expand(2, *w.shape[1:]) for w in W], step, place), "must be contiguous"),
        (lambda W, step, place: (W, [x.half() for x in step], place), "differ in type"),
        (lambda W, step, place: (W, step[:1], place), "differ in shape"),
        (lambda W, step, place: (W, step, place.long()), "expected a place"),
        (lambda W, step, place: ([w.double() for w in W], step, place), "float64"),
    ],
)
def test_a_wrong_state_is_not_decoded_in_place(wrong, message: str) -> None:  # type: ignore[no-untyped-def]
    given = of(SMALL[0], batch=2).map(Tensor.detach).first_token()
    W, step, place = wrong(given.W, [torch.zeros_like(w) for w in given.W], torch.zeros((), dtype=torch.int32))
    with pytest.raises(RuntimeError, match=message):
        torch.ops.ttt_triton.decode_in_place(W, step, *given[1:], None, place, True)


@pytest.mark.slow
@pytest.mark.parametrize("case", SMALL, ids=str)
@pytest.mark.filterwarnings("ignore")
def test_torch_finds_nothing_wrong_with_the_operators_of_a_token(case: Case) -> None:
    W, *others = of(case).map(Tensor.detach).first_token()
    ops, place = torch.ops.ttt_triton, torch.zeros((), dtype=torch.int32, device=DEVICE)
    torch.library.opcheck(ops.decode.default, (list(W), list(W), *others, rotation(of(case)), 1, True))
    state = [[w.clone() for w in W] for _ in range(2)]
    torch.library.opcheck(ops.decode_in_place.default, (*state, *others, None, place, True))
