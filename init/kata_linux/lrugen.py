"""The multi-generational LRU by hand: debugfs `lru_gen` (Documentation/admin-guide/mm/multigen_lru.rst).

Owns: the format of the file and of its two commands. Must not know: when to age or evict. Page counts may be negative
for a moment, because the kernel adds them up without a lock; they read as 0.
"""

from __future__ import annotations

import os

from kata_linux._libc import fail
from kata_linux.record import Record

ENABLED = "/sys/kernel/mm/lru_gen/enabled"
CONTROL = "/sys/kernel/debug/lru_gen"
_READ_BYTES = 1 << 16


class Generation(Record):
    """Pages last used about `age_ms` ago; the greater the number, the younger."""

    sequence: int
    age_ms: int
    anon_pages: int
    file_pages: int


class Node(Record):
    """A control group's generations on one NUMA node, oldest first; `group` is the kernel's number for it."""

    group: int
    path: str
    node: int
    generations: tuple[Generation, ...]


def parse(text: str) -> list[Node]:
    """Every group's nodes. Raises ValueError with a line that is none of these."""
    nodes: list[Node] = []
    group, path = 0, ""
    for line in text.splitlines():
        words = line.split(maxsplit=2)
        try:
            if words[:1] == ["memcg"]:
                group, path = int(words[1]), words[2].strip()
            elif words[:1] == ["node"]:
                nodes.append(Node(group, path, int(words[1]), ()))
            elif words:
                sequence, age_ms, anon, file = (int(field) for field in line.split())
                pages = Generation(sequence, age_ms, max(anon, 0), max(file, 0))
                nodes[-1] = nodes[-1]._replace(generations=(*nodes[-1].generations, pages))
        except (ValueError, IndexError) as error:
            raise ValueError(f"lru_gen: {line!r}: {error}") from error
    return nodes


def read(path: str = CONTROL) -> list[Node]:
    """Read and parse the file; the kernel gives a part with each read."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return parse(file.read())
    except OSError as error:
        fail(error.errno or 0, "read", path)


def age(node: Node, *, swap: bool, path: str = CONTROL) -> None:
    """Begin a new generation: what is used from now on goes into it. Walks page tables, so it may take long."""
    newest = node.generations[-1].sequence
    _command(f"+ {node.group} {node.node} {newest} {int(swap)} 1", path)


def evict(node: Node, *, swappiness: int, pages: int, path: str = CONTROL) -> None:
    """Take back up to so many pages of the oldest generation; fewer is no error."""
    oldest = node.generations[0].sequence
    _command(f"- {node.group} {node.node} {oldest} {swappiness} {pages}", path)


def _command(text: str, path: str) -> None:
    """ENOENT, EINVAL: the group or the generation has gone meanwhile."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError as error:
        fail(error.errno or 0, "open", path)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        fail(error.errno or 0, f"write {text!r} to", path)
    finally:
        os.close(fd)
