"""Program: create, exec and remove are cancelled at each of their awaits, a removal is late; nothing is left.

Each verb in several ways: with pipes, a terminal, connections of its own, hooks, a keeper of descriptors; cancelled
once, or again at each await that follows. Run as root, as a process of its own (it makes itself a private mount
namespace). Prints one line for each await that was tried and ends with status 1 at the first trace that is left.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import select
import socket
import sys
import tempfile
import types
from collections.abc import AsyncIterator, Coroutine, Generator, Sequence
from contextlib import ExitStack, asynccontextmanager
from typing import Any, ClassVar, NamedTuple

from kata_agent import standalone
from kata_agent.containers.registry import ContainerRequest, Containers, Settings
from kata_agent.errors import TimedOut, UnknownContainer
from kata_agent.log import Log
from kata_agent.processes.exits import ExitBook, attach_reaper
from kata_agent.processes.passed import PassedConnections
from kata_init.exits import reap
from kata_linux.procfs import read_stat
from kata_testing.native import busybox_root
from kata_testing.requires import crun_path
from kata_testing.wire import outcome

ID = f"cancelled-{os.getpid()}"
BASE = "/run/kata-agent/base"
DEADLINE_S = 100.0
INHERITED: set[str] = set()


class NoSandbox:
    """A sandbox that shares nothing."""

    sandbox_id = ""
    ipc_path = None
    uts_path = None
    guest_hooks: ClassVar[dict[str, list[dict[str, object]]]] = {}


class CountedStorages:
    """Counts what is mounted."""

    def __init__(self) -> None:
        self.mounted = 0
        self.may_release = asyncio.Event()
        self.may_release.set()

    async def mount(self, container_id: str, storages: Any) -> tuple[str, ...]:
        """Mount one, after a while."""
        await asyncio.sleep(0)
        self.mounted += 1
        return ("one",)

    async def release(self, container_id: str, names: tuple[str, ...]) -> None:
        """Release it, when it may be, after a while."""
        await self.may_release.wait()
        await asyncio.sleep(0)
        self.mounted -= len(names)

    def adopt(self, container_id: str, names: tuple[str, ...]) -> None:
        """Not used here."""


class Keeper:
    """PID 1's descriptor store: copies, by name."""

    def __init__(self) -> None:
        self.held: dict[str, list[int]] = {}

    def store(self, name: str, fds: Sequence[int]) -> None:
        """Keep copies in the place of those before."""
        self.discard(name)
        self.held[name] = [os.dup(fd) for fd in fds]

    def discard(self, name: str) -> None:
        """Close them; unknown names are fine."""
        for fd in self.held.pop(name, ()):
            os.close(fd)


class World(NamedTuple):
    """What a try needs."""

    containers: Containers
    storages: CountedStorages
    keeper: Keeper
    passed: PassedConnections
    listener: str


class Way(NamedTuple):
    """How a verb is called."""

    name: str
    terminal: bool = False
    hooks: bool = False
    own_streams: bool = False
    again: bool = False
    """Cancelled once more at each await that follows."""


PLAIN = Way("pipes")
WAYS = {
    "create": (
        PLAIN, PLAIN._replace(name="again", again=True), Way("terminal", terminal=True),
        Way("hooks", hooks=True), Way("own", own_streams=True), Way("own-terminal", own_streams=True, terminal=True),
    ),
    "exec": (
        PLAIN, PLAIN._replace(name="again", again=True), Way("terminal", terminal=True),
        Way("own", own_streams=True), Way("own-terminal", own_streams=True, terminal=True),
    ),
    "remove": (PLAIN, PLAIN._replace(name="again", again=True), Way("hooks", hooks=True)),
}  # fmt: skip
_ports = itertools.count(1)


@types.coroutine
def cancel_at(work: Coroutine[Any, Any, Any], number: int, *, again: bool) -> Generator[Any, Any, bool]:
    """Drive the work and cancel it at its await of this number; whether it came so far."""
    count = 0
    try:
        while True:
            waited = work.send(None)
            if count == number or (again and count > number):
                waited = work.throw(asyncio.CancelledError())
            count += 1
            yield waited
    except StopIteration:
        return count > number
    except asyncio.CancelledError:
        return True


def plan_process(way: Way) -> dict[str, Any]:
    """A process that does not end by itself."""
    return {"args": ["sleep", "1000"], "env": ["PATH=/bin"], "terminal": way.terminal}


def request(way: Way, ports: tuple[int, ...] = ()) -> ContainerRequest:
    """A small container with a storage, below a group that is made for it."""
    kinds = ("prestart", "createContainer", "poststart", "poststop") if way.hooks else ()
    spec = {
        "process": plan_process(way),
        "root": {"path": str(busybox_root())},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance"]},
        ],
        "hooks": {kind: [{"path": "/bin/sleep", "args": ["sleep", "0.01"]}] for kind in kinds},
        "linux": {
            "cgroupsPath": f"/{ID}/{ID}",
            "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")],
        },
    }
    return ContainerRequest(ID, spec, storages=("one",), stream_ports=ports)


@asynccontextmanager
async def dialled(world: World, way: Way) -> AsyncIterator[tuple[int, ...]]:
    """The ports of a process's connections, if it shall have any; those that nobody took are gone after it."""
    if not way.own_streams:
        yield ()
        return
    ports = tuple(next(_ports) for _ in range(2 if way.terminal else 3))
    with ExitStack() as stack:
        for port in ports:
            peer = stack.enter_context(socket.socket(socket.AF_UNIX))
            peer.bind(f"\0cancelled-{os.getpid()}:{port}")
            peer.connect(world.listener)
        try:
            yield ports if len(ports) == 3 else (*ports, 0)
        finally:
            for port in ports:
                if port in world.passed._waiting:
                    world.passed._drop(port)


def traces(world: World) -> list[str]:
    """What can be seen of a container."""
    with open("/proc/self/mounts", encoding="utf-8") as file:
        found = [line for line in file if ID in line]
    folders = ("/sys/fs/cgroup", BASE, "/run/kata-agent/containers", "/run/kata-agent/crun")
    found += [f"{folder}/{ID}" for folder in folders if os.path.exists(f"{folder}/{ID}")]
    found += [name for name in os.listdir("/run/kata-agent") if name.startswith("console")]
    found += sorted(open_fds() - INHERITED) + ["a storage"] * world.storages.mounted
    return found + [f"kept: {name}" for name in world.keeper.held]


def open_fds() -> set[str]:
    """Descriptors that streams, consoles, logs and connections would be."""
    names = os.listdir("/proc/self/fd")
    links = {
        os.readlink(f"/proc/self/fd/{name}") for name in names if os.path.lexists(f"/proc/self/fd/{name}")
    }
    kinds = ("pipe:", "socket:", "/dev/p", "/dev/null", "/memfd:", "anon_inode:[eventpoll]")
    return {link for link in links if link.startswith(kinds)}


def list_processes() -> list[int]:
    """Pids of the container's cgroup."""
    try:
        with open(f"/sys/fs/cgroup/{ID}/{ID}/cgroup.procs", encoding="ascii") as file:
            return [int(line) for line in file]
    except FileNotFoundError:
        return []


def check_processes(what: str, number: int) -> None:
    """All but the container's init have ended, or end now: they were killed."""
    for pid in list_processes()[1:]:
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        if not poll.poll(30_000):
            raise SystemExit(f"{what} cancelled at await {number} left process {pid}")
        os.close(fd)


def is_zombie(pid: str) -> bool:
    """Whether it has ended and the reaper's turn is yet to come."""
    try:
        return read_stat(pid).state == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def check_children(what: str, number: int) -> None:
    """Nothing that was started for the verb itself runs: no crun, no hook."""
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
        children = [pid for pid in file.read().split() if not is_zombie(pid)]
    if children:
        raise SystemExit(f"{what} cancelled at await {number} left its children {children}")


def make_work(verb: str, world: World, way: Way, ports: tuple[int, ...]) -> Coroutine[Any, Any, None]:
    """The call that is cancelled."""
    match verb:
        case "create":
            return world.containers.create(request(way, ports))
        case "exec":
            return world.containers.exec(ID, "e", plan_process(way), ports)
    return world.containers.remove(ID)


async def try_all(verb: str, way: Way, world: World) -> None:
    """Cancel the verb at one await after the other until it has none left."""
    containers, what = world.containers, f"{verb} ({way.name})"
    number, came_so_far = 0, True
    while came_so_far:
        if verb != "create":
            await containers.create(request(way if verb == "remove" else PLAIN))
            await containers.start(ID)
        async with dialled(world, way) as ports:
            came_so_far = await cancel_at(make_work(verb, world, way, ports), number, again=way.again)
        if verb == "exec" and came_so_far:
            check_processes(what, number)
        if ID in containers.ids() and (verb == "exec" or not came_so_far):
            await containers.remove(ID)
        elif ID in containers.ids() and verb == "remove":
            raise SystemExit(f"{what} cancelled at await {number} did not go on to its end")
        check_children(what, number)
        left = traces(world)
        if left or containers.ids():
            raise SystemExit(f"{what} cancelled at await {number} left {left} {containers.ids()}")
        sys.stdout.write(f"{verb} {way.name} {number}\n")
        number += 1


async def try_late_removal(world: World) -> None:
    """A removal that is not done in time says so and goes on to its end."""
    containers = world.containers
    await containers.create(request(PLAIN))
    world.storages.may_release.clear()
    try:
        await containers.remove(ID, timeout_s=0.01)
    except TimedOut as error:
        sys.stdout.write(f"late {error}\n")
    async with asyncio.TaskGroup() as group:
        second = group.create_task(outcome(containers.remove(ID)))
        await asyncio.sleep(0)
        world.storages.may_release.set()
    if not isinstance(second.result(), UnknownContainer) or traces(world):
        raise SystemExit(f"a late removal ended with {second.result()!r} and left {traces(world)}")


LATE_TO_TELL = """#!/bin/sh
case "$*" in *" exec "*) ;; *) exec {crun} "$@" ;; esac
for word; do
    shift
    [ "$last" = --pid-file ] && pid=$word word=$word.early
    set -- "$@" "$word"
    last=$word
done
{crun} "$@"
status=$?
echo started >{folder}/started
read go <{folder}/go
mv "$pid.early" "$pid"
exit $status
"""


def make_late_crun(folder: str, crun: str) -> str:
    """A crun that tells that it has started a process, and its pid when it is told to."""
    program = f"{folder}/crun"
    with open(program, "w", encoding="utf-8") as file:
        file.write(LATE_TO_TELL.format(crun=crun, folder=folder))
    os.chmod(program, 0o700)
    for name in ("started", "go"):
        os.mkfifo(f"{folder}/{name}")
    return program


async def try_exec_that_has_started(folder: str, crun: str, book: ExitBook) -> None:
    """Cancelled when the process runs and crun has yet to tell its pid."""
    program = make_late_crun(folder, crun)
    async with asyncio.TaskGroup() as group:
        containers = Containers(
            Settings(crun_path=program, base_dir=BASE),
            group=group,
            exits=book,
            sandbox=NoSandbox(),
            storages=CountedStorages(),
        )
        await containers.create(request(PLAIN))
        await containers.start(ID)
        call = group.create_task(outcome(containers.exec(ID, "e", plan_process(PLAIN))))
        await asyncio.to_thread(read_line, f"{folder}/started")
        if len(list_processes()) != 2:
            raise SystemExit(f"exec did not start a process: {list_processes()}")
        call.cancel()
        go = os.open(f"{folder}/go", os.O_RDWR)  # waits for no reader
        os.write(go, b"go\n")
        await asyncio.wait([call])
        os.close(go)
        check_processes("exec (started)", 0)
        await containers.remove(ID)
        check_children("exec (started)", 0)
        await try_create_in_a_hook(containers, group, folder)
    sys.stdout.write("started\n")


async def try_create_in_a_hook(containers: Containers, group: asyncio.TaskGroup, folder: str) -> None:
    """Cancelled while a hook runs, which goes with crun, who had started it."""
    wanted = request(PLAIN)
    script = f"echo in >{folder}/started; exec sleep 1000"
    wanted.spec["hooks"] = {"prestart": [{"path": "/bin/sh", "args": ["sh", "-c", script], "timeout": 100}]}
    call = group.create_task(outcome(containers.create(wanted)))
    await asyncio.to_thread(read_line, f"{folder}/started")
    call.cancel()
    await asyncio.wait([call])
    check_children("create (in a hook)", 0)


def read_line(path: str) -> str:
    """The first line that is written to a fifo."""
    with open(path, encoding="ascii") as file:
        return file.readline()


async def try_with(world: World) -> None:
    """Every verb in every way."""
    global INHERITED
    INHERITED |= open_fds()
    for verb, ways in WAYS.items():
        for way in ways:
            await try_all(verb, way, world)
    await try_late_removal(world)


async def main() -> None:
    """All of it as an agent that nobody outlives, then as a supervised one, whose state PID 1 keeps."""
    crun = crun_path()
    assert crun is not None
    book = ExitBook()
    attach_reaper(book, reap)
    for supervised in (False, True):
        storages, keeper = CountedStorages(), Keeper()
        listener = socket.socket(socket.AF_UNIX)
        name = f"\0cancelled-{os.getpid()}-{supervised}"
        listener.bind(name)
        listener.listen()
        passed = PassedConnections(listener, keeper, Log(os.open(os.devnull, os.O_WRONLY)), {})
        async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
            containers = Containers(
                Settings(crun_path=crun, base_dir=BASE, exact_reads=supervised),
                group=group,
                exits=book,
                sandbox=NoSandbox(),
                storages=storages,
                keeper=keeper,
                passed=passed,
            )
            await try_with(World(containers, storages, keeper, passed, name))
        passed.close()
    with tempfile.TemporaryDirectory() as folder:
        async with asyncio.timeout(DEADLINE_S):
            await try_exec_that_has_started(folder, crun, book)


if __name__ == "__main__":
    standalone.enter_private_world()
    asyncio.run(main())
