"""Quiesce and Resumed: what is undone when it takes too long, and each repair by itself."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path
from typing import Any

import pytest

from kata_agent.containers import state
from kata_agent.errors import TimedOut
from kata_agent.events import EventHub
from kata_agent.log import Log
from kata_agent.snapshot import repair
from kata_agent.snapshot.snapshot import Snapshot
from kata_agent.snapshot.steps import Steps
from kata_testing.wire import run_async


class Containers:
    """Two that run; the second one never comes to a halt when `stuck`."""

    def __init__(self, *, stuck: bool) -> None:
        self.stuck = stuck
        self.states = {"a": state.RUNNING, "b": state.RUNNING, "c": state.CREATED}
        self.controls = self

    def ids(self) -> tuple[str, ...]:
        return tuple(self.states)

    def state_of(self, name: str) -> str:
        return self.states.get(name, "removed")

    async def pause(self, name: str) -> None:
        if name == "b" and self.stuck:
            await asyncio.Event().wait()
        self.states[name] = state.PAUSED

    async def resume(self, name: str) -> None:
        self.states[name] = state.RUNNING


class FakeAgent:
    def __init__(self, *, stuck: bool = False) -> None:
        self.containers = Containers(stuck=stuck)
        self.events = EventHub()
        self.log = Log(os.open(os.devnull, os.O_WRONLY))

    def has_containers(self) -> bool:
        return True


def test_what_does_not_come_to_a_halt_in_time_is_undone_and_named(tmp_path: Path) -> None:
    async def body() -> None:
        agent = FakeAgent(stuck=True)
        snapshot = Snapshot(agent, str(tmp_path))  # type: ignore[arg-type]
        with pytest.raises(
            TimedOut, match=r"quiesce: not done in 0.05 s; done were no steps, and they are undone"
        ):
            await snapshot.quiesce(freeze_filesystems=False, timeout_s=0.05)
        assert agent.containers.states == {"a": state.RUNNING, "b": state.RUNNING, "c": state.CREATED}
        assert not snapshot.quiet
        assert os.listdir(tmp_path) == []
        agent.containers.stuck = False
        steps, held = await snapshot.quiesce(freeze_filesystems=False, timeout_s=30)
        assert [(step.name, step.note) for step in steps] == [("freeze containers", "2 of 3"), ("sync", "")]
        assert sorted(held) == ["a", "b"]

    run_async(body())


def test_the_next_agent_knows_what_stands(tmp_path: Path) -> None:
    async def body() -> None:
        agent: Any = FakeAgent()
        await Snapshot(agent, str(tmp_path)).quiesce(freeze_filesystems=False, timeout_s=0)
        later = Snapshot(agent, str(tmp_path))
        later.adopt()
        assert later.quiet
        assert agent.containers.states["a"] == state.PAUSED
        await later._go_on(Steps())
        assert agent.containers.states["a"] == state.RUNNING
        again = Snapshot(agent, str(tmp_path))
        again.adopt()
        assert not again.quiet

    run_async(body())


def test_generations_count_and_have_ids_of_their_own(tmp_path: Path) -> None:
    assert repair.read_generation(str(tmp_path)) == repair.Generation(0, "")
    first = repair.bump_generation(str(tmp_path))
    second = repair.bump_generation(str(tmp_path))
    assert (first.number, second.number) == (1, 2)
    assert first.id != second.id
    assert re.fullmatch(r"2 [0-9a-f]{32}\n", (tmp_path / "generation").read_text())
    assert repair.read_generation(str(tmp_path)) == second


def test_without_a_clock_of_the_host_and_a_word_of_it_the_time_stays(tmp_path: Path) -> None:
    missing = str(tmp_path / "ptp0")
    assert repair.set_clock(0, missing) == f"left alone: no {missing}, and the host gave no time"


def test_names_stay_unless_there_are_new_ones(tmp_path: Path) -> None:
    path = tmp_path / "machine-id"
    assert repair.set_names("", "", str(path)) == "stay"
    assert not path.exists()
    assert repair.set_names("", "0" * 32, str(path)) == f"{path} {'0' * 32}"
    assert path.read_text() == "0" * 32 + "\n"
