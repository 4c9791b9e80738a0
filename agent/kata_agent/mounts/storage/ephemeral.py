"""`ephemeral`: memory volumes of the pod (tmpfs), and volumes of huge pages (hugetlbfs).

Follows: Kata's agent 3.21, "ephemeral", with its faults left out: every option counts (Kata's agent drops them all, so
/dev/shm is half of the memory and executable), and huge pages are added to the pool and go back with the volume.
"""

from __future__ import annotations

from kata_agent.errors import InvalidRequest
from kata_agent.mounts import ops, option, plan
from kata_agent.mounts.storage.access import parse_gid
from kata_agent.mounts.storage.driver import observe
from kata_agent.mounts.storage.request import StorageRequest

SET_GROUP_ID = 0o2000
_DIGITS = 20  # of 64 bits; Python refuses numbers of thousands of digits in words of its own


def plan_storage(storage: StorageRequest) -> tuple[ops.Op, ...]:
    """Mount the volume, and give its root to the group of `fsgid`."""
    request = drop_fsgid(storage)
    plan.check(request)
    seen = observe(request)
    gid = parse_gid(storage.options)
    access = () if gid is None else (ops.SetAccess(storage.mount_point, gid, add=SET_GROUP_ID),)
    reserve: tuple[ops.Op, ...] = ()
    if storage.fstype == "hugetlbfs" and seen.mounted_fstype != "hugetlbfs":
        page_size, size = parse_sizes(storage.options)
        reserve = (ops.ReservePages(page_size, size // page_size),)
    return (*reserve, *plan.plan_mount(request, seen), *access)


def drop_fsgid(storage: StorageRequest) -> StorageRequest:
    """The storage without the words that are the agent's alone."""
    options = tuple(word for word in storage.options if not word.startswith("fsgid="))
    return storage._replace(options=options)


def parse_sizes(options: tuple[str, ...]) -> tuple[int, int]:
    """Bytes of a page and of the whole volume. Raises `InvalidRequest`. Pure."""
    words = [word for element in options for word in element.split(",")]
    found = []
    for key in ("pagesize", "size"):
        values = option.find_values(words, key)
        if not values or not (values[-1].isascii() and values[-1].isdecimal() and len(values[-1]) <= _DIGITS):
            raise InvalidRequest(f"huge pages: {key}=BYTES is needed among the options {list(options)}")
        found.append(int(values[-1]))
    if found[0] == 0:
        raise InvalidRequest("huge pages: pagesize=0 is no size")
    return found[0], found[1]
