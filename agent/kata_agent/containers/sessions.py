"""Sessions of containers' processes: opening, finding, closing, and going on with those of an agent before this one.

Owns the names under which PID 1 keeps them: `.../STREAM.session/drop|block/BYTES`. Must not know how bytes move.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kata_agent.errors import Exhausted, InvalidRequest, NotFound, WrongState
from kata_agent.processes.session import DEFAULT_BYTES, MAX_BYTES, PAGE_BYTES, Session, open_file
from kata_agent.processes.tty import TerminalInput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kata_agent.containers.container import Container
    from kata_agent.containers.keep import StreamKeeper
    from kata_agent.processes.process import Process

# Of all sessions: what is kept is the guest's memory.
MAX_TOTAL_BYTES = 256 << 20


class Sessions:
    """Every session there is, found through its container."""

    def __init__(
        self,
        streams: StreamKeeper,
        find: Callable[[str], Container],
        containers: Callable[[], tuple[Container, ...]],
    ) -> None:
        self._streams = streams
        self._find = find
        self._containers = containers

    def open(
        self, container_id: str, exec_id: str, stream: str, size_bytes: int = 0, *, drop_oldest: bool = False
    ) -> Session:
        """Have this stream kept from now on. InvalidRequest, WrongState, Exhausted."""
        size_bytes = size_bytes or DEFAULT_BYTES
        if not PAGE_BYTES <= size_bytes <= MAX_BYTES:
            raise InvalidRequest(f"ring_bytes {size_bytes}: use {PAGE_BYTES} to {MAX_BYTES}")
        process = self._find(container_id).process(exec_id)
        output = process.output(stream)
        if isinstance(output, Session):
            if (output.size_bytes, output.drop_oldest) != (size_bytes, drop_oldest):
                raise WrongState(f"{stream} is kept by a session of another plan already: close that first")
            return output  # asked again after a lost answer
        if not output.is_idle:
            raise WrongState(f"{stream} is being read by calls: end those reads before opening a session")
        if output.fd < 0:
            raise WrongState(f"{stream} has ended and holds nothing")
        held = sum(session.size_bytes for _, _, session in self.all())
        if held + size_bytes > MAX_TOTAL_BYTES:
            raise Exhausted(f"sessions: {held} of {MAX_TOTAL_BYTES} bytes are promised, close some")
        relay = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK) if process.terminal else ()
        fds = (open_file(), os.dup(output.fd), *relay)
        name = self._name(container_id, process, stream)
        entry = f"{name}/{'drop' if drop_oldest else 'block'}/{size_bytes}"
        self._streams.store(entry, fds)
        session = make_session(self._streams, entry, fds)
        output.close()
        for other in ("stdout", "stderr") if process.terminal else (stream,):
            process.outputs[other] = session
        session.start()
        return session

    def find(self, container_id: str, exec_id: str, stream: str) -> Session:
        """The session of a stream. NotFound."""
        found = self._find(container_id).process(exec_id).outputs.get(stream)
        if not isinstance(found, Session):
            raise NotFound(f"{stream} of {exec_id or container_id} has no session: open one")
        return found

    def of(self, container_id: str, exec_id: str) -> dict[str, Session]:
        """A process's sessions by stream; a terminal has one, stdout."""
        found: dict[str, Session] = {}
        for stream, output in self._find(container_id).process(exec_id).outputs.items():
            if isinstance(output, Session) and output not in found.values():
                found[stream] = output
        return found

    def all(self) -> Iterator[tuple[str, str, Session]]:
        """Container id, exec id and session of each."""
        for container in self._containers():
            for process in container.processes():
                for session in self.of(container.id, process.exec_id).values():
                    yield container.id, process.exec_id, session

    def close(self, container_id: str, exec_id: str) -> None:
        """Forget what is kept; what comes from now on is read by calls again. None there is fine."""
        process = self._find(container_id).process(exec_id)
        for stream, session in self.of(container_id, exec_id).items():
            source = session.detach_source()
            if process.terminal:
                self._streams.read_terminal_by_calls(process, container_id, source)
            else:
                process.outputs[stream] = self._streams.read_by_calls(process, container_id, stream, source)
            session.close()

    def _name(self, container_id: str, process: Process, stream: str) -> str:
        return self._streams.name(container_id, process, f"{stream}.session")


def make_session(streams: StreamKeeper, entry: str, fds: tuple[int, ...]) -> Session:
    """A session of the descriptors that PID 1 keeps under `entry`, which says its plan."""
    _, policy, size = entry.rsplit("/", 2)
    return Session(
        fds,
        size_bytes=int(size),
        drop_oldest=policy == "drop",
        on_source_end=lambda: streams.store(entry, fds[:1]),
        on_close=lambda: streams.discard(entry),
    )


def restore(streams: StreamKeeper, process: Process, entry: str, fds: tuple[int, ...]) -> None:
    """Go on with one; the process has its other streams."""
    stream = entry.rsplit("/", 3)[1].removesuffix(".session")
    session = make_session(streams, entry, fds)
    if process.terminal and not isinstance(process.stdin, TerminalInput) and len(fds) > 1:
        process.stdin = TerminalInput(os.dup(fds[1]))
    for name in ("stdout", "stderr") if process.terminal else (stream,):
        if name in process.outputs and not isinstance(process.outputs[name], Session):
            process.outputs[name].close()
        process.outputs[name] = session
    session.start()
