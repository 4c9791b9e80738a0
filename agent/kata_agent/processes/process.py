"""One process of a container: its identity, its streams, its end.

Owns the streams until `close`. Must not know: how it was started, the container around it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from kata_agent.errors import NoTerminal, NotFound, WrongState
from kata_agent.processes import tty

if TYPE_CHECKING:
    from kata_agent.processes.exits import ExitBook, Target
    from kata_agent.processes.stdio import Input, Output
    from kata_init.exits import Exit


class Process:
    """Known from before it runs until its container is removed."""

    def __init__(self, exec_id: str, number: int) -> None:
        """`number` is unique in the container and names this process's files and stored descriptors."""
        self.exec_id = exec_id
        self.number = number
        self.pid = 0
        self.start_time = 0
        self.exit: Exit | None = None
        self.waited = False
        self.terminal = False
        self.stdin: Input | None = None
        self.outputs: dict[str, Output[Any]] = {}
        self._ended = asyncio.Event()

    def attach_pipes(self, stdin: Input, stdout: Output[Any], stderr: Output[Any]) -> None:
        """Own these streams from here on."""
        self.stdin = stdin
        self.outputs = {"stdout": stdout, "stderr": stderr}

    def attach_terminal(self, stdin: Input, output: Output[Any]) -> None:
        """Own a terminal's two sides; stdout and stderr are one."""
        self.terminal = True
        self.stdin = stdin
        self.outputs = {"stdout": output, "stderr": output}

    def follow(self, pid: int, target: Target, exits: ExitBook) -> None:
        """Learn of the end of the process of this pid, which may have ended already."""
        self.pid = pid
        self.start_time = target.earliest
        exits.watch(pid, target, self._on_exit)

    def unfollow(self, exits: ExitBook) -> None:
        """Nobody will ask for the exit any more."""
        exits.unwatch(self.pid, self._on_exit)
        if self.exit is not None:
            exits.release(self.exit.pid, self.exit.start_time)

    async def wait_exit(self) -> Exit:
        """The exit, for any number of waiters, at any time."""
        await self._ended.wait()
        if self.exit is None:
            raise NotFound(f"process {self.exec_id} is not there any more: its container was removed")
        self.waited = True
        return self.exit

    async def wait_gone(self) -> None:
        """Wait until the process, if it was ever started, has ended and was reaped."""
        if self.pid:
            await self._ended.wait()

    def output(self, stream: str) -> Output[Any]:
        """The stream of this name; there are stdout and stderr."""
        if not self.outputs:
            raise WrongState(f"cannot get stream reader: process {self.exec_id} is not started yet")
        return self.outputs[stream]

    def input(self) -> Input:
        """Where its input is written."""
        if self.stdin is None:
            raise WrongState(f"Cannot get writer: process {self.exec_id} is not started yet")
        return self.stdin

    def resize(self, rows: int, columns: int) -> None:
        """Set the terminal's size."""
        if not self.terminal or self.stdin is None or self.stdin.fd < 0:
            raise NoTerminal
        tty.set_size(self.stdin.fd, rows, columns)

    def close(self) -> None:
        """Close the streams and let go whoever waits."""
        if self.stdin is not None:
            self.stdin.close()
        for output in self.outputs.values():
            output.close()
        self._ended.set()

    def discard(self, exits: ExitBook) -> None:
        """Nobody will ask for this process any more."""
        self.close()
        self.unfollow(exits)

    def _on_exit(self, entry: Exit) -> None:
        self.exit = entry
        self.start_time = entry.start_time or self.start_time
        self._ended.set()
        if self.stdin is not None:
            self.stdin.close()
        for output in self.outputs.values():
            output.process_ended()
