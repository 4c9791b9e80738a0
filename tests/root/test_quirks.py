"""Surprising behaviours of Kata's agent that hosts see, and that are kept: one test for each, by its number.

The list is that of Kata's behaviour (7.1). Two are deliberately better here, and their tests say so.
"""

from __future__ import annotations

import os
import signal

import pytest

from kata_protocols.gen import oci_pb2
from kata_protocols.status import Code
from kata_testing.native import NEEDS, NativeAgent, busybox_root, fresh_id, native_agent, oci_spec, refusal
from kata_testing.rows import check_rows
from kata_testing.wire import run_async

pytestmark = pytest.mark.requires(*NEEDS)

ELSEWHERE = {
    8: "tests/root/test_agent_frame.py::test_what_is_not_built_and_what_does_not_exist_have_their_own_answers",
    10: "tests/unit/test_devices_online.py::test_number_of_processors_is_a_total",
    14: "tests/unit/test_agent_copyfile.py::test_only_the_last_missing_folder_gets_the_mode_that_was_sent",
    16: "tests/root/test_agent_frame.py::test_destroy_is_answered_before_the_end",
    17: "tests/root/test_debug_console.py::test_port_alone_opens_nothing",
}
LATER: dict[int, str] = {}


def test_every_quirk_has_a_test_or_a_reason():
    check_rows(globals(), "test_quirk", 20, ELSEWHERE, LATER)


async def run_spec(agent: NativeAgent, spec: oci_pb2.Spec, **request) -> str:
    container = fresh_id("quirk")
    await agent.call("CreateContainer", container_id=container, OCI=spec, **request)
    agent.made.append(container)
    await agent.call("StartContainer", container_id=container)
    return container


async def lines_of(agent: NativeAgent, spec: oci_pb2.Spec, **request) -> list[str]:
    container = await run_spec(agent, spec, **request)
    return (await agent.read_all(container))[0].decode().splitlines()


def test_quirk_01_the_status_of_a_killed_process_is_the_bare_signal_number(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            container = await agent.run("sleep", "1000")
            await agent.call("SignalProcess", container_id=container, signal=signal.SIGKILL)
            assert await agent.wait(container) == 9  # not 137

    run_async(body())


def test_quirk_02_the_end_of_output_is_an_error_and_never_an_empty_success(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            container = await agent.run("true")
            for stream in ("Stdout", "Stderr"):
                ended = await refusal(agent.read(container, stream=stream))
                assert ended.code == Code.INTERNAL
                assert ended.message.startswith("read meet eof")

    run_async(body())


def test_quirk_03_init_answers_to_an_empty_exec_id_and_to_the_containers_id(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            container = await agent.run("sh", "-c", "echo one; read x; exit 4")
            assert await agent.read(container, container) == b"one\n"
            await agent.call("WriteStdin", container_id=container, exec_id=container, data=b"x\n")
            assert await agent.wait(container, container) == await agent.wait(container, "") == 4

    run_async(body())


def test_quirk_04_sigterm_kills_an_init_that_would_not_notice_it(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            deaf = await agent.run("sleep", "1000")
            await agent.call("SignalProcess", container_id=deaf, exec_id=deaf, signal=signal.SIGTERM)
            assert await agent.wait(deaf) == signal.SIGKILL
            script = "trap '' TERM; echo ready; read x; exit 5"
            ignores = await agent.run("sh", "-c", script)
            assert await agent.read(ignores) == b"ready\n"
            await agent.call("SignalProcess", container_id=ignores, exec_id=ignores, signal=signal.SIGTERM)
            await agent.call("WriteStdin", container_id=ignores, data=b"x\n")
            assert await agent.wait(ignores) == 5
            execd = await agent.run("sleep", "1000")
            await agent.exec(execd, "e", "sleep", "1000")
            await agent.call("SignalProcess", container_id=execd, exec_id="e", signal=signal.SIGTERM)
            assert await agent.wait(execd, "e") == signal.SIGTERM  # only an init's becomes SIGKILL

    run_async(body())


def test_quirk_05_is_better_here_a_status_can_be_asked_for_until_the_removal(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            container = await agent.run("sh", "-c", "exit 3")
            assert [await agent.wait(container) for _ in range(3)] == [3, 3, 3]
            await agent.remove(container)
            assert "Invalid container id" in (await refusal(agent.wait(container))).message

    run_async(body())


def test_quirk_06_a_failing_hook_fails_no_call_and_create_runtime_hooks_never_run(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            failing = oci_pb2.Hook(Path="/bin/false", Args=["false"])
            marker = oci_pb2.Hook(Path="/bin/touch", Args=["touch", f"{tmp_path}/ran"])
            spec = oci_spec("true")
            for kind in ("Prestart", "CreateContainer", "Poststart", "Poststop"):
                getattr(spec.Hooks, kind).append(failing)
            spec.Hooks.CreateRuntime.append(marker)
            container = await run_spec(agent, spec)
            assert await agent.wait(container) == 0
            await agent.remove(container)
            assert os.listdir(tmp_path).count("ran") == 0

    run_async(body())


def test_quirk_07_a_missing_binary_fails_the_call_and_one_that_cannot_run_is_a_status(tmp_path):
    """Kata's agent ends such a process with the errno as its status; crun's ends with 1 and tells why on stderr."""
    broken = busybox_root() / "broken"
    broken.write_bytes(b"\x7fELF this is none")
    broken.chmod(0o755)

    async def body():
        async with native_agent(tmp_path) as agent:
            missing = await refusal(agent.create(fresh_id(), "no-such-program"))
            assert "the file no-such-program was not found" in missing.message
            container = await agent.run("/broken")
            assert await agent.wait(container) == 1
            assert b"Exec format error" in (await agent.read_all(container, stream="Stderr"))[0]
            holder = await agent.run("sleep", "1000")
            assert "was not found" in (await refusal(agent.exec(holder, "e", "no-such-program"))).message
            await agent.exec(holder, "f", "/broken")
            assert await agent.wait(holder, "f") == 1
            assert b"Exec format error" in (await agent.read_all(holder, "f", "Stderr"))[0]

    run_async(body())


def test_quirk_09_writing_nothing_closes_standard_input(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            container = await agent.run("cat")
            await agent.call("WriteStdin", container_id=container, data=b"all")
            reply = await agent.call("WriteStdin", container_id=container, data=b"")
            assert reply.len == 0
            assert await agent.wait(container) == 0
            assert (await agent.read_all(container))[0] == b"all"

    run_async(body())


def test_quirk_11_the_flag_of_create_container_decides_and_the_first_ones_pids_are_shared(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            await agent.call("CreateSandbox", sandbox_id="s", sandbox_pidns=True)
            pause = await agent.run("sleep", "1000")
            spec = oci_spec("sh", "-c", "cat /proc/1/cmdline; readlink /proc/self/ns/pid")
            del spec.Linux.Namespaces[0]  # as hosts do: an entry of the spec would decide
            alone = await lines_of(agent, spec)
            shared = await lines_of(agent, spec, sandbox_pidns=True)
            assert alone[0].startswith("sh\0")
            assert shared[0].startswith("sleep\x001000\0")
            assert alone[0] != shared[0]
            await agent.remove(pause)

    run_async(body())


def test_quirk_12_ipc_uts_and_the_host_name_are_the_sandboxes_whatever_the_host_sends(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            await agent.call("CreateSandbox", sandbox_id="s", hostname="pod-name")
            spec = oci_spec("sh", "-c", "hostname; readlink /proc/self/ns/ipc /proc/self/ns/uts")
            spec.Hostname = "not-this"
            for entry in spec.Linux.Namespaces:
                if entry.Type in ("ipc", "uts"):
                    entry.Path = f"/proc/1/ns/{entry.Type}"
            first, second = await lines_of(agent, spec), await lines_of(agent, spec)
            assert first == second
            assert first[0] == "pod-name"
            assert first[1:] != [os.readlink("/proc/self/ns/ipc"), os.readlink("/proc/self/ns/uts")]

    run_async(body())


def test_quirk_13_there_is_no_network_namespace_of_a_containers_own(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            spec = oci_spec("readlink", "/proc/self/ns/net")
            spec.Linux.Namespaces.add(Type="network")
            assert await lines_of(agent, spec) == [os.readlink("/proc/self/ns/net")]

    run_async(body())


def test_quirk_15_each_container_has_a_cgroup_namespace_of_its_own(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            script = "readlink /proc/self/ns/cgroup; grep 0:: /proc/self/cgroup; sleep 1000"
            spec = oci_spec("sh", "-c", script)

            async def two_lines() -> list[str]:
                container, seen = await run_spec(agent, spec), b""
                while seen.count(b"\n") < 2:
                    seen += await agent.read(container)
                return seen.decode().splitlines()

            # both live: the number of a namespace that has gone is given again
            first, second = await two_lines(), await two_lines()
            assert first[1] == second[1] == "0::/"
            assert len({first[0], second[0], os.readlink("/proc/self/ns/cgroup")}) == 3

    run_async(body())


def test_quirk_18_the_details_name_no_device_handlers(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            details = (await agent.call("GetGuestDetails")).agent_details
            assert list(details.device_handlers) == []

    run_async(body())


def test_quirk_19_an_empty_argument_list_runs_sh(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            container = await agent.run()
            await agent.exec(container, "e")
            for exec_id in ("e", ""):
                script = b"cat /proc/$$/cmdline; exit 6\n"
                await agent.call("WriteStdin", container_id=container, exec_id=exec_id, data=script)
                assert await agent.read(container, exec_id) == b"sh\0"
                assert await agent.wait(container, exec_id) == 6

    run_async(body())


def test_quirk_20_the_standard_streams_belong_to_the_processes_user(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            script = "for n in 0 1 2; do stat -Lc %u /proc/self/fd/$n; done; echo out > /dev/stdout"
            spec = oci_spec("sh", "-c", script, User={"UID": 77, "GID": 78})
            assert await lines_of(agent, spec) == ["77", "77", "77", "out"]
            holder = await agent.run("sleep", "1000")
            await agent.exec(holder, "e", "sh", "-c", script, User=oci_pb2.User(UID=5, GID=6))
            assert (await agent.read_all(holder, "e"))[0] == b"5\n5\n5\nout\n"

    run_async(body())
