"""What a copy of a machine has wrong, each made right by one function: clock, random numbers, names, generation.

Owns: how. Must not know: the order, who asks. Every function says what it did, for the step's note.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import time

from kata_agent.errors import InvalidRequest
from kata_agent.guest import clock, random
from kata_linux import mount, ptp
from kata_linux.record import Record

MIN_RANDOM_BYTES = 32
MAX_RANDOM_BYTES = 4096
MACHINE_ID = "/etc/machine-id"
MACHINE_ID_IN_MEMORY = "/run/machine-id"
GENERATION = "generation"
HOSTNAME_LIMIT = 64
_HEX = set("0123456789abcdef")


class Generation(Record):
    """Which copy this machine is: 0 and no id for one that never was saved."""

    number: int = 0
    id: str = ""


class Wanted(Record):
    """What the host gives to a copy; see `ResumedRequest`."""

    random: bytes
    time_ns: int = 0
    hostname: str = ""
    machine_id: str = ""


def check(wanted: Wanted) -> None:
    """Raises `InvalidRequest` before anything is touched."""
    if not MIN_RANDOM_BYTES <= len(wanted.random) <= MAX_RANDOM_BYTES:
        raise InvalidRequest(
            f"random: {len(wanted.random)} bytes; {MIN_RANDOM_BYTES} to {MAX_RANDOM_BYTES} are needed, or clones of "
            "one machine would draw the same numbers"
        )
    if wanted.time_ns < 0:
        raise InvalidRequest(f"time_ns {wanted.time_ns}: before 1970")
    if len(wanted.hostname.encode()) > HOSTNAME_LIMIT:
        raise InvalidRequest(f"hostname: {len(wanted.hostname.encode())} bytes, at most {HOSTNAME_LIMIT}")
    if wanted.machine_id and (len(wanted.machine_id) != 32 or set(wanted.machine_id) - _HEX):
        raise InvalidRequest(f"machine_id {wanted.machine_id[:40]!r}: 32 hexadecimal digits in lower case")


def set_clock(time_ns: int, device: str = ptp.DEVICE) -> str:
    """Step the wall clock: by the host's own where the machine can read it, else by what the host has said."""
    try:
        now_ns, source = ptp.read_time_ns(device), device
    except OSError:
        if not time_ns:
            return f"left alone: no {device}, and the host gave no time"
        now_ns, source = time_ns, "the host's word"
    before = time.time_ns()
    clock.set_time(now_ns // 1_000_000_000, now_ns // 1000 % 1_000_000)
    return f"{(now_ns - before) / 1e9:+.6f} s by {source}"


def reseed(data: bytes) -> str:
    """The kernel's pool, and Python's generator if anything has loaded it."""
    random.reseed(data)
    module = sys.modules.get("random")
    if module is not None and "seed" in vars(module):  # not a stand-in
        module.seed()
        return f"{len(data)} bytes; Python's generator, too"
    return f"{len(data)} bytes"


def set_names(hostname: str, machine_id: str, path: str = MACHINE_ID) -> str:
    """The machine's names, where there are new ones."""
    done = []
    if hostname:
        socket.sethostname(hostname)
        done.append(f"hostname {hostname}")
    if machine_id:
        write_machine_id(machine_id, path)
        done.append(f"{path} {machine_id}")
    return ", ".join(done) or "stay"


def write_machine_id(machine_id: str, path: str, fallback: str = MACHINE_ID_IN_MEMORY) -> None:
    """Where the root cannot be written to, a file in memory is bound over it, as machine-id(5) has it."""
    try:
        _write(path, machine_id)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        _write(fallback, machine_id)
        mount.bind(fallback, path)


def _write(path: str, machine_id: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(f"{machine_id}\n")


def read_generation(folder: str) -> Generation:
    """What the file tells; none is generation 0."""
    try:
        with open(f"{folder}/{GENERATION}", encoding="ascii") as file:
            number, identity = file.read().split()
    except FileNotFoundError:
        return Generation()
    return Generation(int(number), identity)


def bump_generation(folder: str) -> Generation:
    """The next generation, with an id of its own; in the file when this returns. The pool must be reseeded by now."""
    generation = Generation(read_generation(folder).number + 1, os.urandom(16).hex())
    os.makedirs(folder, mode=0o700, exist_ok=True)
    temporary = f"{folder}/{GENERATION}.new"
    with open(temporary, "w", encoding="ascii") as file:
        file.write(f"{generation.number} {generation.id}\n")
    os.rename(temporary, f"{folder}/{GENERATION}")
    return generation
