"""A machine that the emulator failed is booted once more; nothing of the first one is left."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from kata_host.vm.again import BOOTED_AGAIN, boot_with_second_try, is_emulator_fault
from kata_host.vm.base import BootFailed, EmulatorFault, Timeline
from kata_host.vm.doorbell import PID1_UP
from kata_testing.fake_host import run

OOPS = "Kernel panic - not syncing: Fatal exception in interrupt"


class Boots:
    """Boots that end as they are told; what they opened and closed is on record."""

    def __init__(self, *ends: Exception | None) -> None:
        self.ends = list(ends)
        self.log: list[str] = []

    async def __call__(self, stack: AsyncExitStack) -> str:
        number = len([entry for entry in self.log if entry.startswith("open")])
        self.log.append(f"open {number}")
        stack.callback(self.log.append, f"close {number}")
        end = self.ends.pop(0)
        if end is not None:
            raise end
        return f"machine {number}"


def boot(boots: Boots, timeline: Timeline) -> str:
    async def life() -> str:
        async with AsyncExitStack() as stack:
            booted = await boot_with_second_try(boots, stack, timeline)
            boots.log.append("used")
            return booted

    return str(run(life()))


def test_a_good_boot_is_the_only_one_and_lives_as_long_as_its_owner() -> None:
    boots = Boots(None)
    assert boot(boots, Timeline()) == "machine 0"
    assert boots.log == ["open 0", "used", "close 0"]


def test_after_the_emulators_fault_everything_is_taken_down_before_the_second_boot() -> None:
    boots, timeline = Boots(EmulatorFault("x"), None), Timeline()
    assert boot(boots, timeline) == "machine 1"
    assert boots.log == ["open 0", "close 0", "open 1", "used", "close 1"]
    assert [stamp.event for stamp in timeline.stamps] == [BOOTED_AGAIN]


def test_there_is_no_third_boot() -> None:
    boots = Boots(EmulatorFault("x"), EmulatorFault("again"))
    with pytest.raises(EmulatorFault, match="again"):
        boot(boots, Timeline())
    assert boots.log == ["open 0", "close 0", "open 1", "close 1"]


def test_any_other_failure_is_final() -> None:
    boots = Boots(BootFailed("no init"))
    with pytest.raises(BootFailed, match="no init"):
        boot(boots, Timeline())
    assert boots.log == ["open 0", "close 0"]


@pytest.mark.parametrize(
    ("accelerator", "cause", "pid1_up", "is_fault"),
    [
        ("tcg", OOPS, False, True),
        ("kvm", OOPS, False, False),
        ("tcg", OOPS, True, False),
        ("tcg", "Kernel panic - not syncing: VFS: Unable to mount root fs", False, False),
        ("tcg", "the agent was not ready within 60 s", False, False),
    ],
)
def test_only_an_emulated_kernels_fatal_exception_before_pid_1_counts(
    accelerator: str, cause: str, pid1_up: bool, is_fault: bool
) -> None:
    timeline = Timeline()
    if pid1_up:
        timeline.mark(PID1_UP)
    assert is_emulator_fault(accelerator, cause, timeline) is is_fault
