"""From a storage and what is there already to the operations that mount it. Pure.

Follows: Kata's agent 3.21, "The mount helper", "Mount point creation and fs_group", with its faults left out: a bind
with `ro` is read-only, a propagation word beside `bind` counts, a remount is done.
"""

from __future__ import annotations

from kata_agent.errors import InvalidRequest
from kata_agent.mounts import ops, option
from kata_agent.mounts.storage.request import StorageRequest
from kata_linux.record import Record

# Flags of the mount rather than of the file system: all that a bind mount can have of its own.
PER_MOUNT = (
    option.RDONLY
    | option.NOSUID
    | option.NODEV
    | option.NOEXEC
    | option.NOSYMFOLLOW
    | option.NOATIME
    | option.NODIRATIME
    | option.RELATIME
    | option.STRICTATIME
)


class Observation(Record):
    """What matters of the machine before a mount: the file system on top of the mount point, the source's kind."""

    mounted_fstype: str | None = None
    source_is_directory: bool = True


def plan_mount(storage: StorageRequest, seen: Observation) -> tuple[ops.Op, ...]:
    """Operations that mount `storage`; what is mounted already gets its group alone. Raises `InvalidRequest`."""
    check(storage)
    options = option.parse_options(storage.options)
    if options.flags & option.REMOUNT:
        return (*plan_remount(storage.mount_point, options), *plan_group(storage))
    if options.flags & option.BIND:
        return (*plan_bind(storage, options, seen), *plan_group(storage))
    if seen.mounted_fstype == storage.fstype:
        return plan_group(storage)
    mount = ops.MountFilesystem(
        storage.source, storage.mount_point, storage.fstype, options.flags, options.data
    )
    return (
        ops.MakeDirectory(storage.mount_point),
        mount,
        *plan_propagation(storage.mount_point, options),
        *plan_group(storage),
    )


def plan_bind(storage: StorageRequest, options: option.MountOptions, seen: Observation) -> tuple[ops.Op, ...]:
    """A bind mount, then the flags and the propagation that the kernel ignores in the same call."""
    target = storage.mount_point
    recursive = bool(options.flags & option.REC)
    flags = options.flags & PER_MOUNT
    place = ops.MakeDirectory(target) if seen.source_is_directory else ops.MakeFile(target)
    plan: list[ops.Op] = [place, ops.BindMount(storage.source, target, recursive)]
    if flags:
        plan.append(ops.SetFlags(target, flags, recursive))
    return (*plan, *plan_propagation(target, options))


def plan_remount(target: str, options: option.MountOptions) -> tuple[ops.Op, ...]:
    """A change of the options that were named; the flags of the mount that were not named stay as they are."""
    flags = options.flags & ~option.REMOUNT
    plan: tuple[ops.Op, ...] = (ops.Remount(target, flags, options.data),)
    if flags & PER_MOUNT:
        plan += (ops.SetFlags(target, flags & PER_MOUNT),)
    return plan + plan_propagation(target, options)


def plan_propagation(target: str, options: option.MountOptions) -> tuple[ops.Op, ...]:
    """The propagation that a word asked for."""
    if not options.propagation:
        return ()
    kind = options.propagation & ~option.REC
    return (ops.SetPropagation(target, kind, bool(options.propagation & option.REC)),)


def plan_group(storage: StorageRequest) -> tuple[ops.Op, ...]:
    """The change of group that `fs_group` asks for."""
    group = storage.fs_group
    if group is None:
        return ()
    read_only = "ro" in storage.options
    return (ops.ChangeGroup(storage.mount_point, group.group_id, read_only, group.on_mismatch_only),)


def check(storage: StorageRequest) -> None:
    """Refuse what no mount can be made of."""
    if not storage.source:
        raise InvalidRequest("need mount source")
    if not storage.mount_point:
        raise InvalidRequest("need mount destination")
    if not storage.fstype:
        raise InvalidRequest("need mount FS type")
    check_path(storage.mount_point)


def check_path(path: str) -> None:
    """Refuse a mount point that does not say plainly where it is."""
    parts = path.rstrip("/").split("/")
    if not path.startswith("/") or len(parts) < 2 or ".." in parts:
        raise InvalidRequest(f"mount point {path!r}: an absolute path below / without '..' is needed")
