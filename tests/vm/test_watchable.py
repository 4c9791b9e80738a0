"""A ConfigMap of the host in the guest: followed over virtiofs, which itself tells nothing."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from kata_host.spec import BindMount
from kata_host.vm.base import GUEST_SHARE
from kata_protocols.gen import agent_pb2 as pb
from kata_testing.guest import Guest, plan_python

pytestmark = pytest.mark.requires("root", "qemu", "guest-image")

TARGET = f"{GUEST_SHARE}watchable/config"
# Tells each switch of `..data`, as inotify tells it, with what the file holds then.
SCRIPT = """
import os, select
from kata_linux import inotify
fd = inotify.open_inotify()
inotify.add_watch(fd, "/tmp/config", inotify.IN_MOVED_TO)
print(open("/tmp/config/key").read(), flush=True)
while select.select([fd], [], []):
    for event in inotify.read_events(fd)[0]:
        if event.name == "..data":
            print(open("/tmp/config/key").read(), flush=True)
"""


def write_version(folder: Path, number: int) -> None:
    """As kubelet does."""
    new = folder / f"..v{number}"
    new.mkdir()
    (new / "key").write_text(f"version {number}")
    (folder / "..data_tmp").symlink_to(new.name)
    (folder / "..data_tmp").rename(folder / "..data")
    if not (folder / "key").is_symlink():
        (folder / "key").symlink_to("..data/key")
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink() and entry.name != new.name:
            shutil.rmtree(entry)


def test_program_in_a_container_hears_by_inotify_of_what_the_host_writes(guest: Guest) -> None:
    folder = guest.share / "config-map"
    folder.mkdir()
    (guest.share / "watchable").mkdir(exist_ok=True)
    write_version(folder, 1)
    storage = pb.Storage(
        driver="watchable-bind",
        source=f"{GUEST_SHARE}config-map",
        fstype="bind",
        options=["ro"],
        mount_point=TARGET,
    )

    async def run() -> None:
        async with guest.connect() as sandbox:
            spec = plan_python(SCRIPT, binds=[BindMount(TARGET, "/tmp/config", ("rbind", "ro"))])
            async with sandbox.container(spec, storages=[storage]) as container:
                await container.start()
                output = container.read_stdout()
                async with asyncio.timeout(60):
                    said = b""
                    for number in range(1, 4):
                        while f"version {number}\n".encode() not in said:
                            said += await anext(output)
                        await asyncio.to_thread(write_version, folder, number + 1)
                await output.aclose()

    asyncio.run(run())
    assert os.listdir(guest.share / "watchable") == []  # the copy is in the guest's memory
