"""What tests may need from the machine, each tried by doing it.

A test says `@pytest.mark.requires("root", "cgroup2:memory")`; `tests/conftest.py` asks `missing()` before it
runs. What is missing skips the test, unless the environment variable KATA_TEST_REQUIRE says that this machine must
have it: a comma-separated list of needs, where `all` stands for everything that `scripts/setup --tests` and root
together provide. Then it fails.

Probes run once per session, each with a deadline. This module knows no test.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from kata_policy.extension import find_extension
from kata_testing.repository import BUILD, GUEST_FILES

VARIABLE = "KATA_TEST_REQUIRE"
PROBE_TIMEOUT_S = 120.0


class Need(NamedTuple):
    """One thing that a test may need."""

    probe: Callable[[str], str | None]
    """Gets what stands after the colon; returns why the need is missing, None when it is there."""

    by_setup: bool
    """True when scripts/setup and root provide it everywhere; False when it depends on kernel or hardware."""


def _run(*command: str) -> str | None:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError:
        return f"{command[0]} is not installed"
    except subprocess.TimeoutExpired:
        return f"{' '.join(command)} took more than {PROBE_TIMEOUT_S:.0f} s"
    if done.returncode:
        return f"{' '.join(command)} exited {done.returncode}: {done.stderr.strip()[-300:]}"
    return None


def _program(*command: str) -> Callable[[str], str | None]:
    return lambda _: _run(*command)


def crun_path() -> str | None:
    """The crun that tests use: the one named in KATA_AGENT_CRUN, our static build, or the one in PATH."""
    named = os.environ.get("KATA_AGENT_CRUN")
    if named:
        return named
    built = BUILD / "crun"
    return str(built) if os.access(built, os.X_OK) else shutil.which("crun")


def _probe_root(_: str) -> str | None:
    if os.geteuid() != 0:
        return "not root"
    return _run("unshare", "--mount", "--pid", "--fork", "true")


def _probe_crun(_: str) -> str | None:
    path = crun_path()
    return "no crun: build it with `kata-image build`" if path is None else _run(path, "--version")


def _probe_guest_image(_: str) -> str | None:
    absent = [file.name for file in GUEST_FILES if not file.is_file()]
    return f"build/guest has no {', '.join(absent)}: run `kata-image build`" if absent else None


def _probe_policy_engine(_: str) -> str | None:
    return None if find_extension() else "no policy engine: run scripts/image, which builds and installs it"


def _probe_cgroup2(controller: str) -> str | None:
    script = 'mount -t cgroup2 none /mnt && cat /mnt/cgroup.controllers && mkdir "/mnt/$1" && rmdir "/mnt/$1"'
    name = f"kata-probe-{os.getpid()}"
    command = ["unshare", "--mount", "sh", "-c", script, "sh", name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=False)
    if done.returncode:
        return f"cannot make a group in a cgroup2 mount: {done.stderr.strip()}"
    if controller and controller not in done.stdout.split():
        return f"cgroup v2 has no {controller} controller here (it has: {done.stdout.strip() or 'none'})"
    return None


def _probe_vsock_loopback(_: str) -> str | None:
    try:
        with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as listener:
            listener.bind((1, socket.VMADDR_PORT_ANY))
    except OSError as error:
        return f"cannot bind a vsock socket to CID 1: {error.strerror}"
    return None


def _probe_hugepages(_: str) -> str | None:
    """One page of 2 MiB more in the kernel's pool, and back."""
    pool = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
    try:
        before = int(pool.read_text())
        pool.write_text(str(before + 1))
        after = int(pool.read_text())
        pool.write_text(str(before))
    except OSError as error:
        return f"cannot change the pool of huge pages: {error}"
    return None if after == before + 1 else "the kernel finds no huge page"


def _probe_capability(number: str) -> str | None:
    """Whether this process has the capability of this number; a machine may lack some even as root."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:") and int(line.split()[1], 16) >> int(number) & 1:
            return None
    return f"this process has no capability {number}"


def _probe_loop(_: str) -> str | None:
    return _run("losetup", "--find")


def _probe_psi(_: str) -> str | None:
    """A trigger on a pressure file."""
    try:
        with open("/proc/pressure/cpu", "r+b", buffering=0) as file:
            file.write(b"some 500000 2000000\0")
    except OSError as error:
        return f"cannot set a trigger on /proc/pressure/cpu: {error.strerror}"
    return None


def _probe_common_code(_: str) -> str | None:
    """Whether any user may read this interpreter and checkout, as the mapped root of a container has to."""
    import kata_agent

    for start in (os.path.realpath(sys.executable), os.path.dirname(kata_agent.__file__)):
        for path in (Path(start), *Path(start).parents):
            if not path.stat().st_mode & 0o001:
                return f"{start} cannot be reached by other users: mode {path.stat().st_mode & 0o777:o} of {path}"
    return None


def _probe_path(path: str) -> Callable[[str], str | None]:
    return lambda _: None if os.path.exists(path) else f"{path} does not exist"


NEEDS: Mapping[str, Need] = {
    "root": Need(_probe_root, by_setup=True),
    "crun": Need(_probe_crun, by_setup=True),
    "busybox": Need(_program("busybox", "true"), by_setup=True),
    "go": Need(_program("go", "version"), by_setup=True),
    "qemu": Need(_program("qemu-system-x86_64", "--version"), by_setup=True),
    "guest-image": Need(_probe_guest_image, by_setup=True),
    "netns": Need(_program("unshare", "--net", "true"), by_setup=True),
    "iproute2": Need(_program("ip", "-Version"), by_setup=True),
    "iptables": Need(_program("iptables", "-V"), by_setup=True),
    "cgroup2": Need(_probe_cgroup2, by_setup=True),
    "xfs": Need(_program("mkfs.xfs", "-V"), by_setup=True),
    "erofs": Need(_program("mkfs.erofs", "--help"), by_setup=True),
    "veritysetup": Need(_program("veritysetup", "--version"), by_setup=True),
    "common-code": Need(_probe_common_code, by_setup=False),
    "capability": Need(_probe_capability, by_setup=False),
    "policy-engine": Need(_probe_policy_engine, by_setup=True),
    "hugepages": Need(_probe_hugepages, by_setup=False),
    "loop": Need(_probe_loop, by_setup=False),
    "psi": Need(_probe_psi, by_setup=False),
    "userns": Need(_program("unshare", "--user", "--map-root-user", "true"), by_setup=False),
    "vsock": Need(_probe_path("/dev/vsock"), by_setup=False),
    "vsock-loopback": Need(_probe_vsock_loopback, by_setup=False),
    "kvm": Need(_probe_path("/dev/kvm"), by_setup=False),
}


@cache
def why_missing(need: str) -> str | None:
    """Why this machine lacks `need`, None when it has it. KeyError for a name that nobody declared."""
    name, _, argument = need.partition(":")
    return NEEDS[name].probe(argument)


def is_demanded(need: str, demanded: str) -> bool:
    """Whether the value of KATA_TEST_REQUIRE says that this machine must have `need`.

    `all` covers no need with an argument (`cgroup2:memory`): those are properties of the machine's kernel.
    """
    words = {word.strip() for word in demanded.split(",")}
    if need in words:
        return True
    return "all" in words and need in NEEDS and NEEDS[need].by_setup


def missing(needs: tuple[str, ...], demanded: str) -> tuple[str, bool] | None:
    """The first need that is not there: the text that says so, and whether it must have been. None: all there."""
    for need in needs:
        reason = why_missing(need)
        if reason is not None:
            return f"requires {need}: {reason}", is_demanded(need, demanded)
    return None
