"""`scripts/bench [NAME...] [--json FILE] [--quick]`: measures, prints the table, writes JSON.

Exit status 0 when every budget is kept, 1 when one is not, 2 when a measurement failed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, cast

from kata_bench.budgets import read_budgets
from kata_bench.machine import describe_machine
from kata_bench.native import ROOT
from kata_bench.result import Effort, Result
from kata_bench.table import format_table, list_missed

DEFAULT_JSON = ROOT / "build" / "bench.json"


class Measurement(NamedTuple):
    """One file of `figures/`: the group it belongs to and its function, imported when it is to run."""

    group: str
    module: str
    function: str

    def load(self) -> Callable[[Effort], list[Result]]:
        """The function."""
        module = import_module(f"kata_bench.figures.{self.module}")
        return cast("Callable[[Effort], list[Result]]", getattr(module, self.function))


SOAK = "soak"
"""Minutes of torture, run when it is asked for."""

MEASUREMENTS = {
    "start": Measurement("native", "start", "measure_start"),
    "doorbell": Measurement("native", "doorbell", "measure_doorbell"),
    "check": Measurement("native", "check", "measure_check"),
    "pipelined": Measurement("native", "pipelined", "measure_pipelined"),
    "cycle": Measurement("native", "cycle", "measure_cycle"),
    "stats": Measurement("native", "stats", "measure_stats"),
    "metrics": Measurement("native", "metrics", "measure_metrics"),
    "repair": Measurement("native", "repair", "measure_repair"),
    "stdout": Measurement("native", "stdout", "measure_stdout"),
    "stdout-own": Measurement("native", "stdout_own", "measure_stdout_own"),
    "native-memory": Measurement("native", "native_memory", "measure_native_memory"),
    "files": Measurement("files", "files", "measure_files"),
    "guest": Measurement("vm", "guest", "measure_guest"),
    "hotplug": Measurement("vm", "hotplug", "measure_hotplug"),
    "channel": Measurement("vm", "channel", "measure_channel"),
    "images": Measurement("vm", "images", "measure_images"),
    "template": Measurement("vm", "template", "measure_template"),
    "soak-kills": Measurement(SOAK, "soak", "measure_soak_kills"),
    "soak-execs": Measurement(SOAK, "soak", "measure_soak_execs"),
}


def select_measurements(names: Sequence[str]) -> list[str]:
    """The measurements that are named, by name or group, in the table's order; when none is, all but the soak.

    KeyError: unknown.
    """
    groups = {measurement.group for measurement in MEASUREMENTS.values()}
    for name in names:
        if name not in MEASUREMENTS and name not in groups:
            raise KeyError(name)
    return [
        name
        for name, measurement in MEASUREMENTS.items()
        if (not names and measurement.group != SOAK) or name in names or measurement.group in names
    ]


def run_measurements(names: Sequence[str], effort: Effort) -> tuple[list[Result], dict[str, str]]:
    """What was measured, and for each measurement that failed why: one failure does not hide the others' figures."""
    results: list[Result] = []
    failures: dict[str, str] = {}
    for name in names:
        begin = time.monotonic()
        print(f"{name} ...", end=" ", file=sys.stderr, flush=True)
        try:
            results += MEASUREMENTS[name].load()(effort)
            print(f"{time.monotonic() - begin:.1f} s", file=sys.stderr)
        except Exception as error:  # noqa: BLE001 - whatever it was, it is shown, recorded and makes the run fail
            failures[name] = f"{type(error).__name__}: {error}"
            print(f"failed: {failures[name]}", file=sys.stderr)
    return results, failures


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description="measures the project's figures")
    choices = ", ".join([*MEASUREMENTS, "or a group: native, vm, files, soak"])
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"what to measure (default: all but soak): {choices}"
    )
    parser.add_argument(
        "--json", type=Path, default=DEFAULT_JSON, metavar="FILE", help="where to (%(default)s)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="few repeats: shows that it works, not how fast it is"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    try:
        names = select_measurements(options.names)
    except KeyError as unknown:
        parser.error(f"nothing to measure is called {unknown}")
    budgets = read_budgets()
    machine = describe_machine(ROOT)
    results, failures = run_measurements(names, Effort(quick=options.quick))
    missed = list_missed(budgets, results)
    document = {
        "machine": machine,
        "quick": options.quick,
        "figures": {
            result.figure: {
                "value": result.value,
                "unit": budgets[result.figure].unit,
                "budget": budgets[result.figure].limit_text(),
                "met": budgets[result.figure].is_met_by(result.value),
                "samples": result.samples,
                "note": result.note,
            }
            for result in results
        },
        "failures": failures,
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(document, indent=1) + "\n")
    print("\n" + format_table(budgets, results))
    print(f"\n{', '.join(f'{key} {value}' for key, value in machine.items())}\nwritten to {options.json}")
    for name, reason in failures.items():
        print(f"FAILED {name}: {reason}")
    if failures:
        return 2
    return 1 if missed and not options.quick else 0


if __name__ == "__main__":
    sys.exit(main())
