"""Sessions: a process's output in a window of offsets, to be read again by any number of readers.

Owns the stream's read end (or a terminal's master and a pipe), and the file in memory that holds what is kept. The
file is sparse: a byte's place in it is its offset in the stream, and what is not kept any more is punched out. Its own
position, which PID 1 shares with us because it holds the same open file, is how much there has ever been: splice(2)
moves the bytes and the position in one system call. So an agent that is killed at any instruction leaves nothing to
repair. Decision 0041. Must not know: containers, the wire.
"""

from __future__ import annotations

import asyncio
import errno
import os
from typing import TYPE_CHECKING

from kata_agent.errors import InvalidRequest, WrongState
from kata_agent.processes.copying import MOVES_PER_TURN, PIECE_BYTES, Hop
from kata_linux import pipes, sparse
from kata_linux.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_BYTES = 1 << 20
MAX_BYTES = 64 << 20
PAGE_BYTES = 4096
# Holes are punched in steps, not for every write.
PUNCH_BYTES = 64 << 10
MAX_READ_BYTES = (4 << 20) - 4096
DEFAULT_READ_BYTES = 32 << 10


class Piece(Record):
    """An answer: `offset` is that of the first byte of `data`, with a gap before it if above the one asked for."""

    offset: int
    data: bytes
    end: int
    ended: bool


class Session:
    """Stands where a process's output was; reads by calls are refused by name."""

    def __init__(
        self,
        fds: tuple[int, ...],
        *,
        size_bytes: int,
        drop_oldest: bool,
        on_close: Callable[[], None],
        on_source_end: Callable[[], None],
    ) -> None:
        """`fds` are owned: the file, the source, for a terminal a pipe's two ends; without a source it has ended.

        `on_source_end` is told when nothing will follow, `on_close` when nobody may read any more.
        """
        self.size_bytes = size_bytes
        self.drop_oldest = drop_oldest
        self._file, *rest = fds
        self._source, *relay = rest or [-1]
        self._relay = tuple(relay)
        self._on_close = on_close
        self._on_source_end = on_source_end
        self.end = os.lseek(self._file, 0, os.SEEK_CUR)
        self.first = self._punched = sparse.find_data(self._file, self.end)
        self._watching = False
        self._failure: OSError | None = None
        self._news = asyncio.Event()
        if self._relay:
            self._last = Hop(self._relay[0], self._file)
            self._first_hop = Hop(self._source, self._relay[1])
        else:
            self._last = self._first_hop = Hop(self._source, self._file)
        self._trim()

    @property
    def ended(self) -> bool:
        """Whether nothing will follow."""
        return self._source < 0

    @property
    def is_closed(self) -> bool:
        """Whether it is gone."""
        return self._file < 0

    def start(self) -> None:
        """Begin to take the output; needs the running loop."""
        if self._source >= 0:
            self._pump()

    def read(self, _limit: int) -> bytes:
        """ReadStdout and ReadStderr."""
        raise WrongState("cannot get stream reader: the stream is kept by a session, read it by ReadSession")

    def process_ended(self) -> None:
        """The source says itself when nobody has it open any more."""

    def close(self) -> None:
        """Forget everything; readers that wait are told. Twice is fine."""
        if self._file < 0:
            return
        self._end_source()
        os.close(self._file)
        self._file = -1
        self._tell()
        self._on_close()

    def detach_source(self) -> int:
        """The source, for the stream to be read by calls again; -1 when it has ended."""
        return os.dup(self._source) if self._source >= 0 else -1

    async def read_at(self, offset: int, limit: int, wait_s: float, release: int) -> Piece:
        """From `offset`, or from the oldest byte kept if that is later; waits for one byte when there is none."""
        if offset > self.end:
            raise InvalidRequest(f"offset {offset} has not been written: the stream ends at {self.end}")
        self.release(release)
        if offset == self.end and wait_s > 0:
            try:
                async with asyncio.timeout(wait_s):
                    while offset == self.end and not self.ended and not self.is_closed and not self._failure:
                        self._news.clear()
                        await self._news.wait()
            except TimeoutError:
                pass  # nothing has come: the answer says so
        if self.is_closed:
            raise WrongState("the session was closed")
        start = max(offset, self.first)
        length = min(limit or DEFAULT_READ_BYTES, MAX_READ_BYTES, self.end - start)
        if not length and self._failure:
            raise self._failure
        return Piece(start, os.pread(self._file, length, start), self.end, self.ended)

    def release(self, offset: int) -> None:
        """Bytes before this one are not needed again."""
        if self.drop_oldest or offset <= self.first:
            return
        self.first = min(offset, self.end)
        self._trim()
        self._failure = None
        if self._source >= 0 and not self._watching:
            self._pump()

    def _pump(self) -> None:
        """Take what there is; the watch, which is level-triggered, calls again."""
        try:
            for _ in range(MOVES_PER_TURN):
                room = self.size_bytes if self.drop_oldest else self.size_bytes - (self.end - self.first)
                if room <= 0:
                    self._unwatch()  # the process waits, until a reader releases
                    return
                if not self._move(min(room, PIECE_BYTES)):
                    self._end_source()
                    return
        except BlockingIOError:
            pass
        except OSError as error:  # no memory: the process waits; readers learn why
            self._failure = error
            self._unwatch()
            self._tell()
            return
        self._watch()

    def _move(self, limit: int) -> bool:
        """One step towards the file; False at the end of the source."""
        if self._relay and not pipes.read_waiting(self._relay[0]):
            try:
                if not self._first_hop.move(limit):
                    return False
            except OSError as error:
                if error.errno == errno.EIO:
                    return False  # how a terminal ends whose last user is gone (pty(7))
                raise
        moved = self._last.move(limit)
        self.end += moved
        if moved:
            self._trim()
            self._tell()
        return moved > 0

    def _trim(self) -> None:
        """Let go of what is not kept any more."""
        if self.drop_oldest:
            self.first = max(self.first, self.end - self.size_bytes)
        whole_pages = self.first - self.first % PAGE_BYTES
        if whole_pages - self._punched >= PUNCH_BYTES or self.first == self.end:
            sparse.punch(self._file, self._punched, whole_pages - self._punched)
            self._punched = whole_pages

    def _end_source(self) -> None:
        if self._source < 0:
            return
        self._unwatch()
        source, self._source = self._source, -1
        for fd in (source, *self._relay):
            os.close(fd)
        self._relay = ()
        self._on_source_end()
        self._tell()

    def _tell(self) -> None:
        self._news.set()

    def _watch(self) -> None:
        if not self._watching:
            self._watching = True
            asyncio.get_running_loop().add_reader(self._source, self._pump)

    def _unwatch(self) -> None:
        if self._watching:
            self._watching = False
            asyncio.get_running_loop().remove_reader(self._source)


def open_file() -> int:
    """The file that a session's bytes are kept in."""
    return os.memfd_create("kata-session", os.MFD_CLOEXEC)
