"""``size.width`` alone, which would change the width of heads too."""

from collections.abc import Sequence

from ttt.cli.label import standard
from ttt.config.errors import bad_value
from ttt.config.keys import check_keys
from ttt.config.schema import TrainConfig


def check_width_and_heads(config: TrainConfig, overrides: Sequence[str]) -> None:
    """Check that a width that is given without heads leaves their width as the size has it.

    The width of a head is that of the hidden state of a TTT layer, so that ``size.width`` alone changes two things.

    Args:
        config: the run.
        overrides: the overrides on its command line.

    Raises:
        UserError: the width of a head changes, and ``size.heads`` is not given.
    """
    size, keys = config.size, {override.lstrip("+").partition("=")[0] for override in overrides}
    if "size.width" not in keys or "size.heads" in keys or not config.model.has_heads:
        return
    check_keys(size, "size.")
    usual = standard("size", size.name)
    if not usual:
        return
    of_head = usual["width"] // usual["heads"]
    # Heads that do not divide the width are found by the check of all keys.
    if size.width % size.heads or size.width // size.heads == of_head:
        return
    would = (
        f"size.heads={size.heads} of size={size.name} would make heads {size.width // size.heads} wide, not {of_head}"
    )
    example = f", such as size.heads={size.width // of_head}" if size.width % of_head == 0 else ""
    raise bad_value("size.width", size.width, f"{would}; give size.heads too{example}")
