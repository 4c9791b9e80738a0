"""Output that survives the agent: no byte is lost or doubled when this process is killed at any instruction.

Owns, for each stream that is read, two pipes that PID 1 holds too. `wire` is what goes to the socket, `stage`
keeps the same data until all of it has gone. An answer is made in this order: its head and a copy (tee) of the data
into `wire`; the data from the stream into `stage` by one splice; `wire` to the socket, by the connection; `stage`
emptied. So whoever comes next sees from the pipes alone where the work stopped:

    wire empty                 everything was sent: what is in `stage` is dropped
    wire not empty             not all was sent: `stage`, if it holds anything, is delivered before the stream

For this to hold, `wire` never becomes empty while `stage` holds what is still owed: left-overs of a connection that
ended are taken out of `wire` only after the next head has been put behind them.
Must not know: containers. See docs/architecture.md, seam 1, and decision 0008.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kata_agent.errors import AgentError, EndOfOutput
from kata_agent.processes.stdio import CLOSED_TEXT, Output, is_at_end
from kata_linux import pipes
from kata_protocols.aio.reply import PipeReply

if TYPE_CHECKING:
    from collections.abc import Callable

# A copied answer needs a slot for each slot it comes from, one for its head, and room behind left-overs.
WIRE_FACTOR = 4


class Relay:
    """The two pipes of a stream."""

    def __init__(self, fds: tuple[int, ...]) -> None:
        """`fds` are owned: read and write end of wire, then of stage, all non-blocking."""
        self.fds = fds
        self.wire, self._wire_end, self.stage, self._stage_end = fds
        self._source_bytes = 0
        self.owed = 0
        self.settle(0 if self.left_over() else pipes.read_waiting(self.stage))

    def left_over(self) -> int:
        """Bytes in wire."""
        return pipes.read_waiting(self.wire)

    def put(self, head: bytes, source: int, length: int) -> None:
        """Head and a copy of `length` bytes of source into wire, then, unless they are there, the data into stage."""
        junk = self.left_over()
        try:
            os.write(self._wire_end, head)
            _copy(source, self._wire_end, length)
        except BaseException:
            # nothing has been taken out of the source; what is owed stays marked by one byte
            drain(self.wire, self.left_over() - (1 if self.owed else 0))
            raise
        while source != self.stage and length:
            length -= pipes.splice(source, self._stage_end, length)
        drain(self.wire, junk)

    def settle(self, sent: int) -> None:
        """An answer has come to its end: `sent` bytes of stage have left, what else it holds is owed."""
        drain(self.stage, sent)
        self.owed = pipes.read_waiting(self.stage)
        if not self.owed:
            drain(self.wire, self.left_over())

    def fits(self, source: int) -> bool:
        """Follow the size of the stream's pipe, which its process may change; whether the kernel let us."""
        size = pipes.read_size(source)
        if size <= self._source_bytes:
            return True
        try:
            pipes.set_size(self._wire_end, WIRE_FACTOR * size)
            pipes.set_size(self._stage_end, size)
        except PermissionError:
            return False  # beyond fs/pipe-max-size, and without CAP_SYS_RESOURCE
        self._source_bytes = size
        return True

    def close(self) -> None:
        """Close the four ends."""
        for fd in self.fds:
            os.close(fd)


class ExactOutput(Output[PipeReply | bytes]):
    """The read end of a pipe, answered by `ExactRead`."""

    def __init__(
        self,
        fd: int,
        *,
        relay: Relay | None = None,
        keep: Callable[[tuple[int, ...]], None],
        on_close: Callable[[], None],
    ) -> None:
        """`keep` has PID 1 hold a new relay's pipes, before the first byte goes through them."""
        super().__init__(fd, on_close=on_close)
        self._relay = relay
        self._keep = keep
        self._answering = False

    @property
    def is_idle(self) -> bool:
        """See `Output`: an answer that was lost with its connection is owed."""
        return super().is_idle and not (self._relay is not None and self._relay.owed)

    def close(self) -> None:
        """Close the relay too; when an answer is on its way through it, at that answer's end."""
        super().close()
        if not self._answering:
            self._close_relay()

    def answered(self) -> None:
        """An answer has come to its end."""
        self._answering = False
        if self.fd < 0:
            self._close_relay()
        self._turn.release()

    def _is_owed(self) -> bool:
        return self._relay is not None and bool(self._relay.owed)

    def _answer(self, limit: int) -> PipeReply | bytes | None:
        if self.fd < 0:
            raise EndOfOutput(CLOSED_TEXT)
        relay = self._relay
        if relay is not None and relay.owed:
            return self._answer_owed(relay, limit)
        waiting = pipes.read_waiting(self.fd)
        if not waiting:
            self._check_open()
            waiting = pipes.read_waiting(self.fd)
            if not waiting:
                return None
        if relay is None:
            relay = self._relay = open_relay()
            self._keep(relay.fds)
        if not relay.fits(self.fd):
            return self._read_plainly(self.fd, limit)
        return self._begin(relay, min(waiting, limit))

    def _answer_owed(self, relay: Relay, limit: int) -> PipeReply | bytes:
        """What an answer that was lost with its connection held; cut, without the guarantee, for a smaller limit."""
        if relay.owed <= limit:
            return self._begin(relay, relay.owed)
        data = self._read_plainly(relay.stage, limit)
        relay.settle(0)
        return data

    def _read_plainly(self, source: int, limit: int) -> bytes:
        data = os.read(source, limit)
        self._turn.release()
        return data

    def _begin(self, relay: Relay, length: int) -> ExactRead:
        self._answering = True
        return ExactRead(self, relay, length)

    def _check_open(self) -> None:
        """Raise when the empty pipe is at its end: nobody has its other end, or the process has ended."""
        if is_at_end(self.fd):
            self.close()
            raise EndOfOutput
        if not pipes.read_waiting(self.fd):
            self._nothing_waits()

    def _close_relay(self) -> None:
        if self._relay is not None:
            self._relay.close()
            self._relay = None


class ExactRead(PipeReply):
    """One answer: `length` bytes that wait in the stream, or in stage when they are owed."""

    def __init__(self, output: ExactOutput, relay: Relay, length: int) -> None:
        self.length = length
        self.wire_fd = relay.wire
        self.payload_head = b""
        """To be set by who knows the message."""
        self._output = output
        self._relay = relay
        self._filled = False

    def fill(self, head: bytes) -> None:
        """See `PipeReply`."""
        self._relay.put(head, self._source(), self.length)
        self._filled = True

    def take(self) -> bytes:
        """See `PipeReply`. Whoever needs the bytes themselves has them without the guarantee."""
        return os.read(self._source(), self.length)

    def finished(self, delivered: bool) -> None:  # noqa: FBT001 - the seam's signature
        """See `PipeReply`."""
        self._relay.settle(self.length if self._filled and delivered else 0)
        self._output.answered()

    def _source(self) -> int:
        """What is owed goes first. The container may have been removed since the answer was begun."""
        source = self._relay.stage if self._relay.owed else self._output.fd
        if source < 0:
            raise EndOfOutput(CLOSED_TEXT)
        return source


def open_relay() -> Relay:
    """Two new pipes."""
    return Relay((*os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK), *os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)))


def _copy(source: int, target: int, length: int) -> None:
    moved = pipes.tee(source, target, length)
    if moved != length:
        raise AgentError(f"read: {length} bytes were to be sent, {moved} fit into the pipe")


def drain(pipe: int, length: int) -> None:
    """Drop `length` bytes that wait in a pipe."""
    while length:
        length -= len(os.read(pipe, length))
