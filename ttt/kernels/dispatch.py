"""Which form computes the inner loop: the ``kernel`` group of the configuration."""

from functools import partial

from ttt.config.errors import bad_value
from ttt.config.schema import KernelConfig
from ttt.inner.dual import dual_mini_batch
from ttt.inner.loop import InnerLoop
from ttt.inner.models.mlp import InnerMLP
from ttt.inner.primal import primal_mini_batch
from ttt.inner.scan import Form, scan

KERNELS = ("auto", "primal", "dual")


def choose_form(kernel: KernelConfig, loop: InnerLoop) -> Form:
    """The sequence form of this name; ``auto`` is the fastest that runs here.

    Raises:
        UserError: no such form, or one that cannot compute ``loop``.
    """
    if kernel.name not in KERNELS:
        raise bad_value("kernel.name", kernel.name, f"choose one of {', '.join(KERNELS)}")
    has_dual = isinstance(loop.model, InnerMLP)
    if kernel.name == "dual" and not has_dual:
        raise bad_value("kernel.name", "dual", "no dual form: this inner model takes the primal form; choose primal or auto")
    form = dual_mini_batch if has_dual and kernel.name != "primal" else primal_mini_batch
    return partial(scan, form, checkpoint_group=kernel.checkpoint_group)
