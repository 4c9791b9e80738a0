"""Chaos: the agent is killed at random moments under load, and every exit and byte is accounted for.

Owns the load (lanes), the killer and the accounts. A lane is a host that reconnects and asks again, as Kata's runtime
and `kata_host` do; what it may not see is told by `Fault`. The seed decides every moment, so a failure names it.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kata_protocols.aio.client import ConnectionLostError
from kata_protocols.status import StatusError
from kata_testing.native import NativeAgent, busybox_root, fresh_id, list_fds, oci_process, oci_spec

MOST_UNREADY_KILLS = 3
"""PID 1 ends the machine after ten starts that never became ready; the killer stays below that."""
SETTLE_S = 15.0
STREAM_FIRST, STREAM_LAST = 10_000_000, 99_999_999
STREAM_BYTES_A_LIFE = 512 * 1024


class Fault(AssertionError):
    """Something was lost, doubled or made up."""


@dataclass
class Account:
    """What happened."""

    kills: int = 0
    unready_kills: int = 0
    execs: int = 0
    containers: int = 0
    stream_bytes: int = 0
    lost_calls: int = 0
    answered_after_s: list[float] = field(default_factory=list)

    def summary(self) -> str:
        """One line for a person."""
        times = sorted(self.answered_after_s)
        middle, worst = times[len(times) // 2], times[-1]
        return (
            f"{self.kills} kills ({self.unready_kills} before ready), {self.execs} execs, "
            f"{self.containers} containers, "
            f"{self.stream_bytes} stream bytes, {self.lost_calls} calls lost with their connection; "
            f"Check answered after {middle * 1e3:.0f} ms (median), {worst * 1e3:.0f} ms (worst)"
        )


class Host:
    """A host that asks again when its connection is lost."""

    def __init__(self, agent: NativeAgent, account: Account) -> None:
        self.agent = agent.another()
        self._account = account

    async def ask(self, name: str, **fields: Any) -> Any:
        """The answer, whatever it takes; for calls that may be repeated."""
        while True:
            try:
                return await self.agent.call(name, timeout_s=60, **fields)
            except ConnectionLostError:
                self._account.lost_calls += 1

    async def ask_health(self) -> None:
        """Check is answered, by whichever agent."""
        while True:
            try:
                return await self.agent.check()
            except ConnectionLostError:
                self._account.lost_calls += 1

    async def change(self, name: str, done: str, **fields: Any) -> None:
        """A change that may have been made already when its answer was lost: then the error says `done`."""
        lost = False
        while True:
            try:
                await self.agent.call(name, timeout_s=60, **fields)
            except ConnectionLostError:
                self._account.lost_calls += 1
                lost = True
            except StatusError as error:
                if lost and done in error.message:
                    return
                raise Fault(f"{name} {fields.get('container_id')}: {error.message}") from error
            else:
                return

    async def read_all(self, container_id: str, exec_id: str, expected: bytes) -> None:
        """Everything the process prints is exactly this."""
        received = bytearray()
        while True:
            try:
                reply = await self.ask("ReadStdout", container_id=container_id, exec_id=exec_id, len=32768)
            except StatusError as error:
                if "eof" not in error.message:
                    raise Fault(f"read {container_id}/{exec_id}: {error.message}") from error
                end = error.message
                break
            received += reply.data
        if received != expected:
            how = describe_difference(expected, bytes(received))
            said = await self.agent.another().read_all(container_id, exec_id, "Stderr")
            raise Fault(f"output of {container_id}/{exec_id}: {how}; ended by {end!r}; stderr {said}")

    async def wait(self, container_id: str, exec_id: str, expected: int) -> None:
        """The exit status is exactly this."""
        try:
            reply = await self.ask("WaitProcess", container_id=container_id, exec_id=exec_id)
        except StatusError as error:
            raise Fault(f"wait {container_id}/{exec_id}: {error.message}") from error
        if reply.status != expected:
            raise Fault(f"exit of {container_id}/{exec_id}: {reply.status}, not {expected}")


def describe_difference(expected: bytes, received: bytes) -> str:
    """Where two byte strings part, and what that looks like."""
    limit = min(len(expected), len(received))
    at = next((n for n in range(limit) if expected[n] != received[n]), limit)
    if at == len(received):
        return f"cut off at offset {at} of {len(expected)}"
    if at == len(expected):
        return f"{len(received) - at} bytes too many behind offset {at}"
    found = expected.find(received[at : at + 40])
    how = (
        "foreign bytes"
        if found < 0
        else f"{found - at} bytes are lost"
        if found > at
        else f"{at - found} bytes again"
    )
    return f"at offset {at}: {how}: {received[at : at + 40]!r} instead of {expected[at : at + 40]!r}"


def numbers(first: int, last: int) -> bytes:
    """What `seq first last` prints."""
    return ("\n".join(map(str, range(first, last + 1))) + "\n").encode()


class Chaos:
    """The load and the killer, over one supervised agent."""

    most_lines = 60_000
    """That an exec prints."""

    def __init__(self, agent: NativeAgent, *, seed: int, kills: int, folder: Path | None = None) -> None:
        """`folder` is the containers' /tmp as this process sees it."""
        self.account = Account()
        self._agent = agent
        self._random = random.Random(seed)  # noqa: S311 - to be repeatable
        self._kills = kills
        self._over = asyncio.Event()
        self._lives = asyncio.Condition()
        self._folder = folder or busybox_root() / "tmp"
        self._once: list[str] = []

    async def run(self) -> Account:
        """Everything, to its end. Raises what a lane found, as an exception group."""
        keeper = await self._agent.run("sh", "-c", "trap 'exit 7' USR1; while :; do sleep 1000 & wait; done")
        stream = await self._agent.run("seq", str(STREAM_FIRST), str(STREAM_LAST))
        async with asyncio.TaskGroup() as group:
            waiter = group.create_task(Host(self._agent, self.account).wait(keeper, keeper, 7))
            lanes: list[Callable[[Host, random.Random], Coroutine[Any, Any, None]]] = [
                lambda host, rng: self._exec_lane(host, rng, keeper, self.most_lines),
                lambda host, rng: self._exec_lane(host, rng, keeper, self.most_lines),
                lambda host, rng: self._exec_lane(host, rng, keeper, 0),
                self._container_lane,
                self._container_lane,
                lambda host, _rng: self._stream_lane(host, stream),
            ]
            async with asyncio.TaskGroup() as load:
                for lane in lanes:
                    rng = random.Random(self._random.random())  # noqa: S311
                    load.create_task(lane(Host(self._agent, self.account), rng))
                await self._kill_all()
                self._over.set()
                async with self._lives:
                    self._lives.notify_all()
            host = Host(self._agent, self.account)
            await host.ask("SignalProcess", container_id=keeper, exec_id=keeper, signal=signal.SIGUSR1)
            await waiter
        await host.ask("SignalProcess", container_id=stream, exec_id=stream, signal=signal.SIGKILL)
        for container in (keeper, stream):
            await self._agent.remove(container)
        self._check_once()
        return self.account

    async def _kill_all(self) -> None:
        unready = 0
        killed_at = 0.0
        while self.account.kills < self._kills:
            if unready < MOST_UNREADY_KILLS and self._random.random() < 0.15 and self.account.kills:
                await asyncio.sleep(
                    self._random.uniform(0, 0.1)
                )  # a moment of the start, which nothing tells
                unready += 1
                self.account.unready_kills += 1
            else:
                if self.account.kills:
                    await Host(self._agent, self.account).ask_health()
                    self.account.answered_after_s.append(time.monotonic() - killed_at)
                    async with self._lives:
                        self._lives.notify_all()
                unready = 0
                await asyncio.sleep(self._random.uniform(0, 0.08))  # the random moment itself
            if await self._kill():
                killed_at = time.monotonic()
                self.account.kills += 1
        await Host(self._agent, self.account).ask_health()
        self.account.answered_after_s.append(time.monotonic() - killed_at)

    async def _kill(self) -> bool:
        """Kill the agent that runs now; False when none does."""
        return kill_agent(self._agent)

    async def _exec_lane(self, host: Host, rng: random.Random, container: str, most: int) -> None:
        while not self._over.is_set():
            exec_id = fresh_id("exec")
            first, count, status = rng.randrange(10**6), rng.randrange(1, most + 2), rng.randrange(256)
            last = first + count
            process = oci_process("sh", "-c", self._script(exec_id, first, last, status))
            await host.change(
                "ExecProcess", "already exists", container_id=container, exec_id=exec_id, process=process
            )
            other = Host(host.agent, self.account)
            async with asyncio.TaskGroup() as group:
                group.create_task(other.wait(container, exec_id, status))
                group.create_task(host.read_all(container, exec_id, numbers(first, last)))
            self.account.execs += 1

    async def _container_lane(self, host: Host, rng: random.Random) -> None:
        while not self._over.is_set():
            container = fresh_id("chaos")
            first, status = rng.randrange(10**6), rng.randrange(256)
            last = first + rng.randrange(1, 20_000)
            script = self._script(container, first, last, status)
            spec = oci_spec("sh", "-c", script, root=self._agent.root)
            await host.change("CreateContainer", "already exists", container_id=container, OCI=spec)
            await host.change("StartContainer", "it is running", container_id=container)
            await host.read_all(container, container, numbers(first, last))
            await host.wait(container, container, status)
            await host.change("RemoveContainer", "Invalid container id", container_id=container)
            self.account.containers += 1

    async def _stream_lane(self, host: Host, container: str) -> None:
        """One stream through all lives, checked by offset; some of it in each, as more would only burn time."""
        pending = b""
        number = STREAM_FIRST
        while not self._over.is_set():
            mine = 0
            while mine < STREAM_BYTES_A_LIFE and not self._over.is_set():
                reply = await host.ask("ReadStdout", container_id=container, exec_id=container, len=32768)
                mine += len(reply.data)
                pending += reply.data
                lines = len(pending) // 9
                expected = numbers(number, number + lines - 1) if lines else b""
                if pending[: lines * 9] != expected:
                    at = self.account.stream_bytes
                    raise Fault(
                        f"stream behind byte {at}: {describe_difference(expected, pending[: lines * 9])}"
                    )
                number += lines
                self.account.stream_bytes += lines * 9
                pending = pending[lines * 9 :]
            async with self._lives:
                if not self._over.is_set():
                    await self._lives.wait()

    def _script(self, name: str, first: int, last: int, status: int) -> str:
        self._once.append(name)
        return f"echo run >> /tmp/{name}; seq {first} {last}; exit {status}"

    def _check_once(self) -> None:
        for name in self._once:
            path = self._folder / name
            runs = path.read_text(encoding="ascii").count("run") if path.exists() else 0
            path.unlink(missing_ok=True)
            if runs != 1:
                raise Fault(f"{name} was run {runs} times")


def kill_agent(agent: NativeAgent) -> bool:
    """SIGKILL for the agent that runs now; False when none does."""
    try:
        os.kill(agent.agent_pid(), signal.SIGKILL)
    except (StopIteration, FileNotFoundError, ProcessLookupError):
        return False
    return True


@dataclass(frozen=True)
class Traces:
    """What a machine holds besides its memory."""

    agent_fds: tuple[str, ...]
    """Without sockets: hosts' connections."""
    init_fds: tuple[str, ...]
    processes: tuple[str, ...]
    mounts: tuple[str, ...]
    cgroups: tuple[str, ...]
    files: tuple[str, ...]


def read_traces(agent: NativeAgent) -> Traces:
    """Look at everything that a container leaves when it is not removed well."""
    agent_pid = agent.agent_pid()
    init = parent_of(agent_pid)
    root = Path(f"/proc/{init}/root")
    mounts = Path(f"/proc/{init}/mountinfo").read_text(encoding="utf-8").splitlines()
    children = Path(f"/proc/{init}/task/{init}/children").read_text(encoding="ascii").split()
    return Traces(
        agent_fds=tuple(fd.partition(":[")[0] for fd in agent.open_fds() if not fd.startswith("socket:")),
        init_fds=tuple(fd.partition(":[")[0] for fd in list_fds(init)),
        processes=tuple(child for child in children if int(child) != agent_pid),
        mounts=tuple(sorted(line.split()[4] for line in mounts)),
        cgroups=tuple(sorted(_list_cgroups(root / "sys/fs/cgroup"))),
        files=tuple(sorted(_list_files(root))),
    )


def list_leaks(before: Traces, after: Traces) -> list[str]:
    """What is there now and was not before, by kind."""
    found = []
    for kind in Traces.__dataclass_fields__:
        surplus = Counter(getattr(after, kind)) - Counter(getattr(before, kind))
        found += [f"{kind}: {what} ({number} more)" for what, number in surplus.items()]
    return found


async def wait_no_leaks(agent: NativeAgent, before: Traces) -> list[str]:
    """What is left over; none as soon as none is. PID 1 hears of the last closed stream behind our last answer."""
    deadline = time.monotonic() + SETTLE_S
    while (found := list_leaks(before, read_traces(agent))) and time.monotonic() < deadline:
        await agent.check()
    return found


def parent_of(pid: int) -> int:
    """The parent's pid."""
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])


def _list_cgroups(root: Path) -> list[str]:
    """Ours: the tree is the machine's, and others test here, too."""
    return [name for name in os.listdir(root) if f"-{os.getpid()}-" in name]


def _list_files(root: Path) -> list[str]:
    found = []
    for folder in ("run/kata-agent/containers", "run/kata-agent/crun", "run/kata-containers"):
        if (root / folder).is_dir():
            found += [f"{folder}/{name}" for name in os.listdir(root / folder)]
    return found
