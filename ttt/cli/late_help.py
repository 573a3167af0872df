"""Let Hydra 1.3 describe its flags on Python 3.14."""

import argparse


def accept_late_help() -> None:
    """Let argparse take the help of Hydra's ``--shell-completion``, an object that becomes text when it is printed.

    From Python 3.14 on argparse looks for mistakes in each help when a flag is added, and refuses what is not yet text.
    """
    check = getattr(argparse._ActionsContainer, "_check_help", None)
    if check is None or check.__module__ == __name__:
        return

    def check_text(self: argparse._ActionsContainer, action: argparse.Action) -> None:
        if isinstance(action.help, str):
            check(self, action)

    argparse._ActionsContainer._check_help = check_text  # type: ignore[attr-defined]
