"""An agent without PID 1 that is killed leaves its containers; the next one says so and goes on once they are ended."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from kata_agent.containers import cgroup
from kata_protocols.status import StatusError
from kata_testing.native import NEEDS, native_agent, oci_spec
from kata_testing.wire import run_async

pytestmark = pytest.mark.requires(*NEEDS)


def test_the_next_agent_names_the_group_that_is_in_use_and_how_to_end_it(tmp_path):
    async def body():
        first, second = tmp_path / "first", tmp_path / "second"
        for folder in (first, second):
            folder.mkdir()
        async with native_agent(first) as agent:
            container = await agent.run("sleep", "1000")
            agent.process.send_signal(signal.SIGKILL)
            agent.process.wait(20)
            agent.made.clear()
        async with native_agent(second) as agent:
            group = Path(f"/proc/{agent.agent_pid()}/root/sys/fs/cgroup/{container}")
            try:
                with pytest.raises(
                    StatusError, match=f"cgroup /{container} is in use by others; .* cgroup.kill"
                ):
                    await agent.call("CreateContainer", container_id=container, OCI=oci_spec("true"))
            finally:
                cgroup.kill(str(group))
                await cgroup.wait_empty(str(group))
            await agent.create(container, "true")
            await agent.call("StartContainer", container_id=container)
            assert await agent.wait(container) == 0
            await agent.remove(container)

    run_async(body())
