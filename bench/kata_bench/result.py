"""What a measurement gives, and how samples become one number."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Result(NamedTuple):
    """A measured figure: its name in `budgets.toml`, the value in the unit given there, and how it came about."""

    figure: str
    value: float
    samples: tuple[float, ...] = ()
    note: str = ""


class Effort(NamedTuple):
    """How much to measure: `pick(full, quick)` chooses a number of repeats."""

    quick: bool

    def pick(self, full: int, quick: int) -> int:
        """The number of repeats for this run."""
        return quick if self.quick else full


def median_result(figure: str, samples: Sequence[float], note: str = "") -> Result:
    """The median of the samples, which are kept."""
    return Result(figure, statistics.median(samples), tuple(samples), note)
