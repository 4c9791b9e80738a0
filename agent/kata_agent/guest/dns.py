"""The guest's name servers: the host's lines, bound over `/etc/resolv.conf`.

Owns: the file and its mount. Must not know: what the lines say. Follows: Kata's agent 3.21, CreateSandbox step 6: a
guest without that file gets none; the file itself is never written, so outside a guest only this agent's own mount
namespace sees a difference.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence

from kata_linux import mount

RESOLV_CONF = "/etc/resolv.conf"


def install(lines: Sequence[str], directory: str, target: str = RESOLV_CONF) -> None:
    """Write the lines to `directory`/resolv.conf and bind it onto `target`. `remove` undoes it."""
    try:
        kind = os.stat(target).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, "bind name server file: Is a directory", target)
    source = f"{directory}/resolv.conf"
    os.makedirs(directory, mode=0o755, exist_ok=True)
    fd = os.open(source, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with open(fd, "w", encoding="utf-8") as file:
        file.write(render(lines))
    try:
        mount.bind(source, target)
    except OSError:
        os.unlink(source)
        raise


def render(lines: Sequence[str]) -> str:
    """The file's content: the trimmed lines, joined, without a final newline. Pure."""
    return "\n".join(line.strip() for line in lines)


def remove(directory: str, target: str = RESOLV_CONF) -> None:
    """Undo `install`, also where it found no target and did nothing."""
    source = f"{directory}/resolv.conf"
    if not os.path.exists(source):
        return
    # The target may be a link (systemd's is): the mount is where it leads.
    mount.umount(os.path.realpath(target), mount.MNT_DETACH)
    os.unlink(source)
    try:
        os.rmdir(directory)
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
