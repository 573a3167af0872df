"""Stage ``compare``: the kernels against the definition in float64, and repetitions against each other.

The cases run on several processes, because compilation takes most of the time. Shapes: D head width, b mini-batch size.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ttt.bench.gpu.card import card
from ttt.bench.gpu.operators import DTYPES, GROUPS, Inputs, Sizes, random_inputs, rotation, rotation_table
from ttt.bench.gpu.tables import Table
from ttt.config.errors import first_line
from ttt.inner.layer_norm import LayerNormParams
from ttt.inner.loop import InnerInputs, InnerLoop, InnerSpec
from ttt.inner.models.mlp import InnerMLP
from ttt.inner.primal import primal_mini_batch
from ttt.inner.scan import scan

TOLERANCES = {"bf16": (4e-2, 1.5e-2), "fp16": (5e-3, 2e-3), "fp32": (1e-5, 4e-6)}
"""Type -> largest error as a share of a tensor's largest entry, and norm of the error as a share of its norm."""

SIZES = ((64, 16), (64, 8), (32, 16), (96, 16), (128, 16), (64, 64), (24, 5), (128, 64))
"""D and b, the most important first. float32 at (128, 64) needs more shared memory than most cards have."""

BOTH, DECODE, REPEAT = "both passes", "decode", "repeat"
REPETITIONS, MINI_BATCHES = 20, 64
WORKERS = 12


class Case(NamedTuple):
    """One line of the table."""

    check: str
    layer: str
    dtype: str
    D: int
    b: int


class Verdict(NamedTuple):
    """The tensor with the largest error of its norm, both errors, and a text: right, WRONG, refused or failed."""

    text: str
    worst: str = ""
    of_largest: float = 0.0
    of_norm: float = 0.0


def cases() -> Iterator[Case]:
    """Yield the cases in the order of their weight."""
    for layer in ("linear", "mlp"):
        for dtype in DTYPES:
            yield Case(BOTH, layer, dtype, 64, 16)
            yield Case(REPEAT, layer, dtype, 64, 16)
            yield Case(DECODE, layer, dtype, 64, 16)
    for dtype in DTYPES:
        for D, b in SIZES[1:]:
            for layer in ("linear", "mlp"):
                yield Case(BOTH, layer, dtype, D, b)


def compare(table: Table, folder: Path, seconds: float) -> None:  # noqa: ARG001 - the limit stops it
    """Add a line for each case as it ends.

    Raises:
        UserError: there is no card.
        RuntimeError: a comparison failed.
    """
    device = card()
    wrong = 0
    workers = min(WORKERS, os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(judged, case, device.type): case for case in cases()}
        for done in as_completed(waiting):
            wrong += not add_line(table, waiting[done], done.result())
    if wrong:
        raise RuntimeError(f"{wrong} comparisons are wrong or failed")


def add_line(table: Table, case: Case, verdict: Verdict) -> bool:
    """Add a line, and return whether the case is as it must be."""
    errors = {"of_largest": f"{verdict.of_largest:.1e}", "of_norm": f"{verdict.of_norm:.1e}"} if verdict.worst else {}
    table.add(**case._asdict(), worst=verdict.worst, verdict=verdict.text, **errors)
    return verdict.text.startswith(("right", "refused", "equal"))


def judged(case: Case, device: str) -> Verdict:
    """Return the verdict on a case; an error of a kernel or of its compilation is a verdict too."""
    torch.set_num_threads(1)
    try:
        return (repeated if case.check == REPEAT else compared)(case, torch.device(device))
    except Exception as error:  # a compiler or a driver can raise anything, and the other cases go on
        return Verdict(f"failed: {type(error).__name__}: {first_line(error)}")


def compared(case: Case, device: torch.device) -> Verdict:
    """Compare outputs, final state and gradients, or what one token after another gives, with the definition."""
    from ttt.kernels.triton.op import unsupported

    hidden = (4 * case.D,) if case.layer == "mlp" else ()
    where = None if case.check == DECODE else device
    refused = unsupported(case.D, hidden, case.b, DTYPES[case.dtype], where)
    inputs = random_inputs(Sizes(case.layer, case.dtype, 2, 2, 3 * case.b, case.D, case.b), device)
    if refused:
        return _refusal(inputs, refused)
    function = token_by_token if case.check == DECODE else _differentiated
    found, expected = function(inputs), _definition(inputs, with_gradients=case.check == BOTH)
    largest, norm = TOLERANCES[case.dtype]
    errors = {name: _errors(found[name].double(), x) for name, x in expected.items()}
    worst = max(errors, key=lambda name: max(errors[name][0] / largest, errors[name][1] / norm))
    right = all(a < largest and c < norm for a, c in errors.values())
    return Verdict("right" if right else "WRONG", worst, *errors[worst])


def repeated(case: Case, device: torch.device, times: int = REPETITIONS, mini_batches: int = MINI_BATCHES) -> Verdict:
    """Compare the bytes of repetitions, on a GPU while another stream is busy: a race shows only now and then."""
    sizes = Sizes(case.layer, case.dtype, 2, 8, mini_batches * case.b, case.D, case.b)
    inputs, first = random_inputs(sizes, device), None
    other = torch.cuda.Stream() if device.type == "cuda" else None
    for number in range(times):
        if other:
            with torch.cuda.stream(other):
                noise = torch.randn(2048, 2048, device=device)
                for _ in range(50):
                    noise = noise @ noise / noise.norm()
        found = _differentiated(inputs)
        first = first or found
        different = [name for name, x in found.items() if not torch.equal(x, first[name])]
        if different:
            return Verdict(f"WRONG: run {number + 1} differs in {', '.join(different)}")
    return Verdict(f"equal bytes in {times} runs")


def _refusal(inputs: Inputs, reason: str) -> Verdict:
    """Check that the operator refuses what ``unsupported`` names."""
    from ttt.kernels.triton.op import inner_loop

    try:
        inner_loop(tuple(inputs.W), *inputs[1:])
    except RuntimeError as error:
        return Verdict(f"refused: {reason}" if reason in str(error) else f"WRONG: {first_line(error)}")
    return Verdict(f"WRONG: not refused, although {reason}")


def _differentiated(inputs: Inputs) -> dict[str, Tensor]:
    from ttt.kernels.triton.op import inner_loop

    leaves: list[Any] = [x.detach().requires_grad_() for x in (*inputs.W, *inputs[1:])]
    n = len(inputs.W)
    scale, shift, q, k, v, eta, tau = leaves[n:]
    group = GROUPS["mlp" if n == 4 else "linear"]
    z, W_last = inner_loop(tuple(leaves[:n]), scale, shift, q, k, v, eta, tau, group, rotation_table(inputs))
    return _named(leaves, z, W_last)


def _named(leaves: list[Tensor], z: Tensor, W_last: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Return the outputs, and the gradients of all inputs from fixed gradients of the outputs."""
    generator = torch.Generator().manual_seed(1)
    outputs = (z, *W_last)
    upstream = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.device, x.dtype) for x in outputs]
    gradients = torch.autograd.grad(outputs, leaves, upstream)
    weights = ("W1", "b1", "W2", "b2")[: len(W_last)]
    named = {"z": z} | {f"{name} last": w for name, w in zip(weights, W_last, strict=True)}
    inputs = (*weights, "scale", "shift", "q", "k", "v", "eta", "tau")
    return {name: x.detach() for name, x in named.items()} | {
        f"d{name}": x for name, x in zip(inputs, gradients, strict=True)
    }


def token_by_token(inputs: Inputs) -> dict[str, Tensor]:
    """Return the outputs and the last W of decoding one token after another."""
    from ttt.kernels.triton.decoding import decode_token

    W, outputs, b = tuple(inputs.W), [], inputs.tau.numel()
    step: tuple[Tensor, ...] = ()
    for t in range(inputs.q.shape[2]):
        q, k, v, eta = (x[:, :, t : t + 1] for x in (inputs.q, inputs.k, inputs.v, inputs.eta))
        z, after = decode_token(
            W, step, inputs.scale, inputs.shift, q, k, v, eta, inputs.tau, t % b, rotation_table(inputs)
        )
        outputs.append(z)
        W, step = (after, ()) if t % b == b - 1 else (W, after)
    names = (f"{name} last" for name in ("W1", "b1", "W2", "b2"))
    return {"z": torch.cat(outputs, dim=2)} | dict(zip(names, W, strict=False))


def _definition(inputs: Inputs, with_gradients: bool) -> dict[str, Tensor]:
    """Return the same values of the primal form, in float64."""
    leaves = [x.detach().double().requires_grad_() for x in (*inputs.W, *inputs[1:])]
    n = len(inputs.W)
    scale, shift, q, k, v, eta, tau = leaves[n:]
    spec = InnerSpec(InnerMLP((4,) if n == 4 else ()))
    loop = InnerLoop(spec, LayerNormParams(scale, shift), tau, rotation(inputs))
    # ``start`` has one state for all sequences; here each has its own.
    state = spec.start(tuple(w[0] for w in leaves[:n]), q.shape[0])._replace(W=tuple(leaves[:n]))
    z, after = scan(primal_mini_batch, loop, state, InnerInputs(q, k, v, eta))
    if with_gradients:
        return _named(leaves, z, after.W)
    names = (f"{name} last" for name in ("W1", "b1", "W2", "b2"))
    return {"z": z.detach()} | {name: w.detach() for name, w in zip(names, after.W, strict=False)}


def _errors(found: Tensor, expected: Tensor) -> tuple[float, float]:
    difference = found - expected
    return float(difference.abs().max() / expected.abs().max()), float(difference.norm() / expected.norm())
