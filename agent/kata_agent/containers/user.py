"""Users by name: the numbers that a name stands for in a container's own /etc/passwd and /etc/group.

Owns reading those two files without ever leaving the container's root, and their meaning. Must not know processes.
Follows: passwd(5), group(5); a user alone brings its own group and its memberships, as with `docker run --user`.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

from kata_agent.errors import InvalidRequest, NotFound
from kata_linux import openat2
from kata_linux.record import Record

if TYPE_CHECKING:
    from collections.abc import Sequence

KEY = "userNames"
"""Where a process has them on its way through the agent; crun never sees it."""

LIMIT_BYTES = 1 << 20
MAX_ID = (1 << 32) - 2


class Names(Record):
    """What a host asks for in words; each is a name or a number, empty for "not said"."""

    user: str
    group: str = ""
    additional: Sequence[str] = ()

    def __bool__(self) -> bool:
        return bool(self.user or self.group or self.additional)


def resolve(names: Names, given: dict[str, Any], root: str) -> dict[str, Any]:
    """The OCI user with the numbers of these names in the tree at `root`; what is not named stays as given.

    Raises NotFound for a name that the files do not have, InvalidRequest for a number that is none.
    """
    passwd = _read_lines(root, "etc/passwd")
    group = _read_lines(root, "etc/group")
    planned = dict(given)
    if names.user:
        entry = _find_user(names.user, passwd)
        planned["uid"] = int(entry[2])
        if not names.group:
            planned["gid"] = int(entry[3])
            planned["additionalGids"] = _join(given, _memberships(entry[0], group))
    if names.group:
        planned["gid"] = _find_group(names.group, group)
    if names.additional:
        planned["additionalGids"] = _join(planned, [_find_group(name, group) for name in names.additional])
    return planned


def _find_user(name: str, passwd: list[list[str]]) -> list[str]:
    """The passwd entry: by name, then by number; a number without an entry has group 0."""
    for entry in passwd:
        if len(entry) > 3 and entry[0] == name and entry[2].isdecimal() and entry[3].isdecimal():
            return entry
    if not name.isdecimal():
        raise NotFound(f"user {name!r} is not in the container's /etc/passwd")
    number = _check_number("user", name)
    for entry in passwd:
        if len(entry) > 3 and entry[2] == str(number) and entry[3].isdecimal():
            return entry
    return ["", "x", str(number), "0"]


def _find_group(name: str, group: list[list[str]]) -> int:
    for entry in group:
        if len(entry) > 2 and entry[0] == name and entry[2].isdecimal():
            return _check_number("group", entry[2])
    if not name.isdecimal():
        raise NotFound(f"group {name!r} is not in the container's /etc/group")
    return _check_number("group", name)


def _memberships(user: str, group: list[list[str]]) -> list[int]:
    return [
        int(entry[2])
        for entry in group
        if len(entry) > 3 and user and user in entry[3].split(",") and entry[2].isdecimal()
    ]


def _join(given: dict[str, Any], more: list[int]) -> list[int]:
    return list(dict.fromkeys([*(given.get("additionalGids") or []), *more]))


def _check_number(what: str, text: str) -> int:
    if int(text) > MAX_ID:
        raise InvalidRequest(f"{what} {text} is beyond {MAX_ID}")
    return int(text)


def _read_lines(root: str, path: str) -> list[list[str]]:
    """The entries of a file below `root`; links in there lead to places in there. A file that is not there has none."""
    folder = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    resolve_ = openat2.RESOLVE_IN_ROOT | openat2.RESOLVE_NO_MAGICLINKS
    try:
        # a pipe that somebody put there must not keep us waiting
        fd = openat2.openat2(folder, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY, resolve=resolve_)
    except (FileNotFoundError, NotADirectoryError):
        return []
    finally:
        os.close(folder)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise InvalidRequest(f"the container's /{path} is not a file")
        data = os.read(fd, LIMIT_BYTES + 1)
    finally:
        os.close(fd)
    if len(data) > LIMIT_BYTES:
        raise InvalidRequest(f"the container's /{path} has more than {LIMIT_BYTES} bytes")
    return [line.split(":") for line in data.decode(errors="surrogateescape").splitlines()]
