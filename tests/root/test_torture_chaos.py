"""The agent is killed at random moments under load: no exit, byte or container is lost, none is doubled.

KATA_TEST_KILLS and KATA_TEST_SEED say how often and which moments; `scripts/bench soak` does thousands.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys

import pytest

from kata_testing.chaos import Chaos, read_traces, wait_no_leaks
from kata_testing.native import NEEDS, native_agent

pytestmark = pytest.mark.requires(*NEEDS)

KILLS = int(os.environ.get("KATA_TEST_KILLS", "300"))
SEED = int(os.environ.get("KATA_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
ANSWERED_WITHIN_S = 1.0


def test_no_exit_byte_or_container_is_lost_when_the_agent_is_killed_at_random_moments(tmp_path):
    async def body():
        async with native_agent(tmp_path, supervised=True) as agent:
            warm = await agent.run("true")
            await agent.wait(warm)
            await agent.remove(warm)
            before = read_traces(agent)
            async with asyncio.timeout(60 + KILLS):
                account = await Chaos(agent, seed=SEED, kills=KILLS).run()
            sys.stdout.write(f"seed {SEED}: {account.summary()}\n")
            times = sorted(account.answered_after_s)
            assert times[len(times) // 2] < ANSWERED_WITHIN_S, account.summary()
            assert await wait_no_leaks(agent, before) == []

    sys.stdout.write(f"KATA_TEST_SEED={SEED} repeats these moments\n")
    asyncio.run(body())
