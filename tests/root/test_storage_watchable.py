"""`watchable-bind` with real files: copies that follow their source, whole versions only, and nothing left of them."""

# ruff: noqa: ASYNC240 - nothing else runs on these loops

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from kata_agent.log import Log
from kata_agent.mounts.mirror import snapshot
from kata_agent.mounts.mirror.watcher import Watcher, is_on_other_machine
from kata_agent.mounts.storage.journal import Journal
from kata_agent.mounts.storage.registry import Storages
from kata_agent.mounts.storage.request import StorageRequest
from kata_agent.worker import Worker
from kata_linux import inotify
from kata_testing.private_mounts import mount_points, run_in_private_mounts
from kata_testing.wire import run_async

pytestmark = pytest.mark.requires("root")

SHARE = "/run/kata-containers/shared/containers"
ROOT = f"{SHARE}/watchable"
TARGET = f"{ROOT}/config"
SOURCE = Path(f"{SHARE}/pod-config")
CONFIG = StorageRequest("watchable-bind", str(SOURCE), "bind", TARGET, ("ro",))

LAST = "59"
"""The version with which a source stays."""

Body = Callable[[Storages], Coroutine[Any, Any, None]]


class KubeletMap:
    """A ConfigMap as kubelet writes it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.version = 0
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, **files: str) -> None:
        old = self.folder / f"..v{self.version}"
        self.version += 1
        new = self.folder / f"..v{self.version}"
        new.mkdir()
        for name, text in files.items():
            (new / name).write_text(text)
        (self.folder / "..data_tmp").symlink_to(new.name)
        (self.folder / "..data_tmp").rename(self.folder / "..data")
        for name in files:
            if not (self.folder / name).is_symlink():
                (self.folder / name).symlink_to(f"..data/{name}")
        for entry in self.folder.iterdir():
            if not entry.name.startswith("..") and entry.name not in files:
                entry.unlink()
        if old.exists():
            shutil.rmtree(old)


class Told:
    """What inotify tells a program that has the copy open."""

    def __init__(self, folder: str) -> None:
        self.fd = inotify.open_inotify()
        mask = inotify.IN_CREATE | inotify.IN_MOVED_TO | inotify.IN_DELETE | inotify.IN_CLOSE_WRITE
        inotify.add_watch(self.fd, folder, mask)
        self.events: list[inotify.Event] = []

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Look again with each event, and with nothing else."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(20):
            while not condition():
                ready = loop.create_future()
                loop.add_reader(self.fd, lambda ready=ready: ready.done() or ready.set_result(None))
                await ready
                loop.remove_reader(self.fd)
                self.events += inotify.read_events(self.fd)[0]


def in_private_mounts(body: Body, *, remote: bool = False, journal: Journal | None = None) -> None:
    """`remote`: as if the source were on another machine, looked at every 10 ms."""

    def run() -> None:
        async def work() -> None:
            log, worker = Log(os.open("/dev/null", os.O_WRONLY)), Worker(4)
            async with asyncio.TaskGroup() as group:

                def make_watcher() -> Watcher:
                    return Watcher(
                        group, worker, log, 0.01, (lambda _: True) if remote else is_on_other_machine
                    )

                storages = Storages(worker, log, journal, make_watcher)
                await body(storages)
                await storages.release("c", (ROOT, TARGET))
                await storages.release_kept()
            assert mount_points("/run/kata-containers") == []
            assert not Path(ROOT).exists()

        run_async(work())

    run_in_private_mounts(run)


def read(name: str) -> str:
    return Path(TARGET, name).read_text()


def shows(name: str, text: str) -> bool:
    """Whether the copy begins so; who is put to sleep in the middle of a path may find that version gone."""
    try:
        return read(name).startswith(text)
    except FileNotFoundError:
        return False  # whatever made it go has an event, too


@pytest.mark.parametrize("remote", [False, True])
def test_config_map_follows_its_source_and_readers_hear_of_it(remote: bool) -> None:
    async def body(storages: Storages) -> None:
        source = KubeletMap(SOURCE)
        source.write(a="1", b="one")
        names = await storages.mount("c", [CONFIG])
        assert names == (ROOT, TARGET)
        storages.keep("c")
        assert (read("a"), read("b")) == ("1", "one")
        assert os.readlink(f"{TARGET}/a") == "..data/a"
        told = Told(TARGET)
        source.write(a="2", new="2")
        await told.wait_until(
            lambda: not Path(TARGET, "..v1").exists() and not Path(TARGET, "b").is_symlink()
        )
        assert (read("a"), read("new")) == ("2", "2")
        switched = [event for event in told.events if event.name == "..data"]
        assert [event.mask for event in switched] == [inotify.IN_MOVED_TO]
        assert not [event for event in told.events if "kata" in event.name]
        await storages.release("c", names)
        assert read("a") == "2"  # a later container of the pod may use it

    in_private_mounts(body, remote=remote)


@pytest.mark.parametrize("remote", [False, True])
def test_reader_never_sees_a_missing_or_short_file_while_the_source_is_swapped(remote: bool) -> None:
    text = "x" * 50_000

    async def body(storages: Storages) -> None:
        source = KubeletMap(SOURCE)
        source.write(key=f"0{text}")
        await storages.mount("c", [CONFIG])
        storages.keep("c")
        seen: set[str] = set()
        broken: list[str] = []
        begun, done = threading.Event(), threading.Event()

        def look() -> None:
            version = ""
            while LAST not in seen and not done.is_set():
                try:
                    version = os.readlink(f"{TARGET}/..data")
                    found = Path(TARGET, "key").read_text()
                except OSError as error:
                    # One that was put to sleep in the middle of a path may wake up versions later.
                    if not os.path.islink(f"{TARGET}/..data") or os.readlink(f"{TARGET}/..data") == version:
                        broken.append(str(error))
                        return
                    continue
                if not found.endswith(text):
                    broken.append(f"{len(found)} bytes")
                    return
                seen.add(found.removesuffix(text))
                begun.set()

        reader = threading.Thread(target=look)
        reader.start()
        told = Told(TARGET)
        try:
            await asyncio.to_thread(begun.wait, 20)
            for number in range(1, int(LAST) + 1):
                await asyncio.to_thread(source.write, key=f"{number}{text}")
            await told.wait_until(lambda: shows("key", f"{LAST}x"))
            await asyncio.to_thread(reader.join, 20)
        finally:
            done.set()
            await asyncio.to_thread(reader.join)
        assert not broken
        assert {"0", LAST} <= seen

    in_private_mounts(body, remote=remote)


def test_plain_folder_s_changes_in_place_are_followed_with_modes_and_owners() -> None:
    async def body(storages: Storages) -> None:
        SOURCE.mkdir(parents=True)
        for number in range(15):
            (SOURCE / f"f{number:02}").write_text(str(number))
        os.chown(SOURCE / "f00", 1000, 2000)
        (SOURCE / "f00").chmod(0o640)
        await storages.mount("c", [CONFIG])
        storages.keep("c")
        found = os.stat(f"{TARGET}/f00")
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1000, 2000, 0o640)
        assert found.st_mtime_ns == os.stat(SOURCE / "f00").st_mtime_ns
        told = Told(TARGET)
        (SOURCE / "f01").write_text("changed")
        (SOURCE / "f02").unlink()
        await told.wait_until(lambda: not Path(TARGET, "f02").exists())
        await told.wait_until(lambda: shows("f01", "changed"))
        # Same size, same time, another file.
        times = os.stat(SOURCE / "f03")
        (SOURCE / "new").write_text("9")
        os.utime(SOURCE / "new", ns=(times.st_atime_ns, times.st_mtime_ns))
        (SOURCE / "new").rename(SOURCE / "f03")
        await told.wait_until(lambda: shows("f03", "9"))

    in_private_mounts(body)


def test_single_file_is_followed_through_a_bind_of_it() -> None:
    async def body(storages: Storages) -> None:
        SOURCE.parent.mkdir(parents=True)
        SOURCE.write_text("first, and longer")
        await storages.mount("c", [CONFIG])
        storages.keep("c")
        held = os.open(TARGET, os.O_RDONLY)  # as a container's bind of it
        told = Told(ROOT)
        SOURCE.write_text("second")
        await told.wait_until(lambda: os.pread(held, 100, 0) == b"second")
        os.close(held)

    in_private_mounts(body)


@pytest.mark.parametrize(
    ("name", "files", "size"), [("many", snapshot.MAX_ENTRIES, 1), ("large", 1, snapshot.MAX_BYTES + 1)]
)
def test_what_is_not_small_is_bound(name: str, files: int, size: int) -> None:
    async def body(storages: Storages) -> None:
        SOURCE.mkdir(parents=True)
        for number in range(files):
            (SOURCE / f"f{number}").write_bytes(b"x" * size)
        await storages.mount("c", [CONFIG])
        storages.keep("c")
        assert mount_points(ROOT) == [ROOT, TARGET]
        assert len(os.listdir(TARGET)) == files
        (SOURCE / "later").write_text("at once")
        assert read("later") == "at once"
        with pytest.raises(OSError, match="Read-only"):
            Path(TARGET, "mine").write_text("")

    in_private_mounts(body)


def test_the_largest_that_is_small_is_copied() -> None:
    async def body(storages: Storages) -> None:
        SOURCE.mkdir(parents=True)
        (SOURCE / "f").write_bytes(b"x" * snapshot.MAX_BYTES)
        await storages.mount("c", [CONFIG])
        storages.keep("c")
        assert mount_points(ROOT) == [ROOT]

    in_private_mounts(body)


def test_source_that_grows_too_large_is_bound_for_later_containers() -> None:
    async def body(storages: Storages) -> None:
        source = KubeletMap(SOURCE)
        source.write(a="1")
        await storages.mount("c", [CONFIG])
        storages.keep("c")
        told = Told(ROOT)
        source.write(**{f"key{number}": "2" for number in range(20)})
        # The bind itself tells nothing; the mount table does.
        reader = select_mounts()
        try:
            while mount_points(ROOT) == [ROOT]:
                await asyncio.to_thread(reader.poll, 20_000)
        finally:
            os.close(told.fd)
        assert read("key19") == "2"

    in_private_mounts(body)


def select_mounts() -> Any:
    import select

    poll = select.poll()
    poll.register(os.open("/proc/self/mountinfo", os.O_RDONLY), select.POLLPRI)
    return poll


def test_link_that_a_container_plants_in_its_copy_leads_nowhere() -> None:
    async def body(storages: Storages) -> None:
        source = KubeletMap(SOURCE)
        source.write(a="1")
        await storages.mount("c", [CONFIG])
        storages.keep("c")
        victim = Path("/run/victim")
        victim.mkdir()
        shutil.rmtree(f"{TARGET}/..v1")
        Path(TARGET, "..v1").symlink_to(victim)
        Path(TARGET, "..v2").symlink_to(victim)
        told = Told(TARGET)
        source.write(a="2")
        await told.wait_until(lambda: shows("a", "2"))
        assert os.listdir(victim) == []

    in_private_mounts(body)


def test_source_that_is_not_there_is_named_and_nothing_stays() -> None:
    async def body(storages: Storages) -> None:
        Path(SHARE).mkdir(parents=True)
        with pytest.raises(FileNotFoundError, match=r"pod-config"):
            await storages.mount("c", [CONFIG])
        assert mount_points("/run/kata-containers") == []

    in_private_mounts(body)


def test_next_agent_goes_on_with_the_mirrors_that_are_used(tmp_path: Path) -> None:
    folder = "/run/journal"

    async def body(storages: Storages) -> None:
        source = KubeletMap(SOURCE)
        source.write(a="1")
        log, worker = Log(os.open("/dev/null", os.O_WRONLY)), Worker(4)
        before = Storages(worker, log, Journal(folder))
        names = await before.mount("c", [CONFIG])
        before.keep("c")  # killed here
        source.write(a="2")
        storages.adopt("c", names)
        await storages.sweep()
        told = Told(TARGET)
        await told.wait_until(lambda: shows("a", "2"))
        source.write(a="3")
        await told.wait_until(lambda: shows("a", "3"))
        await storages.release("c", names)

    in_private_mounts(body, journal=Journal(folder))
