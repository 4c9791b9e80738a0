"""The table of settings in docs/agent.md is the one in the code."""

from __future__ import annotations

from kata_agent.config.show import format_markdown
from kata_testing.repository import ROOT


def test_documented_settings_are_those_of_the_code() -> None:
    """`python -m kata_agent.config.show` prints the rows."""
    lines = (ROOT / "docs" / "agent.md").read_text().splitlines()
    start = lines.index("| kernel command line | TOML key | environment | default | meaning |")
    rows = lines[start + 2 :]
    assert rows[: rows.index("")] == format_markdown()
