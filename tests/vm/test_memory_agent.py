"""The memory agent with a real kernel: cold pages of a quiet container are given back, memory is compacted."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from kata_host.connect import connect
from kata_host.sandbox import Sandbox, open_sandbox
from kata_protocols.gen import agent_pb2 as pb
from kata_protocols.status import StatusError
from kata_testing.guest import Guest, boot_guest, follow_console, plan
from kata_testing.wire import run_async

pytestmark = pytest.mark.requires("root", "qemu", "guest-image")

DEADLINE_S = 120.0
BIG_BYTES = 48 << 20
WORDS = (
    "agent.mem_agent_memcg_period_secs=1",  # before the word that enables it, which is all the same here
    "agent.mem_agent_enable=1",
    "agent.mem_agent_memcg_eviction_run_aging_count_min=2",
    # Emulated, a machine with so little to do waits for its disk and memory all the time.
    "agent.mem_agent_memcg_period_psi_percent_limit=100",
    "agent.mem_agent_memcg_eviction_psi_percent_limit=100",
    "agent.mem_agent_compact_psi_percent_limit=100",
)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    with boot_guest(tmp_path_factory.mktemp("memory", numbered=True), *WORDS) as guest:
        yield guest


async def follow_records(console: Path, message: str) -> AsyncGenerator[str, None]:
    """The records of the agent's log with this message, as they come."""
    async with aclosing(follow_console(console)) as lines:
        async for line in lines:
            if f'"{message}"' in line:
                yield line


async def read_cache_bytes(sandbox: Sandbox, container_id: str) -> int:
    answer = await sandbox.client.stats_container(pb.StatsContainerRequest(container_id=container_id))
    return int(answer.cgroup_stats.memory_stats.stats["file"])


def test_cold_pages_are_given_back_and_memory_is_compacted(machine: Guest) -> None:
    with (machine.share / "busybox/big").open("wb") as file:
        file.truncate(BIG_BYTES)

    async def body() -> None:
        async with await connect(machine.address) as client:
            with pytest.raises(StatusError, match="swappiness_max 201: at least 0 and at most 200"):
                await client.mem_agent_memcg_set(pb.MemAgentMemcgConfig(swappiness_max=201))
            async with aclosing(follow_records(machine.console, "compaction round")) as records:
                assert '"outcome":"done"' in await anext(records)
            await client.mem_agent_compact_set(pb.MemAgentCompactConfig(disabled=True))
            await client.mem_agent_memcg_set(pb.MemAgentMemcgConfig(disabled=True))
            async with open_sandbox(client) as sandbox:
                spec = plan("sh", "-c", "cat /big > /dev/null; echo read; read x")
                async with sandbox.container(spec) as container:
                    await container.start()
                    assert await anext(container.read_stdout()) == b"read\n"
                    cached = await read_cache_bytes(sandbox, container.container_id)
                    assert cached > BIG_BYTES // 2, "the test wants pages that can be given back"
                    await client.mem_agent_memcg_set(pb.MemAgentMemcgConfig(disabled=False))
                    # told of by each round that has given something back; how many it takes is the kernel's matter
                    async with aclosing(follow_records(machine.console, "reclaim round")) as rounds:
                        async for _ in rounds:
                            if await read_cache_bytes(sandbox, container.container_id) < cached // 2:
                                break

    run_async(body(), DEADLINE_S)
