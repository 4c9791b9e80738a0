"""The sandbox inside the agent: cancelled anywhere, emptied safely, found again after a restart."""

# ruff: noqa: ASYNC240 - nothing else runs on these loops

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from kata_agent.errors import WrongState
from kata_agent.log import Log
from kata_agent.mounts.storage.registry import Storages
from kata_agent.mounts.storage.request import StorageRequest
from kata_agent.processes.exits import ExitBook
from kata_agent.sandbox import USER, Sandbox, SandboxRequest
from kata_agent.worker import Worker
from kata_linux import mount
from kata_testing.private_mounts import mount_points, run_in_private_mounts
from kata_testing.wire import run_async

pytestmark = pytest.mark.requires("root")

BASE = "/run/kata-containers"
RUN = "/run/kata-agent"
Result = TypeVar("Result")

STORAGE = StorageRequest("virtio-fs", "tag", "tmpfs", f"{BASE}/x", ("size=64k",))
REQUEST = SandboxRequest("s1", "guest", ("nameserver 192.0.2.1",), (STORAGE,))


class CountingWorker(Worker):
    """Runs calls at once; the task that makes the call of a chosen number is cancelled after it."""

    def __init__(self, cancel_at: int = 0) -> None:
        super().__init__(1)
        self._cancel_at = cancel_at
        self.calls = 0

    async def run(self, function: Callable[[], Result]) -> Result:
        self.calls += 1
        result = function()
        task = asyncio.current_task()
        if self.calls == self._cancel_at and task is not None:
            task.cancel()
        return result


class FakeAgent:
    """As much of an agent as a sandbox needs."""

    def __init__(self, worker: Worker) -> None:
        self.log = Log(os.open("/dev/null", os.O_WRONLY))
        self.worker = worker
        self.storages = Storages(worker, self.log)
        self.exits = ExitBook()
        self.containers = False
        self.copied = False

    def has_containers(self) -> bool:
        return self.containers

    def has_copied(self) -> bool:
        return self.copied

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """What nobody waits for: it looks for devices that these machines have not."""
        work.close()

    async def load_module(self, name: str) -> None:
        """Whoever has a memory device without a driver needs one; not these machines."""
        raise AssertionError(name)


def make_sandbox(agent: FakeAgent, *, owns_guest: bool = True) -> Sandbox:
    return Sandbox(agent, owns_guest=owns_guest, base=BASE, run=RUN)  # type: ignore[arg-type]  # a fake agent


def in_private_mounts(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    run_in_private_mounts(lambda: run_async(body()))


def test_create_and_close_leave_nothing() -> None:
    async def body() -> None:
        sandbox = make_sandbox(FakeAgent(Worker(2)))
        before = mount_points("/")
        assert not sandbox.exists
        await sandbox.create(REQUEST)
        assert (sandbox.ipc_path, sandbox.uts_path) == ("/run/sandbox-ns/ipc", "/run/sandbox-ns/uts")
        assert f"{BASE}/x" in mount_points("/")
        await sandbox.close()
        assert mount_points("/") == before
        assert sandbox.ipc_path is None
        assert os.listdir(RUN) == []

    in_private_mounts(body)


def test_cancelled_after_any_kernel_call_leaves_nothing() -> None:
    async def body() -> None:
        counter = CountingWorker()
        whole = make_sandbox(FakeAgent(counter))
        await whole.create(REQUEST)
        calls = counter.calls
        await whole.close()
        before = mount_points("/")
        assert calls >= 5
        for number in range(1, calls + 1):
            sandbox = make_sandbox(FakeAgent(CountingWorker(number)))
            task = asyncio.get_running_loop().create_task(hold(sandbox))
            with pytest.raises(asyncio.CancelledError):
                await task
            assert mount_points("/") == before, f"cancelled after call {number}"
            assert os.listdir(RUN) == [], f"cancelled after call {number}"

    async def hold(sandbox: Sandbox) -> None:
        """A handler: what was made before the cancellation reached it is closed by the agent."""
        try:
            await sandbox.create(REQUEST)
            await asyncio.sleep(0)
        finally:
            await sandbox.close()

    in_private_mounts(body)


def test_guest_s_base_is_emptied_but_not_through_a_mount() -> None:
    async def body() -> None:
        Path(f"{BASE}/old/deep").mkdir(parents=True)
        Path(f"{BASE}/share/containers").mkdir(parents=True)
        Path("/run/volume").mkdir()
        Path("/run/volume/data").write_text("kept")
        mount.bind("/run/volume", f"{BASE}/share/containers")
        Path(f"{BASE}/old/deep/file").write_text("stale")
        await make_sandbox(FakeAgent(Worker(2))).create(SandboxRequest("s1"))
        assert os.listdir(BASE) == ["share"]
        assert Path(f"{BASE}/share/containers/data").read_text() == "kept"

    in_private_mounts(body)


@pytest.mark.parametrize(("owns_guest", "copied"), [(False, False), (True, True)])
def test_what_others_or_the_host_put_there_is_not_deleted(*, owns_guest: bool, copied: bool) -> None:
    async def body() -> None:
        Path(f"{BASE}/others").mkdir(parents=True)
        agent = FakeAgent(Worker(2))
        agent.copied = copied
        await make_sandbox(agent, owns_guest=owns_guest).create(SandboxRequest("s1"))
        assert os.listdir(BASE) == ["others"]

    in_private_mounts(body)


def test_sandbox_with_containers_is_not_created_again() -> None:
    async def body() -> None:
        agent = FakeAgent(Worker(2))
        sandbox = make_sandbox(agent)
        await sandbox.create(REQUEST)
        agent.containers = True
        with pytest.raises(WrongState, match="sandbox 's1' has containers"):
            await sandbox.create(SandboxRequest("s2"))
        assert sandbox.sandbox_id == "s1"
        assert f"{BASE}/x" in mount_points(BASE)

    in_private_mounts(body)


def test_two_creates_at_once_are_refused_not_mixed() -> None:
    async def body() -> None:
        sandbox = make_sandbox(FakeAgent(Worker(2)))
        results: list[object] = []

        async def attempt(name: str) -> None:
            try:
                await sandbox.create(SandboxRequest(name))
                results.append(name)
            except WrongState as error:
                results.append(str(error))

        async with asyncio.TaskGroup() as group:
            group.create_task(attempt("one"))
            group.create_task(attempt("two"))
        assert sorted(map(str, results)) == ["one", "the sandbox is being created by another call"]

    in_private_mounts(body)


def test_restarted_agent_goes_on_with_the_same_sandbox() -> None:
    async def body() -> None:
        hooks = Path("/run/hooks/poststart")
        hooks.mkdir(parents=True)
        (hooks / "h").touch(mode=0o755)
        before = mount_points("/")
        await make_sandbox(FakeAgent(Worker(2))).create(REQUEST._replace(guest_hook_path="/run/hooks"))
        agent = FakeAgent(Worker(2))
        again = make_sandbox(agent)
        again.adopt()
        assert (again.sandbox_id, again.ipc_path) == ("s1", "/run/sandbox-ns/ipc")
        assert list(again.guest_hooks) == ["poststart"]
        assert agent.storages.users(f"{BASE}/x") == {USER}
        await again.close()
        assert mount_points("/") == before
        assert os.listdir(RUN) == []

    in_private_mounts(body)


def test_restarted_agent_without_a_record_has_no_sandbox() -> None:
    async def body() -> None:
        sandbox = make_sandbox(FakeAgent(Worker(2)))
        sandbox.adopt()
        assert sandbox.ipc_path is None

    in_private_mounts(body)
