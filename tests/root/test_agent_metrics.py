"""`GetMetrics` of a real agent on the real /proc, read by Prometheus' own parser."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kata_protocols.status import StatusError
from kata_testing.native import NEEDS, native_agent
from kata_testing.wire import run_async

pytestmark = pytest.mark.requires(*NEEDS)

# Every family of Kata's agent 3.21 that a kernel of this project has.
KATA = """
kata_agent_io_stat kata_agent_proc_stat kata_agent_proc_status kata_agent_scrape_count kata_agent_threads
kata_agent_total_rss kata_agent_total_time kata_agent_total_vm kata_guest_cpu_time kata_guest_diskstat
kata_guest_load kata_guest_meminfo kata_guest_netdev_stat kata_guest_tasks kata_guest_vm_stat
""".split()  # noqa: SIM905 - a table of names
SCRAPES = 20


def test_every_family_of_kata_s_agent_is_there_and_ours_count(tmp_path: Path) -> None:
    async def body() -> None:
        async with native_agent(tmp_path, supervised=True) as agent:
            container = await agent.run("sh", "-c", "exit 3")
            assert await agent.wait(container) == 3
            with pytest.raises(StatusError):
                await agent.call("StartContainer", container_id="nobody")
            totals = [total_memory()]
            text = (await agent.call("GetMetrics")).metrics
            totals.append(total_memory())
        families = {family.name: family for family in text_string_to_metric_families(text)}
        listed = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
        assert listed == sorted(listed)
        assert set(KATA) - set(listed) == set()
        samples = {(s.name, *s.labels.values()): s.value for f in families.values() for s in f.samples}
        assert samples["kata_agent_exits_total", "failed"] == 1
        assert samples["kata_agent_rpc_failures_total", "INTERNAL", "StartContainer"] == 1
        assert samples["kata_agent_rpc_duration_seconds_count", "CreateContainer"] == 1
        resident = samples["kata_agent_total_rss",]
        assert 5e6 < resident < 60e6
        assert samples["process_resident_memory_bytes",] == resident
        # a host with a balloon may change it meanwhile
        assert min(totals) <= samples["kata_guest_meminfo", "mem_total"] <= max(totals)

    run_async(body())


def test_a_scrape_stays_below_what_kata_publishes(tmp_path: Path) -> None:
    async def body() -> None:
        async with native_agent(tmp_path) as agent:
            await agent.call("GetMetrics")  # the modules, once
            before = busy_ns(agent.agent_pid())
            for _ in range(SCRAPES):
                await agent.call("GetMetrics")
            each_ns = (busy_ns(agent.agent_pid()) - before) / SCRAPES
        # Budget 3 ms on a quiet machine (scripts/bench); here others may make the processor slow, but not be counted.
        assert each_ns < 30e6

    run_async(body())


def total_memory() -> int:
    """The machine's memory in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def busy_ns(pid: int) -> int:
    """How long the process's main thread has run."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
