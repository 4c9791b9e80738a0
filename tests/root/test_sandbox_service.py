"""Our own service on a real agent: history, exits, processes, trees, reasons; and all of it over the agent's death."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from kata_protocols import services
from kata_protocols.gen import sandbox_pb2 as pb
from kata_protocols.status import Code, StatusError
from kata_testing.native import NEEDS, NativeAgent, fresh_id, native_agent
from kata_testing.wire import run_async

pytestmark = pytest.mark.requires(*NEEDS)

SANDBOX = services.SANDBOX_SERVICE
TIMEOUT_S = 20.0


async def ask(agent: NativeAgent, name: str, **fields: Any) -> Any:
    method = SANDBOX.methods[name]
    return await (await agent.client()).call(method, method.request_type(**fields), timeout_s=TIMEOUT_S)


async def wait_for(agent: NativeAgent, kind: int, container: str, cursor: str = "") -> pb.Event:
    """The first event of this kind about a container from the cursor on, as the stream brings it."""
    client = await agent.client()
    request = pb.EventsRequest(cursor=cursor, container_id=container)
    async with aclosing(client.stream(SANDBOX.methods["Events"], request, timeout_s=TIMEOUT_S)) as events:
        async for event in events:
            if event.kind == kind:
                return event  # type: ignore[no-any-return]  # the stream's messages are Any
    raise AssertionError("the stream ended")


async def kinds(agent: NativeAgent, container: str) -> list[tuple[str, str]]:
    answer = await ask(agent, "PollEvents", container_id=container)
    return [(pb.EventKind.Name(event.kind), event.exec_id) for event in answer.events]


def test_a_containers_life_is_told_in_order_with_exact_exits(tmp_path: Path) -> None:
    async def body() -> None:
        async with native_agent(tmp_path) as agent:
            container = await agent.run("sleep", "1000")
            await agent.exec(container, "code", "sh", "-c", "exit 9")
            assert await agent.wait(container, "code") == 9
            await agent.exec(container, "signal", "sh", "-c", "kill -9 $$")
            assert await agent.wait(container, "signal") == 9
            await agent.call("SignalProcess", container_id=container, signal=int(signal.SIGKILL))
            await agent.wait(container)
            await agent.remove(container)
            assert await kinds(agent, container) == [
                ("CONTAINER_CREATED", ""),
                ("STARTED", ""),
                ("STARTED", "code"),
                ("EXITED", "code"),
                ("STARTED", "signal"),
                ("EXITED", "signal"),
                ("EXITED", ""),
                ("CONTAINER_REMOVED", ""),
            ]
            exits = (await ask(agent, "ListExits", container_id=container)).exits
            assert [(e.exec_id, e.WhichOneof("how"), e.code or e.signal, e.oom) for e in exits] == [
                ("code", "code", 9, False),
                ("signal", "signal", 9, False),
                ("", "signal", 9, False),
            ]

    run_async(body())


def test_a_poll_waits_for_the_next_event_and_gives_the_cursor_to_go_on(tmp_path: Path) -> None:
    async def body() -> None:
        async with native_agent(tmp_path) as agent:
            now = await ask(agent, "PollEvents", only_new=True)
            assert list(now.events) == []
            other = agent.another()
            await other.check()  # so that it asks while nothing has happened
            async with asyncio.TaskGroup() as group:
                waiting = group.create_task(ask(other, "PollEvents", cursor=now.cursor, wait_ms=15000))
                container = await agent.run("true")
            first = waiting.result()
            assert first.events[0].container_id == container
            await agent.wait(container)
            rest = await ask(agent, "PollEvents", cursor=first.cursor, wait_ms=15000)
            assert rest.events[0].sequence == first.events[-1].sequence + 1
            quiet = await ask(agent, "PollEvents", cursor=rest.cursor, container_id="none", wait_ms=20)
            assert list(quiet.events) == []

    run_async(body())


def test_processes_are_listed_and_a_tree_is_killed_without_its_neighbours(tmp_path: Path) -> None:
    async def body() -> None:
        async with native_agent(tmp_path) as agent:
            container = await agent.run("sleep", "1000")
            tree = "sleep 2001 & sh -c 'sleep 2002 & echo up; wait' & wait"
            await agent.exec(container, "tree", "sh", "-c", tree)
            await agent.exec(container, "other", "sleep", "3000")
            assert await agent.read(container, "tree") == b"up\n"
            wanted = {"sleep 1000", "sleep 2001", "sleep 2002", "sleep 3000"}
            by_command: dict[str, pb.Process] = {}
            # a child that was forked has yet to become its program, and that to get its memory and to sleep
            while not wanted <= by_command.keys() or by_command["sleep 2002"].state != "S":
                listed = (await ask(agent, "ListProcesses", container_id=container)).processes
                by_command = {" ".join(p.command): p for p in listed}
            assert by_command["sleep 3000"].exec_id == "other"
            assert by_command["sleep 1000"].exec_id == container
            sleeper = by_command["sleep 2002"]
            assert (sleeper.threads, sleeper.exec_id) == (1, "")
            assert sleeper.rss_bytes > 0
            killed = await ask(agent, "KillTree", container_id=container, exec_id="tree")
            assert killed.signalled == 4
            assert await agent.wait(container, "tree") == 9
            while by_command.keys() != {"sleep 1000", "sleep 3000"}:  # a killed process has yet to be reaped
                left = (await ask(agent, "ListProcesses")).processes
                by_command = {" ".join(p.command): p for p in left if p.command}
            assert (await ask(agent, "KillTree", container_id=container)).signalled >= 2
            assert await agent.wait(container) == 9
            with pytest.raises(StatusError, match="there are 1 to 64") as caught:
                await ask(agent, "KillTree", container_id=container, signal=99)
            assert caught.value.code is Code.INVALID_ARGUMENT

    run_async(body())


def test_why_tells_who_ended_a_container_and_remembers_it_when_it_is_gone(tmp_path: Path) -> None:
    async def body() -> None:
        async with native_agent(tmp_path) as agent:
            container = await agent.run("sleep", "1000")
            assert "has not ended" in (await ask(agent, "Why", container_id=container)).summary
            await agent.call("SignalProcess", container_id=container, exec_id=container, signal=9)
            await agent.wait(container)
            with pytest.raises(StatusError) as caught:
                await agent.exec(container, "late", "true")
            assert caught.value.details, "the failure says stage and hint"
            await agent.remove(container)
            told = await ask(agent, "Why", container_id=container)
            assert (told.state, told.exit.signal) == ("removed", 9)
            assert told.summary == "SIGKILL ended it, which the host had sent (SignalProcess)"
            assert [(s.signal, s.method) for s in told.signals] == [(9, "SignalProcess")]
            assert [failure.method for failure in told.failures] == ["ExecProcess"]
            with pytest.raises(StatusError) as caught:
                await ask(agent, "Why", container_id="never-was")
            assert caught.value.code is Code.NOT_FOUND

    run_async(body())


def test_who_ended_a_container_is_known_to_the_agent_after_a_killed_one(tmp_path: Path) -> None:
    async def body() -> None:
        async with native_agent(tmp_path, supervised=True) as agent:
            container = await agent.run("sleep", "1000")
            with pytest.raises(StatusError):
                await agent.exec(container, "missing", "/no/such/program")
            await agent.call("SignalProcess", container_id=container, exec_id=container, signal=9)
            client, pid = await agent.client(), agent.agent_pid()
            os.kill(pid, signal.SIGKILL)
            await client.wait_closed()
            await agent.wait(container)
            told = await ask(agent, "Why", container_id=container)
            assert told.summary == "SIGKILL ended it, which the host had sent (SignalProcess)"
            assert [(s.signal, s.method) for s in told.signals] == [(9, "SignalProcess")]
            assert [failure.method for failure in told.failures] == ["ExecProcess"]
            assert "/no/such/program" in told.failures[0].message

    run_async(body())


def test_cursors_exits_and_reasons_outlive_the_agent(tmp_path: Path) -> None:
    async def body() -> None:
        async with native_agent(tmp_path, supervised=True) as agent:
            container = await agent.run("sh", "-c", "read x; exit 6")
            await agent.exec(container, "before", "sh", "-c", "exit 5")
            await agent.wait(container, "before")
            seen = (await ask(agent, "PollEvents")).events
            os.kill(agent.agent_pid(), signal.SIGSTOP)  # an agent that hears nothing more
            client, pid = await agent.client(), agent.agent_pid()
            os.kill(pid, signal.SIGKILL)
            await client.wait_closed()
            await agent.call("WriteStdin", container_id=container, data=b"go\n")
            event = await wait_for(agent, pb.EXITED, container, seen[-1].cursor)
            assert (event.exec_id, event.exit.code) == ("", 6)
            after = (await ask(agent, "PollEvents", cursor=seen[-1].cursor)).events
            assert [pb.EventKind.Name(e.kind) for e in after] == ["AGENT_RESTARTED", "EXITED"]
            assert (after[0].restart.life, after[0].restart.reason) == (2, "signal 9")
            assert after[0].sequence == seen[-1].sequence + 1
            exits = (await ask(agent, "ListExits", container_id=container)).exits
            assert [(e.exec_id, e.code) for e in exits] == [("before", 5), ("", 6)]
            boot = await ask(agent, "GetBoot")
            assert (boot.life, boot.last_end, boot.supervised) == (2, "signal 9", True)
            assert [step.name for step in boot.steps][:1] == ["pid1 start"]

    run_async(body())


def test_a_stream_is_resumed_over_the_agents_death_without_a_gap(tmp_path: Path) -> None:
    async def body() -> None:
        async with native_agent(tmp_path, supervised=True) as agent:
            container = await agent.run("sleep", "1000")
            cursor, numbers = "", []
            for round_ in range(3):
                await agent.exec(container, f"e{round_}", "true")
                await agent.wait(container, f"e{round_}")
                event = await wait_for(agent, pb.EXITED, container, cursor)
                cursor = event.cursor
                numbers.append((event.exec_id, event.sequence))
                client = await agent.client()
                os.kill(agent.agent_pid(), signal.SIGKILL)
                await client.wait_closed()
                await agent.check()
            events = (await ask(agent, "PollEvents")).events
            assert [e.sequence for e in events] == list(range(1, len(events) + 1))
            assert not [e for e in events if e.kind == pb.GAP]
            assert [name for name, _ in numbers] == ["e0", "e1", "e2"]

    run_async(body())


@pytest.mark.parametrize("container", ["", fresh_id("nothing")])
def test_an_agent_without_containers_answers_too(tmp_path: Path, container: str) -> None:
    async def body() -> None:
        async with native_agent(tmp_path) as agent:
            assert list((await ask(agent, "ListExits", container_id=container)).exits) == []
            assert list((await ask(agent, "PollEvents", container_id=container)).events) == []
            if not container:
                assert list((await ask(agent, "ListProcesses")).processes) == []
            assert (await ask(agent, "GetBoot")).life == 1

    run_async(body())
