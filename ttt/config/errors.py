"""Exceptions that a command prints as a single line."""


class UserError(Exception):
    """A mistake that the user can correct: a wrong key, value, file or folder.

    The message is one line that names the key or file, its value and what is allowed.
    Commands print it without a traceback and exit with code 2.
    """


class DamagedDataError(UserError):
    """A file of a prepared corpus that has changed since it was written."""


class RunError(Exception):
    """A run that failed although its configuration was valid, such as a loss that diverged.

    The message is one line with the cause and the folder of the run. Commands exit with code 1.
    """


class DivergedError(RunError):
    """A loss or another value of the model that is infinite or NaN."""


class InterruptedRunError(RunError):
    """A run that signal ``number`` stopped; the record has its status and its last checkpoint."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


class InterruptedPreparationError(InterruptedRunError):
    """A preparation of data that a signal stopped. Commands exit with code 128 + ``number``, as shells expect."""


def bad_value(key: str, value: object, allowed: str) -> UserError:
    """Return an error with the line ``key=value: allowed``."""
    return UserError(f"{key}={spelled(value)}: {allowed}")


def spelled(value: object) -> str:
    """Return a value as the command line takes it: null, true, false or its text."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: 1 run, 2 runs."""
    return f"{number} {noun if number == 1 else noun + 's'}"


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or its type if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
