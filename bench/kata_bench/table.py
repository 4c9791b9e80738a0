"""The table that people read. Pure: results and budgets in, text out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kata_bench.budgets import Budget
from kata_bench.result import Result

_HEAD = ("figure", "here", "unit", "budget", "aim", "rust", "")
_MARKS = {True: "ok", False: "OVER", None: ""}


def format_value(value: float) -> str:
    """Three significant digits, never an exponent."""
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def make_row(budget: Budget, result: Result) -> tuple[str, ...]:
    """One figure beside its budget."""
    return (
        f"{budget.title}, {budget.group}",
        format_value(result.value),
        budget.unit,
        budget.limit_text(),
        "" if budget.aim is None else f"{budget.aim:g}",
        budget.rust,
        _MARKS[budget.is_met_by(result.value)],
    )


def format_table(budgets: Mapping[str, Budget], results: Iterable[Result]) -> str:
    """All results, columns aligned, in the order measured."""
    rows = [_HEAD, *(make_row(budgets[result.figure], result) for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if column in (1, 3, 4, 5) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def list_missed(budgets: Mapping[str, Budget], results: Iterable[Result]) -> list[str]:
    """The figures whose budget is not kept."""
    return [result.figure for result in results if budgets[result.figure].is_met_by(result.value) is False]
