"""PID 1's first stage, alone in a small initramfs: mounts the root disk and becomes PID 1 there.

Owns: the order (docs/boot.md). Must not know: what the root does. It loads the modules that the disk needs, waits for
the disk, puts device-mapper's verity over it, mounts it, moves the early mounts there, empties the initramfs, and
executes the root's own kata-init. A failure is the last resort of `main`: the reason on the console, then power off.
"""

from __future__ import annotations

import os
import select
import time

from kata_init import boot
from kata_init.main import main as run_pid1
from kata_init.root_plan import list_needs, parse_modules, plan_root
from kata_linux import inotify, modules, mount, verity
from kata_linux.cmdline import read_cmdline

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from kata_init.journal import Journal
    from kata_init.root_plan import RootPlan

LATE = ("hashlib", "kata_init.shutdown")
"""What is imported when it is needed: the builder packs it, too."""
MODULES_LIST = "/etc/kata-init/root-modules"
NEW_ROOT = "/root"
PID1 = "/init"
STEPS = "KATA_STAGE_STEPS"
"""The environment's word by which the next PID 1 hears of our steps: `step=ns;step=ns`."""
_DEVICE_NAME = "kata-root"
_EARLY = [row for row in boot.EARLY_MOUNTS if row.target in ("/sys", "/dev")]
_MOVED = ("/dev", "/proc", "/sys")


def main() -> NoReturn:
    """The first stage's entry point; never returns."""
    run_pid1(run)


def run(journal: Journal, arguments: list[str]) -> None:
    """Mount the root disk and execute its PID 1 with the same arguments."""
    if not boot.prepare_proc():
        raise RuntimeError("the first stage is for a machine of its own")
    journal.mark("stage start")
    for row in _EARLY:
        boot.mount_early(row)
    journal.open("/dev/kmsg")
    plan = plan_root(read_cmdline())
    load_modules(list_needs(plan), journal)
    wait_for_disk(plan.device, plan.wait_s)
    mount_root(plan, open_disk(plan), journal)
    journal.mark("root mounted")
    leave_initramfs(NEW_ROOT)
    steps = ";".join(f"{name}={stamp}" for name, stamp in journal.steps)
    os.execve(PID1, [PID1, *arguments], {**os.environ, STEPS: steps})  # noqa: S606 - there is no shell


def load_modules(needs: tuple[str, ...], journal: Journal) -> None:
    """Load what these kinds of disks need. One that fails is told: the disk may be there without it."""
    with open(MODULES_LIST, encoding="utf-8") as file:
        lines = parse_modules(file.read())
    for line in lines:
        if line.need not in needs:
            continue
        try:
            modules.load_module(line.path)
        except FileExistsError:
            pass  # loaded for another need
        except OSError as error:
            journal.warning(f"module not loaded: {error}")


def wait_for_disk(device: str, deadline_s: float) -> None:
    """Wait until the node is there. TimeoutError names the disks that are."""
    end = time.monotonic() + deadline_s
    fd = inotify.open_inotify()
    try:
        inotify.add_watch(fd, os.path.dirname(device), inotify.IN_CREATE)
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        while not os.path.exists(device):
            left_ms = int((end - time.monotonic()) * 1000)
            if left_ms <= 0 or not poll.poll(left_ms):
                there = ", ".join(sorted(os.listdir("/sys/class/block"))) or "none"
                raise TimeoutError(
                    f"root disk {device}: not there after {deadline_s:g} s; disks that are: {there}"
                )
            inotify.read_watches(fd)
    finally:
        os.close(fd)


def open_disk(plan: RootPlan) -> str:
    """The device to mount: the disk itself, or one that checks it block by block."""
    if not plan.root_hash:
        return plan.device
    found = verity.read_superblock(plan.device, plan.hash_offset, plan.root_hash)
    if found is None:
        raise ValueError(f"root disk {plan.device}: no verity superblock at {plan.hash_offset}")
    # Later corruption ends the machine at once: what runs on a root that lies can do no good any more.
    return verity.open_device(_DEVICE_NAME, found, plan.device, verity.PANIC)


def mount_root(plan: RootPlan, device: str, journal: Journal) -> None:
    """Mount it, and tell how."""
    flags = mount.MS_RDONLY if plan.read_only else 0
    mount.mount(device, NEW_ROOT, plan.fstype, flags, plan.data or None)
    journal.info(
        f"root: {plan.fstype} on {device} {plan.data}, " + ("verified" if plan.root_hash else "not verified")
    )


def leave_initramfs(new_root: str) -> None:
    """Make `new_root` the root, as switch_root(8) does: its mount covers the initramfs, whose files are freed.

    The mount has a parent then, which is what pivot_root asks for in the namespaces of containers.
    """
    for path in _MOVED:
        mount.move(path, new_root + path)
    old = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.chdir(new_root)
        remove_tree(old, os.fstat(old).st_dev)
        mount.move(".", "/")
        os.chroot(".")
        os.chdir("/")
    finally:
        os.close(old)


def remove_tree(folder_fd: int, device: int) -> None:
    """Remove what lies in this folder and below, on this file system only: an initramfs is memory until it is empty."""
    for name in os.listdir(folder_fd):
        status = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
        if status.st_dev != device:
            continue  # the new root is mounted there
        if (status.st_mode & 0o170000) != 0o040000:
            os.unlink(name, dir_fd=folder_fd)
            continue
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder_fd)
        try:
            remove_tree(inner, device)
        finally:
            os.close(inner)
        try:
            os.rmdir(name, dir_fd=folder_fd)
        except OSError:
            continue  # a mount lies in it
