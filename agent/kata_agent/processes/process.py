"""One process of a container: its identity, its streams, its end.

Owns the streams until `close`. Must not know: how it was started, the container around it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from kata_agent.errors import ExitLost, NoTerminal, NotFound, WrongState
from kata_agent.processes import tty

if TYPE_CHECKING:
    from collections.abc import Callable

    from kata_agent.processes.copying import Copy
    from kata_agent.processes.exits import ExitBook, Target
    from kata_agent.processes.session import Session
    from kata_agent.processes.stdio import Input, Output
    from kata_init.exits import Exit

# PID 1 tells of an exit within microseconds of taking it. When it has told nothing for so long, its ledger overflowed
# while no agent ran, and nobody has the status any more.
LOST_AFTER_S = 5.0


class Process:
    """Known from before it runs until its container is removed."""

    def __init__(self, exec_id: str, number: int) -> None:
        """`number` is unique in the container and names this process's files and stored descriptors."""
        self.exec_id = exec_id
        self.number = number
        self.pid = 0
        self.start_time = 0
        self.latest_start_time = 0
        """Greater than `start_time` for a process that was gone before it could be looked at."""
        self.exit: Exit | None = None
        self.waited = False
        self.terminal = False
        self.stream_ports: tuple[int, ...] = ()
        """Of the connections that its host has made for its streams."""
        self.stdin: Input | None = None
        self.outputs: dict[str, Output[Any] | Session] = {}
        self.own: tuple[Copy, ...] | None = None
        """Streams on connections of their own; the calls of streams do not serve this process then."""
        self.on_exit: Callable[[Process], None] | None = None
        self.told = False
        """Whether its end has been told to who keeps the history."""
        self.lost = False
        """It has ended, and its exit status is with nobody."""
        self._ended = asyncio.Event()
        self._lost_timer: asyncio.TimerHandle | None = None

    def attach_pipes(self, stdin: Input, stdout: Output[Any], stderr: Output[Any]) -> None:
        """Own these streams from here on."""
        self.stdin = stdin
        self.outputs = {"stdout": stdout, "stderr": stderr}
        self._end_streams_of_ended()

    def attach_terminal(self, stdin: Input, output: Output[Any]) -> None:
        """Own a terminal's two sides; stdout and stderr are one."""
        self.terminal = True
        self.stdin = stdin
        self.outputs = {"stdout": output, "stderr": output}
        self._end_streams_of_ended()

    def attach_own(self, copies: tuple[Copy, ...], terminal: Input | None) -> None:
        """Own these from here on; `terminal` is a master to be resized."""
        self.own = copies
        self.stdin = terminal
        for copy in copies:
            copy.start()
        self._end_streams_of_ended()

    def follow(self, pid: int, target: Target, exits: ExitBook) -> None:
        """Learn of the end of the process of this pid, which may have ended already."""
        self.pid = pid
        self.start_time = target.earliest
        self.latest_start_time = target.latest
        exits.watch(pid, target, self._on_exit)

    def expect_exit(self, within_s: float = LOST_AFTER_S) -> None:
        """The process is gone: its exit is known by then, or is lost."""
        if self.exit is None:
            self._lost_timer = asyncio.get_running_loop().call_later(within_s, self._lose)

    def unfollow(self, exits: ExitBook) -> None:
        """Nobody will ask for the exit any more."""
        exits.unwatch(self.pid, self._on_exit)
        if self.exit is not None:
            exits.release(self.exit.pid, self.exit.start_time)

    async def wait_exit(self) -> Exit:
        """The exit, for any number of waiters, at any time."""
        await self._ended.wait()
        if self.lost and self.exit is None:
            raise ExitLost(
                f"exit status lost: process {self.exec_id} (pid {self.pid}) ended while no agent ran, and PID 1 "
                "had to drop its exit to keep newer ones"
            )
        if self.exit is None:
            raise NotFound(f"process {self.exec_id} is not there any more: its container was removed")
        for copy in self.own or ():
            await copy.wait_done()  # what it had written is with the host before its status is
        self.waited = True
        return self.exit

    async def wait_gone(self) -> None:
        """Wait until the process, if it was ever started, has ended and was reaped."""
        if self.pid:
            await self._ended.wait()

    def output(self, stream: str) -> Output[Any] | Session:
        """The stream of this name; there are stdout and stderr."""
        if self.own is not None and stream not in self.outputs:
            raise WrongState(f"cannot get stream reader: {self._served_elsewhere(stream)}")
        if not self.outputs:
            raise WrongState(f"cannot get stream reader: process {self.exec_id} is not started yet")
        return self.outputs[stream]

    def input(self) -> Input:
        """Where its input is written."""
        if self.own is not None:
            raise WrongState(f"Cannot get writer: {self._served_elsewhere('stdin')}")
        if self.stdin is None:
            raise WrongState(f"Cannot get writer: process {self.exec_id} is not started yet")
        return self.stdin

    def resize(self, rows: int, columns: int) -> None:
        """Set the terminal's size."""
        if not self.terminal or self.stdin is None or self.stdin.fd < 0:
            raise NoTerminal
        tty.set_size(self.stdin.fd, rows, columns)

    def _served_elsewhere(self, stream: str) -> str:
        return (
            f"{stream} of process {self.exec_id} went to a connection of its own (the ports of its request)"
        )

    def close(self) -> None:
        """Close the streams and let go whoever waits."""
        if self.stdin is not None:
            self.stdin.close()
        for output in self.outputs.values():
            output.close()
        for copy in self.own or ():
            copy.close()
        self._stop_timer()
        self._ended.set()

    def discard(self, exits: ExitBook) -> None:
        """Nobody will ask for this process any more."""
        self.close()
        self.unfollow(exits)

    def _on_exit(self, entry: Exit) -> None:
        self.exit = entry
        self._stop_timer()
        self.start_time = entry.start_time or self.start_time
        self.latest_start_time = entry.start_time or self.latest_start_time
        self._ended.set()
        self._end_streams_of_ended()
        if self.on_exit is not None:
            self.on_exit(self)

    def _lose(self) -> None:
        self.lost = True
        self._ended.set()
        self._end_streams_of_ended()

    def _stop_timer(self) -> None:
        if self._lost_timer is not None:
            self._lost_timer.cancel()
            self._lost_timer = None

    def _end_streams_of_ended(self) -> None:
        """An adopted process, or one on a terminal, may have ended before it has its streams."""
        if self.exit is None and not self.lost:
            return
        if self.stdin is not None:
            self.stdin.close()
        for output in self.outputs.values():
            output.process_ended()
        for copy in self.own or ():
            copy.process_ended()
