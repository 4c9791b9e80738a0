"""The cgroup2 hierarchy: where it is mounted (Documentation/admin-guide/cgroup-v2.rst, "Mounting").

Owns: having it at a path. Must not know: the groups in it.
"""

from __future__ import annotations

from kata_linux import mount, mountinfo

FLAGS = mount.MS_NOSUID | mount.MS_NODEV | mount.MS_NOEXEC | mount.MS_RELATIME


def show_hierarchy(path: str) -> None:
    """Have cgroup2 at `path` of this mount namespace, unless that is what is there already.

    A bind mount when the machine has it mounted somewhere: every mount of cgroup2 is the same superblock, so the
    options of a new one (`nsdelegate` or its absence) would change the whole machine's, and it takes 10 ms.
    """
    mounts = mountinfo.read_mounts()
    topmost = mountinfo.find_mount(mounts, path)
    if topmost is not None and topmost.fstype == "cgroup2":
        return
    for entry in mounts:
        if entry.fstype == "cgroup2" and entry.root == "/":
            mount.bind(entry.mount_point, path)
            return
    mount.mount("cgroup2", path, "cgroup2", FLAGS)
