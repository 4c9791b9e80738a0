"""A warm Quiesce on a real agent: it leaves nothing but what the first container would have had to load."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kata_protocols import services
from kata_protocols.gen import agent_pb2 as agent_pb
from kata_protocols.gen import sandbox_pb2 as pb
from kata_protocols.status import Code, StatusError
from kata_testing import loop
from kata_testing.native import NEEDS, NativeAgent, native_agent, oci_spec
from kata_testing.wire import run_async

pytestmark = pytest.mark.requires(*NEEDS)

SANDBOX = services.SANDBOX_SERVICE


async def ask(agent: NativeAgent, name: str, **fields: object) -> object:
    method = SANDBOX.methods[name]
    return await (await agent.client()).call(method, method.request_type(**fields), timeout_s=60)


async def quiesce(agent: NativeAgent, **more: str) -> dict[str, str]:
    answer = await ask(agent, "Quiesce", warm=True, **more)
    assert isinstance(answer, pb.QuiesceResponse)
    return {step.name: step.note for step in answer.steps}


async def resume(agent: NativeAgent) -> None:
    await ask(agent, "Resumed", random=os.urandom(64))


def imports(agent: NativeAgent) -> list[str]:
    lines = agent.log.read_text(errors="replace").splitlines()
    return [line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")]


def groups(agent: NativeAgent) -> list[str]:
    """Of its rehearsals; the machine's other agents may have some, too."""
    pid = agent.agent_pid()
    ours = f"rehearsal-{os.stat(f'/proc/{pid}/ns/pid').st_ino}-"
    return [name for name in os.listdir(f"/proc/{pid}/root/sys/fs/cgroup") if name.startswith(ours)]


def mounts(agent: NativeAgent) -> str:
    return Path(f"/proc/{agent.agent_pid()}/mountinfo").read_text()


def test_after_a_rehearsal_the_repair_and_the_first_container_import_nothing(tmp_path: Path) -> None:
    async def body() -> None:
        environment = {"PYTHONPROFILEIMPORTTIME": "1"}
        async with native_agent(tmp_path, supervised=True, environment=environment) as agent:
            notes = await quiesce(agent)
            assert list(notes) == ["rehearse", "freeze containers", "sync", "settle memory"]
            assert "kata_agent.containers.launch" in imports(agent)
            before = len(imports(agent))
            await resume(agent)
            await agent.call("CreateSandbox", sandbox_id="s")
            container = await agent.run("cat")
            await agent.exec(container, "x", "true")
            assert await agent.wait(container, "x") == 0
            await agent.call("WriteStdin", container_id=container, data=b"hello")
            assert await agent.read(container) == b"hello"
            await agent.call("CloseStdin", container_id=container)
            assert await agent.wait(container) == 0
            await agent.remove(container)
            assert imports(agent)[before:] == []

    run_async(body())


def test_a_rehearsal_leaves_nothing_but_memory(tmp_path: Path) -> None:
    async def body() -> None:
        async with native_agent(tmp_path, supervised=True) as agent:
            await agent.check()
            await resume(agent)
            root = Path(f"/proc/{agent.agent_pid()}/root")
            fds, table = agent.open_fds(), mounts(agent)
            names = sorted(os.listdir(root / "run/kata-agent"))
            await quiesce(agent)
            await resume(agent)
            assert mounts(agent) == table
            assert sorted(os.listdir(root / "run/kata-agent")) == names
            assert groups(agent) == []
            assert agent.open_fds() == fds
            events = await ask(agent, "PollEvents")
            assert isinstance(events, pb.PollEventsResponse)
            assert {event.kind for event in events.events} == {pb.RESUMED}
            calls = await ask(agent, "LastCalls")
            assert isinstance(calls, pb.LastCallsResponse)
            assert {call.method for call in calls.calls} <= {"Quiesce", "Resumed", "LastCalls"}
            exits = await ask(agent, "ListExits")
            assert isinstance(exits, pb.ListExitsResponse)
            assert not exits.exits

    run_async(body())


@pytest.mark.requires("loop")
def test_after_a_rehearsal_with_a_disk_a_root_on_one_imports_nothing_and_nothing_is_left(
    tmp_path: Path,
) -> None:
    image = loop.make_image(tmp_path / "disk", 8 << 20, "mkfs.ext4", "-q")

    async def body(device: str) -> None:
        environment = {"PYTHONPROFILEIMPORTTIME": "1"}
        async with native_agent(tmp_path, supervised=True, environment=environment) as agent:
            fds, table = agent.open_fds(), mounts(agent)
            notes = await quiesce(agent, disk=device, disk_fstype="ext4")
            assert notes["rehearse"].startswith("rounds of")
            assert "kata_agent.mounts.storage.layers" in imports(agent)
            assert (mounts(agent), len(agent.open_fds()) - len(fds)) == (table, 0)
            before = len(imports(agent))
            await resume(agent)
            await agent.call("CreateSandbox", sandbox_id="s")
            options = ["ro", "noload", "X-kata.multi-layer=true", "X-kata.overlay-lower"]
            layer = agent_pb.Storage(
                driver="blk",
                source=device,
                fstype="ext4",
                mount_point="/run/kata-containers/layered/top",
                options=options,
            )
            spec = oci_spec("true", root=agent.root)
            await agent.call("CreateContainer", container_id="layered", OCI=spec, storages=[layer])
            await agent.call("StartContainer", container_id="layered")
            assert await agent.wait("layered") == 0
            await agent.call("RemoveContainer", container_id="layered")
            assert imports(agent)[before:] == []

    with loop.attach(image) as device:
        run_async(body(device))


def test_beside_a_sandbox_nothing_is_rehearsed(tmp_path: Path) -> None:
    async def body() -> None:
        async with native_agent(tmp_path, supervised=True) as agent:
            await agent.call("CreateSandbox", sandbox_id="s")
            container = await agent.run("sleep", "1000")
            notes = await quiesce(agent)
            assert notes["rehearse"] == "not rehearsed: there is a sandbox already"
            await resume(agent)
            await agent.exec(container, "x", "true")
            assert await agent.wait(container, "x") == 0

    run_async(body())


@pytest.mark.parametrize("limit_ms", [5, 40])
def test_a_rehearsal_that_takes_too_long_is_taken_back(tmp_path: Path, limit_ms: int) -> None:
    async def body() -> None:
        async with native_agent(tmp_path, supervised=True) as agent:
            with pytest.raises(StatusError, match=r"quiesce: not done in 0.0\d+ s; done were no steps"):
                await ask(agent, "Quiesce", warm=True, timeout_ms=limit_ms)
            root = Path(f"/proc/{agent.agent_pid()}/root")
            assert "rehearsal" not in os.listdir(root / "run/kata-agent")
            assert groups(agent) == []
            assert (await quiesce(agent))["rehearse"].startswith("rounds of")
            await resume(agent)

    run_async(body())


def test_what_a_killed_rehearsal_has_left_is_named(tmp_path: Path) -> None:
    async def body() -> None:
        async with native_agent(tmp_path, supervised=True) as agent:
            await resume(agent)
            os.mkdir(f"/proc/{agent.agent_pid()}/root/run/kata-agent/rehearsal")
            with pytest.raises(StatusError, match="an agent was killed while it rehearsed") as caught:
                await ask(agent, "Quiesce", warm=True)
            assert caught.value.code is Code.FAILED_PRECONDITION
            await agent.call("CreateSandbox", sandbox_id="s")  # nothing stands still

    run_async(body())
