"""Guest pull against a hub that is a process of its own: what is mounted, what is told, and that nothing is left."""

# ruff: noqa: ASYNC240 - nothing else runs on these loops

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kata_agent import deadline
from kata_agent.errors import AgentError, InvalidRequest, NotFound, NotSupported, TimedOut, WrongState
from kata_agent.hub.client import Hub
from kata_agent.log import Log
from kata_agent.mounts.apply import apply_plan
from kata_agent.mounts.storage import guest_pull
from kata_agent.mounts.storage.journal import Journal
from kata_agent.mounts.storage.registry import Storages
from kata_agent.mounts.storage.request import StorageRequest
from kata_agent.mounts.undo import undo
from kata_agent.worker import Worker
from kata_testing.private_mounts import mount_points, run_in_private_mounts
from kata_testing.repository import ROOT
from kata_testing.wire import run_async

pytestmark = pytest.mark.requires("root")

BASE = "/run/kata-containers"
SOCKET = "/run/cdh/cdh.sock"
BUNDLE = f"{BASE}/c1"

Body = Callable[[Storages, "Peer"], Coroutine[Any, Any, None]]


def image(name: str, **changes: Any) -> StorageRequest:
    option = "image_guest_pull=" + json.dumps({"metadata": {"io.kubernetes.cri.image-name": name}})
    request = StorageRequest(
        "image_guest_pull", name, "overlay", f"{BUNDLE}/rootfs", driver_options=(option,)
    )
    return request._replace(**changes)


class Peer:
    """The hub's process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def read_line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")


@contextmanager
def run_hub() -> Iterator[Peer]:
    process = subprocess.Popen(
        [sys.executable, "-m", "kata_testing.fake_hub", SOCKET],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        peer = Peer(process)
        assert peer.read_line() == "listens"
        yield peer
    finally:
        process.kill()
        process.communicate()


def in_private_mounts(body: Body, *, pull_timeout_s: float = 20.0, journal: Journal | None = None) -> None:
    def run() -> None:
        async def work(peer: Peer) -> None:
            hub = Hub(api_timeout_s=20.0, pull_timeout_s=pull_timeout_s, socket_path=SOCKET)
            log = Log(os.open("/dev/null", os.O_WRONLY))
            await body(Storages(Worker(4), log, journal, find_puller=lambda: hub), peer)

        with run_hub() as peer:
            run_async(work(peer))

    run_in_private_mounts(run)


def assert_nothing_left() -> None:
    assert mount_points(BASE) == []
    assert os.listdir(BUNDLE) == []  # the bundle itself is its container's


def test_image_is_pulled_into_the_bundle_and_its_root_goes_with_the_container() -> None:
    async def body(storages: Storages, peer: Peer) -> None:
        names = await storages.mount("c1", [image("registry/app:1")])
        assert peer.read_line() == f"pull registry/app:1 {BUNDLE}"
        assert names == (f"{BUNDLE}/rootfs",)
        assert mount_points(BASE) == [f"{BUNDLE}/rootfs"]
        assert Path(names[0], "image").read_text() == "pulled"
        await storages.release("c1", names)
        assert_nothing_left()

    in_private_mounts(body)


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("refuse", AgentError, "pull image refuse: the confidential data hub says PERMISSION_DENIED: the image is"),
        ("lie", WrongState, f"{BUNDLE}/rootfs: the image was reported as pulled, but there is no root"),
        ("die", AgentError, "pull image die: the confidential data hub went away"),
        ("babble", AgentError, "pull image babble: the confidential data hub's answer does not parse"),
        ("slow", TimedOut, r"pull image slow: waited 1\.0 s \(agent\.image_pull_timeout\) for the confidential data"),
    ],
)  # fmt: skip
def test_pull_that_fails_is_told_and_leaves_nothing(name: str, error: type[AgentError], text: str) -> None:
    async def body(storages: Storages, peer: Peer) -> None:
        with pytest.raises(error, match=text):
            await storages.mount("c1", [image(name)])
        assert peer.read_line() == f"pull {name} {BUNDLE}"
        assert_nothing_left()

    in_private_mounts(body, pull_timeout_s=1.0 if name == "slow" else 20.0)


def test_caller_s_deadline_bounds_the_pull_and_is_named() -> None:
    async def body(storages: Storages, _: Peer) -> None:
        deadline.DEADLINE.set(asyncio.get_running_loop().time() + 0.4)
        # less by what came before the pull, and by what its undoing needs
        with pytest.raises(
            TimedOut, match=r"pull image slow: waited 0\.[0-3] s \(the caller's deadline\) for"
        ):
            await storages.mount("c1", [image("slow")])
        assert asyncio.get_running_loop().time() < (deadline.DEADLINE.get() or 0) + 10
        assert_nothing_left()

    in_private_mounts(body)


def test_cancelled_pull_leaves_nothing() -> None:
    async def body(storages: Storages, peer: Peer) -> None:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(storages.mount("c1", [image("slow")]))
            await asyncio.to_thread(peer.read_line)
            task.cancel()
        assert task.cancelled()
        assert_nothing_left()
        await storages.mount("c1", [image("again")])

    in_private_mounts(body)


def test_two_containers_pull_at_the_same_time() -> None:
    async def body(storages: Storages, peer: Peer) -> None:
        async with asyncio.TaskGroup() as group:
            slow = group.create_task(storages.mount("c1", [image("slow")]))
            await asyncio.to_thread(peer.read_line)
            names = await storages.mount("c2", [image("app", mount_point=f"{BASE}/c2/rootfs")])
            assert names == (f"{BASE}/c2/rootfs",)
            slow.cancel()

    in_private_mounts(body)


def test_next_agent_undoes_a_pull_that_the_one_before_was_killed_in() -> None:
    folder = "/run/journal"

    async def body(_: Storages, _peer: Peer) -> None:
        log = Log(os.open("/dev/null", os.O_WRONLY))
        hub = Hub(api_timeout_s=20.0, pull_timeout_s=20.0, socket_path=SOCKET)
        before = Storages(Worker(4), log, Journal(folder), find_puller=lambda: hub)
        await before.mount("c1", [image("app")])  # killed before the container's record names it
        after = Storages(Worker(4), log, Journal(folder))
        await after.sweep()
        assert_nothing_left()
        assert os.listdir(folder) == []

    in_private_mounts(body)


def test_without_a_hub_the_pull_says_why_there_is_none() -> None:
    def run() -> None:
        async def work() -> None:
            why = "/usr/local/bin/attestation-agent missing"
            hub = Hub(api_timeout_s=5.0, pull_timeout_s=5.0, why_none=why, socket_path=SOCKET)
            log = Log(os.open("/dev/null", os.O_WRONLY))
            storages = Storages(Worker(4), log, find_puller=lambda: hub)
            with pytest.raises(NotSupported, match=f"pull image app: no confidential data hub: {why}"):
                await storages.mount("c1", [image("app")])
            assert_nothing_left()

        run_async(work())

    run_in_private_mounts(run)


def test_other_calls_of_the_hub() -> None:
    def run() -> None:
        async def work(peer: Peer) -> None:
            hub = Hub(api_timeout_s=20.0, pull_timeout_s=20.0, socket_path=SOCKET)
            assert await hub.unseal("variable X", b"sealed.olleh") == b"hello"
            with pytest.raises(
                AgentError, match=r"unseal variable X: .*INVALID_ARGUMENT: not a secret of this"
            ):
                await hub.unseal("variable X", b"sealed.broken")
            assert await hub.get_resource("default/key/1") == b"of kbs://default/key/1"
            options = {"deviceId": "8:0", "encryptType": "LUKS"}
            assert await hub.secure_mount("BlockDevice", options, (), "/run/store") == "/run/store"
            lines = [peer.read_line() for _ in range(4)]
            assert lines[3] == f"mount BlockDevice {options} /run/store"

        with run_hub() as peer:
            run_async(work(peer))

    run_in_private_mounts(run)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"user": ""}, "only a container's root can be an image"),
        ({"mount_point": "/run/elsewhere"}, r"mount point '/run/elsewhere': /run/kata-containers/c1/rootfs is needed"),
        ({"driver_options": ()}, "no driver option image_guest_pull=JSON"),
        ({"driver_options": ("image_guest_pull=nope",)}, "is no JSON object with metadata"),
        ({"driver_options": ('image_guest_pull=["x"]',)}, "is no JSON object with metadata"),
        ({"driver_options": ("image_guest_pull=" + "[" * 100000,)}, "is no JSON object with metadata"),
        (
            {"driver_options": ('image_guest_pull={"metadata": {"io.kubernetes.cri.container-type": []}}',)},
            "is no JSON object with metadata",
        ),
        ({"source": ""}, "the source is empty"),
    ],
)  # fmt: skip
def test_request_that_is_wrong_is_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidRequest, match=text):
        guest_pull.parse(image("app", user="c1")._replace(**changes))


def pause() -> StorageRequest:
    option = 'image_guest_pull={"metadata":{"io.kubernetes.cri.container-type":"sandbox"}}'
    return image("pause", user="c1", driver_options=(option,))


def test_pause_image_of_the_guest_is_copied_without_a_hub() -> None:
    def run() -> None:
        source = Path("/run/pause/rootfs")
        source.mkdir(parents=True)
        (source / "real").write_text("program")
        (source / "real").chmod(0o755)
        (source / "pause").symlink_to("/real")
        config = {"process": {"args": ["/pause"], "cwd": "/"}}
        (source.parent / "config.json").write_text(json.dumps(config))
        assert guest_pull.parse(pause()).is_pause
        assert guest_pull.read_pause_process("/run/pause") == config["process"]
        target = f"{BUNDLE}/rootfs"
        ops_ = guest_pull.plan_storage_from(pause(), "/run/pause")
        steps = apply_plan(ops_)
        assert Path(target, "pause").read_text() == "program"
        assert os.access(f"{target}/pause", os.X_OK)
        assert undo(steps) == []
        assert not Path(target).exists()

    run_in_private_mounts(run)


@pytest.mark.parametrize(
    ("content", "error", "text"),
    [
        (None, NotFound, "Pause image not present in rootfs"),
        ("{}", AgentError, "has no process with arguments"),
        ('{"process": {"args": []}}', AgentError, "has no process with arguments"),
        ("nope", AgentError, "has no process with arguments"),
    ],
)
def test_pause_image_that_is_none_is_named(
    tmp_path: Path, content: str | None, error: type[AgentError], text: str
) -> None:
    if content is not None:
        (tmp_path / "pause").mkdir()
        (tmp_path / "pause" / "config.json").write_text(content)
    with pytest.raises(error, match=text):
        guest_pull.read_pause_process(str(tmp_path / "pause"))
