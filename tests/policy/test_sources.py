"""Rules about the text of the repository that no tool knows."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from kata_testing.repository import ROOT
from kata_testing.sources import list_files, list_modules

# Put together here, so that this file does not hold what it looks for.
HOSTS = [
    ".".join(parts)
    for parts in (
        ("deb", "debian", "org"),
        ("ftp", "debian", "org"),
        ("security", "debian", "org"),
        ("snapshot", "debian", "org"),
        ("archive", "ubuntu", "com"),
        ("pypi", "org"),
        ("files", "pythonhosted", "org"),
        ("proxy", "golang", "org"),
        ("sum", "golang", "org"),
        ("crates", "io"),
        ("registry", "npmjs", "org"),
        ("maven", "apache", "org"),
    )
]
MACHINE_PATHS = ["/" + "work/", "/" + "root/.pyenv", "/" + "home/"]

LIMIT_LINES = 600
LIMIT_FUNCTION_LINES = 60


def read_text(file: Path) -> str:
    try:
        return file.read_text()
    except UnicodeDecodeError:
        return ""


def find(words: list[str]) -> list[str]:
    pattern = re.compile("|".join(rf"(?<![\w.-]){re.escape(word)}" for word in words))
    found = []
    for file in list_files():
        for number, line in enumerate(read_text(file).splitlines(), 1):
            if match := pattern.search(line):
                found.append(f"{file.relative_to(ROOT)}:{number}: {match.group()}")
    return found


def test_the_looker_finds_what_it_looks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = tmp_path / "bad"
    bad.write_text(f"fine\nhttp://{HOSTS[0]}/debian\n")
    monkeypatch.setitem(find.__globals__, "list_files", lambda: (bad,))
    monkeypatch.setitem(find.__globals__, "ROOT", tmp_path)
    assert find(HOSTS) == [f"bad:2: {HOSTS[0]}"]


def test_no_host_of_a_registry_or_mirror_is_named() -> None:
    assert find(HOSTS) == []


def test_no_path_of_one_machine_is_named() -> None:
    assert find(MACHINE_PATHS) == []


def test_every_module_opens_with_its_charter() -> None:
    bare = [
        str(file.relative_to(ROOT))
        for file in list_modules()
        if file.name != "__main__.py" and not ast.get_docstring(ast.parse(file.read_text()))
    ]
    assert bare == []


def measure_tail() -> list[str]:
    """Modules and functions past the lengths at which people begin to complain."""
    tail = []
    for file in list_modules():
        text = file.read_text()
        name = file.relative_to(ROOT)
        if (lines := text.count("\n")) > LIMIT_LINES:
            tail.append(f"{name}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                length = node.end_lineno - node.lineno + 1
                if length > LIMIT_FUNCTION_LINES:
                    tail.append(f"{name}:{node.lineno}: {node.name} has {length} lines")
    return tail


def test_no_module_or_function_is_in_the_long_tail() -> None:
    assert measure_tail() == []
