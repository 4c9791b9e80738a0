"""The log on a port of its own: each line goes to every reader there is, and one that comes later gets the newest.

Owns the listening socket and its readers: at most `READERS`, and for each at most `BUFFER_BYTES` that it has not taken.
A reader that is behind loses whole lines and is told how many; it never holds the agent back. One that is behind by
half of what is kept for it gives its place to who comes and finds none: of the end of a killed reader, a VMM's vsock
device may never tell. Must not know: what a line says. Follows: Kata's agent, `agent.log_vport`, which serves one
reader once; this one serves several, any time.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "listen.log"
READERS = 4
BUFFER_BYTES = 512 << 10
HISTORY_BYTES = 256 << 10
"""A boot's messages of the kernel are some 100 KiB."""
_CID_HOST = 2


class LogPort:
    """Needs the running loop; `close` ends it."""

    def __init__(
        self,
        listener: socket.socket,
        describe_loss: Callable[[int], bytes],
        *,
        buffer_bytes: int = BUFFER_BYTES,
        history_bytes: int = HISTORY_BYTES,
    ) -> None:
        """Owns the listener. `describe_loss(count)` makes the line that tells a reader what it has missed."""
        self.describe_loss = describe_loss
        self.buffer_bytes = buffer_bytes
        self.dropped = 0
        self._listener = listener
        self._history: deque[bytes] = deque()
        self._kept = 0
        self._history_bytes = history_bytes
        self._readers: set[Reader] = set()
        listener.setblocking(False)  # noqa: FBT003 - the library's signature
        asyncio.get_running_loop().add_reader(listener, self._accept)

    def write(self, line: bytes) -> None:
        """Take a whole line. Never blocks, never raises."""
        self._history.append(line)
        self._kept += len(line)
        while self._kept > self._history_bytes:
            self._kept -= len(self._history.popleft())
        for reader in tuple(self._readers):
            reader.offer(line)

    def close(self) -> None:
        """Stop listening and hang up."""
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
        for reader in tuple(self._readers):
            reader.close()

    def forget(self, reader: Reader) -> None:
        """It has gone."""
        self._readers.discard(reader)

    def _accept(self) -> None:
        try:
            connection, peer = self._listener.accept()
        except OSError:
            return  # gone again, or no descriptor left: the listener is level-triggered, and there is no log to tell
        if not is_host(peer) or not self._has_room():
            connection.close()
            return
        connection.setblocking(False)  # noqa: FBT003
        reader = Reader(connection, self)
        self._readers.add(reader)
        for line in tuple(self._history):
            reader.offer(line)

    def _has_room(self) -> bool:
        """Whether one more may read, which one that is far behind makes room for."""
        if len(self._readers) < READERS:
            return True
        last = max(self._readers, key=lambda reader: reader.behind_bytes)
        if last.behind_bytes <= self.buffer_bytes // 2:
            return False
        last.close()
        return True


class Reader:
    """One connection, and what it has not taken yet."""

    def __init__(self, connection: socket.socket, port: LogPort) -> None:
        self._connection = connection
        self._port = port
        self._buffer = bytearray()
        self._dropped = 0
        self._waits = False
        asyncio.get_running_loop().add_reader(connection, self._listen)

    @property
    def behind_bytes(self) -> int:
        """What it has not taken."""
        return len(self._buffer)

    def offer(self, line: bytes) -> None:
        """Send it, or keep it until the peer reads, or count it."""
        if self._connection.fileno() < 0:
            return
        if self._dropped:
            line = self._port.describe_loss(self._dropped) + line
        if len(self._buffer) + len(line) > self._port.buffer_bytes:
            self._dropped += 1
            self._port.dropped += 1
            return
        self._dropped = 0
        self._buffer += line
        if not self._waits:
            self._flush()

    def close(self) -> None:
        """Hang up."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._connection)
        loop.remove_writer(self._connection)
        self._connection.close()
        self._port.forget(self)

    def _flush(self) -> None:
        try:
            sent = self._connection.send(self._buffer)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        del self._buffer[:sent]
        if bool(self._buffer) != self._waits:
            self._waits = not self._waits
            loop = asyncio.get_running_loop()
            if self._waits:
                loop.add_writer(self._connection, self._flush)
            else:
                loop.remove_writer(self._connection)

    def _listen(self) -> None:
        """What a reader sends means nothing; its end does."""
        try:
            if self._connection.recv(4096):
                return
        except BlockingIOError:
            return
        except OSError:
            pass  # reset: it has gone as well
        self.close()


def is_host(peer: Any) -> bool:
    """Whether this is the host: on vsock a container's process must not read. A unix socket's path says who may."""
    return not isinstance(peer, tuple) or peer[0] == _CID_HOST
