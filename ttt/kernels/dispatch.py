"""Which form computes the inner loop: the ``kernel`` group of the configuration."""

import logging
from dataclasses import dataclass
from functools import cache, partial
from types import ModuleType

import torch
from torch import Tensor

from ttt.config.errors import bad_value
from ttt.config.schema import KernelConfig
from ttt.inner.dual import dual_mini_batch
from ttt.inner.layer_norm import LayerNormParams
from ttt.inner.loop import InnerLoop, InnerState, Tokens
from ttt.inner.models.base import Params
from ttt.inner.models.mlp import InnerMLP
from ttt.inner.primal import primal_mini_batch
from ttt.inner.scan import Form, scan
from ttt.kernels.cpu import op
from ttt.kernels.cpu.build import CompilerError, load
from ttt.kernels.whole import in_whole_mini_batches, unfit

KERNELS = ("auto", "primal", "dual", "cpu", "triton")

DEFAULT_GROUP = 16
"""``kernel.checkpoint_group`` of the primal and the dual form where it is null; the compiled forms know their own."""

log = logging.getLogger(__name__)


def choose_form(kernel: KernelConfig, loop: InnerLoop) -> Form:
    """The sequence form of this name; ``auto`` is the fastest that runs where the tokens are.

    Raises:
        UserError: no such form, or one that cannot compute ``loop``, or ``triton`` on a machine without; when it is
            called, also where it cannot run.
    """
    if kernel.name not in KERNELS:
        raise bad_value("kernel.name", kernel.name, f"choose one of {', '.join(KERNELS)}")
    has_dual, reason = isinstance(loop.model, InnerMLP), unfit(loop)
    if kernel.name == "dual" and not has_dual:
        raise bad_value("kernel.name", "dual", "no dual form: this inner model takes the primal form; choose auto")
    if kernel.name == "triton":
        reason = reason or _no_triton()
    if kernel.name in ("cpu", "triton") and reason:
        raise bad_value("kernel.name", kernel.name, f"{reason}; choose auto")
    form = dual_mini_batch if has_dual and kernel.name != "primal" else primal_mini_batch
    group = DEFAULT_GROUP if kernel.checkpoint_group is None else kernel.checkpoint_group
    plain = partial(scan, form, checkpoint_group=group)
    if kernel.name in ("primal", "dual") or reason:
        return plain
    return Compiled(kernel, plain)


def view_type(form: Form, views: Tensor) -> torch.dtype:
    """The type in which ``form`` wants q, k and v of a layer that computed ``views``: half precision or float32."""
    at_least_float32 = torch.promote_types(views.dtype, torch.float32)
    return form.view_type(views, at_least_float32) if isinstance(form, Compiled) else at_least_float32


@dataclass(frozen=True)
class Compiled:
    """The compiled form for the tokens' device: C++ on CPUs, Triton on GPUs, or with ``kernel=triton`` everywhere.

    Where it cannot run, ``plain`` does with ``kernel=auto``; else that is an error.
    """

    kernel: KernelConfig
    plain: Form

    def __call__(
        self, loop: InnerLoop, norm: LayerNormParams, state: InnerState, tokens: Tokens, tau: Tensor
    ) -> tuple[Tensor, InnerState]:
        """The sequence form.

        Raises:
            UserError: the form that ``kernel`` names cannot read these tokens.
        """
        triton = self._is_triton(tokens.q)
        reason = _unable_triton(loop, tokens, tau) if triton else _unable(loop, tokens, tau)
        if reason and self.kernel.name != "auto":
            raise bad_value("kernel.name", self.kernel.name, f"{reason}; choose auto")
        if triton and not torch.compiler.is_compiling():
            _say_on_gpu(str(tokens.q.device), reason)
        group = self.kernel.checkpoint_group or 0
        if reason:
            form = _in_float32(self.plain)
        elif triton:
            form = in_whole_mini_batches(partial(_triton_kernel, group), partial(_triton_rest, self.plain))
        else:
            form = in_whole_mini_batches(partial(_cpu_kernel, group), self.plain)
        return form(loop, norm, state, tokens, tau)

    def view_type(self, views: Tensor, at_least_float32: torch.dtype) -> torch.dtype:
        """As the function of this name."""
        if not self._is_triton(views) or _no_triton():
            return at_least_float32
        return views.dtype if _triton_op().unsupported(1, (), 1, views.dtype) is None else at_least_float32

    def _is_triton(self, x: Tensor) -> bool:
        return self.kernel.name == "triton" or (self.kernel.name == "auto" and x.is_cuda)


def _cpu_kernel(group: int, W: Params, norm: LayerNormParams, tokens: Tokens, tau: Tensor) -> tuple[Tensor, Params]:
    q, k, v, eta, _ = tokens
    return op.inner_loop(W, norm.scale, norm.shift, q, k, v, eta, tau, group)


def _unable(loop: InnerLoop, tokens: Tokens, tau: Tensor) -> str | None:
    """Why the compiled CPU form cannot read these tokens, or None."""
    if tokens.log_keep is not None:
        return "it knows no forget gate"
    if tokens.q.device.type != "cpu":
        return f"it runs on CPUs, not on {tokens.q.device.type}"
    head_dim, hidden = tokens.q.shape[-1], _hidden(loop, tokens)
    if not op.supports(head_dim, hidden, tau.numel(), tokens.q.dtype):
        return f"it has no code for head width {head_dim}, hidden width {hidden}, b = {tau.numel()}, {tokens.q.dtype}"
    return _no_compiler()


def _hidden(loop: InnerLoop, tokens: Tokens) -> tuple[int, ...]:
    assert isinstance(loop.model, InnerMLP)
    return tuple(outputs for _, outputs in loop.model.widths(tokens.q.shape[-1])[:-1])


@cache
def _no_compiler() -> str | None:
    """Why there is no compiled form on this machine, or None; said once in the log."""
    try:
        load()
    except CompilerError as error:
        log.warning("kernel: plain PyTorch instead of the compiled CPU form, which is several times as fast: %s", error)
        return f"the compiled form could not be built: {error}"
    return None


def _triton_op() -> ModuleType:
    """The operator's module, imported on first use: it needs Triton, which not every platform has."""
    from ttt.kernels.triton import op

    return op


@cache
def _no_triton() -> str | None:
    """Why Triton's kernels cannot run on this machine, or None."""
    try:
        interpreted = _triton_op().INTERPRETED
    except ImportError as error:
        return f"Triton cannot be imported: {error}"
    if not interpreted and not torch.cuda.is_available():
        return "no GPU is found, and TRITON_INTERPRET=1, which runs the kernels slowly on a CPU, is not set"
    return None


def _unable_triton(loop: InnerLoop, tokens: Tokens, tau: Tensor) -> str | None:
    """Why Triton's kernels cannot read these tokens, or None."""
    missing = _no_triton()
    if missing:
        return missing
    if tokens.log_keep is not None:
        return "it knows no forget gate"
    if not tokens.q.is_cuda and not _triton_op().INTERPRETED:
        return f"it runs on GPUs, and with TRITON_INTERPRET=1 on CPUs, not on {tokens.q.device.type}"
    views = tokens.q
    # Dynamo cannot ask Triton's driver what the device has; the operator does when it runs.
    device = None if torch.compiler.is_compiling() else views.device
    return _triton_op().unsupported(views.shape[-1], _hidden(loop, tokens), tau.numel(), views.dtype, device)


@cache
def _say_on_gpu(device: str, reason: str | None) -> None:
    """Says once in the log which form runs."""
    if reason:
        log.warning("kernel: plain PyTorch on %s instead of the Triton kernels: %s", device, reason)
    else:
        log.info("kernel: the Triton kernels on %s", device)


def _triton_kernel(group: int, W: Params, norm: LayerNormParams, tokens: Tokens, tau: Tensor) -> tuple[Tensor, Params]:
    q, k, v, eta, _ = tokens
    return _triton_op().inner_loop(W, norm.scale, norm.shift, q, k, v, eta, tau, group)


def _triton_rest(
    plain: Form, loop: InnerLoop, norm: LayerNormParams, state: InnerState, tokens: Tokens, tau: Tensor
) -> tuple[Tensor, InnerState]:
    """A part of a mini-batch: one token that needs no derivative by the kernel that decodes, else ``plain``."""
    given = (*tokens[:4], *norm, *state.tensors, tau)
    if tokens.length != 1 or (torch.is_grad_enabled() and any(x.requires_grad for x in given)):
        return _in_float32(plain)(loop, norm, state, tokens, tau)
    # The loss's factor multiplies every gradient, and so does eta.
    eta, place = 2 * loop.loss_factor * tokens.eta, state.place
    z, after = _triton_op().decode_token(state.W, state.step or (), *norm, *tokens[:3], eta, tau, place)
    ends = place + 1 == tau.numel()
    return z, InnerState(after) if ends else InnerState(state.W, after, place=place + 1)


def _in_float32(plain: Form) -> Form:
    """``plain`` for views in half precision, whose products it would take in half precision."""

    def form(
        loop: InnerLoop, norm: LayerNormParams, state: InnerState, tokens: Tokens, tau: Tensor
    ) -> tuple[Tensor, InnerState]:
        dtype = torch.promote_types(tokens.q.dtype, torch.float32)
        q, k, v = (x.to(dtype) for x in (tokens.q, tokens.k, tokens.v))
        z, state = plain(loop, norm, state, tokens._replace(q=q, k=k, v=v), tau)
        return z.to(tokens.q.dtype), state

    return form
