"""The little of ELF (64 bit, little endian) that an image needs: a section's bytes, and the libraries a file asks for.

Format: elf(5). Anything that is not such a file gives no sections and no libraries.
"""

from __future__ import annotations

import struct

_DYNAMIC_NEEDED = 1
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")


def read_sections(image: bytes) -> dict[str, bytes]:
    """Return the sections by name (the last one wins where a name repeats)."""
    if len(image) < _HEADER.size or image[:6] != b"\x7fELF\x02\x01":
        return {}
    header = _HEADER.unpack_from(image)
    table, size, count, names_index = header[6], header[11], header[12], header[13]
    rows = [_SECTION.unpack_from(image, table + number * size) for number in range(count)]
    if not rows:
        return {}
    names = image[rows[names_index][4] : rows[names_index][4] + rows[names_index][5]]
    return {_text(names, row[0]): b"" if row[1] == 8 else image[row[4] : row[4] + row[5]] for row in rows}


def needed_libraries(image: bytes) -> list[str]:
    """Return the DT_NEEDED entries in order."""
    sections = read_sections(image)
    dynamic, strings = sections.get(".dynamic", b""), sections.get(".dynstr", b"")
    pairs = struct.iter_unpack("<QQ", dynamic[: len(dynamic) // 16 * 16])
    return [_text(strings, value) for tag, value in pairs if tag == _DYNAMIC_NEEDED]


def module_info(image: bytes) -> dict[str, str]:
    """Return a kernel module's `.modinfo`: `depends`, `name`, `vermagic`, ... (the first value of each)."""
    found: dict[str, str] = {}
    for item in read_sections(image).get(".modinfo", b"").split(b"\0"):
        name, _, value = item.decode(errors="replace").partition("=")
        if name:
            found.setdefault(name, value)
    return found


def _text(table: bytes, offset: int) -> str:
    return table[offset : table.index(b"\0", offset)].decode(errors="replace")
