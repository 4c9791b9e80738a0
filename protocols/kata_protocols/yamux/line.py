"""Two ends that meet on a line which nobody hangs up: sessions begin, and begin anew, by what is said in band.

A virtio port outlives whoever uses it on either side, and keeps bytes for the next one. So each session has a
number, and is opened by a greeting: four pings, two of fixed values, then the session's number and that of the
session it answers, or 0. Each end greets at its start and answers greetings; it has joined when its own session was
answered, and until then drops what it hears. One that has joined and hears a greeting again begins anew. A plain
yamux peer sees pings and answers them, the third by a number nobody could have guessed: that is the beginning of
its session, and so is what it said before, if it is whole frames.

An end of ours never lets the fixed values occur within its data (`Connection`'s `avoid`), so a greeting is heard even
in the middle of a frame that was cut off. Of a plain peer that cannot be expected: only its hanging up ends it.

Without IO: owns the connection's codec. Must not know: descriptors, streams' owners.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from kata_protocols.yamux.connection import MAX_STREAMS, Connection, Event, GoneAway, Pong
from kata_protocols.yamux.frame import ACK, DATA, HEADER_BYTES, NORMAL, PING, SYN, YamuxError, pack, parse

# "Kata" and "mux1" with the highest bits set: in no other frame of ours can these bytes be at this place.
_WORDS = (0xCBE1F4E1, 0xEDF5F8B1)
MARK = b"".join(pack(PING, SYN, 0, word) for word in _WORDS)
_PING = pack(PING, SYN, 0, 0)[:8]
GREETING_BYTES = len(MARK) + 2 * HEADER_BYTES
# The most that is kept of what a plain peer says before it answers. If by then it looks like a session's beginning, it
# is taken for that until the answer comes, or a greeting; else only its end is looked at.
EARLY_BYTES = 512 * 1024
_UNSURE = -1  # in place of the peer's number


class Joined(NamedTuple):
    """A session has begun, and with it every stream before it has ended. `plain`: the peer is any yamux."""

    plain: bool


class Parted(NamedTuple):
    """The session is no more, and the next has not begun."""

    reason: str


Heard = Event | Joined | Parted


class Line:
    """One end."""

    def __init__(self, *, client: bool, max_streams: int = MAX_STREAMS) -> None:
        self._client = client
        self._limit = max_streams
        self._heard: list[Heard] = []
        self._reset()

    def _reset(self) -> None:
        """A session of a new number, in which nothing has been said or heard."""
        self._session = _choose_number()
        self._peer: int | None = None  # its session's number; 0 for a plain one, or _UNSURE
        self._answered = 0  # the peer's session that our last greeting named
        self._early = bytearray()  # heard before there is a session
        self._early_lost = False
        self._tail = b""  # the end of what the codec has seen, in which a mark may have begun
        self._begun = b""  # a mark and what there is of its greeting; the codec has not seen it
        self._output = bytearray()
        self.connection = Connection(client=self._client, max_streams=self._limit, avoid=MARK)

    @property
    def joined(self) -> bool:
        """Whether there is a session: streams may be opened."""
        return self._peer is not None

    @property
    def output_bytes(self) -> int:
        """How much `take_output` would give."""
        return len(self._output) + self.connection.output_bytes

    def take_output(self) -> bytes:
        """What has to be sent, data aside. It comes before any data that is framed after this."""
        data = bytes(self._output) + self.connection.take_output()
        self._output.clear()
        return data

    def greet(self, reason: str = "") -> list[Heard]:
        """Begin anew: at the start, and when the line was interrupted for this reason."""
        self._part(reason)
        self._say_greeting(0)
        return self._take_heard()

    def receive_data(self, data: bytes | memoryview) -> list[Heard]:
        """Take bytes from the peer; give what they mean."""
        rest = bytes(data)
        while rest:
            rest = self._hear(rest) if self.joined else self._wait(rest)
        return self._take_heard()

    def _take_heard(self) -> list[Heard]:
        heard, self._heard = self._heard, []
        return heard

    # Before a session

    def _wait(self, data: bytes) -> bytes:
        """Look for its beginning; give what is still to be heard then."""
        early = self._early
        early += data
        start, answer = _find_greeting(early), early.find(pack(PING, ACK, 0, self._session))
        if start >= 0 and not 0 <= answer < start:
            del early[:start]
            self._early_lost = True
            if len(early) < GREETING_BYTES:
                return b""
            greeting, rest = bytes(early[:GREETING_BYTES]), bytes(early[GREETING_BYTES:])
            self._take_greeting(greeting)
            return rest
        if answer >= 0:
            whole = not self._early_lost and _is_whole(early[:answer])
            rest = bytes(early if whole else early[answer:])
            early.clear()
            self._join(0)
            return rest
        if len(early) <= EARLY_BYTES:
            return b""
        if not self._early_lost and _begins_session(early):
            rest = bytes(early)
            early.clear()
            self._join(_UNSURE)
            return rest
        self._remember(bytes(early))
        return b""

    def _take_greeting(self, greeting: bytes) -> None:
        self._obey_greeting(greeting)
        # It may have been cut off by its last bytes, and another one may have begun in their place.
        self._remember(greeting)

    def _remember(self, heard: bytes) -> None:
        """Keep the end of what was heard: a mark may have begun in it."""
        end = heard[1 - len(MARK) :]
        if self.joined:
            self._tail = end
        else:
            self._early[:] = end
            self._early_lost = True

    def _obey_greeting(self, greeting: bytes) -> None:
        peer = parse(greeting[-2 * HEADER_BYTES : -HEADER_BYTES]).length
        answers = parse(greeting[-HEADER_BYTES:]).length
        if self.joined:
            self._part("the other end has begun anew")
        elif answers not in (0, self._session):
            return  # meant for a session before this one; whoever sent it has been, or will be, greeted
        if self._answered != peer:
            self._answered = peer
            self._say_greeting(peer)
        if answers == self._session:
            self._join(peer)

    def _say_greeting(self, answered: int) -> None:
        self._output += MARK + pack(PING, SYN, 0, self._session) + pack(PING, SYN, 0, answered)

    def _join(self, peer: int) -> None:
        self._peer = peer
        self._heard.append(Joined(plain=peer <= 0))

    # In a session

    def _hear(self, data: bytes) -> bytes:
        """Give what is to be heard after its end, if this is in the data."""
        if self._peer == 0:
            self._feed(data)
            return b""
        data, self._begun = self._begun + data, b""
        seen = len(self._tail)
        window = self._tail + data
        start = _find_greeting(window)
        if start < 0:
            self._hear_plainly(data, window)
            return b""
        self._tail = b""
        self._feed(window[seen:start])
        if not self.joined:
            return window[start:]
        if len(window) < start + GREETING_BYTES:
            self._begun = window[start:]
            return b""
        self._take_greeting(window[start : start + GREETING_BYTES])
        return window[start + GREETING_BYTES :]

    def _hear_plainly(self, data: bytes, window: bytes) -> None:
        """No mark is there yet. If one may have begun in the middle of a frame, what follows will tell."""
        begun = _count_begun(data)
        self._feed(data[: len(data) - begun])
        if not self.joined:
            self._remember(window)
        elif begun and self.connection.left_bytes > begun:
            self._remember(window[:-begun])
            self._begun = data[-begun:]
        else:
            self._feed(data[len(data) - begun :])
            self._remember(window)

    def _feed(self, data: bytes) -> None:
        if not self.joined:
            return  # parted by what came right before
        connection = self.connection
        connection.receive_data(data)
        try:
            while (event := connection.next_event()) is not None:
                self._heard.append(event)
                if self._peer == _UNSURE and event == Pong(self._session):
                    self._peer = 0
                if self._peer == 0 and isinstance(event, GoneAway) and event.code != NORMAL:
                    # Perhaps an end of ours that was in the session of whoever came before: its greeting was unheard.
                    self._part(f"the other end has gone away with code {event.code}")
                    self._say_greeting(0)
                    return
        except YamuxError as error:
            last = connection.take_output()
            self._part(str(error))
            self._output += last
            self._say_greeting(0)

    def _part(self, reason: str) -> None:
        if self.joined:
            self._heard.append(Parted(reason))
        self._reset()


def _choose_number() -> int:
    """A session's number: neither none, nor one of the mark's."""
    number = 0
    while number in (0, *_WORDS):
        number = int.from_bytes(os.urandom(4), "big")
    return number


def _find_greeting(data: bytes | bytearray) -> int:
    """Where the first one begins, -1 without: a mark and, as far as they are there, two pings of other values."""
    start = data.find(MARK)
    while start >= 0:
        if all(
            _may_be_number(data[at : at + HEADER_BYTES])
            for at in (start + len(MARK), start + len(MARK) + HEADER_BYTES)
        ):
            return start
        start = data.find(MARK, start + 1)
    return -1


def _may_be_number(data: bytes | bytearray) -> bool:
    """Whether this is a ping of no value of the mark's, or may become one."""
    if not data.startswith(_PING[: len(data)]):
        return False
    return len(data) < HEADER_BYTES or parse(data).length not in _WORDS


def _count_begun(data: bytes) -> int:
    """How many bytes at the end are the beginning of a mark."""
    start = data.find(MARK[0], max(0, len(data) - len(MARK) + 1))
    while start >= 0:
        if MARK.startswith(data[start:]):
            return len(data) - start
        start = data.find(MARK[0], start + 1)
    return 0


def _is_whole(data: bytes | bytearray) -> bool:
    """Whether these bytes are frames, the last of them complete."""
    return _skip_frames(data) == len(data)


def _begins_session(data: bytes | bytearray) -> bool:
    """Whether these bytes are frames, the first of which opens a stream."""
    return _skip_frames(data) > 0 and parse(data[:HEADER_BYTES]).opens_stream


def _skip_frames(data: bytes | bytearray) -> int:
    """Where the first frame begins that is not whole; if so, beyond the end of these bytes. -1: this is no yamux."""
    offset = 0
    while offset + HEADER_BYTES <= len(data):
        try:
            header = parse(data[offset : offset + HEADER_BYTES])
        except YamuxError:
            return -1
        offset += HEADER_BYTES + (header.length if header.kind == DATA else 0)
    return offset
