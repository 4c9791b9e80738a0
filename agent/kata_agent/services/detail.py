"""What a failed call's status says beyond its text: stage, errno, path and a hint, as `kata.agent.v1.ErrorDetail`.

Peers that do not know the message ignore it. Imported with the first failure.
"""

from __future__ import annotations

import errno
import os

from kata_agent import errors
from kata_protocols.gen import sandbox_pb2
from kata_protocols.ttrpc.envelope import clean_text

TYPE_URL = "type.googleapis.com/kata.agent.v1.ErrorDetail"

# By errno first, then by kind of error; the first row that fits.
ERRNO_HINTS = {
    errno.ENOENT: "paths are the guest's: what the host shares is below /run/kata-containers",
    errno.EBUSY: "something still uses it: `kata-agent-ctl ps` shows what runs",
    errno.ENOMEM: "the guest or the container has no memory left: raise the limit, or `kata-agent-ctl why`",
    errno.ENOSPC: "no space or no further entry: look at the guest's tmpfs, inotify and cgroup limits",
    errno.EMFILE: "the agent has no descriptor left: streams of ended processes are closed by RemoveContainer",
    errno.ENODEV: "the guest's kernel lacks the file system or device: its modules are listed in the image's recipe",
    errno.EPERM: "the guest's kernel or the container's capabilities forbid it",
    errno.EROFS: "the file system is read-only in the guest",
    errno.ENOSYS: "the guest's kernel is too old for it, or was built without it",
}
KIND_HINTS: tuple[tuple[type[errors.AgentError], str], ...] = (
    (errors.UnknownContainer, "`kata-agent-ctl ps` lists containers, `why` what became of one"),
    (errors.UnknownProcess, "`kata-agent-ctl exits` lists what has ended"),
    (errors.WrongState, "`kata-agent-ctl why CONTAINER` tells its state and how it came to it"),
    (errors.AlreadyExists, "remove what is there first, or take another id"),
    (errors.TimedOut, "it may go on in the guest: ask again before repeating it"),
    (errors.Denied, "`kata-agent-ctl policy log` shows what the policy said to which request"),
    (errors.Exhausted, "a limit was reached: remove what is not needed any more"),
    (errors.NotSupported, "this agent does not do it; docs/agent.md lists what it does"),
)


def describe(method: str, error: BaseException) -> tuple[tuple[str, bytes], ...]:
    """The details of a status for this error of this method."""
    number = _errno(error)
    detail = sandbox_pb2.ErrorDetail(
        stage=_stage(method, error),
        errno=number,
        errno_name=errno.errorcode.get(number, "") if number else "",
        path=clean_text(_path(error)),
        hint=_hint(number, error),
    )
    return ((TYPE_URL, detail.SerializeToString()),)


def _stage(method: str, error: BaseException) -> str:
    """The method, and what of it failed where the kernel facade says it."""
    operation = errors.operation(error) if isinstance(error, OSError) else ""
    return f"{method}: {clean_text(operation)}" if operation else method


def _errno(error: BaseException) -> int:
    number = getattr(error, "errno", None)
    return number if isinstance(number, int) else 0


def _path(error: BaseException) -> str:
    name = error.filename if isinstance(error, OSError) else None
    return os.fsdecode(name) if isinstance(name, (str, bytes)) else ""


def _hint(number: int, error: BaseException) -> str:
    for kind, hint in KIND_HINTS:
        if isinstance(error, kind):
            return hint
    return ERRNO_HINTS.get(number, "")
