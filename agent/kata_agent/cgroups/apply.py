"""Looking at a container's group and writing a plan to it, all or nothing. Blocks: shrinking memory reclaims.

Owns the order of undoing, and the ancestors of a cpuset. Must not know: OCI.
Follows: Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from kata_agent.cgroups import cpulist
from kata_agent.cgroups.plan import MAX, Facts, Write
from kata_agent.errors import NotSupported
from kata_linux import cgroupfs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

HUGEPAGES = "/sys/kernel/mm/hugepages"
# A kernel without swap has no such file, and no swap to limit.
OPTIONAL = frozenset({"memory.swap.max"})
# Files of one line a device: what takes a device's line away again.
KEYED = {"io.max": "rbps=max wbps=max riops=max wiops=max", "io.weight": "default"}


def observe(group: str) -> Facts:
    """What a plan for this group depends on."""
    with cgroupfs.Files(group) as files:
        return Facts(
            hugepage_sizes=read_hugepage_sizes(),
            memory_max=(files.read("memory.max") or MAX).strip(),
            cpu_max=(files.read("cpu.max") or Facts().cpu_max).strip(),
        )


def read_hugepage_sizes(folder: str = HUGEPAGES) -> tuple[str, ...]:
    """The sizes of huge pages that this kernel has, in the notation of cgroup files."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return ()  # a kernel without huge pages
    sizes = sorted(int(name.removeprefix("hugepages-").removesuffix("kB")) for name in names)
    return tuple(render_size(size) for size in sizes)


def render_size(kib: int) -> str:
    """`64KB`, `2MB`, `1GB`: as the kernel names them."""
    for unit, factor in (("GB", 1 << 20), ("MB", 1 << 10)):
        if kib >= factor:
            return f"{kib // factor}{unit}"
    return f"{kib}KB"


def plan_ancestors(
    current: Iterable[tuple[str, str]], file: str, wanted: str
) -> tuple[tuple[str, Write], ...]:
    """Pure: which ancestors (folder, its list; outermost first) must be given more for `wanted` to take effect.

    An empty list is no restriction of its own.
    """
    numbers = cpulist.parse(file, wanted)
    planned = []
    for folder, text in current:
        own = cpulist.parse(file, text)
        if own and not numbers <= own:
            planned.append((folder, Write(file, cpulist.render(own | numbers))))
    return tuple(planned)


def apply(root: str, path: str, writes: Sequence[Write]) -> None:
    """Do the writes to the group at `path` below `root`; what was written is put back when one fails."""
    group = root + path
    done: list[tuple[str, Write]] = []
    try:
        for write in writes:
            if write.file.startswith("cpuset."):
                done.extend(grow_ancestors(root, path, write))
            done.extend(_write(group, write))
    except BaseException as error:
        for folder, before in reversed(done):
            try:
                cgroupfs.write_control(folder, before.file, before.value)
            except OSError as failure:
                error.add_note(f"and could not put back {before.file}: {failure}")
        raise


def grow_ancestors(root: str, path: str, write: Write) -> list[tuple[str, Write]]:
    """Let the groups above `path` have what this write to a cpuset asks for; gives what undoes it."""
    done = []
    for folder, grown in plan_ancestors(_read_ancestors(root, path, write.file), write.file, write.value):
        done.extend(_write(folder, grown))
    return done


def list_ancestors(root: str, path: str) -> list[str]:
    """The groups between the root, which has no limits, and the one at `path`; outermost first."""
    parts = path.strip("/").split("/")[:-1]
    return [f"{root}/{'/'.join(parts[: count + 1])}" for count in range(len(parts))]


def _read_ancestors(root: str, path: str, file: str) -> list[tuple[str, str]]:
    found = []
    for folder in list_ancestors(root, path):
        if os.path.isdir(folder):  # what is to be made has no limits yet
            with cgroupfs.Files(folder) as files:
                found.append((folder, (files.read(file) or "").strip()))
    return found


def _write(group: str, write: Write) -> list[tuple[str, Write]]:
    """One write; gives what undoes it."""
    try:
        before = _read_before(group, write)
        cgroupfs.write_control(group, write.file, write.value)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        controller = write.file.partition(".")[0]
        if controller not in cgroupfs.read_controllers(group):
            raise NotSupported(f"{write.file}: {group} has no {controller} controller") from None
        if write.file in OPTIONAL:
            return []
        raise NotSupported(f"{write.file}: this kernel has no such file") from None
    return [(group, Write(write.file, value)) for value in before]


def _read_before(group: str, write: Write) -> list[str]:
    lines = cgroupfs.read_control(group, write.file).splitlines()
    if write.file not in KEYED:
        return lines or ["\n"]  # an empty write would not reach the kernel
    device = write.value.split()[0]
    mine = [line for line in lines if line.split()[:1] == [device]]
    return mine or ([f"{device} {KEYED[write.file]}"] if device != "default" else [])
