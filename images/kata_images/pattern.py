"""File name patterns of the recipe: shell globs with `{a,b}` alternatives and `**` for any depth (pure)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache


@lru_cache(maxsize=1024)
def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Translate one pattern; `*` and `?` stay within a folder, `**/` matches any number of folders."""
    out, depth, at = "", 0, 0
    while at < len(pattern):
        if pattern.startswith("**/", at):
            out, at = out + "(?:.*/)?", at + 3
            continue
        if pattern.startswith("**", at):
            out, at = out + ".*", at + 2
            continue
        letter = pattern[at]
        if letter == "[" and "]" in pattern[at + 2 :]:
            end = pattern.index("]", at + 2)
            out, at = out + pattern[at : end + 1].replace("[!", "[^", 1), end + 1
            continue
        if letter == "{":
            depth, letter = depth + 1, "(?:"
        elif letter == "}" and depth:
            depth, letter = depth - 1, ")"
        elif letter == "," and depth:
            letter = "|"
        else:
            letter = {"*": "[^/]*", "?": "[^/]"}.get(letter, re.escape(letter))
        out, at = out + letter, at + 1
    return re.compile(out)


def matches(path: str, patterns: Iterable[str]) -> bool:
    """Tell whether a path matches any of the patterns as a whole."""
    return any(compile_pattern(pattern).fullmatch(path) for pattern in patterns)
