"""A process's streams on the agent's side: the read ends of its output, the write end of its input.

Owns the descriptors it is given, until `close`. Reads answer with what waits, in order, one reader at a time;
pending data goes before the end, and once the process has ended, an empty stream is at its end even when
somebody else still holds it open. Must not know: containers, the wire. Follows: Kata's agent, standard streams.
"""

from __future__ import annotations

import asyncio
import os
import select
from typing import TYPE_CHECKING, Generic, TypeVar

from kata_agent.errors import EndOfOutput, InvalidRequest, WrongState
from kata_agent.processes.turn import Turn
from kata_linux import pipes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    OnClose = Callable[[], None] | None

READ_LIMIT_BYTES = 1 << 20
CLOSED_TEXT = "read meet eof: the stream is closed"

Answer = TypeVar("Answer")


class Stream:
    """One descriptor, non-blocking and owned; -1 when it is closed."""

    def __init__(self, fd: int, *, on_close: OnClose = None) -> None:
        """`on_close` is told when the descriptor has been closed."""
        self.fd = fd
        self._on_close = on_close
        self._turn = Turn()
        self._wake: asyncio.Future[None] | None = None

    def close(self) -> None:
        """Free the descriptor; whoever waits is woken and finds it closed. Twice is fine."""
        if self.fd < 0:
            return
        fd, self.fd = self.fd, -1
        if self._wake is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(fd)
            loop.remove_writer(fd)
        os.close(fd)
        self._awaken()
        if self._on_close is not None:
            self._on_close()

    def _awaken(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def _wait_ready(self, *, to_write: bool) -> None:
        """Wait until the descriptor is ready, or `_awaken` is called."""
        loop = asyncio.get_running_loop()
        watch, unwatch = (
            (loop.add_writer, loop.remove_writer) if to_write else (loop.add_reader, loop.remove_reader)
        )
        self._wake = loop.create_future()
        watch(self.fd, self._awaken)
        try:
            await self._wake
        finally:
            self._wake = None
            if self.fd >= 0:
                unwatch(self.fd)


class Output(Stream, Generic[Answer]):
    """What a process writes. Subclasses say how an answer is made of what waits."""

    def __init__(self, fd: int, *, on_close: OnClose = None) -> None:
        super().__init__(fd, on_close=on_close)
        self._process_ended = False
        self._later = 0
        """Reads that were promised an answer later; nobody goes before them, also while they have not begun to wait."""

    def read(self, limit: int) -> Answer | Awaitable[Answer]:
        """1..limit bytes when some wait and nobody is before us, else an awaitable of them; EndOfOutput."""
        if limit <= 0:
            raise InvalidRequest("read: len is 0, ask for at least one byte")
        if not self._later and self._turn.try_take():
            answer = self._answer_or_release(limit)
            if answer is not None:
                return answer
            self._turn.release()
        self._later += 1
        return self._read_later(limit)

    @property
    def is_idle(self) -> bool:
        """Whether nobody reads, and nothing that was read is owed to anybody."""
        if self._later or not self._turn.try_take():
            return False
        self._turn.release()
        return True

    def process_ended(self) -> None:
        """The process is gone: what waits in the pipe can be read, then the stream ends.

        One that nobody has open any more and that holds nothing is closed: hosts may never read it.
        """
        self._process_ended = True
        if self._wake is not None:
            self._awaken()
        elif self.fd >= 0 and not self._is_owed() and is_at_end(self.fd) and self._turn.try_take():
            self.close()
            self._turn.release()

    def _is_owed(self) -> bool:
        """Whether bytes that were taken out of the descriptor have yet to be answered."""
        return False

    async def _read_later(self, limit: int) -> Answer:
        try:
            await self._turn.take()
            while (answer := self._answer_or_release(limit)) is None:
                try:
                    await self._wait_ready(to_write=False)
                except BaseException:
                    self._turn.release()
                    raise
            return answer
        finally:
            # a read that was cancelled before it began never comes here: nobody waiting means nobody promised
            self._later = self._later - 1 if self._turn.is_wanted else 0

    def _answer_or_release(self, limit: int) -> Answer | None:
        """An answer; None when there is nothing yet, the turn still ours; it is released when this raises."""
        try:
            return self._answer(min(limit, READ_LIMIT_BYTES))
        except BaseException:
            self._turn.release()
            raise

    def _answer(self, limit: int) -> Answer | None:
        """Make an answer of what waits and release the turn when it is made; None when nothing waits."""
        raise NotImplementedError

    def _nothing_waits(self) -> None:
        """The stream is open and empty: that is its end when the process is gone."""
        if self._process_ended:
            raise EndOfOutput("eof: the process has ended and left no more output")


def is_at_end(fd: int) -> bool:
    """Whether nobody has the other end open and nothing waits."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return any(events & select.POLLHUP and not events & select.POLLIN for _, events in poll.poll(0))


class PlainOutput(Output[bytes]):
    """Answers are bytes: a pipe of a stand-alone agent, or a terminal."""

    def _answer(self, limit: int) -> bytes | None:
        if self.fd < 0:
            raise EndOfOutput(CLOSED_TEXT)
        try:
            data = os.read(self.fd, limit)
        except BlockingIOError:
            self._nothing_waits()
            return None
        except OSError:
            # EIO of a terminal whose last user is gone (pty(7)); a pipe's read has no error of its own
            data = b""
        if not data:
            self.close()
            raise EndOfOutput
        self._turn.release()
        return data


class Input(Stream):
    """What a process reads: a pipe's write end. Writers are served in order, each waits for its own bytes only."""

    async def write(self, data: bytes) -> int:
        """Write all of data; EPIPE (OSError) when nobody reads any more. Empty data is the end of input."""
        if not data:
            self.end()
            return 0
        await self._turn.take()
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[self._write_now(rest) :]
                if rest:
                    await self._wait_ready(to_write=True)
            return len(data)
        finally:
            self._turn.release()

    def end(self) -> None:
        """End of input: what was written before stays readable. Twice is fine."""
        self.close()

    def _write_now(self, data: memoryview) -> int:
        if self.fd < 0:
            raise WrongState("Cannot get writer: stdin is closed")
        try:
            return os.write(self.fd, data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise OSError(error.errno, f"write stdin: {error.strerror}") from error


class Pipes:
    """Both ends of a process's three pipes, while it is being started."""

    def __init__(self, size_bytes: int = 0) -> None:
        """`size_bytes` > 0 resizes stdout and stderr. All ends are close-on-exec, ours non-blocking."""
        self.ours: list[int] = []
        self.theirs: list[int] = []
        try:
            for index in range(3):
                read_end, write_end = os.pipe2(os.O_CLOEXEC)
                mine, other = (write_end, read_end) if index == 0 else (read_end, write_end)
                self.ours.append(mine)
                self.theirs.append(other)
                os.set_blocking(mine, False)
                if index and size_bytes > 0:
                    pipes.set_size(mine, size_bytes)
        except BaseException:
            self.close()
            raise

    def take_ours(self) -> list[int]:
        """Stdin, stdout, stderr; the caller owns them now."""
        ours, self.ours = self.ours, []
        return ours

    def replace_theirs(self, absent: tuple[bool, ...]) -> None:
        """Give the process nothing, /dev/null, for each stream that is absent."""
        for index in (index for index, missing in enumerate(absent) if missing):
            null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
            os.close(self.theirs[index])
            self.theirs[index] = null

    def close(self) -> None:
        """Close what is still owned here."""
        for fd in (*self.ours, *self.theirs):
            os.close(fd)
        self.ours, self.theirs = [], []
