"""The kernel command line: /proc/cmdline split into words.

Owns: the splitting (ASCII white space; there is no quoting in what Kata's hosts write). Must not know: any
word.
"""

from __future__ import annotations


def read_cmdline(*, proc: str = "/proc") -> list[str]:
    """The words of this boot's kernel command line."""
    with open(f"{proc}/cmdline", encoding="utf-8", errors="surrogateescape") as file:
        return split_cmdline(file.read())


def split_cmdline(text: str) -> list[str]:
    """Split at ASCII white space only: a non-breaking space belongs to its word."""
    words = [""]
    for character in text:
        if character in " \t\n\r\x0b\x0c":
            words.append("")
        else:
            words[-1] += character
    return [word for word in words if word]
