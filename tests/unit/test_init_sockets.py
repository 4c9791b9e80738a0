"""PID 1's sockets: the listener that is there before the agent, and the doorbell that never waits."""

from __future__ import annotations

import os
import select
import socket
from pathlib import Path

import pytest

from kata_init.doorbell import Doorbell
from kata_init.journal import Journal
from kata_init.listen import open_listener
from kata_init.plan import Address
from kata_linux import virtioports

DEADLINE_S = 60.0


def dial(name: str) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(DEADLINE_S)
        client.connect(name)


def test_a_listener_takes_connections_and_is_nobodys_by_accident(tmp_path: Path) -> None:
    path = os.fspath(tmp_path / "new" / "folder" / "sock")
    fd = open_listener(Address("unix", path))
    dial(path)
    assert not os.get_inheritable(fd)
    assert not os.get_blocking(fd)
    os.close(fd)


def test_an_abstract_name_leaves_no_file() -> None:
    fd = open_listener(Address("abstract", f"kata-test-{os.getpid()}"))
    dial(f"\0kata-test-{os.getpid()}")
    os.close(fd)


def test_a_stale_socket_file_is_replaced(tmp_path: Path) -> None:
    address = Address("unix", os.fspath(tmp_path / "sock"))
    os.close(open_listener(address))
    fd = open_listener(address)
    dial(address.path)
    os.close(fd)


def test_a_socket_that_is_listened_on_is_not_taken_away(tmp_path: Path) -> None:
    address = Address("unix", os.fspath(tmp_path / "sock"))
    fd = open_listener(address)
    with pytest.raises(OSError, match="listen: Address already in use") as caught:
        open_listener(address)
    assert caught.value.filename == str(address)
    dial(address.path)
    os.close(fd)


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    path.write_text("precious")
    with pytest.raises(OSError, match="Address already in use"):
        open_listener(Address("unix", os.fspath(path)))
    assert path.read_text() == "precious"


class Lines(Journal):
    """A journal that remembers its warnings."""

    def __init__(self) -> None:
        super().__init__()
        self.warnings: list[str] = []

    def warning(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture
def listener(tmp_path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.fspath(tmp_path / "bell"))
    listener.settimeout(DEADLINE_S)
    return listener


def test_each_ring_is_a_connection_with_one_line(tmp_path: Path, listener: socket.socket) -> None:
    with listener:
        listener.listen()
        bell = Doorbell(Address("unix", os.fspath(tmp_path / "bell")), Lines())
        for line in ("pid1 up 1", "agent ready 2"):
            bell.ring(line)
            connection, _ = listener.accept()
            with connection, connection.makefile() as file:
                assert file.read() == f"{line}\n"
        assert bell.pending() == []


def test_nobody_at_home_is_told_and_nothing_else(tmp_path: Path) -> None:
    lines = Lines()
    bell = Doorbell(Address("unix", os.fspath(tmp_path / "nobody")), lines)
    bell.ring("pid1 up 1")
    assert bell.pending() == []
    assert lines.warnings == [f"doorbell unix://{tmp_path}/nobody: [Errno 2] No such file or directory"]


def test_a_port_is_a_bell_that_stays_open_and_takes_along_what_was_rung_before_it_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports: list[str | None] = [None, os.fspath(tmp_path / "port")]
    os.mkfifo(tmp_path / "port")
    monkeypatch.setattr(virtioports, "find_port", lambda name: ports.pop(0) if name == "bell.0" else None)
    lines = Lines()
    bell = Doorbell(Address("serial", "bell.0"), lines)
    bell.ring("pid1 up 1")
    assert lines.warnings == ["doorbell serial:bell.0: there is no port of this name"]
    reader = os.open(tmp_path / "port", os.O_RDONLY | os.O_NONBLOCK)
    bell.ring("agent ready 2")
    bell.ring("agent ready 3")
    assert os.read(reader, 4096) == b"pid1 up 1\nagent ready 2\nagent ready 3\n"
    assert ports == []
    assert bell.pending() == []
    os.close(reader)
    bell.ring("agent ready 4")
    assert lines.warnings[1:] == []  # the bell itself holds the other side: a fifo opened for both


def test_a_host_that_does_not_take_what_is_rung_on_a_port_is_told_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "port")
    monkeypatch.setattr(virtioports, "find_port", lambda _name: os.fspath(tmp_path / "port"))
    lines = Lines()
    bell = Doorbell(Address("serial", "bell.0"), lines)
    while not lines.warnings:
        bell.ring("x" * 4000)
    assert lines.warnings == ["doorbell serial:bell.0: [Errno 11] Resource temporarily unavailable"]


def test_a_house_without_a_bell_is_quiet() -> None:
    lines = Lines()
    Doorbell(None, lines).ring("pid1 up 1")
    assert lines.warnings == []


def test_a_ring_that_is_not_answered_is_given_up_in_time() -> None:
    with socket.socket() as deaf:  # a TCP connection to a full backlog stays undecided, as vsock's may
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        lines = Lines()
        bell = Doorbell(Address("unix", "x"), lines)
        first, last = socket.socket(), socket.socket()
        first.connect(deaf.getsockname())
        assert select.select([deaf], [], [], DEADLINE_S)[0], "the backlog's one place is not taken"
        last.setblocking(False)
        last.connect_ex(deaf.getsockname())
        bell._pending[last.fileno()] = (last, b"x\n", 0)
        bell.handle(last.fileno())
        assert bell.pending() == [last.fileno()]
        assert bell.next_deadline_ns() == 0
        bell.expire()
        assert bell.pending() == []
        assert lines.warnings == ["doorbell unix://x: nobody answered in 2 s"]
        first.close()
