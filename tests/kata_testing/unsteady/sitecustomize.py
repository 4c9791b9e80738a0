"""Makes every event loop of an interpreter that has this folder on its path late at random, by `kata_testing.shake`.

Owns a stand-in for `select.epoll` whose `poll` dawdles before it looks and before it tells. What two sides of a test
do one after the other on an idle machine comes in another order then.
"""

from __future__ import annotations

import random
import select
import time
from typing import Any, Self

_epoll = select.epoll

# Of the polls: most are on time, some are late by a context switch or two, a few by a time slice or more.
SHORT = 0.25
SHORT_S = 0.002
LONG = 0.03
LONG_S = 0.02


def dawdle() -> None:
    draw = random.random()  # noqa: S311
    if draw < LONG:
        time.sleep(random.random() * LONG_S)  # noqa: S311, TID251
    elif draw < LONG + SHORT:
        time.sleep(random.random() * SHORT_S)  # noqa: S311, TID251


class Epoll:
    """`select.epoll`, late."""

    def __init__(self, *args: Any) -> None:
        self._epoll = _epoll(*args)

    def poll(self, *args: Any, **named: Any) -> list[tuple[int, int]]:
        dawdle()
        events = self._epoll.poll(*args, **named)
        dawdle()
        return events

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._epoll.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._epoll, name)


select.epoll = Epoll  # type: ignore[misc,assignment]
