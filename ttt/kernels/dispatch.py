"""Choose the kernel of the inner loop, or of Mamba's scan, by the ``kernel`` group of the configuration."""

import logging
from dataclasses import dataclass
from functools import cache, partial
from types import ModuleType

import torch
from torch import Tensor

from ttt.config.errors import bad_value
from ttt.config.schema import KernelConfig
from ttt.inner.dual import dual_mini_batch
from ttt.inner.loop import InnerInputs, InnerLoop, InnerSpec, InnerState
from ttt.inner.models.base import Params
from ttt.inner.models.mlp import InnerMLP
from ttt.inner.primal import primal_mini_batch
from ttt.inner.scan import InnerKernel, scan
from ttt.kernels.adapter import for_any_length, why_unsupported, with_halved_loss
from ttt.kernels.cpu import op
from ttt.kernels.cpu.build import CompilerError, load

COMPILED = ("cpu", "triton")
"""Kernels that some machines lack."""

PACKAGES = {"fla": "flash-linear-attention", "mamba_ssm": "mamba-ssm"}
"""Kernels that a package brings -> the package; they run on GPUs."""

KERNELS = ("auto", "primal", "dual", *COMPILED, *PACKAGES)

DEFAULT_GROUP = 16
"""``kernel.checkpoint_group`` of the primal and the dual kernel where it is null; the compiled kernels have their own
defaults."""

log = logging.getLogger(__name__)


def choose_kernel(config: KernelConfig, spec: InnerSpec) -> InnerKernel:
    """Return the sequence kernel that ``config`` names; ``auto`` is the fastest one for the tokens' device.

    Raises:
        UserError: no such kernel, a kernel that cannot compute this inner loop, or ``triton`` if it cannot run. The
            returned kernel raises it for unsupported inputs, and ``cpu`` if it cannot be compiled.
    """
    check_name(config)
    has_dual, reason = isinstance(spec.model, InnerMLP), why_unsupported(spec)
    if config.name == "dual" and not has_dual:
        raise bad_value("kernel.name", "dual", "this inner model has no dual form; choose auto for the primal form")
    if config.name in PACKAGES:
        raise bad_value("kernel.name", config.name, "has no kernel for TTT layers; choose auto")
    if config.name == "triton":
        reason = reason or _why_no_triton()
    if config.name in COMPILED and reason:
        raise bad_value("kernel.name", config.name, f"{reason}; choose auto")
    mini_batch_kernel = dual_mini_batch if has_dual and config.name != "primal" else primal_mini_batch
    group = DEFAULT_GROUP if config.checkpoint_group is None else config.checkpoint_group
    fallback = partial(scan, mini_batch_kernel, recompute_group=group)
    if config.name in ("primal", "dual") or reason:
        return fallback
    return CompiledKernel(config, fallback)


def check_name(config: KernelConfig) -> None:
    """Raise a UserError if there is no such kernel."""
    if config.name not in KERNELS:
        raise bad_value("kernel.name", config.name, f"choose one of {', '.join(KERNELS)}")


def is_compiled(config: KernelConfig, device: torch.device) -> bool:
    """Return whether ``config`` means the compiled scan or convolution for tokens on ``device``, which only CPUs have.

    Raises:
        UserError: ``kernel=cpu`` cannot run here.
    """
    if config.name != "cpu" and (config.name != "auto" or device.type != "cpu"):
        return False
    reason = why_not_here("cpu", device)
    if reason and config.name == "cpu":
        raise bad_value("kernel.name", "cpu", f"{reason}; choose auto")
    return reason is None


def computes_compiled(config: KernelConfig, *tensors: Tensor) -> bool:
    """Return whether ``config`` means the compiled convolution, norms and gates for these tensors.

    They compute tensors of one dtype, float32 or float64; PyTorch computes the others, and those of mixed precision.

    Raises:
        UserError: ``kernel=cpu`` cannot run here.
    """
    device, dtypes = tensors[0].device, {tensor.dtype for tensor in tensors}
    is_exact = dtypes in ({torch.float32}, {torch.float64}) and not torch.is_autocast_enabled("cpu")
    return is_exact and is_compiled(config, device)


def why_not_here(name: str, device: torch.device) -> str | None:
    """Return why the kernel of this name cannot run on this machine and device, or None."""
    if name == "cpu":
        return _why_not_compiled() if device.type == "cpu" else f"it runs on CPUs, not on {device.type}"
    if name in PACKAGES:
        return None if device.type == "cuda" else f"it runs on GPUs, not on {device.type}"
    return (_why_no_triton() or _why_not_triton_on(device)) if name == "triton" else None


def view_type(kernel: InnerKernel, views: Tensor) -> torch.dtype:
    """Return the dtype in which ``kernel`` reads q, k and v: the dtype of ``views``, or at least float32."""
    at_least_float32 = torch.promote_types(views.dtype, torch.float32)
    own_choice = getattr(kernel, "view_type", None)
    return own_choice(views, at_least_float32) if own_choice else at_least_float32


@dataclass(frozen=True)
class CompiledKernel:
    """The compiled kernel for the tokens' device: C++ on CPUs, Triton on GPUs, or on both with ``kernel=triton``.

    For unsupported inputs ``kernel=auto`` uses ``fallback``; any other ``kernel`` raises an error.
    """

    config: KernelConfig
    fallback: InnerKernel

    def __call__(self, loop: InnerLoop, state: InnerState, inputs: InnerInputs) -> tuple[Tensor, InnerState]:
        """Compute any number of tokens.

        Raises:
            UserError: the kernel that ``config`` names does not support these inputs.
        """
        triton = self._is_triton(inputs.q)
        reason = _why_not_triton(loop, state, inputs) if triton else _why_not_cpu(loop, inputs)
        if reason and self.config.name != "auto":
            raise bad_value("kernel.name", self.config.name, f"{reason}; choose auto")
        if triton and not torch.compiler.is_compiling():
            _log_gpu_kernel(str(inputs.q.device), reason)
        group = self.config.checkpoint_group or 0
        if reason:
            kernel = in_float32(self.fallback)
        elif triton:
            kernel = for_any_length(partial(_triton_kernel, group), partial(_triton_rest, self.fallback))
        else:
            kernel = for_any_length(partial(_cpu_kernel, group), self.fallback)
        return kernel(loop, state, inputs)

    def view_type(self, views: Tensor, at_least_float32: torch.dtype) -> torch.dtype:
        """See the function ``view_type``."""
        if not self._is_triton(views) or _why_no_triton():
            return at_least_float32
        return views.dtype if _triton_op().unsupported(1, (), 1, views.dtype) is None else at_least_float32

    def _is_triton(self, x: Tensor) -> bool:
        return self.config.name == "triton" or (self.config.name == "auto" and x.is_cuda)


def _cpu_kernel(group: int, loop: InnerLoop, W: Params, inputs: InnerInputs) -> tuple[Tensor, Params]:
    return op.inner_loop(W, *loop.norm, *inputs[:4], loop.tau, group, _table(loop))


def _why_not_cpu(loop: InnerLoop, inputs: InnerInputs) -> str | None:
    """Return why the compiled CPU kernel cannot compute these inputs, or None."""
    if inputs.log_decay is not None:
        return "it supports no forget gate"
    if inputs.q.device.type != "cpu":
        return f"it runs on CPUs, not on {inputs.q.device.type}"
    head_dim, hidden, b, dtype = inputs.q.shape[-1], hidden_widths(loop, inputs), loop.mini_batch_size, inputs.q.dtype
    if not op.supports(head_dim, hidden, b, dtype):
        return f"it does not support head width {head_dim} with hidden width {hidden}, b = {b} and {dtype}"
    return _why_not_compiled()


def _why_not_compiled() -> str | None:
    """Return why the CPU kernel cannot be compiled here, or None, always in a traced model.

    Dynamo cannot trace the build, which ``ttt.layers.compiled`` has done before.
    """
    return None if torch.compiler.is_compiling() else _why_no_compiler()


def why_not_compiled_steps(kernel: InnerKernel, spec: InnerSpec, head_dim: int, dtype: torch.dtype) -> str | None:
    """Return why ``ttt.kernels.cpu.decode`` cannot compute the inner loop in the place of ``kernel``, or None."""
    if not isinstance(kernel, CompiledKernel):
        return "kernel is not auto or cpu, or the inner loop has no compiled form"
    assert isinstance(spec.model, InnerMLP)
    hidden = tuple(outputs for _, outputs in spec.model.widths(head_dim)[:-1])
    return None if op.supports(head_dim, hidden, 1, dtype) else f"head width {head_dim} or {dtype}"


def hidden_widths(loop: InnerLoop, inputs: InnerInputs) -> tuple[int, ...]:
    """Return the widths of the hidden layers of an inner MLP: none for TTT-Linear."""
    assert isinstance(loop.model, InnerMLP)
    return tuple(outputs for _, outputs in loop.model.widths(inputs.q.shape[-1])[:-1])


@cache
def _why_no_compiler() -> str | None:
    """Return why the CPU kernel cannot be compiled on this machine, or None; log it once."""
    try:
        load()
    except CompilerError as error:
        log.warning("kernel: plain PyTorch instead of the CPU kernel, which is several times faster: %s", error)
        return f"it could not be compiled: {error}"
    return None


def _triton_op() -> ModuleType:
    """Import the operator's module on first use, because not every platform has Triton."""
    from ttt.kernels.triton import op

    return op


def _decoding() -> ModuleType:
    """Import the operators of one token."""
    from ttt.kernels.triton import decoding

    return decoding


@cache
def _why_no_triton() -> str | None:
    """Return why Triton's kernels cannot run on this machine, or None."""
    try:
        interpreted = _triton_op().INTERPRETED
    except ImportError as error:
        return f"Triton cannot be imported: {error}"
    if problem := _triton_op().unsupported(1, (), 1, torch.float32):
        return str(problem)
    if not interpreted and not torch.cuda.is_available():
        return "no GPU is found, and TRITON_INTERPRET=1, which runs the kernels slowly on a CPU, is not set"
    return None


def _why_not_triton_on(device: torch.device) -> str | None:
    """Return why Triton's kernels, which are installed, cannot run on a device, or None."""
    if device.type == "cuda" or _triton_op().INTERPRETED:
        return None
    return f"it runs on GPUs, and with TRITON_INTERPRET=1 on CPUs, not on {device.type}"


def _why_not_triton(loop: InnerLoop, state: InnerState, inputs: InnerInputs) -> str | None:
    """Return why Triton's kernels cannot compute these inputs, or None."""
    missing = _why_no_triton()
    if missing:
        return missing
    if inputs.log_decay is not None:
        return "it supports no forget gate"
    views = inputs.q
    if elsewhere := _why_not_triton_on(views.device):
        return elsewhere
    # The decode kernel fits every device. Dynamo cannot trace the call that reads the shared memory; the operator
    # checks it when it runs.
    device = None if torch.compiler.is_compiling() or _decodes(loop, state, inputs) else views.device
    hidden = hidden_widths(loop, inputs)
    return _triton_op().unsupported(views.shape[-1], hidden, loop.mini_batch_size, views.dtype, device)


@cache
def _log_gpu_kernel(device: str, reason: str | None) -> None:
    """Log once which kernel runs on this device."""
    if reason:
        log.warning("kernel: plain PyTorch on %s instead of the Triton kernels: %s", device, reason)
    else:
        log.info("kernel: the Triton kernels on %s", device)


def _triton_kernel(group: int, loop: InnerLoop, W: Params, inputs: InnerInputs) -> tuple[Tensor, Params]:
    return _triton_op().inner_loop(W, *loop.norm, *inputs[:4], loop.tau, group, _table(loop))


def _table(loop: InnerLoop) -> Tensor | None:
    """Return the rotation as the compiled kernels read it: cosines and sines in turn, [b, D]."""
    return None if loop.rotation is None else torch.view_as_real(loop.rotation).flatten(1)


def _triton_rest(
    fallback: InnerKernel, loop: InnerLoop, state: InnerState, inputs: InnerInputs
) -> tuple[Tensor, InnerState]:
    """Compute part of a mini-batch: a single token without gradients with the decode kernel, else with ``fallback``."""
    if not _decodes(loop, state, inputs):
        return in_float32(fallback)(loop, state, inputs)
    token, offset = with_halved_loss(loop, inputs)[:4], state.offset
    step = state.grad_sum or ()
    z, after = _decoding().decode_token(state.W, step, *loop.norm, *token, loop.tau, offset, _table(loop))
    ends = offset + 1 == loop.mini_batch_size
    return z, InnerState(after) if ends else InnerState(state.W, after, offset=offset + 1)


def _decodes(loop: InnerLoop, state: InnerState, inputs: InnerInputs) -> bool:
    """Return whether the decode kernel computes these inputs: one token, part of a mini-batch, without gradients."""
    tensors = (*inputs[:4], *loop.norm, *state.tensors, loop.tau)
    differentiates = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    return inputs.length == 1 < loop.mini_batch_size and not differentiates


def decode_in_place(loop: InnerLoop, W: Params, step: Params, place: Tensor, inputs: InnerInputs) -> Tensor:
    """Compute one token with the Triton kernels and overwrite the state; see ``ttt.kernels.triton.decoding``.

    Raises:
        UserError: the kernels do not run here, or do not support these inputs.
    """
    reason = why_unsupported(loop.spec) or _why_not_triton(loop, InnerState(W, step), inputs)
    if reason:
        raise bad_value("kernel.name", "triton", f"decoding in place needs it, but {reason}")
    token = with_halved_loss(loop, inputs)[:4]
    return _decoding().decode_in_place(W, step, *loop.norm, *token, loop.tau, place, _table(loop))


def in_float32(fallback: InnerKernel) -> InnerKernel:
    """Return ``fallback`` on views in at least float32; it would otherwise multiply them in half precision."""

    def kernel(loop: InnerLoop, state: InnerState, inputs: InnerInputs) -> tuple[Tensor, InnerState]:
        dtype = torch.promote_types(inputs.q.dtype, torch.float32)
        q, k, v = (x.to(dtype) for x in inputs[:3])
        z, state = fallback(loop, state, inputs._replace(q=q, k=k, v=v))
        return z.to(inputs.q.dtype), state

    return kernel
