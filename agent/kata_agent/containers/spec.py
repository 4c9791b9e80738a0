"""From the OCI dictionary of a request to the one crun gets. Pure: no file, no kernel, no wire.

Owns defaults for what the request leaves out, validation, namespaces, and what cgroup v2 cannot take. What
cannot be done is refused by name. Follows: Kata's agent, container internals; the OCI runtime specification.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from kata_agent.containers import process_spec, resources, sysctl
from kata_agent.errors import InvalidRequest, NotSupported, WrongState

Spec = dict[str, Any]

# What an absent `linux` stands for.
DEFAULT_LINUX: Spec = {
    "namespaces": [{"type": name} for name in ("pid", "ipc", "uts", "mount", "cgroup")],
    "resources": {},
    "maskedPaths": [
        *(f"/proc/{name}" for name in ("acpi", "asound", "kcore", "keys", "latency_stats", "timer_list")),
        *("/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"),
    ],
    "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
}
# createRuntime hooks never run in Kata's guests.
HOOK_KINDS = ("prestart", "createContainer", "startContainer", "poststart", "poststop")
# Parts that are accepted and ignored.
IGNORED = ("solaris", "windows", "vm", "zos")
IGNORED_LINUX = ("personality",)
PROC_BIND_TARGETS = ("cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "net/dev")
# A sysctl is allowed when the container has a namespace of this kind of its own or shares the sandbox's.
SYSCTL_NAMESPACES = {
    **{
        f"kernel.{name}": "ipc"
        for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")
    },
    "kernel.domainname": "uts",
}


class Shared(NamedTuple):
    """What a container shares with its sandbox: namespace paths (None: its own), the guest's hooks."""

    ipc_path: str | None = None
    uts_path: str | None = None
    pid_path: str | None = None
    guest_hooks: dict[str, list[dict[str, object]]] = {}  # noqa: RUF012 - a tuple's default, never changed


def rewrite(
    spec: Spec, rootfs: str, cgroup: str, shared: Shared, hugepage_sizes: tuple[str, ...] = ()
) -> Spec:
    """The spec that crun gets: root at `rootfs`, in the cgroup of this path. Raises what `validate` raises."""
    linux: Spec = dict(spec.get("linux") or DEFAULT_LINUX)
    namespaces = plan_namespaces(linux.get("namespaces") or [], shared)
    validate(spec, linux, {entry["type"] for entry in namespaces})
    root = spec.get("root") or {"readonly": True}
    own_sysctls, _ = sysctl.split(linux)
    linux.update(
        sysctl=own_sysctls,
        namespaces=namespaces,
        cgroupsPath=cgroup,
        resources=resources.rewrite(linux.get("resources") or {}, hugepage_sizes),
    )
    result: Spec = {key: value for key, value in spec.items() if key not in IGNORED}
    result.update(
        ociVersion=spec.get("ociVersion") or "1.0.2",
        process=process_spec.complete(spec.get("process") or process_spec.DEFAULT),
        root={"path": rootfs, "readonly": bool(root.get("readonly"))},
        mounts=[_strip_empty(mount) for mount in spec.get("mounts") or []],
        linux={key: value for key, value in linux.items() if key not in IGNORED_LINUX and value != ""},
        hooks=plan_hooks(spec.get("hooks") or {}, shared.guest_hooks),
        # annotations of this prefix would command crun itself
        annotations={
            k: v for k, v in (spec.get("annotations") or {}).items() if not k.startswith("run.oci.")
        },
    )
    if shared.uts_path is not None or not result.get("hostname"):
        result.pop("hostname", None)  # the sandbox's name, not this container's
    return result


def plan_namespaces(entries: list[Spec], shared: Shared) -> list[Spec]:
    """The namespaces of the container; there is always a pid and a cgroup one, and never a network of its own.

    Paths that hosts send for ipc and uts are theirs, not the guest's; of two entries of a kind the first decides.
    """
    planned: dict[str, Spec] = {}
    paths = {"ipc": shared.ipc_path, "uts": shared.uts_path, "pid": shared.pid_path}
    for entry in entries:
        kind = entry["type"]  # one of the specification's words (`services.oci_word`)
        if kind == "time":
            raise NotSupported("time namespaces are not supported: leave the entry out")
        path = paths[kind] if kind in ("ipc", "uts") else entry.get("path")
        planned.setdefault(kind, {"type": kind, "path": path} if path else {"type": kind})
    if "pid" not in planned:
        planned["pid"] = {"type": "pid", "path": shared.pid_path} if shared.pid_path else {"type": "pid"}
    planned.setdefault("cgroup", {"type": "cgroup"})
    if not planned.get("network", {}).get("path"):
        planned.pop("network", None)
    return list(planned.values())


def plan_pid_path(*, sandbox_pidns: bool, recorded: str | None, others: bool) -> str | None:
    """The pid namespace to join: the sandbox's when asked for; its first container makes it."""
    if not sandbox_pidns:
        return None
    if recorded is None and others:
        raise WrongState(
            "sandbox_pidns is asked for, but the sandbox's containers have no shared pid namespace"
        )
    return recorded


def plan_hooks(hooks: Spec, guest_hooks: dict[str, list[dict[str, object]]]) -> Spec:
    """The container's own hooks, then the guest's, without the kinds that never run."""
    merged = {kind: [*(hooks.get(kind) or []), *guest_hooks.get(kind, [])] for kind in HOOK_KINDS}
    return {kind: listed for kind, listed in merged.items() if listed}


def validate(spec: Spec, linux: Spec, kinds: set[str]) -> None:
    """Refuse, by name, what contradicts itself or must not be: before anything is made."""
    if spec.get("hostname") and "uts" not in kinds:
        raise InvalidRequest("hostname is set, but the spec has no uts namespace")
    for key in ("maskedPaths", "readonlyPaths"):
        if linux.get(key) and "mount" not in kinds:
            raise InvalidRequest(f"{key} are given, but the spec has no mount namespace")
        for path in linux.get(key) or []:
            _check_absolute(key, path)
    if any((linux.get("intelRdt") or {}).values()):
        raise NotSupported("intelRdt: cache allocation is the host's affair, leave it out")
    _validate_user_namespace(linux, kinds)
    for name in linux.get("sysctl") or {}:
        _validate_sysctl(name, kinds)
    for mount in spec.get("mounts") or []:
        _validate_mount(mount)
    for device in linux.get("devices") or []:
        _validate_device(device)
    if "mount" not in kinds:
        # Its root would be a chroot in the agent's own mount namespace, which it could leave.
        raise InvalidRequest("the spec has no mount namespace: add one to linux.namespaces")


def _validate_user_namespace(linux: Spec, kinds: set[str]) -> None:
    sizes = {
        key: sum(entry.get("size", 0) for entry in linux.get(key) or [])
        for key in ("uidMappings", "gidMappings")
    }
    if "user" in kinds and not all(sizes.values()):
        raise InvalidRequest("a user namespace needs at least one uid and one gid mapping of size > 0")
    if "user" not in kinds and any(linux.get(key) for key in sizes):
        raise InvalidRequest("uid or gid mappings are given, but the spec has no user namespace")


def _validate_sysctl(name: str, kinds: set[str]) -> None:
    if name.startswith("net."):
        return
    kind = "ipc" if name.startswith("fs.mqueue.") else SYSCTL_NAMESPACES.get(name)
    if kind is None:
        raise InvalidRequest(f"sysctl {name} is not one that a container may set")
    if kind not in kinds:
        raise InvalidRequest(f"sysctl {name} needs an {kind} namespace")


def _validate_mount(mount: Spec) -> None:
    target = str(mount.get("destination", ""))
    _check_absolute("mount destination", target)
    is_bind = mount.get("type") == "bind" or not {"bind", "rbind"}.isdisjoint(mount.get("options") or ())
    if is_bind and target.startswith("/proc/") and target.removeprefix("/proc/") not in PROC_BIND_TARGETS:
        raise InvalidRequest(f"mount destination {target}: nothing may be bound there")


def _validate_device(device: Spec) -> None:
    parts = [part for part in str(device.get("path", "")).split("/") if part]
    if (
        not str(device.get("path", "")).startswith("/")
        or parts[:1] != ["dev"]
        or len(parts) < 2
        or ".." in parts
    ):
        raise InvalidRequest(f"device path {device.get('path')!r} is not below /dev")
    if device.get("type") not in ("c", "b", "p", "u"):
        raise InvalidRequest(
            f"device {device.get('path')}: type {device.get('type')!r} is none of c, b, p, u"
        )


def _check_absolute(what: str, path: str) -> None:
    if not path.startswith("/") or ".." in path.split("/"):
        raise InvalidRequest(f"{what} {path!r} must be absolute and without `..`")


def _strip_empty(mount: Spec) -> Spec:
    return {key: value for key, value in mount.items() if value not in ("", None, [])}
