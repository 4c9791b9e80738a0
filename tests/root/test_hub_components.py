"""Guest components: started in order, waited for by their sockets, their ends noticed. Real processes."""

# ruff: noqa: ASYNC240 - nothing else runs on these loops

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from kata_agent.errors import AgentError, NotSupported
from kata_agent.hub.client import Hub
from kata_agent.hub.component import Components
from kata_agent.hub.plan import Component
from kata_agent.log import Log
from kata_agent.processes.exits import ExitBook, attach_reaper
from kata_init import exits
from kata_testing.private_mounts import run_in_private_mounts
from kata_testing.wire import run_async

pytestmark = pytest.mark.requires("root")

FIRST, SECOND = "/run/cc/aa/aa.sock", "/run/cc/cdh.sock"
LOG = Path("/run/log")
# Notes its start, makes its socket if it is to, and stays or ends.
PROGRAM = """
import os, socket, sys, signal
name, path, end = sys.argv[1:4]
seen = [p for p in sys.argv[4:] if os.path.exists(p)]
with open("/run/started", "a") as file:
    file.write(f"{name} {os.environ.get('OF_COMPONENT', '-')} after {len(seen)}\\n")
if path:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
if end:
    sys.exit(int(end))
signal.pause()
"""


def component(
    name: str, socket: str = "", *, makes: str | None = None, end: str = "", after: str = ""
) -> Component:
    path = socket if makes is None else makes
    argv = (sys.executable, "-I", "-S", "-c", PROGRAM, name, path, end, after)
    return Component(name, argv, socket, (("OF_COMPONENT", name),))


Body = Callable[["Case"], Coroutine[Any, Any, None]]


class Case:
    """A loop with a reaper."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self.group = group
        self.book = ExitBook()
        attach_reaper(self.book, exits.reap)
        self.log = Log(os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND))

    def components(self, *plan: Component, ready_s: float = 20.0, record: str = "") -> Components:
        return Components(plan, self.book, self.log, ready_s=ready_s, record=record)


def in_private_mounts(body: Body) -> None:
    def run() -> None:
        async def work() -> None:
            async with asyncio.TaskGroup() as group:
                await body(Case(group))

        run_async(work())

    run_in_private_mounts(run)


def test_each_starts_when_the_one_before_has_its_socket() -> None:
    async def body(case: Case) -> None:
        Path(SECOND).parent.mkdir(parents=True)
        Path(SECOND).write_text("stale")
        started = case.components(
            component("first", FIRST),
            component("second", SECOND, after=FIRST),
            component("third", after=SECOND),
        )
        started.begin(case.group)
        await started.wait_ready()
        assert Path(SECOND).is_socket()
        started.kill()
        lines = Path("/run/started").read_text().splitlines()
        assert lines[:2] == ["first first after 0", "second second after 1"]

    in_private_mounts(body)


@pytest.mark.parametrize(
    ("plan", "text"),
    [
        (component("first", FIRST, makes="", end="3"), f"first ended with status 3 before it made {FIRST}"),
        (component("first", FIRST, makes=""), f"first: waited 0.5 s for it to make {FIRST}"),
        (Component("first", ("/nowhere/first",), FIRST), "ENOENT: No such file or directory"),
    ],
)
def test_what_does_not_start_is_told_and_the_next_one_is_not_started(plan: Component, text: str) -> None:
    async def body(case: Case) -> None:
        started = case.components(plan, component("second", SECOND), ready_s=0.5 if "waited" in text else 20)
        started.begin(case.group)
        with pytest.raises(AgentError) as caught:
            await started.wait_ready()
        assert text in str(caught.value)
        hub = Hub(api_timeout_s=9, pull_timeout_s=9, components=started, socket_path=SECOND)
        with pytest.raises(NotSupported, match="pull image app: no confidential data hub: ") as refused:
            await hub.pull_image("app", "/run/bundle")
        assert text in str(refused.value)
        assert "second" not in (Path("/run/started").read_text() if Path("/run/started").exists() else "")
        started.kill()

    in_private_mounts(body)


def test_end_of_a_running_one_is_noticed_and_told_to_who_needs_it() -> None:
    async def body(case: Case) -> None:
        started = case.components(component("confidential-data-hub", SECOND), record="/run/record")
        started.begin(case.group)
        await started.wait_ready()
        pid = int(Path("/run/record").read_text().split("[")[1].split(",")[0])
        started._changed.clear()
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(20):
            await started._changed.wait()  # it listens to exits, and to nothing else now
        assert started.tell_end("confidential-data-hub") == "ended with signal 9"
        assert "guest component ended" in LOG.read_text()
        hub = Hub(api_timeout_s=20, pull_timeout_s=20, components=started, socket_path=SECOND)
        with pytest.raises(AgentError, match=r"nobody listens at /run/cc/cdh\.sock: .* ended with signal 9"):
            await hub.get_resource("x")

    in_private_mounts(body)


def test_next_agent_takes_over_what_runs() -> None:
    async def body(case: Case) -> None:
        plan = (component("first", FIRST), component("second", SECOND))
        before = case.components(*plan, record="/run/record")
        before.begin(case.group)
        await before.wait_ready()
        after = case.components(*plan, record="/run/record")
        after.begin(case.group)
        await after.wait_ready()
        assert len(Path("/run/started").read_text().splitlines()) == 2
        after.kill()

    in_private_mounts(body)


def test_agent_that_ends_does_not_wait_for_a_slow_one() -> None:
    async def body(case: Case) -> None:
        started = case.components(component("first", FIRST, makes=""))
        started.begin(case.group)
        await asyncio.sleep(0)  # it starts, and waits from then on
        started.kill()

    in_private_mounts(body)
