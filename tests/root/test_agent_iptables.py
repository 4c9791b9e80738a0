"""GetIPTables and SetIPTables with the machine's own iptables, in a network namespace of the test's own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata_testing.native_agent import CallError, Connection, NativeAgent, start_agent

pytestmark = pytest.mark.requires("root", "netns", "iptables")

RULES = {
    False: b"*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -s 192.0.2.7/32 -p tcp -j DROP\nCOMMIT\n",
    True: b"*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -s 2001:db8::7/128 -p tcp -j DROP\nCOMMIT\n",
}


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[NativeAgent]:
    with start_agent(tmp_path, under=("unshare", "--net")) as running:
        yield running


@pytest.fixture
def connection(agent: NativeAgent) -> Iterator[Connection]:
    with agent.connect() as opened:
        yield opened


@pytest.mark.parametrize("v6", [False, True])
def test_rules_that_are_set_are_the_kernel_s_and_are_read_back(
    agent: NativeAgent, connection: Connection, *, v6: bool
) -> None:
    connection.call("SetIPTables", is_ipv6=v6, data=RULES[v6])
    rule = RULES[v6].splitlines()[2].decode()
    program = "ip6tables" if v6 else "iptables"
    seen = subprocess.run(
        ["nsenter", f"--net=/proc/{agent.process.pid}/ns/net", program, "-S", "INPUT"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stdout
    assert rule in seen
    assert rule in connection.call("GetIPTables", is_ipv6=v6).data.decode()
    other = connection.call("GetIPTables", is_ipv6=not v6).data.decode()
    assert "DROP" not in other, "the other family's rules are not touched"


def test_no_rules_change_nothing(connection: Connection) -> None:
    connection.call("SetIPTables", data=RULES[False])
    assert connection.call("SetIPTables", data=b"").data == b""
    assert b"DROP" in connection.call("GetIPTables").data


@pytest.mark.parametrize("v6", [False, True])
def test_what_is_no_rule_is_refused_in_the_program_s_words(connection: Connection, *, v6: bool) -> None:
    with pytest.raises(CallError) as caught:
        connection.call("SetIPTables", is_ipv6=v6, data=b"*filter\n-A NOWHERE -j DROP\nCOMMIT\n")
    name = "ip6tables" if v6 else "iptables"
    start = f"INTERNAL: /usr/sbin/{name}-restore --wait 5 failed: "
    assert str(caught.value).startswith(start)
    assert "line" in str(caught.value)[len(start) :].lower()


def test_many_rules_pass_whole(connection: Connection) -> None:
    rules = [f"-A INPUT -s 10.{number >> 8}.{number & 255}.1/32 -j DROP" for number in range(3000)]
    data = "\n".join(["*filter", ":INPUT ACCEPT [0:0]", *rules, "COMMIT", ""]).encode()
    assert len(data) > 65536, "more than a pipe holds"
    connection.call("SetIPTables", data=data)
    found = connection.call("GetIPTables").data.decode().splitlines()
    assert [line for line in found if line.startswith("-A INPUT")] == rules
