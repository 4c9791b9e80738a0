"""One machine for all tests of this layer. Its console is in a failed test's report, and read after each test."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from kata_host.vm import accel
from kata_host.vm.console import find_trouble, read_console
from kata_testing.guest import Guest, boot_guest, create_shared_sandbox

# With a thread for each processor one boot in some hundred goes wrong (decision 0170). The tool's processes inherit it.
os.environ.setdefault(accel.VARIABLE, "single")

# In the order of their cost to others: a file that kills the agent comes last.
_CONSOLE_LINES = 60
# Words of ours whose default is off.
_WORDS = ("agent.passfd_listener_port=1027", "agent.pressure=memory:1/500", "kata.channel=late.channel.0")


@pytest.fixture(scope="session")
def short_folder() -> Iterator[Path]:
    """A folder whose path leaves room for the names of unix sockets."""
    folder = Path(tempfile.mkdtemp(prefix="kata-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def booted(short_folder: Path) -> Iterator[tuple[Guest, str]]:
    """A booted machine with its sandbox created, and its console up to there."""
    with boot_guest(short_folder, *_WORDS) as guest:
        asyncio.run(create_shared_sandbox(guest))
        yield guest, guest.console.read_text(errors="replace")


@pytest.fixture(scope="session")
def guest(booted: tuple[Guest, str]) -> Guest:
    """The machine."""
    return booted[0]


@pytest.fixture(scope="session")
def boot_console(booted: tuple[Guest, str]) -> str:
    """What the machine had said when it was ready."""
    return booted[1]


@pytest.fixture
def expects_oom_report() -> None:
    """The test makes the kernel print an out-of-memory report, which is else a failure."""


@pytest.fixture(autouse=True)
def healthy_console(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that makes the guest's kernel complain has failed."""
    if "guest" not in request.fixturenames:
        yield
        return
    console: Path = request.getfixturevalue("guest").console
    before = console.stat().st_size
    yield
    if "expects_oom_report" in request.fixturenames:
        return
    said = console.read_bytes()[before:].decode(errors="replace")
    assert not find_trouble(said), f"the guest's kernel complained:\n{said}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    guest = getattr(item, "funcargs", {}).get("guest")
    if report.failed and isinstance(guest, Guest):
        report.sections.append(("guest console", read_console(guest.console, _CONSOLE_LINES)))
    return report
