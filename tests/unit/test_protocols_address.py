"""Addresses: every form, and what is refused with which words."""

from __future__ import annotations

import pytest

from kata_protocols.aio.address import (
    VMADDR_CID_ANY,
    Address,
    HybridAddress,
    UnixAddress,
    VsockAddress,
    parse_address,
)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:///run/agent.sock", UnixAddress("/run/agent.sock")),
        ("UNIX:///run/agent.sock", UnixAddress("/run/agent.sock")),
        ("unix://@/tmp/name", UnixAddress("\0/tmp/name")),
        ("vsock://3:1024", VsockAddress(3, 1024)),
        ("vsock://-1:1024", VsockAddress(VMADDR_CID_ANY, 1024)),
        ("vsock://:1024", VsockAddress(VMADDR_CID_ANY, 1024)),
        ("hvsock:///run/vm.vsock:1024", HybridAddress("/run/vm.vsock", 1024)),
        ("hvsock:///a:b/vm:1025", HybridAddress("/a:b/vm", 1025)),
        ("remote:///run/peerpod.sock", UnixAddress("/run/peerpod.sock")),
    ],
)
def test_a_form_is_parsed(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["unix:///run/a", "unix://@a", "vsock://-1:1", "vsock://3:1", "hvsock:///a:1"]
)
def test_an_address_prints_as_it_was_written(text: str) -> None:
    assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "SCHEME one of unix"),
        ("tcp://1.2.3.4:5", "address 'tcp://1.2.3.4:5': want SCHEME://"),
        ("unix:///a://b", "want SCHEME://"),
        ("unix://", "socket path is missing"),
        ("unix://@", "socket path is missing"),
        ("vsock://3", "want CID:PORT"),
        ("vsock://x:1", "CID 'x' is not a number"),
        ("vsock://3:99999999999", "port '99999999999' is not a number from 0 to 4294967295"),
        ("vsock://3:-1", "port '-1'"),
        ("hvsock:///a", "want PATH:PORT"),
        ("hvsock://:5", "want PATH:PORT"),
    ],
)
def test_what_is_no_address_says_why(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_address(text)
