"""The settings as people and documents read them: `kata-agent --print-config`, and the table in docs/agent.md."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from kata_agent.config.table import SETTINGS
from kata_agent.config.value import AllowList

if TYPE_CHECKING:
    from kata_agent.config.setting import Setting
    from kata_agent.config.source import Reading

DEFAULT = "default"


def name_of(row: Setting[Any]) -> str:
    """What a setting is called: its TOML key, else its word, else its variable."""
    return row.key or row.word or row.env


def format_text(reading: Reading) -> str:
    """A line for each setting, then what was wrong and what nobody knows."""
    rows = [("SETTING", "VALUE", "FROM")]
    rows += [
        (name_of(row), _text(getattr(reading.config, row.field)), reading.origins.get(row.field, DEFAULT))
        for row in SETTINGS
    ]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"{name:{widths[0]}}  {value:{widths[1]}}  {origin}" for name, value, origin in rows]
    lines += [f"not understood: {complaint}" for complaint in reading.complaints]
    lines += [f"not known, ignored: {name}" for name in reading.unknown]
    return "\n".join(lines) + "\n"


def format_json(reading: Reading) -> str:
    """The same as one JSON object: `settings` by name with `value` and `origin`, `complaints`, `unknown`."""
    settings = {
        name_of(row): {
            "value": _plain(getattr(reading.config, row.field)),
            "origin": reading.origins.get(row.field, DEFAULT),
        }
        for row in SETTINGS
    }
    whole = {"settings": settings, "complaints": reading.complaints, "unknown": reading.unknown}
    return json.dumps(whole, indent=2) + "\n"


def format_markdown() -> list[str]:
    """The rows of the documents' table."""
    return [
        f"| {_code(_word(row))} | {_code(row.key)} | {_code(row.env)} | {_code(_text(row.default))} | {row.help} |"
        for row in SETTINGS
    ]


def _word(row: Setting[Any]) -> str:
    if not row.word:
        return ""
    return {"only": row.word, "too": f"{row.word}[=]"}.get(row.flag, f"{row.word}=")


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _plain(value: Any) -> Any:
    return sorted(value.names) if isinstance(value, AllowList) else value


def _text(value: Any) -> str:
    if isinstance(value, AllowList):
        return f"{len(value.names)} names: {', '.join(sorted(value.names))}"
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


if __name__ == "__main__":
    sys.stdout.write("\n".join(format_markdown()) + "\n")
