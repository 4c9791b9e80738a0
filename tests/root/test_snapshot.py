"""Quiesce and Resumed on a real agent: everything stands, nothing can be changed, a copy is repaired and goes on."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest

from kata_agent.snapshot import repair
from kata_linux import mount
from kata_protocols import services
from kata_protocols.gen import sandbox_pb2 as pb
from kata_protocols.status import Code, StatusError
from kata_testing.native import NEEDS, NativeAgent, native_agent
from kata_testing.private_mounts import run_in_private_mounts
from kata_testing.wire import run_async

pytestmark = pytest.mark.requires(*NEEDS)

SANDBOX = services.SANDBOX_SERVICE
RANDOM = os.urandom(64)
COUNT = "n=0; while :; do n=$((n+1)); echo $n; done"


async def ask(agent: NativeAgent, name: str, **fields: object) -> object:
    method = SANDBOX.methods[name]
    return await (await agent.client()).call(method, method.request_type(**fields), timeout_s=30)


async def state_of(agent: NativeAgent, container: str) -> str:
    answer = await ask(agent, "Why", container_id=container)
    assert isinstance(answer, pb.WhyResponse)
    return answer.state


def names(steps: object) -> list[str]:
    return [step.name for step in steps]  # type: ignore[attr-defined]


def test_containers_stand_still_until_resumed_and_nothing_can_be_changed(tmp_path: Path) -> None:
    async def body() -> None:
        async with native_agent(tmp_path, supervised=True) as agent:
            running = await agent.run("sh", "-c", COUNT)
            paused = await agent.run("sleep", "1000")
            await agent.call("PauseContainer", container_id=paused)
            quiesced = await ask(agent, "Quiesce")
            assert isinstance(quiesced, pb.QuiesceResponse)
            assert names(quiesced.steps) == ["freeze containers", "sync"]
            assert list(quiesced.containers) == [running]
            assert await state_of(agent, running) == "paused"
            for method, fields in (
                ("ExecProcess", {"exec_id": "x"}),
                ("RemoveContainer", {}),
                ("ResumeContainer", {}),
            ):
                with pytest.raises(
                    StatusError, match=f"{method}: the machine is quiesced; call Resumed first"
                ):
                    await agent.call(method, container_id=running, **fields)
            with pytest.raises(StatusError, match="quiesced already"):
                await ask(agent, "Quiesce")
            await agent.check()
            resumed = await ask(agent, "Resumed", random=RANDOM)
            assert isinstance(resumed, pb.ResumedResponse)
            steps = ["clock", "random numbers", "names", "generation", "thaw containers"]
            assert names(resumed.steps) == steps
            assert (resumed.generation.number, len(resumed.generation.id)) == (1, 32)
            assert await state_of(agent, running) == "running"
            assert await state_of(agent, paused) == "paused", "it was not us who paused it"
            await agent.exec(running, "again", "true")
            assert await agent.wait(running, "again") == 0
            events = await ask(agent, "PollEvents")
            assert isinstance(events, pb.PollEventsResponse)
            told = [event.generation for event in events.events if event.kind == pb.RESUMED]
            assert told == [resumed.generation]

    run_async(body())


def test_a_machine_that_was_not_quiesced_is_repaired_too(tmp_path: Path) -> None:
    async def body() -> None:
        async with native_agent(tmp_path, supervised=True) as agent:
            first = await ask(agent, "Resumed", random=RANDOM)
            second = await ask(agent, "Resumed", random=RANDOM)
            assert isinstance(first, pb.ResumedResponse)
            assert isinstance(second, pb.ResumedResponse)
            assert (first.generation.number, second.generation.number) == (1, 2)
            assert first.generation.id != second.generation.id, (
                "the same bytes must not give the same numbers"
            )
            boot = await ask(agent, "GetBoot")
            assert isinstance(boot, pb.GetBootResponse)
            assert boot.generation == second.generation

    run_async(body())


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"random": b""}, "random: 0 bytes; 32 to 4096 are needed"),
        ({"random": bytes(4097)}, "random: 4097 bytes"),
        ({"random": RANDOM, "time_ns": -1}, "time_ns -1: before 1970"),
        ({"random": RANDOM, "hostname": "x" * 65}, "hostname: 65 bytes, at most 64"),
        ({"random": RANDOM, "machine_id": "XYZ"}, "machine_id 'XYZ': 32 hexadecimal digits"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_touched(
    tmp_path: Path, fields: dict[str, object], text: str
) -> None:
    async def body() -> None:
        async with native_agent(tmp_path, supervised=True) as agent:
            with pytest.raises(StatusError, match=text) as caught:
                await ask(agent, "Resumed", **fields)
            assert caught.value.code is Code.INVALID_ARGUMENT
            boot = await ask(agent, "GetBoot")
            assert isinstance(boot, pb.GetBootResponse)
            assert boot.generation.number == 0

    run_async(body())


def test_an_agent_killed_while_all_stands_lets_it_go_on_when_told(tmp_path: Path) -> None:
    async def body() -> None:
        async with native_agent(tmp_path, supervised=True) as agent:
            container = await agent.run("sh", "-c", COUNT)
            await ask(agent, "Quiesce")
            client = await agent.client()
            os.kill(agent.agent_pid(), signal.SIGKILL)
            await client.wait_closed()
            assert await state_of(agent, container) == "paused"
            with pytest.raises(StatusError, match="the machine is quiesced"):
                await agent.call("ResumeContainer", container_id=container)
            await ask(agent, "Resumed", random=RANDOM)
            assert await state_of(agent, container) == "running"

    run_async(body())


def test_a_root_that_cannot_be_written_to_has_its_machine_id_in_memory() -> None:
    def body() -> None:
        folder, inside, fallback = "/run/root", "/run/root/machine-id", "/run/machine-id"
        os.mkdir(folder)
        Path(inside).touch()
        mount.bind(folder, folder)
        mount.remount_bind(folder, mount.MS_RDONLY)
        for digit in "01":  # the second copy writes to what the first has bound
            repair.write_machine_id(digit * 32, inside, fallback)
            assert Path(inside).read_text() == Path(fallback).read_text() == digit * 32 + "\n"

    run_in_private_mounts(body)


def test_python_s_generator_is_seeded_anew() -> None:
    random.seed(1)
    expected = random.Random(1).random()  # noqa: S311 - it is what is looked for
    assert repair.reseed(os.urandom(64)) == "64 bytes; Python's generator, too"
    assert random.random() != expected  # noqa: S311
