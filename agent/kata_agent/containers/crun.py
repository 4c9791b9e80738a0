"""crun: its command lines, its state folder, and what its failures mean.

Owns each invocation from spawn to exit, and the log it leaves. Must not know the registry or the wire. crun's own
stderr is the container's (its init inherits it), so errors are read from a log file. See decisions 0001 and 0007.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from typing import TYPE_CHECKING

from kata_agent.containers.undo import finish
from kata_agent.errors import AgentError, NotFound, TimedOut, WrongState, errno_text
from kata_agent.processes.spawn import Child, spawn
from kata_linux.record import Record

if TYPE_CHECKING:
    from kata_agent.processes.exits import ExitBook

    Stdio = tuple[int, int, int]

DEADLINE_S = 60.0
KILL_DEADLINE_S = 5.0
CANCEL_GRACE_S = 5.0
"""An exec whose caller went away takes milliseconds more. Killed before it has told the pid of the process that it
started, it would leave that running, and nobody would know of it. (A create leaves nothing outside its cgroup.)"""
LOG_LIMIT_BYTES = 16384


class Place(Record):
    """Where the files of one invocation lie: `directory/name.log`, `.pid`, `.json`."""

    directory: str
    name: str

    def file(self, kind: str) -> str:
        """The path of one of them."""
        return f"{self.directory}/{self.name}.{kind}"

    def remove(self, kind: str) -> None:
        """Remove one of them; one that is not there is fine."""
        try:
            os.unlink(self.file(kind))
        except FileNotFoundError:
            pass  # never written, or its folder was removed with its container


class Started(Record):
    """A process that crun started; it cannot be older than crun itself."""

    pid: int
    earliest_start_time: int


class Crun:
    """The program at `path` with its state below `root`."""

    def __init__(self, path: str, root: str, exits: ExitBook, group: asyncio.TaskGroup) -> None:
        """`group` outlives every call."""
        self.root = root
        self._path = path
        self._exits = exits
        self._group = group

    async def create(
        self,
        container_id: str,
        arg0: str,
        place: Place,
        bundle: str,
        stdio: Stdio,
        console: str,
        *,
        hooks_s: float,
    ) -> Started:
        """Make the container of `bundle`, its init waiting for `start`; its hooks may take `hooks_s` in all."""
        options = ["--bundle", bundle, *_console_options(console)]
        return await self._launch("create", options, container_id, place, stdio, arg0, DEADLINE_S + hooks_s)

    async def exec(
        self, container_id: str, arg0: str, place: Place, stdio: Stdio, console: str, *, oom_score: int
    ) -> Started:
        """Run the process of `place`'s json file, with this OOM score, which crun sets at creates only."""
        options = ["--detach", "--process", place.file("json"), *_console_options(console)]
        return await self._launch(
            "exec", options, container_id, place, stdio, arg0, oom_score=oom_score, grace_s=CANCEL_GRACE_S
        )

    async def update(self, container_id: str, place: Place, stdio: Stdio) -> None:
        """Apply the OCI resources of `place`'s json file."""
        argv = self._command("update", place, ["--resources", place.file("json"), container_id])
        await self._run("update", argv, place, stdio, "", DEADLINE_S)

    def fifo(self, container_id: str) -> str:
        """Where a created container's init waits for its start."""
        return f"{self.root}/{container_id}/exec.fifo"

    def release_init(self, container_id: str) -> None:
        """What `crun start` does, but for the hooks: one byte into the fifo that init waits on."""
        fifo = self.fifo(container_id)
        try:
            # without O_NONBLOCK this would wait for ever for an init that died
            fd = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.ENXIO, errno.ENOENT):
                raise WrongState(f"start container {container_id}: its init process is gone") from None
            raise
        try:
            os.write(fd, b"\0")
            os.unlink(fifo)
        finally:
            os.close(fd)

    def forget(self, container_id: str) -> None:
        """Remove crun's state of a container whose processes and cgroup are gone: what `crun delete` does last."""
        directory = f"{self.root}/{container_id}"
        try:
            for name in os.listdir(directory):
                os.unlink(f"{directory}/{name}")
            os.rmdir(directory)
        except FileNotFoundError:
            pass  # never made, or crun removed it itself

    def _command(self, verb: str, place: Place, words: list[str]) -> list[str]:
        options = ["--root", self.root, "--cgroup-manager=cgroupfs", "--log", place.file("log")]
        return [self._path, *options, verb, *words]

    async def _launch(
        self,
        verb: str,
        options: list[str],
        container_id: str,
        place: Place,
        stdio: Stdio,
        arg0: str,
        limit_s: float = DEADLINE_S,
        oom_score: int = 0,
        grace_s: float = 0,
    ) -> Started:
        argv = self._command(verb, place, ["--pid-file", place.file("pid"), *options, container_id])
        try:
            child = await self._run(verb, argv, place, stdio, arg0, limit_s, oom_score, grace_s)
        except BaseException:
            _kill_started(_take_text(place.file("pid")))
            raise
        # the pid file stays: until the state file names the process, an agent after this one needs it
        return Started(int(_read_text(place.file("pid"))), child.start_time)

    async def _run(
        self,
        verb: str,
        argv: list[str],
        place: Place,
        stdio: Stdio,
        arg0: str,
        limit_s: float,
        oom_score: int = 0,
        grace_s: float = 0,
    ) -> Child:
        """One invocation, to its end: killed when it takes too long, or more than the grace after a cancellation."""
        child = spawn(argv, stdio, oom_score=oom_score)
        try:
            async with asyncio.timeout(limit_s):
                ended = await self._exits.wait_exit(*child)
        except TimeoutError:
            await finish(self._group, lambda: self._end(child, 0))
            raise TimedOut(f"crun {verb} has not ended after {limit_s:.0f} s and was killed") from None
        except BaseException:
            await finish(self._group, lambda: self._end(child, grace_s))
            raise
        text = _take_text(place.file("log"))
        if ended.code != 0:
            raise explain(verb, arg0, text, ended.code, ended.signal)
        return child

    async def _end(self, child: Child, grace_s: float) -> None:
        try:
            async with asyncio.timeout(grace_s):
                await self._exits.wait_exit(*child)
        except TimeoutError:
            await self._exits.end(child, KILL_DEADLINE_S)


def explain(verb: str, arg0: str, log: str, code: int | None, killed_by: int | None) -> AgentError:
    """The error that crun's log tells of, with the errno's name where the text ends in an errno's description."""
    lines = [line for line in log.splitlines() if line.strip()]
    if not lines:
        how = f"signal {killed_by}" if killed_by else f"status {code}"
        return AgentError(f"crun {verb} ended with {how} and said nothing")
    text, _, description = lines[-1].rpartition(": ")
    number = _find_errno(description)
    if "executable file" in text and number == errno.ENOENT:
        return NotFound(f"crun {verb}: the file {arg0} was not found: {errno_text(number)}")
    if number is None:
        return AgentError(f"crun {verb}: {lines[-1]}")
    return AgentError(f"crun {verb}: {text}: {errno_text(number)}")


def _kill_started(pid_text: str) -> None:
    """crun failed, or was killed, after it had started the process."""
    if pid_text.isdecimal():
        try:
            os.kill(int(pid_text), signal.SIGKILL)
        except ProcessLookupError:
            pass  # ended with crun


def _find_errno(description: str) -> int | None:
    return next((number for number in errno.errorcode if os.strerror(number) == description), None)


def _console_options(console: str) -> list[str]:
    return ["--console-socket", console] if console else []


def _take_text(path: str) -> str:
    """The content of a file that crun wrote, which is removed; nothing when it wrote none."""
    text = _read_text(path)
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass  # it wrote none
    return text


def _read_text(path: str) -> str:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read(LOG_LIMIT_BYTES).decode(errors="replace")
    except FileNotFoundError:
        return ""
