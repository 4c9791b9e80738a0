"""Sessions in the guest: its kernel moves pipes and terminals into the file, and a reader comes back to it."""

from __future__ import annotations

import asyncio

import pytest

from kata_host.sandbox import make_id
from kata_host.session import SessionReader, open_session
from kata_host.spec import ProcessPlan, plan_process
from kata_testing.guest import Guest, plan

pytestmark = pytest.mark.requires("root", "qemu", "guest-image")

LINES = b"".join(b"%d\n" % number for number in range(1, 100_001))


@pytest.mark.parametrize("terminal", [False, True], ids=["pipe", "terminal"])
def test_kept_output_is_read_again_over_another_connection(guest: Guest, terminal: bool) -> None:
    async def run() -> list[bytes]:
        seen = []
        async with guest.connect() as sandbox, sandbox.container(plan("sleep", "1000")) as container:
            await container.start()
            script = ProcessPlan(["sh", "-c", "read go; seq 100000"], terminal=terminal)
            process = await container.exec(plan_process(script), make_id())
            caller = sandbox.client.caller
            await open_session(caller, container.container_id, process.exec_id, drop_oldest=True)
            await process.write_stdin(b"\n")
            for _ in range(2):
                async with guest.connect() as again:
                    reader = SessionReader(again.client.caller, container.container_id, process.exec_id)
                    seen.append(b"".join([piece.data async for piece in reader.follow()]))
            assert await process.wait(30) == 0
        return seen

    expected = b"\r\n" + LINES.replace(b"\n", b"\r\n") if terminal else LINES
    assert asyncio.run(run()) == [expected] * 2
