"""Bytes from one descriptor to another on the event loop, by splice(2) where the kernel can: none enters this process.

Owns what it is given until it ends: a process's pipe or terminal, the connection its stream goes to, and for a
terminal, which is no pipe, two ends of one between them. Each splice is one system call that happens or does not,
and PID 1 holds copies of all of these, so an agent that is killed loses nothing: the next one goes on from what the
kernel has. Decision 0040.
Must not know: containers, ports, PID 1. Follows: Kata's agent, "fd passthrough".
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
from typing import TYPE_CHECKING

from kata_linux import pipes

if TYPE_CHECKING:
    from collections.abc import Callable

PIECE_BYTES = 1 << 20
PLAIN_BYTES = 1 << 16
# Between two turns of the event loop, so that a fast stream delays nobody.
MOVES_PER_TURN = 16
# What a terminal can hold of a process that has ended, and more: its line buffer and the driver's.
TERMINAL_REST_BYTES = 1 << 18


class Hop:
    """One step of the way."""

    __slots__ = ("_rest", "sink", "source")

    def __init__(self, source: int, sink: int) -> None:
        """Both stay the caller's."""
        self.source = source
        self.sink = sink
        self._rest: bytes | None = None
        """What was read and not written yet, once the kernel has refused to splice between these two."""

    def move(self, limit: int) -> int:
        """How many bytes went over; 0 at the end of the source. BlockingIOError, or the OSError of either side."""
        if self._rest is None:
            try:
                return os.splice(self.source, self.sink, limit, flags=os.SPLICE_F_NONBLOCK)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._rest = b""
        if not self._rest:
            self._rest = os.read(self.source, min(limit, PLAIN_BYTES))
            if not self._rest:
                return 0
        sent = os.write(self.sink, self._rest)
        self._rest = self._rest[sent:]
        return sent

    @property
    def is_source_dry(self) -> bool:
        """Whether it is the source that has to be waited for, and not the sink."""
        return not self._rest and not is_ready(self.source, select.POLLIN)


class Copy:
    """A stream on its way. `wait_done` returns when it has ended, whatever ended it."""

    def __init__(
        self,
        end: int,
        connection: socket.socket,
        relay: tuple[int, ...] = (),
        *,
        inward: bool,
        on_done: Callable[[], None],
    ) -> None:
        """`end` is the process's pipe or terminal's master, `relay` a pipe's read and write end for a terminal.

        `inward`: from the connection to the process. All are non-blocking and owned; `on_done` comes once.
        """
        self._fds = (end, *relay)
        self._connection = connection
        self._inward = inward
        self._terminal = bool(relay)
        self._on_done = on_done
        way = (connection.fileno(), end) if inward else (end, connection.fileno())
        self._last = Hop(relay[0], way[1]) if relay else Hop(*way)
        self._first = Hop(way[0], relay[1]) if relay else self._last
        self._relayed = pipes.read_waiting(relay[0]) if relay else 0
        self._owed: int | None = None
        """Once the process has ended: how much of what it left may still go."""
        self._watched: tuple[int, bool] | None = None
        self._done = asyncio.Event()

    def start(self) -> None:
        """Begin; needs the running loop."""
        self._watch(self._first.source, to_write=False)
        if self._relayed:
            self._pump()

    async def wait_done(self) -> None:
        """Wait for the end."""
        await self._done.wait()

    def process_ended(self) -> None:
        """What waits now still goes; what others who hold the stream write from now on does not."""
        if self._done.is_set() or self._owed is not None:
            return
        if self._inward:
            self.close()
            return
        self._owed = TERMINAL_REST_BYTES if self._terminal else pipes.read_waiting(self._first.source)
        self._pump()

    def close(self) -> None:
        """End now. Twice is fine."""
        if self._done.is_set():
            return
        self._unwatch()
        self._done.set()
        self._connection.close()
        for fd in self._fds:
            os.close(fd)
        self._on_done()

    def _pump(self) -> None:
        """Move what can be moved; the watch, which is level-triggered, calls again."""
        try:
            for _ in range(MOVES_PER_TURN):
                if not self._advance():
                    self._finish()
                    return
        except BlockingIOError:
            self._wait_for_more()
        except OSError:
            self._finish()  # nobody is at the other end any more: a process then learns it as from any broken pipe

    def _advance(self) -> bool:
        """One step; False at the end of the stream."""
        if self._relayed:
            self._relayed -= self._last.move(self._relayed)
            return True
        limit = PIECE_BYTES if self._owed is None else min(PIECE_BYTES, self._owed)
        moved = self._move_first(limit) if limit else 0
        if self._owed is not None:
            self._owed -= moved
        if self._terminal:
            self._relayed = moved
        return moved > 0

    def _move_first(self, limit: int) -> int:
        try:
            return self._first.move(limit)
        except OSError as error:
            if error.errno == errno.EIO and self._terminal and not self._inward:
                return 0  # how a terminal ends whose last user is gone (pty(7))
            raise

    def _wait_for_more(self) -> None:
        hop = self._last if self._relayed else self._first
        if not hop.is_source_dry:
            self._watch(hop.sink, to_write=True)
        elif self._owed is not None:
            self._finish()
        else:
            self._watch(hop.source, to_write=False)

    def _finish(self) -> None:
        """The end of the stream is told to the other side: a half-closed connection, the character of a terminal."""
        try:
            if not self._inward:
                self._connection.shutdown(socket.SHUT_WR)
            elif self._terminal:
                from kata_agent.processes.tty import end_of_file_character  # only terminals need it

                os.write(self._last.sink, end_of_file_character(self._last.sink))
        except OSError:
            pass  # gone already, or so full that nobody would see it
        self.close()

    def _watch(self, fd: int, *, to_write: bool) -> None:
        if self._watched == (fd, to_write):
            return
        self._unwatch()
        loop = asyncio.get_running_loop()
        (loop.add_writer if to_write else loop.add_reader)(fd, self._pump)
        self._watched = (fd, to_write)

    def _unwatch(self) -> None:
        if self._watched is None:
            return
        (fd, to_write), self._watched = self._watched, None
        loop = asyncio.get_running_loop()
        (loop.remove_writer if to_write else loop.remove_reader)(fd)


def is_ready(fd: int, events: int) -> bool:
    """Whether poll(2) says something about this descriptor, now; its end and errors count."""
    poll = select.poll()
    poll.register(fd, events)
    return bool(poll.poll(0))
