"""Plans the OCI specification of a container, JSON-shaped: pure, no wire and no machine.

The template is what Kata's own tool ships (spec of the host side, 1.8): docker's default capabilities, a
read-only root, namespaces of its own but for the network and cgroup ones, which Kata's runtime takes out because
the virtual machine is the container's (3.6).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
    "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
)  # fmt: skip

_NAMESPACES = ("pid", "ipc", "uts", "mount")

# destination, type, source, options
_MOUNTS: tuple[tuple[str, str, str, str], ...] = (
    ("/proc", "proc", "proc", "nosuid,noexec,nodev"),
    ("/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
    ("/dev/pts", "devpts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
    ("/dev/shm", "tmpfs", "shm", "nosuid,noexec,nodev,mode=1777,size=65536k"),  # noqa: S108
    ("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
    ("/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro"),
    ("/tmp", "tmpfs", "tmpfs", "nosuid,nodev,mode=1777"),  # noqa: S108
)

_MASKED = ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware")
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sysrq-trigger")


@dataclass(frozen=True)
class ProcessPlan:
    """What runs in the container."""

    args: Sequence[str]
    env: Sequence[str] = ()
    cwd: str = "/"
    terminal: bool = False
    uid: int = 0
    gid: int = 0
    capabilities: Sequence[str] = CAPABILITIES
    no_new_privileges: bool = True


@dataclass(frozen=True)
class BindMount:
    """A path of the guest shown inside the container."""

    source: str
    destination: str
    options: Sequence[str] = ("rbind", "rw")


def plan_process(plan: ProcessPlan) -> dict[str, object]:
    """The `process` object; `PATH` and `TERM` are there unless `env` sets them."""
    given = {pair.split("=", 1)[0] for pair in plan.env}
    env = list(plan.env)
    if "PATH" not in given:
        env.insert(0, DEFAULT_PATH)
    if plan.terminal and "TERM" not in given:
        env.append("TERM=xterm")
    kinds = ("bounding", "effective", "inheritable", "permitted")
    return {
        "terminal": plan.terminal,
        "user": {"uid": plan.uid, "gid": plan.gid},
        "args": list(plan.args),
        "env": env,
        "cwd": plan.cwd,
        "capabilities": {kind: list(plan.capabilities) for kind in kinds},
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
        "noNewPrivileges": plan.no_new_privileges,
    }


def plan_spec(
    plan: ProcessPlan,
    root: str,
    *,
    writable: bool = False,
    binds: Sequence[BindMount] = (),
    masked: bool = True,
) -> dict[str, object]:
    """The whole specification for a root that the guest has at `root`."""
    mounts: list[dict[str, object]] = [
        {"destination": to, "type": kind, "source": source, "options": options.split(",")}
        for to, kind, source, options in _MOUNTS
    ]
    mounts += [
        {
            "destination": bind.destination,
            "type": "bind",
            "source": bind.source,
            "options": list(bind.options),
        }
        for bind in binds
    ]
    linux: dict[str, object] = {
        "namespaces": [{"type": name} for name in _NAMESPACES],
        "resources": {"devices": [{"allow": False, "access": "rwm"}]},
    }
    if masked:
        linux |= {"maskedPaths": list(_MASKED), "readonlyPaths": list(_READ_ONLY)}
    return {
        "ociVersion": "1.1.0",
        "process": plan_process(plan),
        "root": {"path": root, "readonly": not writable},
        "mounts": mounts,
        "linux": linux,
    }
