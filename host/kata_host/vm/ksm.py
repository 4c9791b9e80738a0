"""Kernel same-page merging of guests' memory: whether this host can do it for a machine, told by name when it cannot.

Owns: the question. Must not know: how a machine is started. KSM merges private anonymous memory only, and the memory
of a machine with a vhost-user device (a shared folder, vsock without the host's vhost-vsock) is shared with that
device's process. Follows: Linux's Documentation/admin-guide/mm/ksm.rst.
"""

from __future__ import annotations

from pathlib import Path

from kata_host.vm.base import VmError

SYSFS = Path("/sys/kernel/mm/ksm")


def check_ksm(vhost_user: tuple[str, ...], sysfs: Path = SYSFS) -> None:
    """Raise VmError unless the host's KSM runs and nothing else maps the machine's memory."""
    try:
        running = (sysfs / "run").read_text().strip()
    except OSError as exc:
        raise VmError(f"--ksm: this host's kernel has no KSM ({exc})") from None
    if running != "1":
        raise VmError(
            f"--ksm: KSM is off on this host ({sysfs}/run is {running}); as root: echo 1 > {sysfs}/run"
        )
    if vhost_user:
        raise VmError(
            f"--ksm: this machine's memory is shared with {' and '.join(vhost_user)}, but KSM merges private memory; "
            "use a host with /dev/vhost-vsock, and no --share"
        )
