"""The control channel between PID 1 and the agent: packets over an AF_UNIX SOCK_SEQPACKET pair.

Owns: the packets, both ends and every descriptor in transit. `AgentChannel` is the agent's end, `InitChannel`
PID 1's. Must not know: what is stored, or what an exit means. Follows docs/architecture.md, seam 2.

PID 1 never waits for the agent: its end keeps no queue, only cursors into the ledger and the store, so an
agent that does not read loses nothing and costs nothing. The agent may wait for PID 1 (bounded), which
therefore cannot deadlock. Whoever receives a `Store` or `Stored` owns its descriptors. What does not parse
arrives as `Malformed`, its descriptors closed.
"""

from __future__ import annotations

import _socket
import errno
import select
import struct

from kata_init.exits import Exit
from kata_init.fdstore import close_all
from kata_linux.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from kata_init.fdstore import FdStore
    from kata_init.ledger import Ledger

VERSION = 1
"""Of this channel: its verbs and what they mean. PID 1 tells it in `life`; an upgraded agent must know it."""
MAX_PACKET = 8192
MAX_NAME = 512
MAX_TEXT = 512
MAX_FDS = 253  # SCM_MAX_FD of the kernel
BATCH = 256
SEND_DEADLINE_MS = 5000
PENDING_REFUSALS = 64

_CUT_OFF = "it was cut off: too long, or more descriptors than this process may receive"
_CONTROL_SPACE = _socket.CMSG_SPACE(MAX_FDS * 4)
_RECEIVE_FLAGS = _socket.MSG_CMSG_CLOEXEC | _socket.MSG_DONTWAIT
_FULL = (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS)  # all pass when the peer reads
_SEND_FLAGS = _socket.MSG_NOSIGNAL | _socket.MSG_DONTWAIT


class Stored(Record):
    """PID 1 -> agent, at start: one entry of the descriptor store. The receiver owns `fds`."""

    name: str
    fds: tuple[int, ...]


class Synced(Record):
    """PID 1 -> agent: everything that was stored and recorded has been sent."""


class Refused(Record):
    """PID 1 -> agent: `store name` was not done; what was under that name before is gone too."""

    name: str
    reason: str


class Boot(Record):
    """PID 1 -> agent, first of all: the time line, `(step, CLOCK_BOOTTIME in ns)` in order."""

    steps: tuple[tuple[str, int], ...]


class Life(Record):
    """PID 1 -> agent, after `boot`: which agent since the boot this is, from 1 on, and how the one before it ended.

    `code` is the folder it runs from, empty for PID 1's own; `outcome` one of `succession`'s words, or empty; `version`
    that of the channel as PID 1 speaks it.
    """

    number: int
    last_end: str
    code: str = ""
    outcome: str = ""
    version: int = VERSION


class Lost(Record):
    """PID 1 -> agent: the ledger was full, so many of the oldest exits since the boot are gone."""

    exits: int


class Ping(Record):
    """PID 1 -> agent: does your event loop turn? `time_ns` is CLOCK_MONOTONIC; later than `limit_ns` is too late."""

    time_ns: int
    limit_ns: int


class Alive(Record):
    """Agent -> PID 1: it does, and took `lag_us` to come to the question."""

    lag_us: int


class Store(Record):
    """Agent -> PID 1: keep these under this name. The receiver owns `fds`."""

    name: str
    fds: tuple[int, ...]


class Discard(Record):
    """Agent -> PID 1: close what is kept under this name."""

    name: str


class Forget(Record):
    """Agent -> PID 1: this exit is recorded elsewhere."""

    pid: int
    start_time: int


class Ready(Record):
    """Agent -> PID 1: the API answers."""


class Upgrade(Record):
    """Agent -> PID 1: this agent ends within `drain_ms`, and the next runs `code` and is ready within `ready_ms`."""

    code: str
    drain_ms: int
    ready_ms: int


class Unfit(Record):
    """Agent -> PID 1: this agent cannot go on with what it found; starting it again changes nothing."""

    reason: str


class Shutdown(Record):
    """Agent -> PID 1: end in order."""


class Malformed(Record):
    """What arrived was no packet; `reason` says why. Report it, nothing else can be done."""

    reason: str


if TYPE_CHECKING:
    ToAgent = Stored | Exit | Synced | Refused | Boot | Life | Lost | Ping | Malformed
    ToInit = Store | Discard | Forget | Ready | Alive | Upgrade | Unfit | Shutdown | Malformed


class _End:
    """What both ends share: the socket, receiving, and an end that is noticed."""

    __slots__ = ("_socket", "closed")

    def __init__(self, end: _socket.socket) -> None:
        end.settimeout(0)
        self._socket = end
        self.closed = False

    def fileno(self) -> int:
        """For selectors; the descriptor stays this object's."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close this end; the other end reads its end of file."""
        self.closed = True
        self._socket.close()

    def _receive(
        self, decode: Callable[[list[str], tuple[int, ...]], ToAgent | ToInit]
    ) -> list[ToAgent | ToInit]:
        packets: list[ToAgent | ToInit] = []
        while len(packets) < BATCH and not self.closed:
            try:
                data, ancillary, flags, _ = self._socket.recvmsg(MAX_PACKET, _CONTROL_SPACE, _RECEIVE_FLAGS)
            except BlockingIOError:
                break
            except ConnectionResetError:
                continue  # told once, before what the peer sent last, when it left something unread
            fds = _take_fds(ancillary)
            if not data:
                close_all(fds)
                self.closed = True
                break
            packets.append(_decode(data, fds, flags, decode))
        return packets


class AgentChannel(_End):
    """The agent's end. `receive` never blocks; sending may, up to 5 s, and then raises TimeoutError.

    `closed` becomes True when PID 1's end is gone.
    """

    __slots__ = ()

    def receive(self) -> list[ToAgent]:
        """The packets that have arrived, at most `BATCH`; none when there are none."""
        return self._receive(_decode_to_agent)  # type: ignore[return-value]  # the decoder's own kinds

    def store(self, name: str, fds: Sequence[int]) -> None:
        """Keep copies of these descriptors until `discard`; what is there under this name is replaced."""
        _check_name(name)
        if not 0 < len(fds) <= MAX_FDS:
            raise ValueError(
                f"store {name}: 1 to {MAX_FDS} descriptors can be stored under one name, not {len(fds)}"
            )
        self._send([b"store", name.encode()], fds)

    def discard(self, name: str) -> None:
        """Close what is kept under this name; unknown names are fine."""
        _check_name(name)
        self._send([b"discard", name.encode()])

    def forget_exit(self, pid: int, start_time: int) -> None:
        """Nobody will ask PID 1 for this exit again."""
        self._send([b"forget", b"%d" % pid, b"%d" % start_time])

    def ready(self) -> None:
        """The API answers: rings the doorbell, resets the restart back-off."""
        self._send([b"ready"])

    def alive(self, lag_us: int) -> None:
        """Answer a `Ping`."""
        self._send([b"alive", b"%d" % lag_us])

    def upgrade(self, code: str, drain_ms: int, ready_ms: int) -> None:
        """This agent ends now; the next one runs the code in this folder."""
        self._send([b"upgrade", code.encode(), b"%d" % drain_ms, b"%d" % ready_ms])

    def unfit(self, reason: str) -> None:
        """This agent cannot go on with what it found, and ends."""
        self._send([b"unfit", _encode_text(reason)])

    def shutdown(self) -> None:
        """Ask for the orderly end: flush, sync, power off."""
        self._send([b"shutdown"])

    def _send(self, fields: list[bytes], fds: Sequence[int] = ()) -> None:
        packet = b"\0".join(fields)
        while not _send(self._socket, packet, fds):
            poll = select.poll()
            poll.register(self._socket, select.POLLOUT)
            if not poll.poll(SEND_DEADLINE_MS):
                verb = fields[0].decode()
                raise TimeoutError(errno.ETIMEDOUT, f"send {verb} to PID 1: it has not read for 5 s")


class InitChannel(_End):
    """PID 1's end: what is owed to the agent is found by cursors, so nothing is queued here."""

    __slots__ = (
        "_boot",
        "_cursor",
        "_ledger",
        "_life",
        "_names",
        "_refusals",
        "_store",
        "_synced",
        "_told_dropped",
        "lost",
        "wants_write",
    )

    def __init__(
        self,
        end: _socket.socket,
        ledger: Ledger,
        store: FdStore,
        boot: Iterable[tuple[str, int]] = (),
        life: Life | None = None,
    ) -> None:
        super().__init__(end)
        self._ledger = ledger
        self._store = store
        self._boot = tuple(boot)
        self._life = life
        self._names = store.names()
        self._names.reverse()
        self._cursor = 0
        self._refusals: list[tuple[str, str]] = []
        self._synced = False
        self._told_dropped = 0
        self.lost = 0
        self.wants_write = True

    def receive(self) -> list[ToInit]:
        """The packets that have arrived, at most `BATCH`. The caller owns the descriptors of each `Store`."""
        return self._receive(_decode_to_init)  # type: ignore[return-value]  # the decoder's own kinds

    def refuse(self, name: str, reason: str) -> None:
        """Tell the agent that a `Store` was not done; when 64 are untold, further ones count in `lost`."""
        if len(self._refusals) < PENDING_REFUSALS:
            self._refusals.append((name, reason))
        else:
            self.lost += 1

    def ping(self, time_ns: int, limit_ns: int) -> bool:
        """Ask whether the agent's loop turns; False when it does not even read."""
        try:
            return _send(self._socket, b"ping\0%d\0%d" % (time_ns, limit_ns))
        except ConnectionError:
            return False  # it is ending; `receive` tells

    def pump(self) -> None:
        """Send what is owed until the socket is full; `wants_write` says whether something is left.

        A peer that is gone is no error here: `receive` tells.
        """
        try:
            self.wants_write = not (self._pump_start() and self._pump_exits() and self._pump_refusals())
        except (BrokenPipeError, ConnectionError):
            self.wants_write = False

    def _pump_start(self) -> bool:
        if self._boot:
            fields = [part for step, stamp in self._boot for part in (step.encode(), b"%d" % stamp)]
            if not _send(self._socket, b"\0".join([b"boot", *fields])):
                return False
            self._boot = ()
        if self._life is not None:
            number, *texts, version = self._life
            fields = [_encode_text(text) for text in texts]
            if not _send(self._socket, b"\0".join([b"life", b"%d" % number, *fields, b"%d" % version])):
                return False
            self._life = None
        while self._names:
            fds = self._store.get(self._names[-1])
            packet = b"stored\0" + self._names[-1].encode()
            if fds is not None and not _send(self._socket, packet, fds):
                return False
            self._names.pop()
        return True

    def _pump_exits(self) -> bool:
        for sequence, entry in self._ledger.since(self._cursor):
            if not _send(self._socket, _encode_exit(entry)):
                return False
            self._cursor = sequence + 1
        dropped = self._ledger.dropped
        if dropped > self._told_dropped:
            if not _send(self._socket, b"lost\0%d" % dropped):
                return False
            self._told_dropped = dropped
        if not self._synced:
            self._synced = _send(self._socket, b"synced")
        return self._synced

    def _pump_refusals(self) -> bool:
        while self._refusals:
            name, reason = self._refusals[0]
            if not _send(self._socket, b"\0".join([b"refused", name.encode(), reason.encode()])):
                return False
            self._refusals.pop(0)
        return True


def make_pair(ledger: Ledger, store: FdStore) -> tuple[InitChannel, AgentChannel]:
    """Both ends in one process, for tests and for a supervisor that has not forked yet."""
    ours, theirs = open_pair()
    return InitChannel(ours, ledger, store), AgentChannel(theirs)


def open_pair() -> tuple[_socket.socket, _socket.socket]:
    """A connected pair of close-on-exec packet sockets."""
    return _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)


def _send(end: _socket.socket, packet: bytes, fds: Sequence[int] = ()) -> bool:
    """Send one packet; False when the socket is full."""
    rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack(f"={len(fds)}i", *fds))] if fds else []
    try:
        end.sendmsg([packet], rights, _SEND_FLAGS)
    except OSError as error:
        if error.errno in _FULL:
            return False
        raise
    return True


def _encode_exit(entry: Exit) -> bytes:
    return b"\0".join([b"exit", *(b"" if value is None else b"%d" % value for value in entry)])


def _encode_text(text: str) -> bytes:
    """For people: cut to what a packet has room for."""
    return text[:MAX_TEXT].replace("\0", " ").encode("utf-8", "backslashreplace")


def _take_fds(ancillary: list[tuple[int, int, bytes]]) -> tuple[int, ...]:
    fds: list[int] = []
    for level, kind, data in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            fds += struct.unpack_from(f"={len(data) // 4}i", data)
    return tuple(fds)


def _decode(
    data: bytes,
    fds: tuple[int, ...],
    flags: int,
    decode: Callable[[list[str], tuple[int, ...]], ToAgent | ToInit],
) -> ToAgent | ToInit:
    """A packet, or `Malformed`; descriptors that end up in no packet are closed."""
    try:
        if flags & (_socket.MSG_TRUNC | _socket.MSG_CTRUNC):
            raise ValueError(_CUT_OFF)  # noqa: TRY301 - one handler closes what came with it
        packet = decode(data.decode().split("\0"), fds)
    except ValueError as error:
        close_all(fds)
        return Malformed(f"packet {data[:60]!r}: {error}")
    if fds and not isinstance(packet, (Store, Stored)):
        close_all(fds)
        return Malformed(f"packet {data[:60]!r}: carries {len(fds)} descriptors, which this verb does not")
    return packet


def _decode_to_agent(fields: list[str], fds: tuple[int, ...]) -> ToAgent:
    match fields:
        case ["stored", name] if fds:
            return Stored(name, fds)
        case ["exit", pid, start_time, code, signal, time_ns] if bool(code) != bool(signal):
            numbers = (int(code) if code else None, int(signal) if signal else None)
            return Exit(int(pid), int(start_time), *numbers, int(time_ns))
        case ["synced"]:
            return Synced()
        case ["refused", name, reason]:
            return Refused(name, reason)
        case ["life", number, last_end, code, outcome, version]:
            return Life(int(number), last_end, code, outcome, int(version))
        case ["lost", exits]:
            return Lost(int(exits))
        case ["ping", time_ns, limit_ns]:
            return Ping(int(time_ns), int(limit_ns))
        case ["boot", *rest] if len(rest) % 2 == 0:
            stamps = [int(stamp) for stamp in rest[1::2]]
            return Boot(tuple(zip(rest[::2], stamps, strict=True)))
    raise ValueError("no verb with these fields goes to the agent")


def _decode_to_init(fields: list[str], fds: tuple[int, ...]) -> ToInit:
    match fields:
        case ["store", name] if fds and name:
            return Store(name, fds)
        case ["discard", name]:
            return Discard(name)
        case ["forget", pid, start_time]:
            return Forget(int(pid), int(start_time))
        case ["ready"]:
            return Ready()
        case ["alive", lag_us]:
            return Alive(int(lag_us))
        case ["upgrade", code, drain_ms, ready_ms]:
            return Upgrade(code, int(drain_ms), int(ready_ms))
        case ["unfit", reason]:
            return Unfit(reason)
        case ["shutdown"]:
            return Shutdown()
    raise ValueError("no verb with these fields goes to PID 1")


def _check_name(name: str) -> None:
    if not name or "\0" in name or len(name.encode()) > MAX_NAME:
        raise ValueError(
            f"a name in the descriptor store has 1 to {MAX_NAME} bytes and no NUL, not {name[:80]!r}"
        )
