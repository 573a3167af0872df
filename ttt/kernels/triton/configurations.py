"""The kernels for given sizes, with the types and constants they are compiled with, for launches and for compilation.

Shapes: D head width, F hidden width of TTT-MLP, b mini-batch size; P and R are D and b padded to powers of two.
"""

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.runtime.jit import JITFunction

from ttt.kernels.triton.choices import CANDIDATES, Choice, choose, forced_choice, measured_path, read_measured
from ttt.kernels.triton.linear_backward import linear_backward
from ttt.kernels.triton.linear_decode import linear_decode
from ttt.kernels.triton.linear_forward import linear_forward
from ttt.kernels.triton.mlp_backward import mlp_backward
from ttt.kernels.triton.mlp_decode import mlp_decode
from ttt.kernels.triton.mlp_forward import mlp_forward
from ttt.kernels.triton.mlp_forward_on_chip import mlp_forward_on_chip
from ttt.kernels.triton.sizes import KB, RESIDENT_HEAD_DIM, SMALL_SHARED, forward_warps, padded

TYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
"""Types of the views, and of the state of a decoded token; otherwise the state is float32, as all sums are."""

INTERPRETED = not isinstance(linear_forward, JITFunction)
"""True if Triton's interpreter runs the kernels, on CPUs: TRITON_INTERPRET was 1 when they were imported."""

VIEW, FLOAT, STATE, PLACE, NUMBER = "view", "float", "state", "place", "number"
"""Types of arguments: pointer to the views' type, to float32, to the state's type, to int32, and an int32."""

ARGUMENTS: dict[str, str] = {
    name: kind
    for kind, names in (
        (VIEW, "q k v z dz dq dk dv"),
        (VIEW, "G1_kept G2_kept Z1_scratch slope_bar X2_scratch X2_bar_scratch dZ1_part dH"),
        (FLOAT, "eta tau scale shift rotation deta dtau dscale dshift"),
        (FLOAT, "W1_last W1_kept dW1 b1_last b1_kept db1 W2_last W2_kept dW2 b2_last b2_kept db2"),
        (STATE, "W1 W1_sum W1_next W1_sum_next b1 b1_sum b1_next b1_sum_next"),
        (STATE, "W2 W2_sum W2_next W2_sum_next b2 b2_sum b2_next b2_sum_next"),
        (PLACE, "place"),
        (NUMBER, "first count mini_batches tokens heads shared group size"),
    )
    for name in names.split()
}
"""Type of every argument of the kernels that is not a constant."""

VIEW_WEIGHTS = {"W1_kept": VIEW}
"""Exception for TTT-Linear's backward pass: ``recompute`` stores W1 in the views' type, which products need."""

SHARED = {
    ("linear", 2, 128, 64): 112 * KB,
    ("linear", 4, 128, 32): 132 * KB,
    ("linear", 4, 128, 64): 208 * KB,
    ("mlp", 4, 64, 64): 144 * KB,
    ("mlp", 4, 128, 32): 130 * KB,
    ("mlp", 4, 128, 64): 240 * KB,
}
"""(Layer, bytes per number of the views, P, R) -> bytes of shared memory of the backward kernel, which needs the most,
on sm_80 to sm_89, if more than ``SMALL_SHARED``. A test compiles some of them. On sm_90 float32 needs the same, and
half precision more: at most 154 KB of 227 KB."""


@dataclass(frozen=True)
class Configuration:
    """A kernel with everything that its code depends on.

    Attributes:
        kernel: its name; one function can be several kernels.
        fn: the Triton function.
        signature: argument -> Triton's name of its type, for all arguments that are not constants.
        constexprs: the constants.
        num_warps: warps per program.
        num_stages: stages of Triton's pipeliner; 1 turns it off.
    """

    kernel: str
    fn: Any
    signature: dict[str, str]
    constexprs: dict[str, Any]
    num_warps: int
    num_stages: int = 1

    @property
    def options(self) -> dict[str, int]:
        """Options of Triton's compiler."""
        return {"num_warps": self.num_warps, "num_stages": self.num_stages}

    @property
    def key(self) -> tuple[object, ...]:
        """Everything that the compiled code depends on, except the target."""
        return (self.kernel, *self.signature.items(), *self.constexprs.items(), *self.options.items())

    def launch(self, programs: int, **arguments: Any) -> None:
        """Run ``programs`` programs on the current device; arguments that are not in ``signature`` are ignored."""
        arguments = {name: arguments[name] for name in self.signature}
        self.fn[(programs,)](**arguments, **self.constexprs, **self.options)


@dataclass(frozen=True)
class Layer:
    """The properties of a TTT layer that determine the code of its kernels.

    Attributes:
        dtype: of the views: float32, float16 or bfloat16.
        D: head width.
        b: mini-batch size.
        F: hidden width of TTT-MLP, a multiple of 16; 0 for TTT-Linear.
        bias: whether the inner model has biases.
        amd: whether the GPU is AMD's, with 64 threads per warp and, for programs of 4 warps, twice the registers.
        rotates: whether the kernels rotate q and k by RoPE; if not, they are rotated before.
    """

    dtype: torch.dtype
    D: int
    b: int
    F: int = 0
    bias: bool = True
    amd: bool = torch.version.hip is not None
    rotates: bool = True

    @property
    def name(self) -> str:
        """Prefix of the kernels' names."""
        return "mlp" if self.F else "linear"

    @property
    def on_chip(self) -> bool:
        """True if W of TTT-MLP fits in the registers of one program; with float32 views the factors do not."""
        return (self.D, self.F, self.b) == (64, 256, 16) and self.dtype.itemsize == 2 and not self.amd

    @property
    def shared_memory(self) -> int:
        """Bytes of shared memory that a program needs, at least ``SMALL_SHARED``."""
        return SHARED.get((self.name, self.dtype.itemsize, padded(self.D), padded(self.b)), SMALL_SHARED)

    def forward(self, keeps: bool, programs: int = 1, choice: Choice | None = None) -> Configuration:
        """Return the kernel for outputs and final state; ``keeps``: it also keeps one W per group.

        ``programs`` is the number of sequences times heads, by which a candidate is chosen if ``choice`` is None.
        """
        name = "forward_on_chip" if self.on_chip else "forward"
        choice = choice or self._choice(name, programs)
        if self.on_chip and not choice.block:
            return self._configuration(name, mlp_forward_on_chip, choice, KEEPS=keeps)
        return self.forward_portable(keeps, choice)

    def forward_portable(self, keeps: bool, choice: Choice | None = None) -> Configuration:
        """Return the kernel of ``forward`` that works for all sizes."""
        fn, choice = mlp_forward if self.F else linear_forward, choice or self._choice("forward", 1)
        return self._configuration("forward", fn, choice, OUTPUTS=True, KEEPS=keeps)

    def recompute(self) -> Configuration:
        """Return the kernel of TTT-Linear that computes W before each mini-batch of a group."""
        choice = Choice(self._forward_warps)
        return self._configuration("recompute", linear_forward, choice, VIEW_WEIGHTS, OUTPUTS=False, KEEPS=True)

    def backward(self, programs: int = 1, choice: Choice | None = None) -> Configuration:
        """Return the kernel for the gradients: of a group after ``recompute``, or for TTT-MLP of all groups.

        The arguments as of ``forward``.
        """
        choice = choice or self._choice("backward", programs)
        if self.F:
            return self._configuration("backward", mlp_backward, choice)
        resident = self.D <= RESIDENT_HEAD_DIM
        return self._configuration("backward", linear_backward, choice, VIEW_WEIGHTS, RESIDENT=resident)

    def decode(self, state: torch.dtype = torch.float32) -> Configuration:
        """Return the kernel for one token whose state has the type ``state``."""
        fn = mlp_decode if self.F else linear_decode
        return self._configuration("decode", fn, Choice(8, self._block), state=state)

    def candidates(self, use: str) -> list[Choice]:
        """Return the choices for ``forward`` or ``backward`` that a GPU may compare, the default first; empty: one."""
        name = f"{self.name}_{'forward_on_chip' if use == 'forward' and self.on_chip else use}"
        return [candidate.choice for candidate in CANDIDATES.get(name, ())] if self._has_candidates else []

    @property
    def _has_candidates(self) -> bool:
        """True for the sizes and types for which the candidates were compiled, modelled and compared."""
        tiles = (padded(self.D), padded(self.b), self.F % 128, self.dtype.itemsize)
        return tiles == (64, 16, 0, 2) and not self.amd

    def _choice(self, use: str, programs: int) -> Choice:
        kernel = f"{self.name}_{use}"
        if forced := forced_choice(kernel):
            return forced
        if self._has_candidates and kernel in CANDIDATES:
            return choose(kernel, programs, _measured())
        block = 64 if self._has_wide_blocks else self._block
        if use == "backward":
            return Choice(4 if self.amd else 8, block)
        return Choice(self._forward_warps, block)

    @property
    def _has_wide_blocks(self) -> bool:
        """True if blocks of 64 columns of the hidden width wait less than blocks of 32 and fit in ``SMALL_SHARED``.

        By the latency model TTT-MLP at D = 96 takes 123,650 cycles a mini-batch backward instead of 236,546, and 34,370
        instead of 60,547 forward. Blocks of 128 would take 115,400, but need 161 KB of shared memory.
        """
        tiles = (padded(self.D), padded(self.b), self.dtype.itemsize)
        return tiles == (128, 16, 2) and not self.amd and self.F > 0 and self.F % 64 == 0

    @property
    def _forward_warps(self) -> int:
        return 4 if self.amd else forward_warps(self.D)

    @property
    def _block(self) -> int:
        """Columns of the hidden width that are read at a time; 0 for TTT-Linear."""
        # Large tiles of K and Q leave little shared memory, least of all in float32.
        large = padded(self.D) * padded(self.b) >= (2048 if self.dtype.itemsize == 4 else 8192)
        return (16 if large or self.F % 32 else 32) if self.F else 0

    def _configuration(
        self,
        use: str,
        fn: Any,
        choice: Choice,
        exceptions: dict[str, str] | None = None,
        state: torch.dtype = torch.float32,
        **flags: bool,
    ) -> Configuration:
        """Return ``fn`` with its types and constants; ``exceptions`` replace types of ``ARGUMENTS``."""
        P, R = padded(self.D), padded(self.b)
        constants = {"D": self.D, "P": P, "b": self.b, "R": R, "F": self.F, "BIAS": int(self.bias)} | flags
        constants |= {"BLOCK": choice.block, "ROTATES": self.rotates}
        constexprs = {name: value for name, value in constants.items() if name in fn.arg_names}
        kinds = ARGUMENTS | (exceptions or {})
        types = {VIEW: f"*{TYPES[self.dtype]}", FLOAT: "*fp32", STATE: f"*{TYPES[state]}", PLACE: "*i32", NUMBER: "i32"}
        signature = {name: types[kinds[name]] for name in fn.arg_names if name not in constexprs}
        return Configuration(f"{self.name}_{use}", fn, signature, constexprs, choice.warps)


@functools.cache
def measured_here() -> Path | None:
    """Return the file of the choices measured on the current GPU with this Triton and these kernels; None on CPUs."""
    if INTERPRETED or not torch.cuda.is_available():
        return None
    sources = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    versions = f"triton-{triton.__version__}-{hashlib.sha256(sources).hexdigest()[:8]}"
    return measured_path(torch.cuda.get_device_name(), versions)


def _measured() -> dict[str, Choice]:
    path = measured_here()
    return read_measured(path) if path else {}


def configurations(
    dtype: torch.dtype, D: int, b: int, F: int | None = None, target: str = "sm_80"
) -> list[Configuration]:
    """Return the kernels of both layers that run for these sizes; F None is 4 D; ``target`` is sm_80 or gfx942."""
    kernels = []
    for hidden in (0, 4 * D if F is None else F):
        layer = Layer(dtype, D, b, hidden, amd=target.startswith("gfx"))
        kernels += [layer.forward(keeps=True)] if layer.on_chip else []
        kernels += [layer.forward_portable(keeps=True), *([] if hidden else [layer.recompute()]), layer.backward()]
        kernels.append(layer.decode())
    return kernels


def launched(dtype: torch.dtype, D: int, b: int, layer: str, target: str) -> list[Configuration]:
    """Return all that launches of a layer may use at these sizes: every candidate, and every flag.

    Args:
        dtype: of the views.
        D: head width.
        b: mini-batch size.
        layer: linear or mlp.
        target: as of ``configurations``.
    """
    sizes = Layer(dtype, D, b, 4 * D if layer == "mlp" else 0, amd=target.startswith("gfx"))
    kernels = [] if sizes.F else [sizes.recompute()]
    for choice in sizes.candidates("forward") or (None,):
        kernels += [sizes.forward(keeps, choice=choice) for keeps in (True, False)]
    kernels += [sizes.backward(choice=choice) for choice in sizes.candidates("backward") or (None,)]
    return kernels + [sizes.decode(state) for state in TYPES]
