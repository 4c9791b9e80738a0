"""Budgets: read from `bench/budgets.toml`, compared with what was measured. Pure but for the one file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import NamedTuple

FILE = Path(__file__).resolve().parents[1] / "budgets.toml"


class Budget(NamedTuple):
    """One figure and what it may be."""

    name: str
    title: str
    group: str
    unit: str
    at_most: float | None = None
    at_least: float | None = None
    aim: float | None = None
    rust: str = ""

    def limit_text(self) -> str:
        """The budget as the table shows it; empty when the figure has none."""
        if self.at_most is not None:
            return f"<= {self.at_most:g}"
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return ""

    def is_met_by(self, value: float) -> bool | None:
        """Whether a value keeps the budget; None when there is no budget to keep."""
        if self.at_most is not None:
            return value <= self.at_most
        if self.at_least is not None:
            return value >= self.at_least
        return None


def read_budgets(file: Path = FILE) -> dict[str, Budget]:
    """All budgets by name, in the file's order. TypeError names a key that is not known."""
    with file.open("rb") as source:
        return {name: Budget(name=name, **entry) for name, entry in tomllib.load(source).items()}
