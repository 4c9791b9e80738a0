"""A byte channel on the event loop: a descriptor that is read, written, and interrupted.

Made for a virtio port, and fit for a terminal or a connected socket. A port's other side may hang up and come back:
meanwhile it polls as hung up all the time, so it is watched by edges until that changes. It may be back before anybody
looks: then the end that was read is all that tells. A socket's end is final.
Must not know: what the bytes mean. Bounds: one read at a time; what a write leaves over is the owner's.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import stat
from collections.abc import Callable

READ_BYTES = 64 * 1024
# Ends in a row, without a word between them, that are taken for hosts that left and were followed at once.
MAX_EMPTY_RETURNS = 16


class Port:
    """Owns the descriptor until `close`."""

    def __init__(
        self,
        fd: int,
        *,
        on_data: Callable[[bytes], None],
        on_writable: Callable[[], None],
        on_interrupted: Callable[[], None],
        on_back: Callable[[], None],
        on_end: Callable[[OSError | None], None],
    ) -> None:
        """`on_interrupted` and `on_back` come in turn, for a port; `on_end` comes last, and closes nothing."""
        os.set_blocking(fd, False)
        self._loop = asyncio.get_running_loop()
        self._fd = fd
        self._returns = stat.S_ISCHR(os.fstat(fd).st_mode)
        self._on_data = on_data
        self._on_writable = on_writable
        self._on_interrupted = on_interrupted
        self._on_back = on_back
        self._on_end = on_end
        self._reading = False
        self._writing = False
        self._edges: select.epoll | None = None
        self._empty_returns = 0

    @property
    def interrupted(self) -> bool:
        """Whether the other side has hung up, and may come back."""
        return self._edges is not None

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._fd < 0

    # Reading

    def resume_reading(self) -> None:
        """Deliver what arrives, in the end the end."""
        if not self._reading and not self.closed:
            self._reading = True
            if not self.interrupted:
                self._loop.add_reader(self._fd, self._read)

    def pause_reading(self) -> None:
        """Leave it where it is."""
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._fd)

    def _read(self) -> None:
        try:
            data = os.read(self._fd, READ_BYTES)
        except (BlockingIOError, InterruptedError):
            self._empty_returns = 0
            return
        except OSError as error:
            self._hang_up(error)
            return
        if data:
            self._empty_returns = 0
            self._on_data(data)
        else:
            self._hang_up(None)

    # Writing

    def write(self, data: bytes | memoryview) -> int:
        """How much was taken. After less than all, or none, `on_writable` comes when there is room."""
        if self.interrupted or self.closed:
            return 0
        try:
            count = os.write(self._fd, data)
        except (BlockingIOError, InterruptedError):
            count = 0
        except OSError as error:
            # What came before the end is read first; without reading, the owner hears of it when it is done with this.
            if not self._reading:
                self._loop.call_soon(self._hang_up, error)
            return 0
        if count < len(data) and not self._writing:
            self._writing = True
            self._loop.add_writer(self._fd, self._tell_writable)
        return count

    def _tell_writable(self) -> None:
        self._stop_writing()
        if not self._is_hung_up():
            self._on_writable()
        elif not self._reading:
            self._hang_up(None)  # else the next read finds it, after what came before

    def _stop_writing(self) -> None:
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._fd)

    # Interruptions

    def _hang_up(self, error: OSError | None) -> None:
        if self.closed or self.interrupted:
            return
        self._stop_writing()
        self._loop.remove_reader(self._fd)
        if not self._returns or not (self._is_hung_up() or self._is_back(error)):
            self._on_end(error)
            return
        self._edges = select.epoll()
        self._edges.register(self._fd, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
        self._loop.add_reader(self._edges, self._look_again)
        self._loop.call_soon(self._look_again)  # back already: there may be no edge to come
        self._on_interrupted()

    def _is_back(self, error: OSError | None) -> bool:
        """Whether it is not hung up, and yet has hung up: another host came before we looked."""
        self._empty_returns += 1
        hang_up = error is None or error.errno == errno.EIO  # of a virtio port, or of a terminal
        return hang_up and self._empty_returns <= MAX_EMPTY_RETURNS

    def _is_hung_up(self) -> bool:
        poll = select.poll()
        poll.register(self._fd, 0)
        return any(events & select.POLLHUP for _, events in poll.poll(0))

    def _look_again(self) -> None:
        """Something has changed. The first look finds what was known; the other side's return is an edge."""
        if self._edges is None:
            return
        self._edges.poll(0)
        if self._is_hung_up():
            return
        self._forget_edges()
        if self._reading:
            self._loop.add_reader(self._fd, self._read)
        self._on_back()

    def _forget_edges(self) -> None:
        if self._edges is not None:
            self._loop.remove_reader(self._edges)
            self._edges.close()
            self._edges = None

    def close(self) -> None:
        """Close the descriptor; nothing is called any more."""
        if self.closed:
            return
        self._forget_edges()
        self._stop_writing()
        self.pause_reading()
        os.close(self._fd)
        self._fd = -1
