"""A storage as the host asks for it. Pure values."""

from __future__ import annotations

from kata_linux.record import Record


class FsGroup(Record):
    """The group that everything in a volume is to belong to."""

    group_id: int
    on_mismatch_only: bool = False


class StorageRequest(Record):
    """One `Storage` of the wire. `user` is the container it is mounted for, empty for the sandbox."""

    driver: str
    source: str
    fstype: str
    mount_point: str
    options: tuple[str, ...] = ()
    driver_options: tuple[str, ...] = ()
    fs_group: FsGroup | None = None
    user: str = ""
