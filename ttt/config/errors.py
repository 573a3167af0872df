"""The exceptions that a user sees as a single line."""


class UserError(Exception):
    """A mistake that the user can mend: a wrong key, value, file or folder.

    The message is one line that names the key or file, its value and what is allowed.
    Commands print it without a traceback and exit with code 2.
    """


class RunError(Exception):
    """A run that could not go on though nothing was wrong with what was asked, such as a loss that diverged.

    The message is one line that says what happened and where the run's remains are. Commands exit with code 1.
    """


class DivergedError(RunError):
    """A loss or another number of the model that is infinite or not a number."""


class InterruptedRunError(RunError):
    """A run that signal ``number`` has ended; its record says so, and where it goes on."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


def bad_value(key: str, value: object, allowed: str) -> UserError:
    """The usual form of the line: ``key=value: allowed``."""
    return UserError(f"{key}={value}: {allowed}")
