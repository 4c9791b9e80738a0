"""OCI hooks: who runs which, with what limits, and what is told of how they ended: a failure with what the hook wrote,
a success without.

Owns the words that start `hook_guard.py`, the report file, and running the kinds that are the agent's (poststart,
poststop); crun runs the guard for prestart and createContainer, and startContainer hooks as they are. No hook's
failure fails a call: it is reported. Must not know the registry. Follows: Kata's agent, hooks; decision 0050.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from kata_agent.containers.adopt import wait_gone
from kata_agent.errors import AgentError, TimedOut
from kata_agent.processes.signals import send_to_process
from kata_agent.processes.spawn import Child, spawn
from kata_linux import procfs

if TYPE_CHECKING:
    from collections.abc import Callable

    from kata_agent.containers.container import Container
    from kata_agent.containers.settings import Settings
    from kata_agent.processes.exits import ExitBook

Hook = dict[str, Any]

DEFAULT_TIMEOUT_S = 10
GUARD = os.path.join(os.path.dirname(__file__), "hook_guard" + os.path.splitext(__file__)[1])
# The kinds that crun starts while CreateContainer waits for it, with the guard in their place.
GUARDED = ("prestart", "createContainer")
# The kinds that the agent runs.
OURS = ("poststart", "poststop")
# The guard ends by itself: this much after the hook's limit it is taken for stuck.
GUARD_GRACE_S = 5.0
REPORT_LIMIT_BYTES = 65536
SUCCESS = ": ended with status 0"


def plan_for_crun(hooks: dict[str, list[Hook]], report: str) -> dict[str, list[Hook]]:
    """The hooks that crun is given: guarded ones behind the guard, the container's own as they are."""
    planned: dict[str, list[Hook]] = {
        kind: [{"path": sys.executable, "args": guard_words(kind, hook, report)} for hook in listed]
        for kind, listed in hooks.items()
        if kind in GUARDED
    }
    if "startContainer" in hooks:
        planned["startContainer"] = [
            {**hook, "timeout": limit_of(hook), "args": hook.get("args") or [hook["path"]]}
            for hook in hooks["startContainer"]
        ]
    return planned


def guard_words(kind: str, hook: Hook, report: str) -> list[str]:
    """The command line of the guard for one hook."""
    environment = hook.get("env") or []
    return [
        *(sys.executable, "-I", "-S", GUARD, report, kind, str(limit_of(hook)), str(len(environment))),
        *environment,
        hook["path"],
        *(hook.get("args") or [hook["path"]]),
    ]


def limit_of(hook: Hook) -> int:
    """Seconds that the hook may take."""
    return int(hook.get("timeout") or DEFAULT_TIMEOUT_S)


def sum_limits(hooks: dict[str, list[Hook]]) -> float:
    """How long the hooks may keep a create waiting."""
    return float(sum(limit_of(hook) for kind in GUARDED for hook in hooks.get(kind, ())))


class HookRunner:
    """Runs the agent's kinds, one hook after the other, and tells how they and the guarded ones ended."""

    def __init__(
        self,
        settings: Settings,
        exits: ExitBook,
        report: Callable[[str, BaseException], None],
        note: Callable[[str, str], None],
    ) -> None:
        """`report` hears of failures, `note` a container's id and what succeeded."""
        self._note = note
        self._settings = settings
        self._exits = exits
        self._report = report

    def prepare(self, container: Container) -> str:
        """Make the report file: guards in a user namespace must be able to write it, too."""
        path = self._settings.hook_report(container.id)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        os.fchmod(fd, 0o666)
        os.close(fd)
        return path

    async def run(self, container: Container, kind: str, status: str, pid: int) -> None:
        """Run the container's hooks of this kind; each is given the state on its standard input."""
        if not container.hooks.get(kind) or not self._has_report(container):
            return  # none; or a removal before this one came as far as the bundle
        state = {
            "ociVersion": "1.0.2",
            "id": container.id,
            "status": status,
            "pid": pid,
            "bundle": self._settings.bundle(container.id),
            "annotations": container.annotations,
        }
        for hook in container.hooks[kind]:
            await self._run_one(container, kind, hook, state)
        self.tell(container)

    async def end_guards(self, container: Container) -> None:
        """Have those end whose crun was killed, with their hooks; most notice it by themselves, after a moment."""
        if not any(container.hooks.get(kind) for kind in GUARDED):
            return
        words = {self._settings.bundle(container.id), self._settings.hook_report(container.id)}
        left = [child for pid in procfs.list_pids() if (child := _find_left(pid, words))]
        for number in (signal.SIGTERM, signal.SIGKILL):
            for child in left:
                send_to_process(*child, number)
            deadline = asyncio.get_running_loop().time() + GUARD_GRACE_S
            if await wait_gone([child.pid for child in left], deadline):
                return
        pids = ", ".join(str(child.pid) for child in left)
        raise TimedOut(f"hooks of container {container.id} do not end: processes {pids}")

    def tell(self, container: Container) -> None:
        """Tell what guards have written since the last time."""
        if not container.hooks:
            return
        path = self._settings.hook_report(container.id)
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            lines = os.read(fd, REPORT_LIMIT_BYTES).decode(errors="replace").splitlines()
            os.ftruncate(fd, 0)
        finally:
            os.close(fd)
        for line in lines:
            if line.endswith(SUCCESS) or f"{SUCCESS}: " in line:
                self._note(container.id, line[: line.index(SUCCESS)] + SUCCESS)
            else:
                self._report(f"hook of container {container.id}", AgentError(line))

    def _has_report(self, container: Container) -> bool:
        return os.path.exists(self._settings.hook_report(container.id))

    async def _run_one(self, container: Container, kind: str, hook: Hook, state: dict[str, Any]) -> None:
        words = guard_words(kind, hook, self._settings.hook_report(container.id))
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        stdin = _state_file(state)
        try:
            guard = spawn(words, (stdin, null, null))
        finally:
            os.close(null)
            os.close(stdin)
        try:
            async with asyncio.timeout(limit_of(hook) + GUARD_GRACE_S):
                await self._exits.wait_exit(*guard)
        except TimeoutError:
            await self._exits.end(guard, GUARD_GRACE_S)
            self._report(
                f"hook of container {container.id}",
                AgentError(f"{kind} {hook['path']}: its guard was stuck and was killed"),
            )
        except BaseException:
            await self._exits.end(guard, GUARD_GRACE_S, signal.SIGTERM)  # it kills the hook and ends
            raise


def _find_left(pid: int, words: set[str]) -> Child | None:
    """The process if it is a guard, or a child of crun that has yet to become one, and the reaper's now."""
    try:
        stat = procfs.read_stat(pid)
        if stat.ppid in (os.getpid(), os.getppid()) and not words.isdisjoint(procfs.read_cmdline(pid)):
            return Child(pid, stat.start_time)
    except (OSError, ValueError):
        pass  # ended meanwhile
    return None


def _state_file(state: dict[str, Any]) -> int:
    """The state as a file to read: a hook that does not read it blocks nobody."""
    import json  # not needed by an idle agent

    fd = os.memfd_create("state", os.MFD_CLOEXEC)
    os.write(fd, json.dumps(state).encode())
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
