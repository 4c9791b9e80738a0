"""The wire's Storage message as a value of the domain. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from kata_agent.mounts.storage.request import FsGroup, StorageRequest

DMVERITY = "dmverity"

if TYPE_CHECKING:
    from kata_protocols.gen import agent_pb2


def decode_storages(messages: Iterable[agent_pb2.Storage]) -> tuple[StorageRequest, ...]:
    """Storages in the order in which they are to be mounted."""
    return tuple(_decode(message) for message in messages)


def _decode(message: agent_pb2.Storage) -> StorageRequest:
    group = None
    if message.HasField("fs_group"):
        group = FsGroup(message.fs_group.group_id, on_mismatch_only=message.fs_group.group_change_policy == 1)
    request = StorageRequest(
        driver=message.driver,
        driver_options=tuple(message.driver_options),
        source=message.source,
        fstype=message.fstype,
        options=tuple(message.options),
        mount_point=message.mount_point,
        fs_group=group,
    )
    if request.driver == DMVERITY:
        from kata_agent.mounts.storage import verified

        return verified.from_volume(request)
    return request
