"""Transport: one connected stream socket on the event loop, its output queue, its end.

Knows bytes and pipes, not frames. Works alike for AF_UNIX and AF_VSOCK. asyncio's own transports are not used:
they cost a protocol call and a buffer per read, and cannot splice a pipe into the socket in its place in the
queue. Reads go into a scratch buffer that all transports of a loop share, and are handed on before the next read.

Bounds: the owner pauses reading while more than it likes is queued (`queued_bytes`, `on_drained`). A queue beyond
`HARD_LIMIT_BYTES` means that the peer does not read while its calls keep finishing: it is cut off.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
from collections import deque
from collections.abc import Callable

from kata_protocols.aio.reply import PipeReply

SCRATCH_BYTES = 64 * 1024
HARD_LIMIT_BYTES = 64 * 1024 * 1024


class PipeWrite:
    """A PipeReply in the output queue: filled when its turn comes, then spliced until all of it is sent."""

    __slots__ = ("_head", "_instead", "_left", "_read", "reply", "size")

    def __init__(self, reply: PipeReply, head: bytes, instead: Callable[[Exception], bytes]) -> None:
        self.reply = reply
        self._head = head
        self._instead = instead
        self._left: int | None = None
        self._read: bytes | None = None
        """What was read out of the pipe and not sent yet, for a socket that cannot be spliced into."""
        self.size = len(head) + reply.length

    def fill(self) -> bytes | None:
        """Have the pipe filled, once. Bytes are returned to be sent in its place when that failed."""
        if self._left is not None:
            return None
        try:
            self.reply.fill(self._head)
        except Exception as error:  # noqa: BLE001  # handlers' code: any failure is the call's status
            return self._instead(error)
        self._left = self.size
        return None

    def send(self, sock: socket.socket) -> bool:
        """Move what the socket takes; say whether all is sent. Raises OSError when the socket is gone."""
        while self._left:
            try:
                moved = (
                    self._copy(sock, self._left) if self._read is not None else self._splice(sock, self._left)
                )
            except (BlockingIOError, InterruptedError):
                return False
            if moved is not None:
                self._left -= moved
        return True

    def _splice(self, sock: socket.socket, limit: int) -> int | None:
        """Bytes moved; None when this socket refuses splice(2), and all that is left is to be copied."""
        try:
            moved = os.splice(self.reply.wire_fd, sock.fileno(), limit, flags=os.SPLICE_F_NONBLOCK)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._read = b""
            return None
        if moved == 0:
            raise BrokenPipeError("wire pipe ended before the reply did")
        return moved

    def _copy(self, sock: socket.socket, limit: int) -> int:
        """The same through this process's memory, without the promise about an agent that dies."""
        if not self._read:
            self._read = os.read(self.reply.wire_fd, min(limit, SCRATCH_BYTES))
            if not self._read:
                raise BrokenPipeError("wire pipe ended before the reply did")
        sent = sock.send(self._read)
        self._read = self._read[sent:]
        return sent


class Transport:
    """A non-blocking connected socket. The transport owns it until `detach`."""

    __slots__ = (
        "_closing",
        "_linger_s",
        "_loop",
        "_on_data",
        "_on_drained",
        "_on_lost",
        "_queue",
        "_reading",
        "_scratch",
        "_sock",
        "_unwritable",
        "_writing",
        "closed",
        "queued_bytes",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        scratch: memoryview,
        *,
        on_data: Callable[[memoryview], None],
        on_lost: Callable[[OSError | None], None],
        on_drained: Callable[[], None],
        linger_s: float = 0,
    ) -> None:
        """`on_data` gets each read (none at all: the peer sends no more), `on_lost` comes last, once.

        After a write has failed, what the peer had sent before is still read, for up to `linger_s`.
        """
        self._loop = loop
        self._sock = sock
        self._scratch = scratch
        self._on_data = on_data
        self._on_lost = on_lost
        self._on_drained = on_drained
        self._linger_s = linger_s
        self._unwritable = False
        self._queue: deque[memoryview | PipeWrite] = deque()
        self._reading = False
        self._writing = False
        self._closing = False
        self.closed = False
        self.queued_bytes = 0

    # Reading

    def resume_reading(self) -> None:
        """Deliver what arrives."""
        if not self._reading and not self.closed:
            self._reading = True
            self._loop.add_reader(self._sock, self._read)

    def pause_reading(self) -> None:
        """Leave what arrives in the kernel."""
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._sock)

    def _read(self) -> None:
        try:
            count = self._sock.recv_into(self._scratch)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.abort(error)
            return
        if count == 0:
            self.pause_reading()
        self._on_data(self._scratch[:count])

    # Writing

    def write(self, data: bytes) -> None:
        """Send at once what the socket takes and queue the rest."""
        if self.closed or self._unwritable or not data:
            return
        sent = 0
        if not self._queue:
            try:
                sent = self._sock.send(data)
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as error:
                self._fail_writing(error)
                return
            if sent == len(data):
                return
        self._queue.append(memoryview(data)[sent:])
        self.queued_bytes += len(data) - sent
        if self.queued_bytes > HARD_LIMIT_BYTES:
            self.abort(OSError(errno.ENOBUFS, f"{self.queued_bytes} bytes of replies unread"))
            return
        self._start_writing()

    def write_pipe(self, write: PipeWrite) -> None:
        """Queue a reply that comes out of a pipe."""
        if self.closed:
            self._finish(write.reply, delivered=False)
            return
        self._queue.append(write)
        self.queued_bytes += write.size
        if len(self._queue) == 1:
            self._flush()

    def _start_writing(self) -> None:
        if not self._writing:
            self._writing = True
            self._loop.add_writer(self._sock, self._flush)

    def _flush(self) -> None:
        try:
            emptied = self._send_queued()
        except OSError as error:
            self._fail_writing(error)
            return
        if not emptied:
            self._start_writing()
            return
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._sock)
        if self._closing:
            self.abort(None)
        else:
            self._on_drained()

    def _fail_writing(self, error: OSError) -> None:
        """The peer takes no more; its end, or the time to linger, is the end of reading."""
        if not self._linger_s:
            self.abort(error)
            return
        self._unwritable = True
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._sock)
        self._loop.call_later(self._linger_s, self.abort, error)

    def _send_queued(self) -> bool:
        """Send until the queue is empty (True) or the socket full (False)."""
        queue = self._queue
        while queue:
            item = queue[0]
            if isinstance(item, PipeWrite):
                instead = item.fill()
                if instead is None:
                    if not item.send(self._sock):
                        return False
                    queue.popleft()
                    self.queued_bytes -= item.size
                    self._finish(item.reply, delivered=True)
                    continue
                queue[0] = memoryview(instead)
                self.queued_bytes += len(instead) - item.size
                self._finish(item.reply, delivered=False)
                continue
            try:
                sent = self._sock.send(item)
            except (BlockingIOError, InterruptedError):
                return False
            self.queued_bytes -= sent
            if sent < len(item):
                queue[0] = item[sent:]
                return False
            queue.popleft()
        return True

    # The end

    @property
    def hung_up(self) -> bool:
        """Whether the peer is gone, as far as can be told without reading."""
        poll = select.poll()
        poll.register(self._sock, 0)
        return bool(poll.poll(0))

    @property
    def flushed(self) -> bool:
        """Whether everything written has been handed to the kernel."""
        return not self._queue

    def close(self) -> None:
        """Close when everything queued has been sent."""
        self._closing = True
        self.pause_reading()
        if not self._queue:
            self.abort(None)

    def abort(self, error: OSError | None = None) -> None:
        """Close now; `on_lost` is called from the loop, so callers need not expect it in the middle of a write."""
        if self.closed:
            return
        self._stop_watching()
        self._sock.close()
        self._loop.call_soon(self._end, error)

    def hand_over(
        self,
        *,
        on_data: Callable[[memoryview], None],
        on_lost: Callable[[OSError | None], None],
        on_drained: Callable[[], None],
    ) -> None:
        """Serve another owner from now on."""
        self._on_data = on_data
        self._on_lost = on_lost
        self._on_drained = on_drained

    def detach(self) -> socket.socket:
        """Give the socket away; nothing may be queued. `on_lost` will not be called."""
        self._stop_watching()
        return self._sock

    def _stop_watching(self) -> None:
        self.pause_reading()
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._sock)
        self.closed = True

    def _end(self, error: OSError | None) -> None:
        queue, self._queue = self._queue, deque()
        self.queued_bytes = 0
        for item in queue:
            if isinstance(item, PipeWrite):
                self._finish(item.reply, delivered=False)
        self._on_lost(error)

    def _finish(self, reply: PipeReply, *, delivered: bool) -> None:
        """Tell a reply its end; a fault in it must not take the connection's bookkeeping along."""
        try:
            reply.finished(delivered=delivered)
        except Exception as error:  # noqa: BLE001  # handlers' code
            self._loop.call_exception_handler({"message": "PipeReply.finished failed", "exception": error})
