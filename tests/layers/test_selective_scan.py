"""The selective scan agrees with its recurrence and keeps its promises of time and memory."""

import subprocess
import sys
import time

import pytest
import torch
from scan_cases import make_inputs, token_by_token
from torch import Tensor

from ttt.layers import selective_scan as module
from ttt.layers.selective_scan import chunk_length, recurrence, selective_scan


def assert_computes_the_recurrence(inputs: list[Tensor]) -> None:
    """Compare outputs, last state, and the gradients of a random functional of both."""
    actual, expected = selective_scan(*inputs), token_by_token(*inputs)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    upstream = [torch.randn_like(result) for result in expected]
    ours, theirs = (torch.autograd.grad(results, inputs, upstream) for results in (actual, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("tokens", [1, 2, 31, 32, 33, 1024 + 5])
def test_outputs_state_and_gradients_are_the_recurrences(tokens: int) -> None:
    assert_computes_the_recurrence(make_inputs(tokens))


def test_many_short_segments_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEGMENT_ENTRIES", 1)
    assert_computes_the_recurrence(make_inputs(tokens=101))


def test_without_a_state_it_starts_from_zero() -> None:
    *inputs, h = make_inputs(tokens=9)
    torch.testing.assert_close(selective_scan(*inputs), selective_scan(*inputs, torch.zeros_like(h)))


def test_gradcheck() -> None:
    assert torch.autograd.gradcheck(selective_scan, make_inputs(tokens=3, batch=1, inner=2, state=2))


@pytest.mark.parametrize(
    ("backwards", "expected"), [(False, [0.5, 0.25, 0.125, 0.0625]), (True, [0.0625, 0.125, 0.25, 0.5])]
)
def test_the_recurrence_starts_from_its_state(backwards: bool, expected: list[float]) -> None:
    a, x, h = torch.full((1, 4, 1, 1), 0.5), torch.zeros(1, 4, 1, 1), torch.ones(1, 1, 1)
    assert recurrence(a, x, h, L=2, backwards=backwards).flatten().tolist() == expected


def test_decays_that_underflow_are_harmless() -> None:
    u, delta, A, *others = (x.detach() for x in make_inputs(tokens=40, dtype=torch.float32))
    inputs = [x.requires_grad_() for x in (u, delta, 1e6 * A, *others)]
    actual, expected = selective_scan(*inputs), token_by_token(*inputs)
    torch.testing.assert_close(actual, expected)
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(actual[0].sum(), inputs))


def test_the_state_is_float32_under_autocast() -> None:
    inputs = [x.detach().bfloat16() for x in make_inputs(tokens=70)]
    exact, _ = token_by_token(*(x.float() for x in inputs))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual, h = selective_scan(*inputs)
    assert (actual.dtype, h.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(actual, exact.bfloat16(), rtol=2**-7, atol=1e-3)


def test_a_segment_is_about_as_large_as_measured_best() -> None:
    assert chunk_length(state_entries=512 * 16) == 8
    assert chunk_length(state_entries=1) == module.LONGEST_CHUNK
    assert chunk_length(state_entries=2**30) == module.SHORTEST_CHUNK


def seconds(tokens: int) -> float:
    inputs = make_inputs(tokens, batch=1, inner=64, state=16, dtype=torch.float32)
    start = time.process_time()
    torch.autograd.grad(selective_scan(*inputs)[0].sum(), inputs)
    return time.process_time() - start


@pytest.mark.slow
def test_time_per_token_does_not_grow() -> None:
    seconds(1024)
    pairs = [(seconds(1024) / 1024, seconds(4096) / 4096) for _ in range(7)]
    short, long = map(min, zip(*pairs, strict=True))
    assert long <= 1.5 * short


PEAK_BYTES = """
import resource, sys, torch
from ttt.layers.selective_scan import selective_scan
T, E, N = int(sys.argv[1]), 64, 16
u, delta, B, C = (torch.rand(1, T, width, requires_grad=True) for width in (E, E, N, N))
selective_scan(u, delta, -torch.ones(E, N), B, C, torch.ones(E))[0].sum().backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def peak_bytes(tokens: int) -> int:
    command = [sys.executable, "-c", PEAK_BYTES, str(tokens)]
    return int(subprocess.run(command, capture_output=True, check=True).stdout)


@pytest.mark.slow
def test_no_state_sequence_is_kept() -> None:
    """Memory grows only with inputs, outputs and their gradients: by fewer floats per token than one state has."""
    short, long = 4096, 16384
    assert peak_bytes(long) - peak_bytes(short) < (long - short) * 64 * 16 * 4
