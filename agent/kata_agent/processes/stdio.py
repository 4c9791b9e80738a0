"""A process's streams on the agent's side: the read ends of its output, the write end of its input.

Owns the descriptors it is given, until `close`. Reads answer with what waits, in order, one reader at a time;
pending data goes before the end, and once the process has ended, an empty stream is at its end even when
somebody else still holds it open. Must not know: containers, the wire. Follows: Kata's agent, standard streams.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from typing import TYPE_CHECKING

from kata_agent.errors import EndOfOutput, InvalidRequest, WrongState
from kata_agent.processes.turn import Turn

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

READ_LIMIT_BYTES = 1 << 20
CLOSED_TEXT = "cannot get stream reader: the stream has ended before"


class Output:
    """What a process writes to one pipe, or to its terminal."""

    def __init__(self, fd: int, *, on_close: Callable[[], None] | None = None) -> None:
        """`fd` is non-blocking and owned from here on; `on_close` is told when it is closed."""
        self.fd = fd
        self._on_close = on_close
        self._turn = Turn()
        self._wake: asyncio.Future[None] | None = None
        self._process_ended = False

    def read(self, limit: int) -> bytes | Awaitable[bytes]:
        """1..limit bytes when some wait and nobody is before us, else an awaitable of them; EndOfOutput."""
        if limit <= 0:
            raise InvalidRequest("read: len is 0, ask for at least one byte")
        if self._turn.try_take():
            try:
                data = self._read_now(limit)
            finally:
                self._turn.release()
            if data is not None:
                return data
        return self._read_later(limit)

    def process_ended(self) -> None:
        """The process is gone: what waits in the pipe can be read, then the stream ends."""
        self._process_ended = True
        self._awaken()

    def close(self) -> None:
        """Free the descriptor; a reader that waits gets EndOfOutput. Twice is fine."""
        if self.fd < 0:
            return
        fd, self.fd = self.fd, -1
        if self._wake is not None:
            asyncio.get_running_loop().remove_reader(fd)
        os.close(fd)
        self._awaken()
        if self._on_close is not None:
            self._on_close()

    async def _read_later(self, limit: int) -> bytes:
        await self._turn.take()
        try:
            while (data := self._read_now(limit)) is None:
                await self._wait_readable()
            return data
        finally:
            self._turn.release()

    def _read_now(self, limit: int) -> bytes | None:
        if self.fd < 0:
            raise EndOfOutput(CLOSED_TEXT)
        try:
            data = os.read(self.fd, min(limit, READ_LIMIT_BYTES))
        except BlockingIOError:
            if self._process_ended:
                raise EndOfOutput("eof: the process has ended and left no more output") from None
            return None
        except OSError:
            # EIO of a terminal whose last user is gone (pty(7)); nothing else is to be expected of a pipe or pty
            data = b""
        if not data:
            self.close()
            raise EndOfOutput
        return data

    async def _wait_readable(self) -> None:
        loop = asyncio.get_running_loop()
        self._wake = loop.create_future()
        loop.add_reader(self.fd, self._awaken)
        try:
            await self._wake
        finally:
            self._wake = None
            if self.fd >= 0:
                loop.remove_reader(self.fd)

    def _awaken(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)


class Input:
    """What a process reads: a pipe's write end. Writers are served in order, each waits for its own bytes only."""

    def __init__(self, fd: int, *, on_close: Callable[[], None] | None = None) -> None:
        """`fd` is non-blocking and owned from here on; `on_close` is told when it is closed."""
        self.fd = fd
        self._on_close = on_close
        self._turn = Turn()
        self._wake: asyncio.Future[None] | None = None

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
                    await self._wait_writable()
            return len(data)
        finally:
            self._turn.release()

    def end(self) -> None:
        """End of input, behind nothing: what was written stays readable. Twice is fine."""
        self.close()

    def close(self) -> None:
        """Free the descriptor; a writer that waits gets an error. Twice is fine."""
        if self.fd < 0:
            return
        fd, self.fd = self.fd, -1
        if self._wake is not None:
            asyncio.get_running_loop().remove_writer(fd)
            if not self._wake.done():
                self._wake.set_result(None)
        os.close(fd)
        if self._on_close is not None:
            self._on_close()

    def _write_now(self, data: memoryview) -> int:
        if self.fd < 0:
            raise WrongState("Cannot get writer: stdin is closed")
        try:
            return os.write(self.fd, data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise OSError(error.errno, f"write stdin: {error.strerror}") from error

    async def _wait_writable(self) -> None:
        loop = asyncio.get_running_loop()
        self._wake = loop.create_future()
        loop.add_writer(self.fd, self._awaken)
        try:
            await self._wake
        finally:
            self._wake = None
            if self.fd >= 0:
                loop.remove_writer(self.fd)

    def _awaken(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)


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
                    fcntl.fcntl(mine, fcntl.F_SETPIPE_SZ, size_bytes)
        except BaseException:
            self.close()
            raise

    def close_theirs(self) -> None:
        """After the process has its copies."""
        while self.theirs:
            os.close(self.theirs.pop())

    def take_ours(self) -> tuple[int, int, int]:
        """Stdin, stdout, stderr; the caller owns them now."""
        stdin, stdout, stderr = self.ours
        self.ours = []
        return stdin, stdout, stderr

    def close(self) -> None:
        """Close what is still owned here."""
        self.close_theirs()
        while self.ours:
            os.close(self.ours.pop())
