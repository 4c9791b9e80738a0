"""Signals while a command runs: forwarded to the container when there is one, else they end the command in good
order.

The first Ctrl-C goes to whoever asked for it (`forward_to`); a second one, and SIGTERM or SIGHUP at any time,
cancel the command.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Forward = Callable[[int], None]
_forward: list[Forward] = []


class Interrupted(Exception):
    """A signal ended the command."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.number = number


@contextmanager
def forward_to(forward: Forward) -> Iterator[None]:
    """Hand the first Ctrl-C to `forward` instead of ending the command."""
    _forward.append(forward)
    try:
        yield
    finally:
        _forward.clear()


async def interruptible(
    run: Callable[[argparse.Namespace], Awaitable[int]], options: argparse.Namespace
) -> int:
    """Run a command so that a signal cancels it; Interrupted is raised once it has cleaned up."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    received: list[int] = []

    def handle(number: int) -> None:
        if number == signal.SIGINT and _forward:
            _forward.pop()(number)
            return
        if not received and task is not None:
            received.append(number)
            task.cancel()

    for number in _ENDING:
        loop.add_signal_handler(number, handle, number)
    try:
        return await run(options)
    except asyncio.CancelledError:
        if received:
            raise Interrupted(received[0]) from None
        raise
    except BaseExceptionGroup as group:
        raise find_cause(group) from None
    finally:
        for number in _ENDING:
            loop.remove_signal_handler(number)


def find_cause(error: BaseException) -> BaseException:
    """What a task group's error is about: its first task's failure. The one place where groups are unwrapped."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
