"""The mount table of a process: /proc/PID/mountinfo (proc_pid_mountinfo(5)).

Owns: the parser and its escapes. Must not know: which mounts are wanted.
"""

from __future__ import annotations

from kata_linux.record import Record

_FIELDS_BEFORE_OPTIONAL = 6


class Mount(Record):
    """One line of mountinfo; `optional` holds `shared:N`, `master:N`, ..."""

    mount_id: int
    parent_id: int
    device: str
    root: str
    mount_point: str
    options: tuple[str, ...]
    optional: tuple[str, ...]
    fstype: str
    source: str
    super_options: tuple[str, ...]


def read_mounts(pid: int | str = "self", *, proc: str = "/proc") -> list[Mount]:
    """The mounts that process `pid` sees, in the order of mounting."""
    with open(f"{proc}/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return parse_mountinfo(file.read())


def parse_mountinfo(text: str) -> list[Mount]:
    """Parse a whole file; ValueError names the line that is none of mountinfo's."""
    return [parse_line(line) for line in text.split("\n") if line]


def parse_line(line: str) -> Mount:
    """Parse one line; the optional fields end at a lone dash."""
    fields = line.split(" ")
    try:
        dash = fields.index("-", _FIELDS_BEFORE_OPTIONAL)
        fstype, source, super_options = fields[dash + 1 : dash + 4]
        return Mount(
            mount_id=int(fields[0]),
            parent_id=int(fields[1]),
            device=fields[2],
            root=unescape(fields[3]),
            mount_point=unescape(fields[4]),
            options=tuple(fields[5].split(",")),
            optional=tuple(fields[_FIELDS_BEFORE_OPTIONAL:dash]),
            fstype=unescape(fstype),
            source=unescape(source),
            super_options=tuple(unescape(super_options).split(",")),
        )
    except ValueError as error:
        raise ValueError(f"not a line of mountinfo: {line!r}") from error


def unescape(text: str) -> str:
    r"""Undo the kernel's `\040`, `\011`, `\012`, `\134`: a backslash and three octal digits."""
    if "\\" not in text:
        return text
    pieces = text.split("\\")
    return pieces[0] + "".join(_unescape_piece(piece) for piece in pieces[1:])


def find_mount(mounts: list[Mount], mount_point: str) -> Mount | None:
    """The topmost mount at exactly this path; a later one covers an earlier one."""
    for entry in reversed(mounts):
        if entry.mount_point == mount_point:
            return entry
    return None


def _unescape_piece(piece: str) -> str:
    digits = piece[:3]
    if len(digits) == 3 and all(digit in "01234567" for digit in digits):
        return chr(int(digits, 8)) + piece[3:]
    return "\\" + piece
