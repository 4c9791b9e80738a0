"""The agent's error tree and the one function that turns an exception into a status.

Owns: the code of a domain error, how an errno is written, and where Kata's wire wants a code of its own.
Must not know: protobuf, sockets. Follows: Kata's agent 3.21, status codes and texts ("ENOENT: No such file").

Everything a handler of `grpc.AgentService` fails with is INTERNAL on the wire, as in Kata's agent, except
where `WIRE_CODES` or `KEPT` says otherwise: hosts hand the code on to containerd unchanged. The domain codes
are what services of our own will answer with, and what the log shows.
"""

from __future__ import annotations

import errno
import os

from kata_protocols.status import Code


class AgentError(Exception):
    """A failure that the caller of a method is told about. `str()` is the text of the status."""

    code: Code = Code.INTERNAL


class InvalidRequest(AgentError):
    """The request contradicts itself or the contract."""

    code = Code.INVALID_ARGUMENT


class Malformed(AgentError):
    """A value that does not parse. On Kata's wire INTERNAL everywhere, unlike a request that contradicts itself."""

    code = Code.INVALID_ARGUMENT


class NotFound(AgentError):
    """The thing that the request names is not there."""

    code = Code.NOT_FOUND


class UnknownContainer(NotFound):
    """No container has this id. Hosts look for `Invalid container id` and for `not exist`: it is gone already."""

    def __init__(self, container_id: str) -> None:
        super().__init__(f"Invalid container id {container_id!r}: it does not exist")
        self.container_id = container_id


class UnknownProcess(NotFound):
    """The container has no process of this exec id (any more)."""

    def __init__(self, container_id: str, exec_id: str) -> None:
        super().__init__(f"Invalid exec id {exec_id!r}: it does not exist in container {container_id!r}")
        self.container_id = container_id
        self.exec_id = exec_id


class AlreadyExists(AgentError):
    """The thing to be made is there already."""

    code = Code.ALREADY_EXISTS


class WrongState(AgentError):
    """The thing is there, but not in a state that allows this."""

    code = Code.FAILED_PRECONDITION


class UnknownState(AgentError):
    """What an agent before this one left has a version that this one does not know."""

    code = Code.FAILED_PRECONDITION


class ExitLost(AgentError):
    """A process has ended, and nobody knows how."""

    code = Code.DATA_LOSS


class NoTerminal(WrongState):
    """The process has no terminal. Hosts look for this very text."""

    def __init__(self) -> None:
        super().__init__("no tty")


class EndOfOutput(AgentError):
    """An output stream has ended. Hosts look for `eof`; an empty success would make them ask for ever."""

    def __init__(self, text: str = "read meet eof") -> None:
        super().__init__(text)


class NotSupported(AgentError):
    """A kind of thing that this agent does not do."""

    code = Code.UNIMPLEMENTED


class Denied(AgentError):
    """Policy forbids it."""

    code = Code.PERMISSION_DENIED


class Exhausted(AgentError):
    """A limit has been reached."""

    code = Code.RESOURCE_EXHAUSTED


class TimedOut(AgentError):
    """Something that was waited for did not happen in time."""

    code = Code.DEADLINE_EXCEEDED


class KernelError(AgentError):
    """A system call failed and `OSError` would not say enough; else let `OSError` through."""

    def __init__(self, operation: str, path: str, number: int) -> None:
        super().__init__(
            f"{operation} {path}: {errno_text(number)}" if path else f"{operation}: {errno_text(number)}"
        )
        self.errno = number
        self.code = ERRNO_CODES.get(number, Code.INTERNAL)


ERRNO_CODES = {
    errno.EINVAL: Code.INVALID_ARGUMENT,
    errno.ENOENT: Code.NOT_FOUND,
    errno.ESRCH: Code.NOT_FOUND,
    errno.EEXIST: Code.ALREADY_EXISTS,
    errno.EPERM: Code.PERMISSION_DENIED,
    errno.EACCES: Code.PERMISSION_DENIED,
    errno.ENOMEM: Code.RESOURCE_EXHAUSTED,
    errno.ENOSPC: Code.RESOURCE_EXHAUSTED,
    errno.EMFILE: Code.RESOURCE_EXHAUSTED,
    errno.EBUSY: Code.FAILED_PRECONDITION,
    errno.EOPNOTSUPP: Code.UNIMPLEMENTED,
    errno.ENOSYS: Code.UNIMPLEMENTED,
    errno.ETIMEDOUT: Code.DEADLINE_EXCEEDED,
}

# Errors whose own code reaches the host whatever the method.
KEPT: tuple[type[AgentError], ...] = (Denied,)

# Where the wire wins: (method, error or a class above it) -> (code, text or None for the error's own). The quotes
# belong to the text: Kata's agent debug-formats it, and hosts compare with it.
_QUOTED_ID = (Code.INVALID_ARGUMENT, '"invalid container id"')
WIRE_CODES: dict[tuple[str, type[AgentError]], tuple[Code, str | None]] = {
    ("UpdateContainer", NotFound): _QUOTED_ID,
    ("StatsContainer", NotFound): _QUOTED_ID,
    ("PauseContainer", NotFound): _QUOTED_ID,
    ("ResumeContainer", NotFound): _QUOTED_ID,
    ("CloseStdin", NotFound): (Code.INVALID_ARGUMENT, None),
    ("TtyWinResize", NotFound): (Code.UNAVAILABLE, None),
    ("TtyWinResize", WrongState): (Code.UNAVAILABLE, None),
    ("UpdateInterface", InvalidRequest): (Code.INVALID_ARGUMENT, None),
    ("UpdateRoutes", InvalidRequest): (Code.INVALID_ARGUMENT, None),
    ("AddARPNeighbors", InvalidRequest): (Code.INVALID_ARGUMENT, None),
    ("SetPolicy", InvalidRequest): (Code.INVALID_ARGUMENT, None),
    ("SetPolicy", NotFound): (Code.NOT_FOUND, None),
    # Not in Kata's agent, which has no ResizeVolume. NOT_FOUND would say so.
    ("ResizeVolume", InvalidRequest): (Code.INVALID_ARGUMENT, None),
    ("ResizeVolume", NotSupported): (Code.UNIMPLEMENTED, None),
}


def errno_text(number: int) -> str:
    """`ENOENT: No such file or directory`: the form in which Kata's hosts look for an errno."""
    return f"{errno.errorcode.get(number, f'errno {number}')}: {os.strerror(number)}"


def describe(error: BaseException) -> str:
    """The text of an exception, as the caller of a method reads it."""
    if isinstance(error, OSError) and error.errno is not None:
        return _describe_os_error(error)
    text = str(error)
    return text if text else type(error).__name__


def wire_status(method: str, error: BaseException) -> tuple[Code, str]:
    """Code and text that a failed handler of `grpc.AgentService` answers with. `method` is its bare name."""
    if not isinstance(error, AgentError):
        return Code.INTERNAL, describe(error)
    if isinstance(error, KEPT):
        return error.code, describe(error)
    for kind in type(error).__mro__:
        if (method, kind) in WIRE_CODES:
            code, text = WIRE_CODES[method, kind]
            return code, describe(error) if text is None else text
    return Code.INTERNAL, describe(error)


def unwrap(error: BaseException) -> BaseException:
    """The one exception inside nested groups, or the group itself when it holds several."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def is_defect(error: BaseException) -> bool:
    """Whether this is a defect of ours (its trace belongs in the log) and not an answer."""
    return not isinstance(error, (AgentError, OSError))


def _describe_os_error(error: OSError) -> str:
    """`operation path: ENOENT: ...`: the kernel facade has both in `strerror` and `filename`."""
    assert error.errno is not None  # noqa: S101 - the caller looked
    parts = [part for part in (operation(error), _path(error.filename), _path(error.filename2)) if part]
    where = " ".join(parts)
    return f"{where}: {errno_text(error.errno)}" if where else errno_text(error.errno)


def operation(error: OSError) -> str:
    """The facade's operation, when `strerror` holds more than the kernel's own text for the errno."""
    text = error.strerror or ""
    known = os.strerror(error.errno or 0)
    if text == known:
        return ""
    return text.removesuffix(known).rstrip(" :")


def _path(value: object) -> str:
    if value is None:
        return ""
    return os.fsdecode(value) if isinstance(value, (str, bytes)) else str(value)
