"""Mount option words to flags, propagation and data. Pure.

Follows: mount(8) and the words of Kata's agent 3.21 ("Option words"). Words apply from left to right; a later one
can undo an earlier one; what is no flag is data for the file system.
"""

from __future__ import annotations

from collections.abc import Iterable

from kata_agent.errors import InvalidRequest
from kata_linux.record import Record

RDONLY = 1
NOSUID = 2
NODEV = 4
NOEXEC = 8
SYNCHRONOUS = 16
REMOUNT = 32
MANDLOCK = 64
DIRSYNC = 128
NOSYMFOLLOW = 256
NOATIME = 1024
NODIRATIME = 2048
BIND = 4096
REC = 16384
SILENT = 32768
UNBINDABLE = 1 << 17
PRIVATE = 1 << 18
SLAVE = 1 << 19
SHARED = 1 << 20
RELATIME = 1 << 21
I_VERSION = 1 << 23
STRICTATIME = 1 << 24

# word -> (flags it sets, flags it clears)
WORDS: dict[str, tuple[int, int]] = {
    "defaults": (0, 0),
    "ro": (RDONLY, 0),
    "rw": (0, RDONLY),
    "suid": (0, NOSUID),
    "nosuid": (NOSUID, 0),
    "dev": (0, NODEV),
    "nodev": (NODEV, 0),
    "exec": (0, NOEXEC),
    "noexec": (NOEXEC, 0),
    "async": (0, SYNCHRONOUS),
    "sync": (SYNCHRONOUS, 0),
    "atime": (0, NOATIME),
    "noatime": (NOATIME, 0),
    "diratime": (0, NODIRATIME),
    "nodiratime": (NODIRATIME, 0),
    "relatime": (RELATIME, 0),
    "norelatime": (0, RELATIME),
    "strictatime": (STRICTATIME, 0),
    "nostrictatime": (0, STRICTATIME),
    "iversion": (I_VERSION, 0),
    "noiversion": (0, I_VERSION),
    "mand": (MANDLOCK, 0),
    "nomand": (0, MANDLOCK),
    "silent": (SILENT, 0),
    "loud": (0, SILENT),
    "dirsync": (DIRSYNC, 0),
    "nosymfollow": (NOSYMFOLLOW, 0),
    "symfollow": (0, NOSYMFOLLOW),
    "bind": (BIND, 0),
    "rbind": (BIND | REC, 0),
    "remount": (REMOUNT, 0),
}

PROPAGATIONS: dict[str, int] = {
    "shared": SHARED,
    "slave": SLAVE,
    "private": PRIVATE,
    "unbindable": UNBINDABLE,
    "rshared": SHARED | REC,
    "rslave": SLAVE | REC,
    "rprivate": PRIVATE | REC,
    "runbindable": UNBINDABLE | REC,
}

# Words for the agent itself; the kernel would refuse the mount for them.
OURS = "io.katacontainers."

DATA_LIMIT_BYTES = 4096


# Flags of a file system rather than of one mount, by the word that the kernel's mount context takes for each.
FILESYSTEM_WORDS = {RDONLY: "ro", SYNCHRONOUS: "sync", DIRSYNC: "dirsync", MANDLOCK: "mand"}


class MountOptions(Record):
    """What the words of one mount come to. `propagation` is 0 or one kind, with REC where it is recursive."""

    flags: int = 0
    propagation: int = 0
    data: str = ""


def parse_options(words: Iterable[str]) -> MountOptions:
    """The options that these words mean. Raises `InvalidRequest`."""
    flags = propagation = 0
    data = []
    for word in words:
        if word in WORDS:
            sets, clears = WORDS[word]
            flags = (flags | sets) & ~clears
        elif word in PROPAGATIONS:
            propagation = PROPAGATIONS[word]
        elif word == "loop":
            raise InvalidRequest("invalid mount option: loop")
        elif not word.startswith(OURS):
            data.append(word)
    joined = ",".join(data)
    if len(joined.encode()) >= DATA_LIMIT_BYTES:
        raise InvalidRequest(f"Mount option exceeds 4K size: {len(joined)} characters of data")
    return MountOptions(flags, propagation, joined)


def split_parameters(flags: int, data: str) -> list[tuple[str, str | None]]:
    """Flags and data as the keys and values of a mount context, split as the kernel itself splits data."""
    parameters: list[tuple[str, str | None]] = [
        (word, None) for flag, word in FILESYSTEM_WORDS.items() if flags & flag
    ]
    for piece in data.split(","):
        key, equals, value = piece.partition("=")
        if key:
            parameters.append((key, value if equals else None))
    return parameters


def find_values(words: Iterable[str], key: str) -> list[str]:
    """The values of `key=value` words, in order; a word with more than one `=` is none, as in Kata's agent."""
    pairs = (word.split("=") for word in words)
    return [pair[1] for pair in pairs if len(pair) == 2 and pair[0] == key]
