"""Ending the machine: sync(2), reboot(2).

Owns: the calls. Must not know: when. In a pid namespace of its own `reboot` ends the namespace, not the
machine.
"""

from __future__ import annotations

import os

from kata_linux._libc import call

POWER_OFF = 0x4321FEDC
RESTART = 0x01234567
HALT = 0xCDEF0123
_CTRL_ALT_DEL_OFF = 0
_INITIAL_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO, part of the kernel's interface


def sync() -> None:
    """Write out every dirty page; may take as long as the slowest device."""
    os.sync()


def reboot(command: int) -> None:
    """POWER_OFF, RESTART or HALT at once, without sync."""
    call("reboot", command, operation="reboot")


def route_ctrl_alt_del() -> None:
    """Make Ctrl-Alt-Del a SIGINT to PID 1 instead of a restart. EINVAL in a pid namespace of its own."""
    call("reboot", _CTRL_ALT_DEL_OFF, operation="reboot")


def is_initial_pid_namespace(*, proc: str = "/proc") -> bool:
    """Whether this process sees the machine's own process ids."""
    return os.readlink(f"{proc}/self/ns/pid") == _INITIAL_PID_NAMESPACE
