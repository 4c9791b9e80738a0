"""Hooks of every kind on the real agent: when they run, with what, their limits, and that none fails a call."""

from __future__ import annotations

import asyncio
import json
import os
import select
import time

import pytest

from kata_protocols.gen import oci_pb2
from kata_protocols.status import StatusError
from kata_testing.native import NEEDS, NativeAgent, busybox_root, fresh_id, native_agent, oci_spec
from kata_testing.wire import run_async

pytestmark = pytest.mark.requires(*NEEDS)

DEADLINE_S = 15.0


def hook(script: str, **fields: object) -> oci_pb2.Hook:
    return oci_pb2.Hook(Path="/bin/sh", Args=["sh", "-c", script], **fields)


async def make(agent: NativeAgent, *args: str, container_id: str = "", **hooks: list[oci_pb2.Hook]) -> str:
    """Create a container with these hooks; gives its id."""
    spec = oci_spec(*(args or ("true",)))
    spec.Hooks.CopyFrom(oci_pb2.Hooks(**hooks))
    spec.Annotations["note"] = "kept"
    container = container_id or fresh_id("hooks")
    await agent.call("CreateContainer", container_id=container, OCI=spec)
    agent.made.append(container)
    return container


async def live(agent: NativeAgent, container: str) -> int:
    await agent.call("StartContainer", container_id=container)
    status = await agent.wait(container)
    await agent.remove(container)
    return status


def test_each_kind_runs_once_in_its_order_and_create_runtime_never(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            log = tmp_path / "order"
            kinds = ("Prestart", "CreateRuntime", "CreateContainer", "Poststart", "Poststop")
            hooks = {kind: [hook(f"echo {kind} >> {log}")] for kind in kinds}
            inside = oci_pb2.Hook(Path="/bin/sh", Args=["sh", "-c", "echo inside; exit 0"])
            container = await make(agent, "echo", "program", StartContainer=[inside], **hooks)
            assert log.read_text().split() == ["Prestart", "CreateContainer"]
            await agent.call("StartContainer", container_id=container)
            assert log.read_text().split()[2:] == ["Poststart"]
            assert await agent.wait(container) == 0
            assert "program\n" in (await agent.read_all(container))[0].decode()
            await agent.remove(container)
            assert log.read_text().split()[3:] == ["Poststop"]

    run_async(body())


def test_the_state_is_on_standard_input_and_the_environment_is_exactly_the_hooks(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            script = f"cat > {tmp_path}/$KIND; env > {tmp_path}/$KIND.env; echo $0 $1 > {tmp_path}/$KIND.args"
            hooks = {
                kind: [
                    oci_pb2.Hook(
                        Path="/bin/sh",
                        Args=["sh", "-c", script, "zero", "one"],
                        Env=[f"KIND={kind}", "A= b "],
                    )
                ]
                for kind in ("Prestart", "Poststart", "Poststop")
            }
            container = await make(agent, "sleep", "1000", **hooks)
            await agent.call("StartContainer", container_id=container)
            await agent.remove(container)
            expected = {"Prestart": "created", "Poststart": "running", "Poststop": "stopped"}
            for kind, status in expected.items():
                state = json.loads((tmp_path / kind).read_text())
                assert state["id"] == container
                assert state["status"] == status
                assert (state.get("pid", 0) > 0) == (kind != "Poststop")
                assert state["bundle"] == f"/run/kata-containers/{container}"
                assert state["annotations"]["note"] == "kept"
                assert state["ociVersion"]
                lines = set((tmp_path / f"{kind}.env").read_text().splitlines())
                assert {f"KIND={kind}", "A= b "} <= lines
                assert lines - {f"KIND={kind}", "A= b "} <= {f"PWD={os.sep}", "SHLVL=0", "_=/usr/bin/env"} | {
                    line for line in lines if line.startswith("PWD=")
                }
                assert (tmp_path / f"{kind}.args").read_text() == "zero one\n"

    run_async(body())


@pytest.mark.parametrize("kind", ["Prestart", "CreateContainer", "Poststart", "Poststop"])
def test_a_failing_hook_fails_no_call_and_is_logged_with_its_output(tmp_path, kind):
    async def body():
        async with native_agent(tmp_path) as agent:
            failing = [
                hook("echo because of this >&2; exit 3"),
                oci_pb2.Hook(Path="/no/such/hook", Args=["x"]),
                oci_pb2.Hook(Path=""),
                hook(f"touch {tmp_path}/after"),
            ]
            container = await make(agent, **{kind: failing})
            assert await live(agent, container) == 0
            assert (tmp_path / "after").exists(), "the hooks after a failed one run"
            log = agent.log.read_text()
            name = kind[0].lower() + kind[1:]
            assert f"{name} /bin/sh: ended with status 3: because of this" in log
            assert f"{name} /no/such/hook: cannot be run: No such file or directory" in log
            assert f"{name} : cannot be run: " in log

    run_async(body())


@pytest.mark.parametrize("kind", ["Prestart", "Poststart", "Poststop"])
def test_a_hook_that_does_not_end_is_killed_with_all_it_started_at_its_limit(tmp_path, kind):
    async def body():
        async with native_agent(tmp_path) as agent:
            pids = tmp_path / "pids"
            script = f"sleep 1000 & echo $! $$ > {pids}; wait"
            began = time.monotonic()
            container = await make(agent, **{kind: [hook(script, Timeout=3)]})
            assert await live(agent, container) == 0
            assert time.monotonic() - began >= 3
            assert "killed after its time limit of 3 s" in agent.log.read_text()
            assert [pid for pid in pids.read_text().split() if not ends(int(pid))] == []

    run_async(body())


def test_a_failing_start_container_hook_ends_the_container_not_the_call(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            container = await make(
                agent, "sleep", "1000", StartContainer=[oci_pb2.Hook(Path="/bin/false", Args=["false"])]
            )
            await agent.call("StartContainer", container_id=container)
            assert await agent.wait(container) == 1

    run_async(body())


def test_a_hook_of_one_container_delays_no_other(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            entered, leave = tmp_path / "entered", tmp_path / "leave"
            os.mkfifo(entered)
            os.mkfifo(leave)
            slow = hook(f"echo in > {entered}; cat {leave}", Timeout=60)
            container = fresh_id("slow")
            other = agent.another()
            async with asyncio.TaskGroup() as group:
                slow_create = group.create_task(make(other, container_id=container, Prestart=[slow]))
                await asyncio.to_thread(entered.read_text)
                assert await live(agent, await make(agent)) == 0
                assert not slow_create.done()
                await asyncio.to_thread(leave.write_text, "go")
            await agent.remove(container)

    run_async(body())


def test_guest_hooks_come_after_the_containers_own(tmp_path):
    async def body():
        folder = tmp_path / "guest" / "prestart"
        folder.mkdir(parents=True)
        (folder / "h").write_text(f"#!/bin/sh\necho guest $0 $1 >> {tmp_path}/order\n")
        (folder / "h").chmod(0o755)
        async with native_agent(tmp_path) as agent:
            await agent.call("CreateSandbox", sandbox_id="s", guest_hook_path=str(tmp_path / "guest"))
            container = await make(agent, Prestart=[hook(f"echo own >> {tmp_path}/order")])
            assert await live(agent, container) == 0
            assert (tmp_path / "order").read_text() == f"own\nguest {folder}/h prestart\n"

    run_async(body())


def test_a_removal_waits_for_a_hook_after_the_stop_no_longer_than_its_caller_and_the_hook_may(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            container = await make(agent, "sleep", "1000", Poststop=[hook("sleep 1000", Timeout=6)])
            await agent.call("StartContainer", container_id=container)
            began = time.monotonic()
            with pytest.raises(StatusError, match=r"ETIME: remove .*: not done after 1 s; it goes on"):
                await agent.call("RemoveContainer", container_id=container, timeout=1)
            assert time.monotonic() - began >= 1
            # It does: whoever asks again waits for the same end, which the hook's own limit brings.
            with pytest.raises(StatusError, match="it does not exist"):
                await agent.call("RemoveContainer", container_id=container)
            assert time.monotonic() - began >= 6
            agent.made.remove(container)
            assert "poststop /bin/sh: killed after its time limit of 6 s" in agent.log.read_text()

    run_async(body())


@pytest.mark.parametrize("kind", ["CreateContainer", "StartContainer"])
def test_a_hook_inside_the_container_that_does_not_end_is_killed_at_its_limit(tmp_path, kind):
    """createContainer runs behind our guard, startContainer under crun itself, whose limit ends the container."""

    async def body():
        async with native_agent(tmp_path) as agent:
            began = time.monotonic()
            container = await make(agent, **{kind: [hook("exec sleep 1000", Timeout=1)]})
            status = await live(agent, container)
            assert time.monotonic() - began >= 1
            assert (status == 0) == (kind == "CreateContainer")

    run_async(body())


# crun runs createContainer hooks as the container's mapped root, who must get at the agent's code; in the guest all can
IN_NAMESPACE = pytest.param("CreateContainer", marks=pytest.mark.requires("common-code"))


@pytest.mark.requires("userns")
@pytest.mark.parametrize("kind", ["Prestart", IN_NAMESPACE, "Poststart", "Poststop"])
def test_hooks_of_a_container_in_a_user_namespace_run_and_fail_and_are_told(tmp_path, kind):
    async def body():
        async with native_agent(tmp_path) as agent:
            spec = oci_spec("true")
            spec.Linux.Namespaces.add(Type="user")
            spec.Linux.UIDMappings.add(HostID=100_000, ContainerID=0, Size=65536)
            spec.Linux.GIDMappings.add(HostID=100_000, ContainerID=0, Size=65536)
            getattr(spec.Hooks, kind).append(hook("id -u; exit 3"))
            container = fresh_id("userns")
            await agent.call("CreateContainer", container_id=container, OCI=spec)
            agent.made.append(container)
            assert await live(agent, container) == 0
            assert f"{kind[0].lower()}{kind[1:]} /bin/sh: ended with status 3: 0" in agent.log.read_text()

    run_async(body())


@pytest.mark.parametrize("kind", ["Prestart", "CreateContainer", "Poststart", "Poststop"])
def test_a_hook_that_succeeded_has_a_line_in_the_log_without_what_it_wrote(tmp_path, kind):
    async def body():
        async with native_agent(tmp_path) as agent:
            container = await make(agent, **{kind: [hook("echo a secret; seq 100000 >&2")]})
            assert await live(agent, container) == 0
            (line,) = [line for line in agent.log.read_text().splitlines() if "/bin/sh" in line]
            told = json.loads(line)
            assert told["msg"] == f"{kind[0].lower()}{kind[1:]} /bin/sh: ended with status 0"
            assert (told["level"], told["container-id"]) == ("INFO", container)

    run_async(body())


def test_hooks_after_a_restart_of_the_agent_still_run(tmp_path):
    async def body():
        async with native_agent(tmp_path, supervised=True) as agent:
            container = await make(agent, "sleep", "1000", Poststop=[hook(f"cat > {tmp_path}/stopped")])
            await agent.call("StartContainer", container_id=container)
            client = await agent.client()
            os.kill(agent.agent_pid(), 9)
            await client.wait_closed()
            await agent.check()
            await agent.remove(container)
            assert json.loads((tmp_path / "stopped").read_text())["status"] == "stopped"

    run_async(body())


def test_a_container_hook_sees_the_containers_namespaces(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            script = f"readlink /proc/$$/ns/mnt > {tmp_path}/mnt; test -d {busybox_root()}"
            container = await make(agent, CreateContainer=[hook(script)])
            here = os.readlink(f"/proc/{agent.agent_pid()}/ns/mnt")
            assert (tmp_path / "mnt").read_text().strip() not in ("", here)
            assert await live(agent, container) == 0

    run_async(body())


def ends(pid: int) -> bool:
    """Whether it has ended or does so soon: who is killed runs on until it is its turn."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    try:
        return bool(poll.poll(DEADLINE_S * 1000))
    finally:
        os.close(fd)
