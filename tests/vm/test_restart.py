"""The agent of a real guest is killed ten times under load: no exit, byte or container is lost.

The native layer does it 300 times (tests/root/test_torture_chaos.py); here it is the real kernel, share and vsock.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys

import pytest

from kata_testing.guest import Guest, read_agent_life
from kata_testing.guest_chaos import GuestChaos, start_killer

pytestmark = pytest.mark.requires("root", "qemu", "guest-image")

KILLS = int(os.environ.get("KATA_TEST_VM_KILLS", "10"))
SEED = int(os.environ.get("KATA_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
DEADLINE_S = 480.0


def test_no_exit_byte_or_container_is_lost_when_the_guests_agent_is_killed(guest: Guest) -> None:
    async def run() -> None:
        async with asyncio.timeout(DEADLINE_S), start_killer(guest) as killer:
            life = await read_agent_life(guest)
            chaos = GuestChaos(guest, killer, seed=SEED, kills=KILLS)
            account = await chaos.run()
            sys.stdout.write(f"seed {SEED}: {account.summary()}\n")
            assert await read_agent_life(guest) == life + KILLS
            await chaos.close()

    sys.stdout.write(f"KATA_TEST_SEED={SEED} repeats these moments\n")
    asyncio.run(run())
