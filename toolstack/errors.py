"""How a command fails: the lines that the user sees, and the exit status."""

from __future__ import annotations

from collections.abc import Iterable

#: libxl's error codes, by the name that Xen gives them (ERROR_FAIL and so on, without the prefix).
FAIL = -3
INVAL = -6
NOPARAVIRT = -10
DOMAIN_NOTFOUND = -21

#: Exit status of ``xl create`` for everything that libxl refuses: libxl turns each cause into ERROR_FAIL.
CREATE_FAILED = 3


class XlError(Exception):
    """Raised when a command cannot do what it was asked; ``lines`` go to standard error, cause first.

    ``status`` is the exit status of the command.
    """

    def __init__(self, *lines: str, status: int = 1) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines
        self.status = status


class UsageError(XlError):
    """Raised for a command line that the command does not understand; ``help_for`` names the help text to add."""

    def __init__(self, *lines: str, status: int = 2, help_for: str | None = None) -> None:
        super().__init__(*lines, status=status)
        self.help_for = help_for


class HelpRequested(Exception):
    """Raised by ``-h`` and ``--help``: the help of ``command`` is to be printed, and nothing else done."""

    def __init__(self, command: str) -> None:
        super().__init__(command)
        self.command = command


class Interrupted(BaseException):
    """Raised by SIGINT, SIGTERM and SIGHUP while something would be left half done; what was begun is undone.

    Not an Exception, so that nothing takes it for a failure of its own.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number

    @property
    def status(self) -> int:
        """The exit status that a shell gives a process killed by the signal."""
        return 128 + self.signal_number


def libxl(text: str) -> str:
    """A line as libxl logs an error."""
    return f"libxl: error: {text}"


def invalid_domain(name: str) -> XlError:
    """The failure of a command whose DOMAIN argument names no domain."""
    return XlError(f"{name} is an invalid domain identifier (rc={INVAL})")


def create_failure(cause: Iterable[str], *trail: str) -> XlError:
    """A creation that libxl or the hypervisor refused: the cause, then the steps that failed because of it."""
    return XlError(*cause, *(libxl(step) for step in trail), status=CREATE_FAILED)
