"""Which form computes the inner loop: the ``kernel`` group of the configuration."""

import logging
from functools import cache, partial

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

KERNELS = ("auto", "primal", "dual", "cpu")

log = logging.getLogger(__name__)


def choose_form(kernel: KernelConfig, loop: InnerLoop) -> Form:
    """The sequence form of this name; ``auto`` is the fastest that runs where the tokens are.

    Raises:
        UserError: no such form, or one that cannot compute ``loop``; when it is called, also where it cannot run.
    """
    if kernel.name not in KERNELS:
        raise bad_value("kernel.name", kernel.name, f"choose one of {', '.join(KERNELS)}")
    has_dual, reason = isinstance(loop.model, InnerMLP), unfit(loop)
    if kernel.name == "dual" and not has_dual:
        raise bad_value("kernel.name", "dual", "no dual form: this inner model takes the primal form; choose auto")
    if kernel.name == "cpu" and reason:
        raise bad_value("kernel.name", "cpu", f"{reason}; choose auto")
    form = dual_mini_batch if has_dual and kernel.name != "primal" else primal_mini_batch
    plain = partial(scan, form, checkpoint_group=kernel.checkpoint_group)
    if kernel.name in ("primal", "dual") or reason:
        return plain
    return _compiled(kernel, plain)


def _compiled(kernel: KernelConfig, plain: Form) -> Form:
    """The compiled form where it can run, else ``plain`` with ``kernel=auto``, an error with ``kernel=cpu``."""

    def compiled(W: Params, norm: LayerNormParams, tokens: Tokens, tau: Tensor) -> tuple[Tensor, Params]:
        q, k, v, eta, _ = tokens
        return op.inner_loop(W, norm.scale, norm.shift, q, k, v, eta, tau, kernel.checkpoint_group)

    fast = in_whole_mini_batches(compiled, plain)

    def form(
        loop: InnerLoop, norm: LayerNormParams, state: InnerState, tokens: Tokens, tau: Tensor
    ) -> tuple[Tensor, InnerState]:
        reason = _unable(loop, tokens, tau)
        if reason and kernel.name == "cpu":
            raise bad_value("kernel.name", "cpu", f"{reason}; choose auto")
        return (plain if reason else fast)(loop, norm, state, tokens, tau)

    return form


def _unable(loop: InnerLoop, tokens: Tokens, tau: Tensor) -> str | None:
    """Why the compiled form cannot read these tokens, or None."""
    if tokens.log_keep is not None:
        return "it knows no forget gate"
    if tokens.q.device.type != "cpu":
        return f"it runs on CPUs, not on {tokens.q.device.type}"
    head_dim, hidden = tokens.q.shape[-1], tuple(outputs for _, outputs in _widths(loop, tokens)[:-1])
    if not op.supports(head_dim, hidden, tau.numel(), tokens.q.dtype):
        return f"it has no code for head width {head_dim}, hidden width {hidden}, b = {tau.numel()}, {tokens.q.dtype}"
    return _no_compiler()


def _widths(loop: InnerLoop, tokens: Tokens) -> list[tuple[int, int]]:
    assert isinstance(loop.model, InnerMLP)
    return loop.model.widths(tokens.q.shape[-1])


@cache
def _no_compiler() -> str | None:
    """Why there is no compiled form on this machine, or None; said once in the log."""
    try:
        load()
    except CompilerError as error:
        log.warning("kernel: plain PyTorch instead of the compiled CPU form, which is several times as fast: %s", error)
        return f"the compiled form could not be built: {error}"
    return None
