"""Documents say what is there: links lead somewhere, commands and scripts exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from kata_testing.repository import ROOT, VENV_BIN
from kata_testing.sources import list_files

DOCUMENTS = [file for file in list_files() if file.suffix == ".md"]
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
SCRIPT = re.compile(r"\bscripts/([a-z-]+)")
COMMAND = re.compile(r"(?<![\w/-])(kata-agent-ctl|kata-image) +(?!\[)([a-z][a-z-]+)")
README_COMMANDS = re.compile(r"^    (\S+)|^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
class TestDocument:
    def test_relative_links_lead_to_files(self, document: Path) -> None:
        targets = [link for link in LINK.findall(document.read_text()) if "://" not in link]
        assert [link for link in targets if not (document.parent / link).exists()] == []

    def test_scripts_that_are_named_exist(self, document: Path) -> None:
        named = set(SCRIPT.findall(document.read_text()))
        assert {name for name in named if not (ROOT / "scripts" / name).exists()} == set()

    def test_commands_that_are_named_exist(self, document: Path) -> None:
        code = "\n".join(
            re.findall(r"`[^`\n]+`|^    .*|```.*?```", document.read_text(), re.MULTILINE | re.DOTALL)
        )
        wrong = [
            f"{program} {verb}" for program, verb in set(COMMAND.findall(code)) if verb not in verbs(program)
        ]
        assert wrong == []


def verbs(program: str) -> set[str]:
    """The verbs that a program's --help names."""
    done = subprocess.run(
        [VENV_BIN / program, "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    return set(re.findall(r"^ {2,4}([a-z][a-z-]+)\b", done.stdout, re.MULTILINE))


def test_readme_begins_with_the_two_commands() -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert [line.split("#")[0].strip() for line in blocks[0].splitlines()] == ["scripts/run", "scripts/test"]


def test_every_document_and_decision_is_in_the_index() -> None:
    docs = ROOT / "docs"
    index = (docs / "README.md").read_text()
    written = {str(file.relative_to(docs)) for file in docs.rglob("*.md")} - {"README.md"}
    assert {name for name in written if f"]({name})" not in index} == set()
