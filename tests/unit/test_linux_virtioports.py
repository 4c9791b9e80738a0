"""Named virtio ports: the name is the host's, the node the kernel's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kata_linux.virtioports import find_port, is_gone, open_port


@pytest.fixture
def sysfs(tmp_path: Path) -> str:
    for node, name in (("vport0p1", "other\n"), ("vport2p1", "agent.channel.0\n"), ("vport2p2", "")):
        folder = tmp_path / "class/virtio-ports" / node
        folder.mkdir(parents=True)
        (folder / "name").write_text(name)
    (tmp_path / "class/virtio-ports/vport3p1").mkdir()  # its name has not been told yet
    return str(tmp_path)


def test_port_is_found_by_the_hosts_name(sysfs: str) -> None:
    assert find_port("agent.channel.0", sysfs=sysfs) == "/dev/vport2p1"
    assert find_port("other", sysfs=sysfs, dev="/d") == "/d/vport0p1"


@pytest.mark.parametrize("name", ["agent.channel", "vport2p1", "agent.channel.0\n"])
def test_no_other_name_will_do(sysfs: str, name: str) -> None:
    assert find_port(name, sysfs=sysfs) is None


def test_machine_without_such_devices_has_no_port(tmp_path: Path) -> None:
    assert find_port("agent.channel.0", sysfs=str(tmp_path)) is None


def test_port_is_gone_with_its_number(tmp_path: Path) -> None:
    fd = open_port("/dev/null")
    try:
        assert os.get_blocking(fd) is False
        assert is_gone(fd, sysfs=str(tmp_path))
        (tmp_path / "dev/char/1:3").mkdir(parents=True)
        assert not is_gone(fd, sysfs=str(tmp_path))
    finally:
        os.close(fd)
