"""The orderly end: exits reach the agent, it ends, the rest is killed, file systems are written, power off.

Owns: the order and its deadlines (docs/boot.md). Must not know: why it ends. Each step has a bound, so a process or a
device that hangs delays the end and cannot prevent it.
"""

from __future__ import annotations

import os
import select
import time

from kata_linux import mount, mountinfo, power, procfs, signalfd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata_init.journal import Journal
    from kata_init.supervise import Supervisor

GRACE_NS = 2_000_000_000
AGENT_NS = 10_000_000_000
"""An agent's own end takes this long at most: its calls in flight get ten seconds."""
WRITE_OUT_MS = 10_000
_KERNEL_THREADS = 2
_NOTHING_BEHIND = frozenset(
    (
        "proc",
        "sysfs",
        "devtmpfs",
        "tmpfs",
        "devpts",
        "mqueue",
        "cgroup2",
        "rootfs",
        "nsfs",
        "bpf",
        "debugfs",
        "tracefs",
    )
)


def end_processes(supervisor: Supervisor) -> None:
    """End the containers, then the agent, then whatever is left."""
    supervisor.stop_restarting()
    if not supervisor.asked_by_agent:
        for number in (signalfd.SIGTERM, signalfd.SIGKILL):
            supervisor.serve_until_gone(_signal_others(supervisor.agent_pid, number), _after(GRACE_NS))
    supervisor.serve(supervisor.is_idle, _after(GRACE_NS))
    if supervisor.agent_pid:
        if not supervisor.asked_by_agent:
            os.kill(supervisor.agent_pid, signalfd.SIGTERM)
        supervisor.serve(lambda: supervisor.agent_pid == 0, _after(AGENT_NS))
    supervisor.serve_until_gone(_signal_others(0, signalfd.SIGKILL), _after(GRACE_NS))


def switch_off(journal: Journal, *, machine: bool) -> None:
    """Write everything out and end the machine; in a pid namespace of its own PID 1 just returns."""
    if not machine:
        return
    write_out(journal)
    power.reboot(power.POWER_OFF)


def write_out(journal: Journal) -> None:
    """Unmount and sync in a child: a device that hangs must not keep the machine on."""
    pid = os.fork()
    if pid == 0:
        try:
            _unmount_all()
            power.sync()
        finally:
            os._exit(0)
    fd = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    if not poll.poll(WRITE_OUT_MS):
        journal.error(f"file systems are not written out after {WRITE_OUT_MS} ms; switching off all the same")
    os.close(fd)


def plan_unmounts(mounts: list[mountinfo.Mount]) -> list[str]:
    """Mount points that have something behind them which may be unwritten, innermost first."""
    return [
        entry.mount_point
        for entry in reversed(mounts)
        if entry.fstype not in _NOTHING_BEHIND and entry.mount_point != "/"
    ]


def _unmount_all() -> None:
    for path in plan_unmounts(mountinfo.read_mounts()):
        try:
            mount.umount(path, mount.UMOUNT_NOFOLLOW)
        except OSError:
            continue  # in use by something that survives SIGKILL; the sync after this still counts


def _list_others(agent_pid: int) -> list[int]:
    """Processes of user space that are neither PID 1, nor the agent, nor ended."""
    found = []
    for pid in procfs.list_pids():
        if pid in (1, agent_pid, _KERNEL_THREADS):
            continue
        try:
            state = procfs.read_stat(pid)
        except (OSError, ValueError):
            continue  # gone since the list was read
        if state.ppid != _KERNEL_THREADS and state.state not in "ZX":
            found.append(pid)
    return found


def _signal_others(agent_pid: int, number: int) -> list[int]:
    """Signal them all; gives pidfds to see them end by."""
    pidfds = []
    for pid in _list_others(agent_pid):
        try:
            fd = os.pidfd_open(pid)
            pidfds.append(fd)
            os.kill(pid, number)
        except ProcessLookupError:
            continue
    return pidfds


def _after(nanoseconds: int) -> int:
    return time.monotonic_ns() + nanoseconds
