"""The modules that an idle PID 1 holds are pinned: each costs every virtual machine memory and start-up time."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kata_testing.init_runner import BARE_PYTHON, start_machine

OURS = {
    "kata_init": (
        "__main__ backoff boot control doorbell exits fdstore heartbeat journal launch ledger listen main plan shutdown"
        " succession supervise"
    ),
    "kata_linux": (
        "_libc cgroupfs cmdline interfaces kmsg modules mount mountinfo namespaces power prctl procfs record"
        " signalfd vsock"
    ),
}
STANDARD = (
    "__future__ _abc _codecs _collections_abc _ctypes _frozen_importlib _frozen_importlib_external _imp _io"
    " _operator _signal"
    " _socket _stat _struct _thread _warnings _weakref abc builtins codecs ctypes ctypes._endian encodings"
    " encodings.aliases encodings.utf_8 encodings.ascii errno fcntl gc genericpath io marshal operator os os.path posix"
    " posixpath resource select stat struct sys time types winreg zipimport"
)
# Python 3.13 loads linecache for the text of `-c`; in the guest PID 1's launcher is a file.
PROBE = {"__main__", "kata_testing", "kata_testing.module_probe", "linecache"}
DEAR = (
    "typing",
    "re",
    "enum",
    "collections",
    "functools",
    "signal",
    "socket",
    "dataclasses",
    "asyncio",
    "logging",
)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    folder = tmp_path_factory.mktemp("probe")
    path = folder / "modules"
    words = ("kata.agent=kata_testing.module_probe:run", f"probe={path}")
    with start_machine(folder, *words, python=BARE_PYTHON) as machine:
        assert machine.wait() == 0, machine.log
    return set(Path(path).read_text().split()) - PROBE


@pytest.mark.requires("root")
def test_an_idle_pid_1_holds_exactly_these_modules_of_ours(loaded: set[str]) -> None:
    pinned = {f"{package}.{name}" for package, names in OURS.items() for name in names.split()} | OURS.keys()
    # `hierarchy` serves a machine that is not ours, as here; the guest's PID 1 does not import it.
    assert {name for name in loaded if name.startswith("kata_")} - {"kata_linux.hierarchy"} == pinned


@pytest.mark.requires("root")
def test_an_idle_pid_1_holds_no_other_module_of_the_standard_library(loaded: set[str]) -> None:
    allowed = set(STANDARD.split())
    extra = {name for name in loaded if not name.startswith("kata_")} - allowed
    assert extra == set(), f"python {sys.version_info[:2]}: if one is worth its price in each VM, pin it here"


@pytest.mark.requires("root")
@pytest.mark.parametrize("name", DEAR)
def test_an_idle_pid_1_does_without(loaded: set[str], name: str) -> None:
    assert name not in loaded
