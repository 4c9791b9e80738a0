"""The boot: what a bare kernel needs before an agent can run. Observe, plan (pure), apply.

Owns: the early mounts, the root's move off the initramfs, modules, cgroup delegation, console, host name, limits.
Must not know: sockets, the agent. Follows the table of mounts in docs/boot.md.

A failure of a required mount ends the boot; every other failure is told and lived with. In a pid namespace that is not
the machine's own, nothing that belongs to the machine is touched: the namespaces are made private first.
"""

from __future__ import annotations

import fcntl
import os
import resource
import stat

from kata_init.plan import parse_modules
from kata_linux import cgroupfs, interfaces, modules, mount, mountinfo, namespaces, power
from kata_linux.mount import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RELATIME
from kata_linux.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kata_init.journal import Journal
    from kata_init.plan import Plan

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CGROUP_ROOT = "/sys/fs/cgroup"
OPEN_FILES = 1 << 20
OWN_CGROUP = "kata-agent"
OWN_MEMORY_LOW = 64 << 20
"""More than PID 1 and an agent with fifty containers have: all that they hold."""
_NEW_ROOT = "/.kata-root"
_TIOCSCTTY = 0x540E


class EarlyMount(Record):
    """A row of the table: mounted when nothing of this type is at this path already, or always when `fresh`."""

    fstype: str
    target: str
    flags: int = 0
    data: str | None = None
    required: bool = True
    fresh: bool = False


PROC = EarlyMount("proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
RUN = EarlyMount("tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=755")
CGROUP = EarlyMount(
    "cgroup2", CGROUP_ROOT, MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RELATIME, "nsdelegate", required=False
)
EARLY_MOUNTS = (
    EarlyMount("sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC),
    EarlyMount("devtmpfs", "/dev", MS_NOSUID, "mode=755"),
    EarlyMount("tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777"),  # noqa: S108 - a row of the table
    EarlyMount("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=620,ptmxmode=666"),
    EarlyMount("mqueue", "/dev/mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC, required=False),
    RUN,
    CGROUP,
)
# Where the root is a read-only disk, which has no other place for what nobody keeps.
TMP = EarlyMount("tmpfs", "/tmp", MS_NOSUID | MS_NODEV, "mode=1777", required=False)  # noqa: S108 - a row of the table
# On somebody else's machine: a /run of our own, and nothing that reaches into its /dev or /sys.
NAMESPACE_MOUNTS = (RUN._replace(fresh=True),)
LINKS = {
    "/dev/ptmx": "pts/ptmx",
    "/dev/fd": "/proc/self/fd",
    "/dev/stdin": "/proc/self/fd/0",
    "/dev/stdout": "/proc/self/fd/1",
    "/dev/stderr": "/proc/self/fd/2",
}


def boot(plan: Plan, journal: Journal, *, machine: bool) -> None:
    """Everything after /proc, in order; `machine` is False in a pid namespace of somebody else's machine."""
    if machine:
        attempt(journal, "move the root off the initramfs", leave_rootfs)
    table = EARLY_MOUNTS if machine else NAMESPACE_MOUNTS
    if machine and os.statvfs("/").f_flag & os.ST_RDONLY:
        table = (*table, TMP)
    for entry in plan_mounts(mountinfo.read_mounts(), table):
        apply_mount(entry, journal)
    if machine:
        attempt(journal, "make the links in /dev", make_links)
    else:
        attempt(journal, "show the machine's cgroup2 tree", show_cgroup2)
    journal.open(plan.log_path)
    journal.mark("mounts")
    os.environ["PATH"] = PATH
    attempt(journal, "raise the limit of open files", raise_file_limit)
    attempt(journal, "bring lo up", lambda: interfaces.set_up("lo"))
    attempt(journal, "set the host name", set_hostname)
    if machine:
        for failure in delegate_controllers():
            journal.warning(f"cgroup controllers: {failure}")
        attempt(journal, "have a cgroup of our own", enter_own_cgroup)
        attempt(journal, "have the kernel kill when it has no memory, not panic", never_panic_for_memory)
        attempt(journal, "log without a rate limit", keep_every_log_line)
        attempt(journal, "route Ctrl-Alt-Del", power.route_ctrl_alt_del)
        attempt(journal, "take the console", take_console)
        load_modules(plan.modules_file, journal)
        journal.mark("modules")


def prepare_proc() -> bool:
    """Have a /proc of this pid namespace; gives whether this is the machine's PID 1.

    In a namespace of its own PID 1 first leaves the mounts, host name and ipc of whoever started it alone.
    """
    ensure_standard_streams()
    if not os.path.exists("/proc/self"):
        mount_early(PROC)  # only a kernel that has just started has none
    machine = power.is_initial_pid_namespace()
    if not machine:
        namespaces.unshare(namespaces.CLONE_NEWNS | namespaces.CLONE_NEWUTS | namespaces.CLONE_NEWIPC)
        mount.set_propagation("/", mount.MS_PRIVATE, recursive=True)
        if os.readlink("/proc/self") != str(os.getpid()):
            mount_early(PROC)
    return machine


def plan_mounts(mounts: list[mountinfo.Mount], table: Iterable[EarlyMount]) -> tuple[EarlyMount, ...]:
    """The rows that are missing: what is topmost at the path has another type, or nothing is there."""
    missing = []
    for row in table:
        found = mountinfo.find_mount(mounts, row.target)
        if row.fresh or found is None or found.fstype != row.fstype:
            missing.append(row)
    return tuple(missing)


def apply_mount(entry: EarlyMount, journal: Journal) -> None:
    """Mount a row of the table; OSError only when the row is required."""
    try:
        mount_early(entry)
    except OSError as error:
        if entry.required:
            raise
        journal.warning(f"not mounted: {error}")


def mount_early(entry: EarlyMount) -> None:
    """Make the folder and mount."""
    os.makedirs(entry.target, exist_ok=True)
    mount.mount(entry.fstype, entry.target, entry.fstype, entry.flags, entry.data)


def leave_rootfs() -> None:
    """Hang a bind mount of the initramfs over itself, so that pivot_root works in namespaces made later.

    pivot_root refuses a root that is not mounted on anything, which the initramfs is. No byte is copied.
    """
    mounts = mountinfo.read_mounts()
    root = mountinfo.find_mount(mounts, "/")
    if root is None or root.fstype != "rootfs":
        return
    os.makedirs(_NEW_ROOT, exist_ok=True)
    mount.bind("/", _NEW_ROOT)
    for entry in mounts:
        if entry.parent_id == root.mount_id and entry.mount_point != "/":
            mount.move(entry.mount_point, _NEW_ROOT + entry.mount_point)
    os.chdir(_NEW_ROOT)
    mount.move(".", "/")
    os.chroot(".")
    os.chdir("/")
    os.rmdir(_NEW_ROOT)


def show_cgroup2() -> None:
    """Have the machine's cgroup2 tree at its usual place."""
    from kata_linux.hierarchy import show_hierarchy  # not needed in a machine of our own

    show_hierarchy(CGROUP_ROOT)


def make_links() -> None:
    """The links that programs expect in /dev."""
    for path, target in LINKS.items():
        replace_link(path, target)


def replace_link(path: str, target: str) -> None:
    """Have a symbolic link there; something else of this name is replaced, the right link is left alone."""
    try:
        if os.readlink(path) == target:
            return
    except OSError:
        pass  # missing, or no link
    temporary = f"{path}.new"
    os.symlink(target, temporary)
    os.rename(temporary, path)


def delegate_controllers(root: str = CGROUP_ROOT) -> list[OSError]:
    """Hand every controller of the root group to its children; gives the failures."""
    try:
        return cgroupfs.enable_controllers(root)
    except OSError as error:
        return [error]


def enter_own_cgroup(root: str = CGROUP_ROOT, pid: int = 1) -> None:
    """PID 1, and with it every agent, in a group beside the containers', whose memory is reclaimed last."""
    group = f"{root}/{OWN_CGROUP}"
    os.makedirs(group, exist_ok=True)
    cgroupfs.add_process(group, pid)
    cgroupfs.write_control(group, "memory.low", str(OWN_MEMORY_LOW))


def never_panic_for_memory(path: str = "/proc/sys/vm/panic_on_oom") -> None:
    """0: a guest without memory loses a process, whatever its kernel was built or told to do."""
    with open(path, "r+", encoding="ascii") as file:
        if file.read().strip() != "0":
            file.seek(0)
            file.write("0\n")


def raise_file_limit() -> None:
    """As many open files as the kernel allows, up to a million: the descriptor store needs them."""
    with open("/proc/sys/fs/nr_open", encoding="ascii") as file:
        limit = min(OPEN_FILES, int(file.read()))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    except ValueError:  # how this module tells EPERM: the hard limit stays what it is
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def set_hostname(path: str = "/etc/hostname") -> None:
    """The first word of /etc/hostname, `localhost` without it."""
    import _socket

    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            words = file.read().split()
    except OSError:
        words = []
    _socket.sethostname(words[0] if words else "localhost")


def keep_every_log_line() -> None:
    """Without this the kernel drops what user space logs beyond ten lines in five seconds."""
    with open("/proc/sys/kernel/printk_devkmsg", "w", encoding="ascii") as file:
        file.write("on\n")


def take_console() -> None:
    """A session of our own, with the console as its terminal when it is one."""
    if os.getsid(0) != os.getpid():
        os.setsid()
    if os.isatty(0):
        fcntl.ioctl(0, _TIOCSCTTY, 1)


def load_modules(list_path: str, journal: Journal) -> None:
    """Load what the image lists, in its order; a module that fails is told and the next is tried."""
    try:
        with open(list_path, encoding="utf-8") as file:
            wanted = parse_modules(file.read(), os.uname().release)
    except FileNotFoundError:
        return
    for module in wanted:
        try:
            modules.load_module(module.path, module.parameters)
        except FileExistsError:
            pass  # loaded already, or built in
        except OSError as error:
            journal.warning(f"module not loaded: {error}")


def ensure_standard_streams() -> None:
    """Have something open at 0, 1 and 2: the next file to be opened must not become standard error."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            _open_any(("/dev/console", "/dev/null", "/"))


def attempt(journal: Journal, what: str, step: Callable[[], object]) -> None:
    """Do a step that the boot can live without; its failure is told."""
    try:
        step()
    except OSError as error:
        journal.warning(f"cannot {what}: {error}")


def _open_any(paths: tuple[str, ...]) -> None:
    for path in paths:
        try:
            mode = os.stat(path).st_mode
            os.open(path, os.O_RDWR if stat.S_ISCHR(mode) else os.O_RDONLY)
        except OSError:
            continue
        return
