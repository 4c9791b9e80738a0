"""A list of steps with their times: what a snapshot waited for is read there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from kata_linux.record import Record


class Step(Record):
    """One step; `note` is for people."""

    name: str
    duration_us: int
    note: str


class Steps:
    """Steps in their order."""

    def __init__(self) -> None:
        self.done: list[Step] = []
        self._note = ""

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """What is done inside is one step. One that fails is none."""
        self._note = ""
        started = time.monotonic_ns()
        yield
        self.done.append(Step(name, (time.monotonic_ns() - started) // 1000, self._note))

    def note(self, text: str) -> None:
        """What to tell of the step that is being done."""
        self._note = text
