"""The groups above a container's own: removed with the last container that needed them, and never another's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kata_protocols.status import StatusError
from kata_testing.native import NEEDS, NativeAgent, fresh_id, native_agent, oci_spec
from kata_testing.wire import run_async

pytestmark = pytest.mark.requires(*NEEDS)


async def create_below(agent: NativeAgent, path: str, *args: str) -> str:
    spec = oci_spec(*(args or ("sleep", "1000")))
    container = fresh_id("below")
    spec.Linux.CgroupsPath = f"{path}/{container}"
    await agent.call("CreateContainer", container_id=container, OCI=spec)
    agent.made.append(container)
    return container


def hierarchy(agent: NativeAgent) -> Path:
    return Path(f"/proc/{agent.agent_pid()}/root/sys/fs/cgroup")


def test_groups_that_were_made_for_containers_go_with_the_last_of_them_also_after_a_killed_agent(tmp_path):
    async def body():
        async with native_agent(tmp_path, supervised=True) as agent:
            pod = f"/{fresh_id('slice')}/pod"
            first = await create_below(agent, pod)
            second = await create_below(agent, pod)
            top = hierarchy(agent) / pod.split("/")[1]
            await agent.remove(first)
            assert (top / "pod" / second).is_dir()
            client = await agent.client()
            os.kill(agent.agent_pid(), 9)
            await client.wait_closed()
            await agent.check()
            top = hierarchy(agent) / pod.split("/")[1]
            assert (top / "pod" / second).is_dir()
            await agent.remove(second)
            assert not top.exists()

    run_async(body())


def test_groups_that_were_there_before_and_those_that_others_use_stay(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            theirs = hierarchy(agent) / fresh_id("theirs")
            theirs.mkdir()
            try:
                container = await create_below(agent, f"/{theirs.name}/ours/deep")
                await agent.remove(container)
                assert list(theirs.glob("*/")) == []
                container = await create_below(agent, f"/{theirs.name}/ours/deep")
                foreign = theirs / "ours" / "foreign"
                foreign.mkdir()
                await agent.remove(container)
                assert [path.name for path in (theirs / "ours").glob("*/")] == ["foreign"]
                foreign.rmdir()
                (theirs / "ours").rmdir()
            finally:
                theirs.rmdir()

    run_async(body())


def test_a_container_that_could_not_be_made_leaves_none_of_them(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            name = fresh_id("failed")
            with pytest.raises(StatusError, match="/no/such/program"):
                await create_below(agent, f"/{name}/pod", "/no/such/program")
            assert not (hierarchy(agent) / name).exists()

    run_async(body())
