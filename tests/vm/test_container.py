"""Containers in the guest, over vsock: streams, exits, terminals, exec, signals, many at once."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from typing import Any

import pytest

from kata_host.client import is_end_of_stream
from kata_host.sandbox import make_id
from kata_host.spec import ProcessPlan, plan_process
from kata_host.vm.base import GUEST_SHARE
from kata_protocols.gen import agent_pb2 as pb
from kata_protocols.status import StatusError
from kata_testing.guest import ROOT, Guest, plan, read_all, run_container

pytestmark = pytest.mark.requires("root", "qemu", "guest-image")

HOOK_STATES = {
    "Prestart": "created",
    "CreateContainer": "created",
    "Poststart": "running",
    "Poststop": "stopped",
}


def test_output_errors_and_exit_status_pass_through(guest: Guest) -> None:
    async def run() -> tuple[int, bytes, bytes]:
        async with guest.connect() as sandbox:
            return await run_container(sandbox, "sh", "-c", "echo out; echo err >&2; exit 7")

    assert asyncio.run(run()) == (7, b"out\n", b"err\n")


def test_every_byte_of_stdin_arrives_and_comes_back(guest: Guest) -> None:
    data = os.urandom(1_500_000)

    async def run() -> bytes:
        async with guest.connect() as sandbox, sandbox.container(plan("cat")) as container:
            await container.start()
            async with asyncio.TaskGroup() as group:
                reading = group.create_task(read_all(container))
                await container.write_stdin(data)
                await container.close_stdin()
            return reading.result()

    assert hashlib.sha256(asyncio.run(run())).digest() == hashlib.sha256(data).digest()


def test_environment_working_directory_and_read_only_root(guest: Guest) -> None:
    script = 'echo $COLOUR; pwd; touch /x 2>/dev/null || echo "read-only"'

    async def run() -> tuple[int, bytes, bytes]:
        async with guest.connect() as sandbox:
            return await run_container(sandbox, "sh", "-c", script, env=["COLOUR=blue"], cwd="/tmp")

    assert asyncio.run(run()) == (0, b"blue\n/tmp\nread-only\n", b"")


def test_a_killed_process_has_the_bare_number_of_its_signal_as_status(guest: Guest) -> None:
    async def run() -> int:
        async with guest.connect() as sandbox, sandbox.container(plan("sleep", "1000")) as container:
            await container.start()
            await container.signal_all(9)
            return await container.wait(30)

    assert asyncio.run(run()) == 9


def test_end_of_output_is_an_error_and_never_empty_data(guest: Guest) -> None:
    async def read() -> StatusError:
        async with guest.connect() as sandbox, sandbox.container(plan("true")) as container:
            await container.start()
            await container.wait(30)
            request = pb.ReadStreamRequest(
                container_id=container.container_id, exec_id=container.exec_id, len=32
            )
            with pytest.raises(StatusError) as caught:
                await sandbox.client.read_stdout(request, timeout_s=10)
            return caught.value

    assert is_end_of_stream(asyncio.run(read()))


def test_exec_runs_beside_the_first_process_with_its_own_streams_and_status(guest: Guest) -> None:
    async def run() -> tuple[int, bytes]:
        async with guest.connect() as sandbox, sandbox.container(plan("sleep", "1000")) as container:
            await container.start()
            script = "cat /proc/1/comm; read line; echo got $line; exit 3"
            process = await container.exec(plan_process(ProcessPlan(["sh", "-c", script])))
            await process.write_stdin(b"hello\n")
            output = await read_all(process)
            return await process.wait(30), output

    assert asyncio.run(run()) == (3, b"sleep\ngot hello\n")


def test_exec_of_a_missing_program_names_the_errno(guest: Guest) -> None:
    async def run() -> StatusError:
        async with guest.connect() as sandbox, sandbox.container(plan("sleep", "1000")) as container:
            await container.start()
            with pytest.raises(StatusError) as caught:
                await container.exec(plan_process(ProcessPlan(["/no/such/program"])))
            return caught.value

    assert "ENOENT: No such file or directory" in asyncio.run(run()).message


def test_a_terminal_has_the_size_it_is_told_and_hears_of_changes(guest: Guest) -> None:
    script = "trap 'stty size; exit 4' WINCH; tty; echo ready; while :; do sleep 0.1; done"

    async def run() -> tuple[int, bytes]:
        spec = plan("sh", "-c", script, terminal=True)
        async with guest.connect() as sandbox, sandbox.container(spec) as container:
            await container.start()
            output = b""
            async for data in container.read_stdout():
                output += data
                if output.endswith(b"ready\r\n"):
                    await container.resize(33, 111)
            return await container.wait(30), output

    status, output = asyncio.run(run())
    assert (status, output.split()) == (4, [b"/dev/pts/0", b"ready", b"33", b"111"])


def test_eight_containers_made_at_once_all_run(guest: Guest) -> None:
    async def run() -> list[tuple[int, bytes, bytes]]:
        async with guest.connect() as sandbox, asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(run_container(sandbox, "sh", "-c", f"echo {n}; exit {n}")) for n in range(8)
            ]
        return [task.result() for task in tasks]

    assert asyncio.run(run()) == [(n, b"%d\n" % n, b"") for n in range(8)]


def test_a_removed_container_is_gone_and_its_id_is_free_again(guest: Guest) -> None:
    name = make_id()

    async def run() -> None:
        async with guest.connect() as sandbox:
            for _ in range(2):
                async with sandbox.container(plan("true"), name) as container:
                    await container.start()
                    assert await container.wait(30) == 0
            with pytest.raises(StatusError):
                await container.start()

    asyncio.run(run())


def test_hooks_run_in_the_guest_and_a_failing_one_fails_no_call(guest: Guest) -> None:
    def hook(kind: str) -> dict[str, object]:
        script = f"cat > {GUEST_SHARE}hook-{kind}; exit 3"
        return {"Path": f"{ROOT}/bin/busybox", "Args": ["sh", "-c", script]}

    async def run() -> int:
        async with guest.connect() as sandbox:
            spec = plan("true")
            spec["Hooks"] = {
                kind: [hook(kind)] for kind in ("Prestart", "CreateContainer", "Poststart", "Poststop")
            }
            async with sandbox.container(spec) as container:
                await container.start()
                return await container.wait(30)

    assert asyncio.run(run()) == 0
    states = {kind: json.loads((guest.share / f"hook-{kind}").read_text())["status"] for kind in HOOK_STATES}
    assert states == HOOK_STATES


def test_a_hook_in_a_containers_user_namespace_runs_as_its_mapped_root(guest: Guest) -> None:
    mapped = 100_000
    said = guest.share / "hook-mapped"
    said.touch()
    said.chmod(0o666)

    async def run() -> int:
        async with guest.connect() as sandbox:
            spec: Any = plan("true")
            spec["linux"]["namespaces"].append({"type": "user"})
            for key in ("uidMappings", "gidMappings"):
                spec["linux"][key] = [{"hostID": mapped, "containerID": 0, "size": 65536}]
            script = f"cat /proc/self/uid_map > {GUEST_SHARE}hook-mapped; exit 3"
            spec["Hooks"] = {
                "CreateContainer": [{"Path": f"{ROOT}/bin/busybox", "Args": ["sh", "-c", script]}]
            }
            async with sandbox.container(spec) as container:
                await container.start()
                return await container.wait(30)

    assert asyncio.run(run()) == 0
    assert said.read_text().split() == ["0", str(mapped), "65536"]
