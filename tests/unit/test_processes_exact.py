"""Exact reads: a process is killed after every single line of the code that answers; no byte is lost or doubled."""

from __future__ import annotations

import os
import socket
import sys

import pytest

from kata_agent.errors import EndOfOutput, InvalidRequest
from kata_agent.processes import exact
from kata_agent.processes.exact import ExactOutput, ExactRead, Relay, open_relay
from kata_linux import pipes

HEAD = b"head of an answer "
DATA = bytes(range(256)) * 600


def make_output(source: int, relay: Relay | None) -> ExactOutput:
    return ExactOutput(source, relay=relay, keep=lambda fds: None, on_close=lambda: None)


def answer(output: ExactOutput, sock: socket.socket, limit: int) -> int:
    """One read, as a connection does it; gives the length of its data."""
    reply = output.read(limit)
    assert isinstance(reply, ExactRead)
    reply.fill(HEAD)
    left = len(HEAD) + reply.length
    while left:
        left -= os.splice(reply.wire_fd, sock.fileno(), min(left, 1000))
    reply.finished(delivered=True)
    return reply.length


def die_after(lines: int, output: ExactOutput, sock: socket.socket, limit: int) -> bool:
    """In a child, answer a read and die before the line of this number; says whether it came to the end."""
    child = os.fork()
    if child == 0:
        count = 0

        def trace(frame, event, arg):
            nonlocal count
            if frame.f_code.co_filename not in (exact.__file__, __file__, pipes.__file__):
                return None
            if event == "line":
                count += 1
                if count > lines:
                    os._exit(9)
            return trace

        sys.settrace(trace)
        answer(output, sock, limit)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def receive(sock: socket.socket, limit: int) -> bytes:
    """The data of what arrived, if a whole answer did; a part of one is what a host throws away."""
    try:
        received = sock.recv(1 << 20, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return b""
    assert received[: len(HEAD)] == HEAD[: len(received)]
    data = received[len(HEAD) :]
    return data if len(data) == limit else b""


class Stand:
    """What outlives the agent: the stream's pipe, the relay's pipes, and the host's end of a connection."""

    def __init__(self) -> None:
        self.source, self.sink = os.pipe()
        os.set_blocking(self.source, False)
        self.fds = open_relay().fds
        self.host, self.guest = socket.socketpair()
        for end in (self.host, self.guest):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)

    def adopt(self) -> ExactOutput:
        """A new agent's view of the same pipes."""
        return make_output(self.source, Relay(self.fds))

    def close(self) -> None:
        self.host.close()
        self.guest.close()
        for fd in (*self.fds, self.source, self.sink):
            os.close(fd)


@pytest.fixture
def stand():
    made = Stand()
    yield made
    made.close()


def test_a_death_at_any_line_neither_loses_nor_doubles_a_byte():
    limit, lines, done = 3000, 0, False
    while not done:
        stand = Stand()
        os.write(stand.sink, DATA[:10000])
        done = die_after(lines, stand.adopt(), stand.guest, limit)
        seen = receive(stand.host, limit)
        stand.host.close()
        stand.guest.close()
        stand.host, stand.guest = socket.socketpair()
        # the second agent dies, too, and the third delivers the rest
        die_after(lines, stand.adopt(), stand.guest, limit)
        seen += receive(stand.host, limit)
        output = stand.adopt()
        while len(seen) < 10000:
            length = answer(output, stand.guest, 10000)
            seen += receive(stand.host, length)
        assert seen == DATA[:10000], f"died at line {lines}"
        assert pipes.read_waiting(stand.source) == pipes.read_waiting(stand.fds[0]) == 0
        stand.close()
        lines += 1
    assert lines > 30


def test_a_death_at_any_line_of_giving_an_answer_again_loses_nothing():
    lines, done = 0, False
    while not done:
        stand = Stand()
        os.write(stand.sink, DATA[:5000])
        first = stand.adopt().read(3000)
        assert isinstance(first, ExactRead)
        first.fill(HEAD)
        done = die_after(lines, stand.adopt(), stand.guest, 3000)
        seen = receive(stand.host, 3000)
        output = stand.adopt()
        while len(seen) < 5000:
            length = answer(output, stand.guest, 3000)
            seen += receive(stand.host, length)
        assert seen == DATA[:5000], f"died at line {lines}"
        stand.close()
        lines += 1
    assert lines > 30


def test_an_answer_whose_connection_ends_is_given_again_whole(stand):
    os.write(stand.sink, b"abcdef")
    output = stand.adopt()
    first = output.read(4)
    assert isinstance(first, ExactRead)
    first.fill(HEAD)
    os.splice(first.wire_fd, stand.guest.fileno(), 7)
    first.finished(delivered=False)
    again = output.read(100)
    assert isinstance(again, ExactRead)
    assert again.length == 4
    again.fill(HEAD)
    assert os.read(again.wire_fd, 100) == HEAD + b"abcd"
    again.finished(delivered=True)
    assert answer(output, stand.guest, 100) == 2


def test_what_is_owed_is_cut_for_a_smaller_limit(stand):
    os.write(stand.sink, b"abcdef")
    output = stand.adopt()
    first = output.read(5)
    assert isinstance(first, ExactRead)
    first.fill(HEAD)
    first.finished(delivered=False)
    assert output.read(2) == b"ab"
    assert output.read(2) == b"cd"
    for letter in (b"e", b"f"):
        last = output.read(2)
        assert isinstance(last, ExactRead)
        assert last.take() == letter
        last.finished(delivered=False)


def test_taking_the_bytes_consumes_them_once(stand):
    os.write(stand.sink, b"abcdef")
    output = stand.adopt()
    reply = output.read(3)
    assert isinstance(reply, ExactRead)
    assert reply.take() == b"abc"
    reply.finished(delivered=True)
    assert answer(output, stand.guest, 3) == 3
    assert receive(stand.host, 3) == b"def"


def test_an_answer_that_was_never_begun_consumes_nothing(stand):
    os.write(stand.sink, b"abc")
    output = stand.adopt()
    reply = output.read(3)
    assert isinstance(reply, ExactRead)
    reply.finished(delivered=False)
    assert answer(output, stand.guest, 3) == 3


def fill_slots(stand: Stand, size: int) -> bytes:
    """Fill a pipe of this size, a byte in every other slot."""
    pipes.set_size(stand.sink, size)
    pieces = [DATA[:4096], DATA[:1]] * (size // 4096 // 2)
    for piece in pieces:
        os.write(stand.sink, piece)
    return b"".join(pieces)


def test_a_pipe_that_its_process_made_larger_is_copied_whole(stand):
    data = fill_slots(stand, 1 << 18)
    reply = stand.adopt().read(1 << 20)
    assert isinstance(reply, ExactRead)
    assert reply.length == len(data)
    reply.fill(HEAD)
    assert os.read(reply.wire_fd, 1 << 20) == HEAD + data


def test_a_pipe_too_large_to_be_copied_is_read_all_the_same(stand):
    data = fill_slots(stand, 1 << 20)
    reply = stand.adopt().read(1 << 20)
    if isinstance(reply, ExactRead):  # who may exceed fs/pipe-max-size copies this, too
        reply.fill(HEAD)
        reply = os.read(reply.wire_fd, 1 << 20)[len(HEAD) :]
    assert reply == data


def test_the_end_is_an_error_after_the_last_byte(stand):
    writer = os.dup(stand.sink)
    os.write(writer, b"x")
    os.close(writer)
    os.dup2(os.open(os.devnull, os.O_RDONLY), stand.sink)
    output = make_output(os.dup(stand.source), None)
    reply = output.read(10)
    assert isinstance(reply, ExactRead)
    assert reply.take() == b"x"
    reply.finished(delivered=True)
    with pytest.raises(EndOfOutput, match="eof"):
        output.read(10)


def test_a_container_removed_under_an_answer_ends_it(stand):
    os.write(stand.sink, b"abc")
    output = make_output(os.dup(stand.source), None)
    reply = output.read(3)
    assert isinstance(reply, ExactRead)
    output.close()
    with pytest.raises(EndOfOutput):
        reply.fill(HEAD)
    reply.finished(delivered=False)
    with pytest.raises(OSError):
        os.fstat(reply.wire_fd)


def test_reading_nothing_is_refused(stand):
    with pytest.raises(InvalidRequest, match="len is 0"):
        stand.adopt().read(0)


def test_what_is_owed_outlives_the_process_and_its_pipe(stand):
    os.write(stand.sink, b"owed")
    output = stand.adopt()
    reply = output.read(100)
    assert isinstance(reply, ExactRead)
    reply.fill(HEAD)
    reply.finished(delivered=False)  # the connection was lost
    os.close(stand.sink)
    stand.sink = os.dup(stand.source)  # what the stand closes at the end
    output.process_ended()
    assert output.fd >= 0, "the stream was closed over what it owes"
    again = output.read(100)
    assert isinstance(again, ExactRead)
    assert (again.length, again.take()) == (4, b"owed")
