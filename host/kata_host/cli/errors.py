"""What ends a command: an error with its exit status and text, or a signal."""

from __future__ import annotations

import os

EXIT_FAILURE = 1
EXIT_USAGE = 2


class CliError(Exception):
    """What was tried, why it failed, what to do about it."""

    def __init__(self, message: str, status: int = EXIT_FAILURE) -> None:
        super().__init__(message)
        self.status = status


def describe_os_error(error: OSError) -> str:
    """What it was about and why it failed, without the number and the quotes that `str` gives it."""
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    return ": ".join(filter(None, (" -> ".join(names), error.strerror))) or str(error) or type(error).__name__
