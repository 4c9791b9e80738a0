"""Storages with real mounts: one mount for all users, undone after the last one, also when cancelled anywhere."""

# ruff: noqa: ASYNC240 - nothing else runs on these loops

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from kata_agent.errors import AlreadyExists, NotSupported
from kata_agent.log import Log
from kata_agent.mounts import ops
from kata_agent.mounts.apply import RollbackError, apply_plan, undo
from kata_agent.mounts.storage.registry import Storages
from kata_agent.mounts.storage.request import StorageRequest
from kata_agent.worker import Worker
from kata_linux import mount
from kata_testing.private_mounts import mount_points, run_in_private_mounts
from kata_testing.wire import run_async

pytestmark = pytest.mark.requires("root")

BASE = "/run/kata-containers"
Result = TypeVar("Result")


def tmpfs(name: str, **changes: Any) -> StorageRequest:
    """A virtio-fs storage of another file system type, which any kernel has."""
    request = StorageRequest("virtio-fs", "tag", "tmpfs", f"{BASE}/{name}", ("size=64k",))
    return request._replace(**changes)


def in_private_mounts(
    body: Callable[[Storages], Coroutine[Any, Any, None]], worker: Worker | None = None
) -> None:
    def run() -> None:
        async def work() -> None:
            await body(Storages(worker or Worker(4), Log(os.open("/dev/null", os.O_WRONLY))))

        run_async(work())

    run_in_private_mounts(run)


class CancellingWorker(Worker):
    """Runs calls at once; the task is cancelled before or after the call of a chosen number."""

    def __init__(self, number: int, *, before: bool) -> None:
        super().__init__(1)
        self._number = number
        self._before = before
        self.calls = 0

    async def run(self, function: Callable[[], Result]) -> Result:
        task = asyncio.current_task()
        assert task is not None
        self.calls += 1
        if self.calls == self._number and self._before:
            task.cancel()
            await asyncio.sleep(0)
        result = function()
        if self.calls == self._number:
            task.cancel()
        return result


def test_storage_is_mounted_once_and_unmounted_after_its_last_user() -> None:
    async def body(storages: Storages) -> None:
        (name,) = await storages.mount("a", [tmpfs("x/y")])
        assert await storages.mount("b", [tmpfs("x/y")]) == (name,)
        assert mount_points(BASE) == [f"{BASE}/x/y"]
        assert storages.users(name) == {"a", "b"}
        await storages.release("a", (name,))
        assert mount_points(BASE) == [f"{BASE}/x/y"]
        await storages.release("b", (name,))
        assert mount_points(BASE) == []
        assert not Path(f"{BASE}/x").exists()

    in_private_mounts(body)


def test_release_of_what_one_does_not_use_changes_nothing() -> None:
    async def body(storages: Storages) -> None:
        names = await storages.mount("a", [tmpfs("x")])
        await storages.release("b", names)
        await storages.release("a", ("/nowhere",))
        assert mount_points(BASE) == [f"{BASE}/x"]

    in_private_mounts(body)


def test_second_user_waits_for_the_first_ones_mount_and_holds_a_reference() -> None:
    async def body(storages: Storages) -> None:
        async with asyncio.TaskGroup() as group:
            for user in ("a", "b", "c"):
                group.create_task(storages.mount(user, [tmpfs("x")]))
        assert mount_points(BASE) == [f"{BASE}/x"]
        await storages.release("a", (f"{BASE}/x",))
        await storages.release("b", (f"{BASE}/x",))
        assert mount_points(BASE) == [f"{BASE}/x"]

    in_private_mounts(body)


def test_everyone_who_waits_for_a_mount_that_fails_is_told_and_may_try_again() -> None:
    async def body(storages: Storages) -> None:
        bad = tmpfs("x", fstype="no-such-file-system")
        results = []

        async def attempt(user: str) -> None:
            try:
                await storages.mount(user, [bad])
            except OSError as error:
                results.append(str(error))

        async with asyncio.TaskGroup() as group:
            for user in ("a", "b"):
                group.create_task(attempt(user))
        assert len(results) == 2
        assert all("no-such-file-system" in text for text in results)
        assert not Path(f"{BASE}/x").exists()
        await storages.mount("a", [tmpfs("x")])

    in_private_mounts(body)


def test_new_user_waits_until_the_last_one_s_unmount_is_over() -> None:
    async def body(storages: Storages) -> None:
        names = await storages.mount("a", [tmpfs("x")])
        for _ in range(20):
            async with asyncio.TaskGroup() as group:
                group.create_task(storages.release("a", names))
                await asyncio.sleep(0)
                group.create_task(storages.mount("a", [tmpfs("x")]))
            assert mount_points(BASE) == [f"{BASE}/x"]

    in_private_mounts(body)


def test_failure_in_the_middle_undoes_the_storages_before_it() -> None:
    async def body(storages: Storages) -> None:
        with pytest.raises(NotSupported, match="Failed to find the storage handler nonsense"):
            await storages.mount("a", [tmpfs("x"), tmpfs("x/inside"), tmpfs("z", driver="nonsense")])
        assert mount_points(BASE) == []
        assert not Path(f"{BASE}/x").exists()

    in_private_mounts(body)


def test_stacked_storages_are_unmounted_in_reverse_order() -> None:
    async def body(storages: Storages) -> None:
        names = await storages.mount("a", [tmpfs("x"), tmpfs("x/inside")])
        assert mount_points(BASE) == [f"{BASE}/x", f"{BASE}/x/inside"]
        await storages.release("a", names)
        assert mount_points(BASE) == []

    in_private_mounts(body)


def test_other_source_at_a_mount_point_in_use_is_refused() -> None:
    async def body(storages: Storages) -> None:
        await storages.mount("a", [tmpfs("x")])
        with pytest.raises(AlreadyExists, match="already used for source 'tag'"):
            await storages.mount("b", [tmpfs("x", source="other")])
        assert storages.users(f"{BASE}/x") == {"a"}

    in_private_mounts(body)


def test_shared_folder_that_is_mounted_already_is_a_success_and_stays() -> None:
    async def body(storages: Storages) -> None:
        os.makedirs(f"{BASE}/shared/containers")
        mount.mount("early", f"{BASE}/shared/containers", "tmpfs")
        share = StorageRequest("virtio-fs", "kataShared", "virtiofs", f"{BASE}/shared/containers/")
        names = await storages.mount("", [share])
        await storages.release("", names)
        assert mount_points(BASE) == [f"{BASE}/shared/containers"]

    in_private_mounts(body)


def test_adopted_storage_goes_with_its_last_user() -> None:
    async def body(storages: Storages) -> None:
        os.makedirs(f"{BASE}/x")
        mount.mount("early", f"{BASE}/x", "tmpfs")
        storages.adopt("a", (f"{BASE}/x",))
        storages.adopt("b", (f"{BASE}/x",))
        await storages.release("a", (f"{BASE}/x",))
        assert mount_points(BASE) == [f"{BASE}/x"]
        await storages.release("b", (f"{BASE}/x",))
        assert mount_points(BASE) == []

    in_private_mounts(body)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_cancelled_anywhere_leaves_no_mount_and_no_folder(number: int, *, before: bool) -> None:
    worker = CancellingWorker(number, before=before)

    async def body(storages: Storages) -> None:
        task = asyncio.get_running_loop().create_task(holder(storages))
        with pytest.raises(asyncio.CancelledError):
            await task
        assert worker.calls >= number
        assert mount_points(BASE) == []
        assert not Path(f"{BASE}/a").exists()

    async def holder(storages: Storages) -> None:
        """What a handler does: it owns what `mount` gave it."""
        names = await storages.mount("user", [tmpfs("a/1"), tmpfs("a/2"), tmpfs("a/3")])
        try:
            await asyncio.sleep(0)
        finally:
            await storages.release("user", names)

    in_private_mounts(body, worker)


def test_failed_plan_is_undone_and_tells_what_failed() -> None:
    def body() -> None:
        plan = (
            ops.MakeDirectory(f"{BASE}/p/q"),
            ops.MountFilesystem("t", f"{BASE}/p/q", "tmpfs"),
            ops.BindMount("/nowhere", f"{BASE}/p/q"),
        )
        with pytest.raises(FileNotFoundError, match="bind mount"):
            apply_plan(plan)
        assert mount_points(BASE) == []
        assert not Path(f"{BASE}/p").exists()

    run_in_private_mounts(body)


def test_failed_undo_is_told_with_the_failure() -> None:
    def body() -> None:
        os.makedirs(BASE)
        Path(f"{BASE}/source").mkdir()
        plan = (
            ops.MakeDirectory(f"{BASE}/p"),
            ops.BindMount(f"{BASE}/source", f"{BASE}/p"),
            ops.BindMount(f"{BASE}/p", f"{BASE}/p/gone"),
        )
        Path(f"{BASE}/p").mkdir()
        mount.mount("cover", f"{BASE}/p", "tmpfs")
        steps = apply_plan(plan[:2])
        mount.umount(f"{BASE}/p", mount.MNT_DETACH)
        mount.umount(f"{BASE}/p", mount.MNT_DETACH)
        assert undo(steps) == [f"umount {BASE}/p: EINVAL: Invalid argument"]
        assert "undoing it failed: a; b" in str(RollbackError(ValueError("x"), ["a", "b"]))

    run_in_private_mounts(body)


@pytest.mark.parametrize("layers", ["/no/such", ":".join(f"/no/such/{number}" for number in range(40))])
def test_refused_layers_are_told_in_the_words_of_the_kernel_s_log(layers: str) -> None:
    def body() -> None:
        place = f"{BASE}/p"
        words = r"mount overlay.*overlayfs: failed to resolve '/no/such.*'.*: No such file or directory"
        with pytest.raises(OSError, match=words) as caught:
            apply_plan(
                (
                    ops.MakeDirectory(place),
                    ops.MountFilesystem("overlay", place, "overlay", 0, f"lowerdir={layers}"),
                )
            )
        assert caught.value.filename == place

    run_in_private_mounts(body)


def test_error_of_a_mount_names_the_place_and_not_a_descriptor() -> None:
    def body() -> None:
        with pytest.raises(OSError, match="mount no-such") as caught:
            apply_plan((ops.MakeDirectory(f"{BASE}/p"), ops.MountFilesystem("s", f"{BASE}/p", "no-such")))
        assert caught.value.filename == f"{BASE}/p"

    run_in_private_mounts(body)
