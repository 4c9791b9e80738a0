"""Containers on a real agent, crun and busybox: made, run, ended, removed, and refused by name."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from pathlib import Path

import pytest

from kata_protocols import services
from kata_protocols.gen import oci_pb2
from kata_protocols.status import Code, StatusError
from kata_testing.native import NEEDS, NativeAgent, busybox_root, fresh_id, native_agent, oci_spec
from kata_testing.wire import outcome, run_async

pytestmark = [
    pytest.mark.requires(*NEEDS),
    pytest.mark.parametrize("supervised", [False, True], ids=["alone", "supervised"]),
]


AT_ONCE_S = 5.0


async def refusal(work) -> StatusError:
    with pytest.raises(StatusError) as caught:
        await work
    return caught.value


def traces(agent: NativeAgent, container_id: str) -> list[str]:
    """Everything of a container that can be seen from outside: cgroup, mounts, folders."""
    root = f"/proc/{agent.agent_pid()}/root"
    mounts = Path(f"/proc/{agent.agent_pid()}/mounts").read_text(encoding="utf-8")
    folders = ("sys/fs/cgroup", "run/kata-containers", "run/kata-agent/containers", "run/kata-agent/crun")
    found = [f"{name}/{container_id}" for name in folders if os.path.exists(f"{root}/{name}/{container_id}")]
    return found + [line for line in mounts.splitlines() if container_id in line]


def test_a_container_runs_and_its_status_and_output_arrive(tmp_path, supervised):
    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            container = await agent.run("sh", "-c", "echo out; echo err >&2; exit 7")
            assert await agent.wait(container, container) == 7
            out, end = await agent.read_all(container)
            assert out == b"out\n"
            assert "eof" in end
            assert (await agent.read_all(container, stream="Stderr"))[0] == b"err\n"
            await agent.remove(container)

    run_async(body())


def test_a_removed_container_leaves_nothing(tmp_path, supervised):
    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            warm = await agent.run("true")
            await agent.remove(warm)
            before = agent.open_fds()
            container = await agent.run("sleep", "1000")
            await agent.exec(container, "e1", "sleep", "1000")
            await agent.exec(container, "e2", "true")
            assert traces(agent, container)
            await agent.remove(container)
            assert traces(agent, container) == []
            assert agent.open_fds() == before

    run_async(body())


def test_the_status_of_a_killed_process_is_the_bare_signal(tmp_path, supervised):
    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            container = await agent.run("sleep", "1000")
            await agent.exec(container, "e", "sleep", "1000")
            await agent.call("SignalProcess", container_id=container, exec_id="e", signal=signal.SIGUSR1)
            assert await agent.wait(container, "e") == signal.SIGUSR1
            await agent.call(
                "SignalProcess", container_id=container, exec_id=container, signal=signal.SIGKILL
            )
            assert await agent.wait(container) == signal.SIGKILL

    run_async(body())


def test_sigterm_to_an_init_that_does_not_handle_it_kills(tmp_path, supervised):
    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            deaf = await agent.run("sleep", "1000")
            await agent.call("SignalProcess", container_id=deaf, exec_id=deaf, signal=signal.SIGTERM)
            assert await agent.wait(deaf) == signal.SIGKILL
            script = "trap 'exit 5' TERM; echo ready; while true; do sleep 0.01; done"
            polite = await agent.run("sh", "-c", script)
            assert await agent.read(polite) == b"ready\n"
            await agent.call("SignalProcess", container_id=polite, signal=signal.SIGTERM)
            assert await agent.wait(polite) == 5

    run_async(body())


def test_any_number_of_waiters_get_the_status_before_and_after_the_exit(tmp_path, supervised):
    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            container = await agent.run("sh", "-c", "read x; exit 3")
            async with asyncio.TaskGroup() as group:
                early = [group.create_task(agent.wait(container)) for _ in range(3)]
                await agent.call("WriteStdin", container_id=container, data=b"go\n")
            assert [task.result() for task in early] == [3, 3, 3]
            assert await agent.wait(container, container) == 3

    run_async(body())


def test_waiters_get_the_status_of_what_a_removal_kills(tmp_path, supervised):
    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            container = await agent.run("sleep", "1000")
            await agent.exec(container, "e", "sleep", "1000")
            async with asyncio.TaskGroup() as group:
                waiters = [group.create_task(agent.wait(container, name)) for name in ("", "e")]
                await agent.check()
                await agent.remove(container)
            assert [waiter.result() for waiter in waiters] == [signal.SIGKILL, signal.SIGKILL]

    run_async(body())


def test_a_second_create_is_refused_and_touches_nothing(tmp_path, supervised):
    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            container = await agent.run("cat")
            refused = await refusal(agent.create(container, "true"))
            assert refused.code == Code.INTERNAL
            assert f"container {container} already exists" in refused.message
            await agent.call("WriteStdin", container_id=container, data=b"alive")
            assert await agent.read(container) == b"alive"

    run_async(body())


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("StartContainer", {}),
        ("RemoveContainer", {}),
        ("ExecProcess", {"exec_id": "e", "process": {}}),
        ("SignalProcess", {"signal": 9}),
        ("WaitProcess", {}),
        ("ReadStdout", {"len": 1}),
        ("WriteStdin", {"data": b"x"}),
    ],
)
def test_an_unknown_container_is_named(tmp_path, supervised, name, fields):
    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            refused = await refusal(agent.call(name, container_id="no-such", **fields))
            assert refused.code == Code.INTERNAL
            assert "Invalid container id 'no-such'" in refused.message

    run_async(body())


def test_an_unknown_process_is_named(tmp_path, supervised):
    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            container = await agent.run("sleep", "1000")
            refused = await refusal(agent.wait(container, "no-such"))
            assert "Invalid exec id 'no-such'" in refused.message
            await agent.exec(container, "taken", "sleep", "1000")
            refused = await refusal(agent.exec(container, "taken", "true"))
            assert "'taken' already exists" in refused.message

    run_async(body())


def test_a_missing_binary_is_told_at_once(tmp_path, supervised):
    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            container = await agent.run("sleep", "1000")
            begun = time.monotonic()
            refused = await refusal(agent.exec(container, "e", "/no/such"))
            # no time limit of anybody's passes first; 3 ms when nothing else runs, the benchmark holds it to 50
            assert time.monotonic() - begun < AT_ONCE_S
            assert "the file /no/such was not found" in refused.message
            assert "ENOENT: No such file or directory" in refused.message
            assert "Invalid exec id" in (await refusal(agent.wait(container, "e"))).message

    run_async(body())


def test_a_failed_create_leaves_nothing_and_its_id_is_free(tmp_path, supervised):
    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            container = fresh_id()
            refused = await refusal(agent.create(container, "no-such"))
            assert "the file no-such was not found: ENOENT: No such file or directory" in refused.message
            assert traces(agent, container) == []
            before = agent.open_fds()
            await refusal(agent.create(container, "no-such"))
            assert agent.open_fds() == before
            await agent.create(container, "true")
            await agent.remove(container)

    run_async(body())


@pytest.mark.parametrize(
    ("container_id", "change", "text"),
    [
        ("x", {}, "Invalid container id 'x'"),
        ("../up", {}, "Invalid container id '../up'"),
        ("a" * 256, {}, "Invalid container id"),
        ("fine", {"root": "/no/such"}, "root path /no/such: there is no such folder"),
        ("fine", {"root": "relative"}, "root path 'relative' is not absolute"),
    ],
)
def test_a_bad_request_is_refused_by_name(tmp_path, supervised, container_id, change, text):
    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            assert text in (await refusal(agent.create(container_id, "true", **change))).message
            assert traces(agent, "fine") == []

    run_async(body())


def test_a_storage_mounted_as_the_root_is_left_to_its_owner(tmp_path, supervised):
    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            container = fresh_id()
            point = f"/run/kata-containers/{container}/rootfs"
            storage = {"driver": "bind", "source": str(busybox_root()), "mount_point": point}
            storage |= {"fstype": "bind", "options": ["bind"]}
            for command in ("no-such", "true"):
                spec = oci_spec(command, root=point)
                request = {"container_id": container, "OCI": spec, "storages": [storage]}
                result = await outcome(agent.call("CreateContainer", **request))
                if command == "no-such":
                    assert "was not found" in str(result)
                    assert traces(agent, container) == []
            await agent.call("StartContainer", container_id=container)
            assert await agent.wait(container) == 0
            await agent.call("RemoveContainer", container_id=container)
            assert traces(agent, container) == []
            assert (busybox_root() / "bin/busybox").exists()

    run_async(body())


def test_an_empty_root_folder_that_a_killed_agent_left_is_no_root(tmp_path, supervised):
    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            container = fresh_id()
            await agent.call(
                "CopyFile",
                path=f"/run/kata-containers/{container}/rootfs",
                file_mode=0o040755,
                dir_mode=0o755,
            )
            await agent.create(container, "true")
            await agent.call("StartContainer", container_id=container)
            assert await agent.wait(container) == 0

    run_async(body())


def test_a_root_behind_a_link_is_refused(tmp_path, supervised):
    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            (tmp_path / "real").mkdir()
            (tmp_path / "link").symlink_to("real")
            refused = await refusal(agent.create(fresh_id(), "true", root=f"{tmp_path}/link"))
            assert "symbolic link" in refused.message

    run_async(body())


def test_a_second_start_is_an_error_and_not_a_hang(tmp_path, supervised):
    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            container = await agent.run("sleep", "1000")
            refused = await refusal(agent.call("StartContainer", container_id=container))
            assert re.search(r"failed to start container .*: it is running, not created", refused.message)

    run_async(body())


def test_starting_a_container_whose_init_was_killed_is_an_error(tmp_path, supervised):
    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            container = fresh_id()
            await agent.create(container, "true")
            await agent.call(
                "SignalProcess", container_id=container, exec_id=container, signal=signal.SIGKILL
            )
            assert await agent.wait(container) == signal.SIGKILL
            refused = await refusal(agent.call("StartContainer", container_id=container))
            assert "its init process is gone" in refused.message

    run_async(body())


def test_a_created_container_can_be_removed_and_made_again(tmp_path, supervised):
    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            container = fresh_id()
            for _ in range(2):
                await agent.create(container, "true")
                await agent.remove(container, limit_s=10)
            assert "Invalid container id" in (await refusal(agent.wait(container))).message

    run_async(body())


def test_a_grandchild_that_keeps_stdout_delays_neither_end_wait_nor_removal(tmp_path, supervised):
    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            container = await agent.run("sleep", "1000")
            await agent.exec(container, "e", "sh", "-c", "sleep 1000 & echo done; exit 4")
            async with asyncio.timeout(15):
                assert await agent.wait(container, "e") == 4
                out, end = await agent.read_all(container, "e")
                assert (out, "eof" in end) == (b"done\n", True)
                await agent.remove(container)
            assert traces(agent, container) == []

    run_async(body())


def test_an_exec_takes_what_it_leaves_out_from_its_container(tmp_path, supervised):
    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            only = ["CAP_KILL"]
            sets = dict.fromkeys(("Bounding", "Effective", "Permitted"), only)
            limits = [{"Type": "RLIMIT_NOFILE", "Soft": 77, "Hard": 77}]
            spec = oci_spec("sleep", "1000", Capabilities=sets, Rlimits=limits, NoNewPrivileges=True)
            container = fresh_id()
            await agent.call("CreateContainer", container_id=container, OCI=spec)
            agent.made.append(container)
            await agent.call("StartContainer", container_id=container)
            await agent.exec(
                container, "e", "sh", "-c", "ulimit -n; umask; grep -E 'CapEff|NoNewPrivs' /proc/self/status"
            )
            out, _ = await agent.read_all(container, "e")
            lines = out.decode().split("\n")
            assert lines[:2] == ["77", "0022"]
            assert "CapEff:\t0000000000000020" in lines
            assert "NoNewPrivs:\t1" in lines

    run_async(body())


def test_eight_containers_at_once(tmp_path, supervised):
    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(agent.run("sh", "-c", f"exit {n}")) for n in range(8)]
            containers = [task.result() for task in tasks]
            assert [await agent.wait(container) for container in containers] == list(range(8))
            async with asyncio.TaskGroup() as group:
                for container in containers:
                    group.create_task(agent.remove(container))

    run_async(body())


def test_a_client_that_vanishes_during_a_create_leaves_a_whole_container(tmp_path, supervised):
    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            container = fresh_id()
            entered, leave = tmp_path / "entered", tmp_path / "leave"
            for path in (entered, leave):
                os.mkfifo(path)
            spec = oci_spec("true")
            script = f"echo > {entered}; read x < {leave}"
            spec.Hooks.Prestart.append(oci_pb2.Hook(Path="/bin/sh", Args=["sh", "-c", script], Timeout=60))
            fleeting = await agent.dial()
            create = services.AGENT_SERVICE.methods["CreateContainer"]
            request = create.request_type(container_id=container, OCI=spec)
            async with asyncio.TaskGroup() as group:
                task = group.create_task(outcome(fleeting.call(create, request)))
                await asyncio.to_thread(entered.read_text)  # it is under way, and stays so
                await fleeting.aclose()
            assert isinstance(task.result(), ConnectionError)
            async with asyncio.TaskGroup() as group:
                # the create goes on; a removal waits for it under the container's lock
                group.create_task(agent.call("RemoveContainer", container_id=container))
                await asyncio.to_thread(leave.write_text, "now\n")
            assert traces(agent, container) == []

    run_async(body())
