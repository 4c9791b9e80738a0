"""Attributes of a process: prctl(2).

Owns: the calls. Must not know: why.
"""

from __future__ import annotations

from kata_linux._libc import call

_SET_PDEATHSIG = 1
_SET_NAME = 15
_SET_CHILD_SUBREAPER = 36
_SET_NO_NEW_PRIVS = 38


def set_child_subreaper(*, enabled: bool = True) -> None:
    """Become the parent of orphaned descendants, as PID 1 is for everyone else."""
    call("prctl", _SET_CHILD_SUBREAPER, int(enabled), 0, 0, 0, operation="prctl PR_SET_CHILD_SUBREAPER")


def set_parent_death_signal(number: int) -> None:
    """Get this signal when the parent thread ends. One that has ended already sends none: see getppid."""
    call("prctl", _SET_PDEATHSIG, number, 0, 0, 0, operation="prctl PR_SET_PDEATHSIG")


def set_name(name: str) -> None:
    """The thread's name as ps shows it; the kernel keeps 15 bytes."""
    call("prctl", _SET_NAME, name.encode() + b"\0", 0, 0, 0, operation="prctl PR_SET_NAME")


def set_no_new_privileges() -> None:
    """No later exec gains privileges; for good."""
    call("prctl", _SET_NO_NEW_PRIVS, 1, 0, 0, 0, operation="prctl PR_SET_NO_NEW_PRIVS")
