"""Errors to statuses: the codes and texts that hosts depend on."""

from __future__ import annotations

import errno

import pytest

from kata_agent import errors
from kata_linux._libc import fail
from kata_protocols.status import Code

UNKNOWN = errors.UnknownContainer("c1")


@pytest.mark.parametrize(
    ("method", "error", "code", "text"),
    [
        ("StartContainer", UNKNOWN, Code.INTERNAL, "Invalid container id"),
        ("WaitProcess", errors.UnknownProcess("c1", "e1"), Code.INTERNAL, "Invalid exec id"),
        ("CreateContainer", errors.InvalidRequest("no"), Code.INTERNAL, "no"),
        ("CreateContainer", errors.AlreadyExists("is there"), Code.INTERNAL, "is there"),
        ("CloseStdin", UNKNOWN, Code.INVALID_ARGUMENT, "Invalid container id"),
        ("CloseStdin", errors.UnknownProcess("c1", "e1"), Code.INVALID_ARGUMENT, "Invalid exec id"),
        ("TtyWinResize", UNKNOWN, Code.UNAVAILABLE, "Invalid container id"),
        ("TtyWinResize", errors.NoTerminal(), Code.UNAVAILABLE, "no tty"),
        ("TtyWinResize", errors.WrongState("no tty"), Code.UNAVAILABLE, "no tty"),
        ("ReadStdout", errors.EndOfOutput(), Code.INTERNAL, "read meet eof"),
        ("UpdateInterface", errors.InvalidRequest("none"), Code.INVALID_ARGUMENT, "none"),
        ("CreateContainer", errors.Denied("blocked by policy"), Code.PERMISSION_DENIED, "blocked by policy"),
        (
            "CopyFile",
            PermissionError(errno.EPERM, "no", "/x"),
            Code.INTERNAL,
            "/x: EPERM: Operation not permitted",
        ),
        ("Check", ZeroDivisionError("division by zero"), Code.INTERNAL, "division by zero"),
        ("Check", KeyError(), Code.INTERNAL, "KeyError"),
    ],
)
def test_failure_has_the_code_and_text_of_kata_s_wire(
    method: str, error: Exception, code: Code, text: str
) -> None:
    found_code, found_text = errors.wire_status(method, error)
    assert found_code == code
    assert text in found_text


@pytest.mark.parametrize("method", ["UpdateContainer", "StatsContainer", "PauseContainer", "ResumeContainer"])
def test_unknown_container_is_quoted_where_hosts_compare(method: str) -> None:
    assert errors.wire_status(method, UNKNOWN) == (Code.INVALID_ARGUMENT, '"invalid container id"')


def test_os_error_of_the_facade_tells_operation_path_and_errno_name() -> None:
    with pytest.raises(OSError, match="mount") as caught:
        fail(errno.ENODEV, "mount virtiofs", "/run/x")
    assert errors.describe(caught.value) == "mount virtiofs /run/x: ENODEV: No such device"


def test_os_error_of_two_paths_tells_both() -> None:
    with pytest.raises(OSError, match="bind") as caught:
        fail(errno.ENOENT, "bind mount", "/a", "/b")
    assert errors.describe(caught.value) == "bind mount /a /b: ENOENT: No such file or directory"


def test_signal_of_a_gone_process_reads_as_hosts_look_for() -> None:
    assert "ESRCH: No such process" in errors.describe(ProcessLookupError(errno.ESRCH, "No such process"))


def test_kernel_error_takes_its_code_from_the_errno_table() -> None:
    error = errors.KernelError("open", "/x", errno.ENOSPC)
    assert error.code == Code.RESOURCE_EXHAUSTED
    assert str(error) == "open /x: ENOSPC: No space left on device"
    assert errors.KernelError("open", "", errno.EIO).code == Code.INTERNAL


def test_only_unforeseen_errors_are_defects() -> None:
    assert errors.is_defect(ValueError("x"))
    assert not errors.is_defect(errors.NotFound("x"))
    assert not errors.is_defect(OSError(errno.EIO, "x"))


def test_group_of_one_is_unwrapped_however_deep() -> None:
    inner = errors.NotFound("x")
    assert errors.unwrap(ExceptionGroup("a", [ExceptionGroup("b", [inner])])) is inner
    two = ExceptionGroup("a", [inner, inner])
    assert errors.unwrap(two) is two
