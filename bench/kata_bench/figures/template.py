"""Machines from a template beside cold ones, in one run: how soon they answer, how soon a first container has ended,
and the memory that each has for itself.

The time runs from the call that starts a machine; the guest's own share of it from when its processors run. Both kinds
have the channel that templates need, and take turns, so that whatever else the host does falls on both.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from kata_bench.copies import Times, config, measure_own, measure_profile, open_template, time_start
from kata_bench.result import Effort, Result, median_result
from kata_host.vm.qemu import launch
from kata_host.vm.saved import restore

if TYPE_CHECKING:
    from kata_bench.copies import Own
    from kata_host.vm.saved import Saved

_REPEATS = 10
_USED = 20
# Seconds to an event, cold and from a template, and the guest's share of each; the ratio.
_CHECK = (
    "template-check-cold",
    "template-check-cold-guest",
    "template-check-copy",
    "template-check-copy-guest",
)
_EXIT = ("template-exit-cold", "template-exit-cold-guest", "template-exit-copy", "template-exit-copy-guest")
_OWN_COLD = ("template-own-cold-ready", "template-own-cold-first", "template-own-cold-used")
# By the number of copies that run side by side.
_OWN = {
    1: ("template-own-1-ready", "template-own-1-first", "template-own-1-used"),
    4: ("template-own-4-ready", "template-own-4-first", "template-own-4-used"),
    8: ("template-own-8-ready", "template-own-8-first", "template-own-8-used"),
}


async def measure_times(saved: Saved, effort: Effort) -> list[Result]:
    """The ten figures of time: seconds, and the shares in percent of the medians."""
    cold: list[Times] = []
    copies: list[Times] = []
    for _ in range(effort.pick(_REPEATS, 1)):
        begin = time.monotonic()
        cold.append(await time_start(launch(config()), begin))
        begin = time.monotonic()
        copies.append(await time_start(restore(saved), begin))
    check = [[one.check_s for one in times] for times in (cold, copies)]
    exits = [[one.exit_s for one in times] for times in (cold, copies)]
    running = [[one.running_s for one in times] for times in (cold, copies)]
    return [
        *show_times(_CHECK, "template-check-share", check, running),
        *show_times(_EXIT, "template-exit-share", exits, running),
    ]


def show_times(
    figures: tuple[str, ...], share: str, events: list[list[float]], running: list[list[float]]
) -> list[Result]:
    """Medians in seconds of cold machines and of copies, and of what the guests took of each."""
    results = []
    for kind in (0, 1):
        guest = [event - began for event, began in zip(events[kind], running[kind], strict=True)]
        results += [
            median_result(figures[2 * kind], events[kind]),
            median_result(figures[2 * kind + 1], guest),
        ]
    return [*results, Result(share, results[2].value / results[0].value * 100)]


async def measure_memory(saved: Saved, effort: Effort) -> list[Result]:
    """What machines have for themselves, in MB: a cold one, and copies that run side by side."""
    used = effort.pick(_USED, 2)
    async with launch(config()) as vm:
        cold = await measure_own(vm, used)
    results = show_own(_OWN_COLD, [cold])
    copies: list[Own] = []
    for count, figures in _OWN.items():
        if count > effort.pick(max(_OWN), 1):
            break
        async with AsyncExitStack() as stack:
            vms = [await stack.enter_async_context(restore(saved)) for _ in range(count)]
            copies = [await measure_own(vm, used) for vm in vms]
        results += show_own(figures, copies)
    ready = statistics.fmean(own.ready_mb for own in copies)
    return [*results, Result("template-own-share", ready / cold.ready_mb * 100, note="where most run")]


def show_own(figures: tuple[str, ...], owns: list[Own]) -> list[Result]:
    """The mean of machines that ran side by side, for each of the three moments."""
    return [
        Result(figure, statistics.fmean(samples), samples)
        for figure, samples in zip(figures, zip(*owns, strict=True), strict=True)
    ]


def show_profile(figure: str, profile: dict[str, float]) -> Result:
    """What PID 1 and the agent have of a copy's own pages; the note has the rest."""
    note = ", ".join(f"{name} {mb:.2f}" for name, mb in profile.items())
    mine = profile.get("PID 1", 0) + profile.get("agent", 0)
    return Result(figure, mine, note=f"{note}; all {sum(profile.values()):.1f}")


async def measure_all(effort: Effort) -> list[Result]:
    """Everything, of one warm template and one that was not warmed up."""
    with tempfile.TemporaryDirectory(prefix="kata-bench-") as name:
        async with open_template(Path(name, "cool"), warm=False) as cool:
            before = show_profile("template-dirty-unwarmed", await measure_profile(cool))
        async with open_template(Path(name, "warm"), warm=True) as warm:
            after = show_profile("template-dirty", await measure_profile(warm))
            times = await measure_times(warm, effort)
            return [*times, *await measure_memory(warm, effort), before, after]


def measure_template(effort: Effort) -> list[Result]:
    """All figures of `scripts/bench template`."""
    return asyncio.run(measure_all(effort))
