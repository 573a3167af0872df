"""Which kernel is compiled how for which sizes: what is launched, and what can be compiled without a GPU.

Shapes: D head width, F hidden width of TTT-MLP, b mini-batch size; P and R are D and b padded to powers of two.
"""

from collections.abc import Set
from dataclasses import dataclass, field
from typing import Any

import torch
from triton.runtime.jit import JITFunction

from ttt.kernels.triton.linear_backward import linear_backward
from ttt.kernels.triton.linear_decode import linear_decode
from ttt.kernels.triton.linear_forward import linear_forward
from ttt.kernels.triton.mlp_backward import mlp_backward
from ttt.kernels.triton.mlp_decode import mlp_decode
from ttt.kernels.triton.mlp_forward import mlp_forward
from ttt.kernels.triton.mlp_forward_on_chip import mlp_forward_on_chip

TYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
"""Types of the views; the state and all sums are float32."""

INTERPRETED = not isinstance(linear_forward, JITFunction)
"""Whether Triton's interpreter runs the kernels, on CPUs: TRITON_INTERPRET was 1 when they were imported."""

VIEWS = {"q", "k", "v", "z", "dz", "dq", "dk", "dv"}
ACTIVATIONS = {"G1_kept", "G2_kept", "Z1_room", "Z1_bar_room", "X2_room", "X2_bar_room", "dZ1_part", "dH"}
WEIGHTS = {"W1_kept"}
"""Arguments in the views' type: always; of TTT-MLP's backward pass; of TTT-Linear's."""

KB = 1024

SHARED_EVERYWHERE = 99 * KB
"""Bytes of shared memory that a program can have on sm_86 and sm_89, the least of NVIDIA's GPUs since sm_80."""

SHARED = {
    ("linear", 2, 128, 64): 112 * KB,
    ("linear", 4, 64, 64): 112 * KB,
    ("linear", 4, 128, 16): 105 * KB,
    ("linear", 4, 128, 32): 148 * KB,
    ("linear", 4, 128, 64): 224 * KB,
    ("mlp", 4, 64, 64): 144 * KB,
    ("mlp", 4, 128, 32): 130 * KB,
    ("mlp", 4, 128, 64): 240 * KB,
}
"""Layer, bytes of a number of the views, P and R -> what a program of the backward kernel, the largest, takes on sm_80
to sm_89, where that is more than ``SHARED_EVERYWHERE``; a test compiles some of them. On sm_90 float32 takes the same,
and half precision more, at most 154 KB of the 227 there."""

NUMBERS = {"first", "count", "mini_batches", "tokens", "heads", "shared", "group", "place"}
"""Arguments that are int32 numbers; all others are float32 tensors."""


@dataclass(frozen=True)
class Configuration:
    """A kernel with everything that its code depends on.

    Attributes:
        kernel: its name; one function can be several kernels.
        fn: the Triton function.
        signature: argument -> Triton's name of its type, for all that are not constants.
        constexprs: the constants.
        num_warps: warps to a program.
        num_stages: of Triton's pipeliner.
        options: further options of the compiler.
    """

    kernel: str
    fn: Any
    signature: dict[str, str]
    constexprs: dict[str, Any]
    num_warps: int
    num_stages: int = 1
    options: dict[str, Any] = field(default_factory=dict)

    def launch(self, programs: int, **arguments: Any) -> None:
        """Runs ``programs`` programs on the current device; ``arguments`` are at least those of ``signature``."""
        arguments = {name: arguments[name] for name in self.signature}
        stated = {"num_warps": self.num_warps, "num_stages": self.num_stages, **self.options}
        self.fn[(programs,)](**arguments, **self.constexprs, **stated)


@dataclass(frozen=True)
class Layer:
    """What decides the code of its kernels.

    Attributes:
        dtype: of the views: float32, float16 or bfloat16.
        D: head width.
        b: mini-batch size.
        F: hidden width of TTT-MLP, a multiple of 16; 0 is TTT-Linear.
        bias: whether the inner model has biases.
        amd: whether for GPUs of 64 threads to a warp, with twice the registers for one of their programs' 4 warps.
    """

    dtype: torch.dtype
    D: int
    b: int
    F: int = 0
    bias: bool = True
    amd: bool = torch.version.hip is not None

    @property
    def name(self) -> str:
        """What the kernels' names begin with."""
        return "mlp" if self.F else "linear"

    @property
    def on_chip(self) -> bool:
        """Whether W of TTT-MLP goes into the registers of one program; with float32 views their products would not."""
        return (self.D, self.F, self.b) == (64, 256, 16) and self.dtype.itemsize == 2 and not self.amd

    @property
    def shared_memory(self) -> int:
        """Bytes of shared memory that a program needs, or ``SHARED_EVERYWHERE`` where it needs no more."""
        sizes = (self.name, self.dtype.itemsize, _padded(self.D), _padded(self.b))
        return SHARED.get(sizes, SHARED_EVERYWHERE)

    def forward(self, keeps: bool) -> Configuration:
        """Outputs and final state; ``keeps``: and W once a group, for the backward pass."""
        if self.on_chip:
            return self._configuration("forward_on_chip", mlp_forward_on_chip, 8, KEEPS=keeps)
        return self.forward_portable(keeps)

    def forward_portable(self, keeps: bool) -> Configuration:
        """``forward`` for any sizes."""
        if self.F:
            return self._configuration("forward", mlp_forward, self._warps, OUTPUTS=True, KEEPS=keeps)
        return self._configuration("forward", linear_forward, self._warps, OUTPUTS=True, KEEPS=keeps)

    def recompute(self) -> Configuration:
        """Of TTT-Linear alone: W before every mini-batch of a group, from the one that was kept."""
        return self._configuration("recompute", linear_forward, self._warps, WEIGHTS, OUTPUTS=False, KEEPS=True)

    def backward(self) -> Configuration:
        """The gradients: of one group after ``recompute``, or for TTT-MLP of all of them."""
        if self.F:
            return self._configuration("backward", mlp_backward, 4 if self.amd else 8)
        # dW of 128 x 128 would take half of the registers.
        return self._configuration("backward", linear_backward, 4 if self.amd else 8, WEIGHTS, RESIDENT=self.D <= 64)

    def decode(self, begun: bool, ends: bool) -> Configuration:
        """One token, the mini-batch having begun before it or ending with it."""
        if self.F:
            return self._configuration("decode", mlp_decode, 8, BEGUN=begun, ENDS=ends)
        return self._configuration("decode", linear_decode, 8, BEGUN=begun, ENDS=ends)

    @property
    def _warps(self) -> int:
        return 4 if self.D <= 64 or self.amd else 8

    def _configuration(
        self, use: str, fn: Any, num_warps: int, views: Set[str] = frozenset(), **flags: bool
    ) -> Configuration:
        """``views``: arguments in the views' type besides the usual."""
        sizes = {"D": self.D, "P": _padded(self.D), "b": self.b, "R": _padded(self.b), "F": self.F}
        # Beside large tiles of K and Q shared memory has little room, and least in float32.
        large = sizes["P"] * sizes["R"] >= (2048 if self.dtype.itemsize == 4 else 8192)
        sizes |= {"BLOCK": 16 if large or self.F % 32 else 32, "BIAS": int(self.bias)}
        constexprs = {name: value for name, value in (sizes | flags).items() if name in fn.arg_names}
        of_views = VIEWS | ACTIVATIONS | views
        signature = {
            name: "i32" if name in NUMBERS else f"*{TYPES[self.dtype] if name in of_views else 'fp32'}"
            for name in fn.arg_names
            if name not in constexprs
        }
        return Configuration(f"{self.name}_{use}", fn, signature, constexprs, num_warps)


def _padded(size: int) -> int:
    """The side of a tile: a power of two and at least 16, as tl.dot wants it."""
    return max(16, 1 << (size - 1).bit_length())


def configurations(
    dtype: torch.dtype, D: int, b: int, F: int | None = None, target: str = "sm_80"
) -> list[Configuration]:
    """Every kernel that runs for these sizes, of both layers; ``F`` None: 4 D; ``target`` as sm_80 or gfx942."""
    found = []
    for hidden in (0, 4 * D if F is None else F):
        layer = Layer(dtype, D, b, hidden, amd=target.startswith("gfx"))
        found += [layer.forward(keeps=True)] if layer.on_chip else []
        found += [layer.forward_portable(keeps=True), *([] if hidden else [layer.recompute()]), layer.backward()]
        found.append(layer.decode(begun=True, ends=False))
    return found
