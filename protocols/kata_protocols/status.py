"""Status codes and the one exception that carries a status across the wire, for ttRPC and gRPC alike."""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    """gRPC's status codes, which ttRPC shares."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


KNOWN_CODES = {int(code): code for code in Code}


class StatusError(Exception):
    """A call failed with a status. `details` are (type URL, serialized message) pairs."""

    def __init__(self, code: Code, message: str = "", details: tuple[tuple[str, bytes], ...] = ()) -> None:
        super().__init__(code, message, details)
        self.code = code
        self.message = message
        self.details = details

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}"
