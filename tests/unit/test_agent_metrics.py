"""`GetMetrics`: names, labels and units of Kata's series, and that the text is what Prometheus reads."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kata_agent.durations import BOUNDS_NS, Durations
from kata_agent.life import Life
from kata_agent.metrics import exposition, guest, process
from kata_agent.metrics.collect import Collector
from kata_agent.metrics.exposition import COUNTER, GAUGE, Family, Sample, number, render

# By the text, because this parser renames a counter to `..._total`.
SCRAPES = re.compile(r"^kata_agent_scrape_count (\d+)$", re.MULTILINE)
Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Log:
    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def warning(self, _subsystem: str, text: str, **fields: Any) -> None:
        self.lines.append((text, fields))


def series(text: str) -> Series:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of(families: Iterable[Family]) -> Series:
    return series(render(families))


def item(name: str, value: str, **labels: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return name, tuple(sorted({**labels, "item": value}.items()))


def collector(log: Log, durations: Durations | None = None, proc: str = "/proc") -> Collector:
    return Collector(log, durations or Durations(), Life(), lambda: {"oom": 2}, proc=proc)  # type: ignore[arg-type]


# The format


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (-1, "-1"),
        (2**64 - 1, "18446744073709551615"),
        (0.0, "0"),
        (3.0, "3"),
        (0.08, "0.08"),
        (0.00001, "0.00001"),
        (1e15, "1000000000000000"),
    ],
)
def test_numbers_are_plain_decimals(value: float, text: str) -> None:
    assert number(value) == text


def test_families_and_samples_are_sorted_and_a_counter_keeps_its_name() -> None:
    text = render(
        [
            exposition.item_family("b", "second", [("y", 1), ("x", 2)]),
            Family("a_count", COUNTER, "first", (Sample(1),)),
        ]
    )
    assert text == (
        "# HELP a_count first\n# TYPE a_count counter\na_count 1\n"
        '# HELP b second\n# TYPE b gauge\nb{item="x"} 2\nb{item="y"} 1\n'
    )


def test_a_label_holds_any_text() -> None:
    name = 'we"ird\\\n'
    text = render([Family("a", GAUGE, "odd", (Sample(1, (("interface", name),)),))])
    assert series(text) == {("a", (("interface", name),)): 1}


def test_a_family_without_samples_is_left_out() -> None:
    assert render([Family("a", GAUGE, "none", ())]) == ""


# The agent's process


def test_stat_counts_from_the_last_bracket() -> None:
    fields = ["S"] + ["0"] * 40
    fields[11:15] = ["150", "50", "7", "8"]
    fields[17], fields[19], fields[20], fields[21] = "3", "1000", "4096000", "10"
    found = of(process.stat_families(f"1 (a) b) {' '.join(fields)}", 100, 4096, 1_000_000))
    assert found["kata_agent_threads", ()] == 3
    assert found["kata_agent_total_time", ()] == 2
    assert found["kata_agent_total_vm", ()] == 4096000
    assert found["kata_agent_total_rss", ()] == 40960
    assert found[item("kata_agent_proc_stat", "cstime")] == 8
    assert found["process_start_time_seconds", ()] == 1_000_010


def test_status_has_kilobytes_and_0_for_what_is_absent() -> None:
    found = of(
        process.status_families("VmRSS:\t  120 kB\nHugetlbPages:\t 0 kB\nvoluntary_ctxt_switches:\t5\n")
    )
    assert found[item("kata_agent_proc_status", "vmrss")] == 120
    assert found[item("kata_agent_proc_status", "voluntary_ctxt_switches")] == 5
    assert found[item("kata_agent_proc_status", "vmpin")] == 0
    assert len(found) == 18


# The guest


def test_loads_and_tasks() -> None:
    assert of(guest.load_families("0.08 1.00 2.50 3/141 4711\n")) == {
        item("kata_guest_load", "load1"): 0.08,
        item("kata_guest_load", "load15"): 2.5,
        item("kata_guest_load", "load5"): 1,
        item("kata_guest_tasks", "cur"): 3,
        item("kata_guest_tasks", "max"): 141,
    }


def test_a_cpu_keeps_its_number_when_one_before_it_is_off_line() -> None:
    text = "cpu 10 0 0 0 0 0 0 0 0 0\ncpu0 4 0 0 0 0 0 0 0 0 0\ncpu2 6 0 0 0 0 0 0 0 0 7\nintr 5\n"
    found = of(guest.cpu_families(text, 100))
    assert found[item("kata_guest_cpu_time", "user", cpu="total")] == 100
    assert found[item("kata_guest_cpu_time", "guest_nice", cpu="2")] == 70
    assert {dict(labels)["cpu"] for _, labels in found} == {"total", "0", "2"}


def test_interfaces() -> None:
    heads = "Inter-|   Receive\n face |bytes\n"
    found = of(guest.netdev_families(f"{heads}    lo:1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n"))
    assert found[item("kata_guest_netdev_stat", "recv_multicast", interface="lo")] == 8
    assert found[item("kata_guest_netdev_stat", "sent_compressed", interface="lo")] == 16
    assert len(found) == 16


@pytest.mark.parametrize("columns", [11, 15, 17, 20])
def test_disks_of_old_and_new_kernels(columns: int) -> None:
    values = " ".join(str(number) for number in range(1, columns + 1))
    found = of(guest.disk_families(f" 254 0 vda {values}\n"))
    assert found[item("kata_guest_diskstat", "reads", disk="vda")] == 1
    assert found[item("kata_guest_diskstat", "time_flushing", disk="vda")] == (17 if columns >= 17 else 0)
    assert len(found) == 17


def test_memory_is_bytes_where_the_kernel_says_kilobytes() -> None:
    found = of(
        guest.memory_families("MemTotal: 4 kB\nHugePages_Total:  3\nActive(anon): 1 kB\nDirectMap4M: 2 kB\n")
    )
    assert found[item("kata_guest_meminfo", "mem_total")] == 4096
    assert found[item("kata_guest_meminfo", "hugepages_total")] == 3
    assert found[item("kata_guest_meminfo", "active_anon")] == 1024
    assert found[item("kata_guest_meminfo", "direct_map_4M")] == 2048
    assert found[item("kata_guest_meminfo", "quicklists")] == 0
    assert len(found) == 58


def test_pressure_is_percent_and_seconds() -> None:
    text = "some avg10=1.50 avg60=0.00 avg300=0.00 total=2500000\n"
    found = of(guest.pressure_families([("memory", text)]))
    assert found[item("kata_guest_pressure", "some_avg10", resource="memory")] == 1.5
    assert found["kata_guest_pressure_seconds_total", (("kind", "some"), ("resource", "memory"))] == 2.5


# Ours


def test_calls_are_a_histogram_that_adds_up() -> None:
    durations = Durations()
    for duration_ns in (BOUNDS_NS[0], BOUNDS_NS[0] + 1, 10**12):
        durations.note("Check", duration_ns)
    durations.note_failure("Check", "INTERNAL")
    found = series(collector(Log(), durations).scrape())
    name = "kata_agent_rpc_duration_seconds"
    assert found[f"{name}_bucket", (("le", "0.0001"), ("method", "Check"))] == 1
    assert found[f"{name}_bucket", (("le", "0.0005"), ("method", "Check"))] == 2
    assert found[f"{name}_bucket", (("le", "30"), ("method", "Check"))] == 2
    assert found[f"{name}_bucket", (("le", "+Inf"), ("method", "Check"))] == 3
    assert found[f"{name}_count", (("method", "Check"),)] == 3
    assert found[f"{name}_sum", (("method", "Check"),)] == pytest.approx(1000.0002, abs=1e-6)
    assert found["kata_agent_rpc_failures_total", (("code", "INTERNAL"), ("method", "Check"))] == 1
    assert found["kata_agent_exits_total", (("reason", "oom"),)] == 2


# A scrape


def test_the_first_scrape_is_number_1() -> None:
    scraper = collector(Log())
    assert SCRAPES.findall(scraper.scrape()) == ["1"]
    assert SCRAPES.findall(scraper.scrape()) == ["2"]


def test_a_source_that_cannot_be_read_is_left_out_and_told_once(tmp_path: Path) -> None:
    log = Log()
    (tmp_path / "loadavg").write_text("garbage\n")
    scraper = collector(log, proc=str(tmp_path))
    first = scraper.scrape()
    told = {fields["source"].removeprefix(str(tmp_path)): fields["error"] for _, fields in log.lines}
    assert SCRAPES.findall(first) == ["1"]
    assert "kata_guest_load" not in first
    assert told["/loadavg"].startswith("ValueError")
    assert told["/meminfo"].startswith("FileNotFoundError")
    count = len(log.lines)
    scraper.scrape()
    assert len(log.lines) == count
    (tmp_path / "loadavg").write_text("0.00 0.00 0.00 1/2 3\n")
    assert "kata_guest_load" in scraper.scrape()
    (tmp_path / "loadavg").write_text("garbage\n")
    scraper.scrape()
    assert len(log.lines) == count + 1, "what was well in between is told again"
