"""The table of settings in docs/agent.md is the one in the code."""

from __future__ import annotations

from kata_agent.config import SETTINGS, Config
from kata_testing.repository import ROOT


def table() -> list[str]:
    """The rows as they must be."""
    return [
        f"| `{setting.word}=` | `{setting.key}` | `{Config._field_defaults[setting.field]}` | {setting.help} |"
        for setting in SETTINGS
    ]


def test_documented_settings_are_those_of_the_code() -> None:
    lines = (ROOT / "docs" / "agent.md").read_text().splitlines()
    start = lines.index("| kernel command line | TOML key | default | meaning |")
    rows = lines[start + 2 :]
    assert rows[: rows.index("")] == table()
