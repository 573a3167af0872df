"""Which form computes the inner loop: the ``kernel`` group of the configuration."""

from ttt.config.errors import bad_value
from ttt.inner.dual import dual_mini_batch
from ttt.inner.primal import primal_mini_batch
from ttt.inner.scan import MiniBatchForm

FORMS: dict[str, MiniBatchForm] = {"primal": primal_mini_batch, "dual": dual_mini_batch}


def choose_form(name: str) -> MiniBatchForm:
    """The form of this name; ``auto`` is the fastest that runs here, the dual form.

    Raises:
        UserError: no such form.
    """
    if name == "auto":
        return FORMS["dual"]
    if name not in FORMS:
        raise bad_value("kernel.name", name, f"choose one of auto, {', '.join(FORMS)}")
    return FORMS[name]
