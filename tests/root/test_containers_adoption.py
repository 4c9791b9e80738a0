"""kill -9 of the agent while containers run: the next agent goes on, no byte and no exit status is lost."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest

from kata_protocols.aio.client import ConnectionLostError
from kata_protocols.status import StatusError
from kata_testing.native import NEEDS, NativeAgent, fresh_id, native_agent
from kata_testing.requires import crun_path
from kata_testing.wire import outcome, run_async

pytestmark = pytest.mark.requires(*NEEDS)

LINES = 20000
COUNT = f"i=0; while [ $i -lt {LINES} ]; do echo line $i; i=$((i+1)); done; exit 9"


async def kill_agent(agent: NativeAgent) -> None:
    """SIGKILL, and wait until the connection is gone and a new agent answers."""
    client = await agent.client()
    os.kill(agent.agent_pid(), signal.SIGKILL)
    await client.wait_closed()
    await agent.check()


async def read_to_end(agent: NativeAgent, container: str, exec_id: str = "") -> bytes:
    """All output, over a connection of its own, asking again when the agent dies under a read."""
    pieces = []
    reader = agent.another()
    while True:
        try:
            pieces.append(await reader.read(container, exec_id))
        except ConnectionLostError:
            continue
        except StatusError as error:
            pieces.append(error.message.encode() if "eof" not in error.message else b"")
            return b"".join(pieces)


def test_output_and_status_survive_deaths_in_the_middle_of_reads(tmp_path):
    async def body():
        async with native_agent(tmp_path, supervised=True) as agent:
            container = await agent.run("sh", "-c", COUNT)
            other = await agent.run("sleep", "1000")
            await agent.exec(other, "e", "sh", "-c", COUNT.replace("line", "exec"))
            async with asyncio.TaskGroup() as group:
                init = group.create_task(read_to_end(agent, container))
                side = group.create_task(read_to_end(agent, other, "e"))
                for _ in range(3):
                    await kill_agent(agent)
            assert init.result() == b"".join(b"line %d\n" % n for n in range(LINES))
            assert side.result() == b"".join(b"exec %d\n" % n for n in range(LINES))
            assert await agent.wait(other, "e") == 9
            assert await agent.wait(container) == 9
            await agent.remove(container)

    run_async(body())


def test_an_exit_while_no_agent_is_there_arrives(tmp_path):
    async def body():
        async with native_agent(tmp_path, supervised=True) as agent:
            container = await agent.run("sh", "-c", "read x; echo $x; exit 6")
            os.kill(agent.agent_pid(), signal.SIGSTOP)
            init = agent.agent_pid()
            client = await agent.client()
            os.kill(init, signal.SIGKILL)
            await client.wait_closed()
            await agent.call("WriteStdin", container_id=container, data=b"word\n")
            assert await agent.wait(container) == 6
            await kill_agent(agent)
            assert await agent.wait(container) == 6
            assert await agent.read(container) == b"word\n"

    run_async(body())


def test_everything_works_on_an_adopted_container(tmp_path):
    async def body():
        async with native_agent(tmp_path, supervised=True) as agent:
            container = await agent.run("cat")
            created = fresh_id()
            await agent.create(created, "sh", "-c", "exit 8")
            await agent.exec(container, "tty", "sh", "-c", "read a; stty size; exit 2", Terminal=True)
            await kill_agent(agent)
            await agent.call("WriteStdin", container_id=container, data=b"still here")
            assert await agent.read(container) == b"still here"
            await agent.call("TtyWinResize", container_id=container, exec_id="tty", row=5, column=6)
            await agent.call("WriteStdin", container_id=container, exec_id="tty", data=b"\n")
            assert b"5 6" in (await agent.read_all(container, "tty"))[0]
            assert await agent.wait(container, "tty") == 2
            await agent.exec(container, "new", "true")
            assert await agent.wait(container, "new") == 0
            await agent.call("StartContainer", container_id=created)
            assert await agent.wait(created) == 8
            with pytest.raises(StatusError, match="already exists"):
                await agent.create(container, "true")
            await agent.call("CloseStdin", container_id=container)
            assert await agent.wait(container) == 0
            await agent.remove(container)
            await agent.remove(created)
            assert not [fd for fd in agent.open_fds() if fd.startswith(("pipe:", "/dev/ptmx", "/dev/pts"))]

    run_async(body())


@pytest.mark.parametrize("round_", range(8))
def test_a_container_under_way_when_the_agent_dies_is_whole_or_not_there(tmp_path, round_):
    async def body():
        async with native_agent(tmp_path, supervised=True) as agent:
            container = fresh_id()
            async with asyncio.TaskGroup() as group:
                create = group.create_task(outcome(agent.create(container, "true")))
                for _ in range(round_):
                    await agent.check()  # each round trip lets the create come a little further
                await kill_agent(agent)
            assert create.result() is None or isinstance(create.result(), ConnectionLostError)
            started = await outcome(agent.call("StartContainer", container_id=container))
            if isinstance(started, StatusError):
                assert "Invalid container id" in started.message
                await agent.create(container, "true")
                await agent.call("StartContainer", container_id=container)
            elif container not in agent.made:
                agent.made.append(container)  # it is whole; its answer was lost
            assert await agent.wait(container) == 0
            await agent.remove(container)

    run_async(body())


def forget_who(agent: NativeAgent, container: str, exec_id: str) -> None:
    """Change the state file so that it names a process which PID 1 has never heard of: the ledger dropped it."""
    path = Path(f"/proc/{agent.agent_pid()}/root/run/kata-agent/containers/{container}/state.json")
    state = json.loads(path.read_text())
    for process in state["processes"]:
        if process[0] == exec_id:
            process[3:5] = [1, 1]
    path.write_text(json.dumps(state))


def test_an_exit_that_the_ledger_had_to_drop_is_told_as_lost_and_hangs_nobody(tmp_path):
    async def body():
        async with native_agent(tmp_path, supervised=True) as agent:
            container = await agent.run("sleep", "1000")
            await agent.exec(container, "e", "sleep", "1000")
            forget_who(agent, container, "e")
            await kill_agent(agent)
            with pytest.raises(StatusError) as caught:
                await agent.wait(container, "e")
            assert "exit status lost: process e (pid " in caught.value.message
            assert "eof" in (await agent.read_all(container, "e"))[1]
            await agent.exec(container, "f", "sh", "-c", "exit 8")
            assert await agent.wait(container, "f") == 8
            await agent.remove(container)

    run_async(body())


SLOW_AFTER_EXEC = """#!/bin/sh
"{crun}" "$@"
status=$?
case "$*" in *" exec "*) echo "$status" > "{fifo}"; sleep 1000 ;; esac
exit $status
"""


def test_a_terminal_that_crun_had_sent_when_the_agent_died_is_the_next_ones(tmp_path):
    fifo, wrapper = tmp_path / "done", tmp_path / "slow-crun"
    os.mkfifo(fifo)
    wrapper.write_text(SLOW_AFTER_EXEC.format(crun=crun_path(), fifo=fifo))
    wrapper.chmod(0o755)

    async def body():
        words = {"KATA_AGENT_CRUN": str(wrapper)}
        async with native_agent(tmp_path, supervised=True, environment=words) as agent:
            container = await agent.run("sleep", "1000")
            script = "read x; echo got $x; exit 4"
            async with asyncio.TaskGroup() as group:
                client = await agent.client()
                starting = group.create_task(
                    outcome(agent.exec(container, "t", "sh", "-c", script, Terminal=True))
                )
                assert await asyncio.to_thread(fifo.read_text) == "0\n"  # crun has done all of its part
                os.kill(agent.agent_pid(), signal.SIGKILL)
                await client.wait_closed()
            assert isinstance(starting.result(), ConnectionLostError)
            other = agent.another()
            await other.call("TtyWinResize", container_id=container, exec_id="t", row=30, column=90)
            await other.call("WriteStdin", container_id=container, exec_id="t", data=b"it\n")
            output = b""
            while b"got it" not in output:
                output += await other.read(container, "t")
            assert await other.wait(container, "t") == 4

    run_async(body(), timeout_s=60)
