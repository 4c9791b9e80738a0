"""A second boot after a fault of the emulator.

Owns: what counts as such a fault, and that there is one more try. Must not know: how a machine is booted.
QEMU 7.2's emulation now and then runs a half-patched instruction of a starting kernel, which dies of a fatal exception
before PID 1: seen once in some hundred boots with a thread for each CPU, and not where they take turns (decision 0170).
The same kernel boots the next time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TypeVar

from kata_host.vm.base import EmulatorFault, Timeline
from kata_host.vm.doorbell import PID1_UP

Booted = TypeVar("Booted")

_FATAL = "Fatal exception"
BOOTED_AGAIN = "booted again"


def is_emulator_fault(accelerator: str, cause: str, timeline: Timeline) -> bool:
    """Whether a boot's end is the emulator's doing: a kernel's fatal exception, emulated, before PID 1. Pure."""
    return accelerator == "tcg" and _FATAL in cause and all(s.event != PID1_UP for s in timeline.stamps)


async def boot_with_second_try(
    boot: Callable[[AsyncExitStack], Awaitable[Booted]], stack: AsyncExitStack, timeline: Timeline
) -> Booted:
    """Boot; after an EmulatorFault take everything of it down and boot once more. `stack` owns what was booted."""
    try:
        async with AsyncExitStack() as attempt:
            booted = await boot(attempt)
            await stack.enter_async_context(attempt.pop_all())
            return booted
    except EmulatorFault:
        timeline.mark(BOOTED_AGAIN, "the emulator failed the kernel")
    return await boot(stack)
