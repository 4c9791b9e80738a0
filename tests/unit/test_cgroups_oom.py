"""Out-of-memory events: counted, told with the limit that was met, fetched once each, and none lost by a restart."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kata_agent.cgroups.oom import QUEUE_LIMIT, Account, Kill, OomWatch
from kata_agent.errors import AgentError

DEADLINE_S = 60.0


class World:
    """Folders with events files in the place of cgroups, and what the watch said."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.kills: list[Kill] = []
        self.dropped: list[str] = []
        self.saved = 0
        self.watch = self.start()

    def start(self) -> OomWatch:
        record = str(self.root / "record")
        return OomWatch(str(self.root), tell=self.kills.append, drop=self.dropped.append, record=record)

    def write(self, path: str, kills: int, met: int, local: int | None = None) -> None:
        folder = self.root / path.strip("/")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.events.local").write_text(
            f"oom {met if local is None else local}\noom_kill {kills}\n"
        )
        (folder / "memory.events").write_text(f"low 0\nhigh 0\nmax 9\noom {met}\noom_kill {kills}\n")

    def arm(self, container_id: str, path: str, account: Account | None = None) -> Account:
        account = account or Account()

        def save() -> None:
            self.saved += 1

        self.watch.arm(container_id, path, account, save)
        return account


def run(root: Path, body) -> None:
    async def main() -> None:
        async with world(root) as made:
            await body(made)

    asyncio.run(main())


@asynccontextmanager
async def world(root: Path) -> AsyncIterator[World]:
    made = World(root)
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield made
    finally:
        made.watch.close()


def test_a_kill_is_told_with_its_own_limit_and_each_later_one_too(tmp_path):
    async def body(world: World) -> None:
        world.write("/c1", 0, 0)
        world.write("/c2", 0, 0)
        world.arm("c1", "/c1")
        world.arm("c2", "/c2")
        world.write("/c2", 1, 1)
        assert await world.watch.fetch() == "c2"
        world.write("/c2", 3, 2)
        assert await world.watch.fetch() == "c2"
        world.write("/c1", 1, 1)
        assert await world.watch.fetch() == "c1"
        assert world.kills == [Kill("c2", 1, "/c2"), Kill("c2", 2, "/c2"), Kill("c1", 1, "/c1")]

    run(tmp_path, body)


def test_meeting_a_limit_without_a_kill_is_no_event(tmp_path):
    async def body(world: World) -> None:
        world.write("/c1", 0, 0)
        world.arm("c1", "/c1")
        world.write("/c1", 0, 5)
        world.write("/c1", 1, 5)
        assert await world.watch.fetch() == "c1"
        assert [kill.processes for kill in world.kills] == [1]

    run(tmp_path, body)


def test_the_limit_is_told_when_it_is_an_ancestors_or_the_guests(tmp_path):
    async def body(world: World) -> None:
        world.write("/pod", 0, 4)
        world.write("/pod/c1", 0, 0)
        world.arm("c1", "/pod/c1")
        world.write("/pod", 0, 5)
        world.write("/pod/c1", 1, 0)
        await world.watch.fetch()
        world.write("/pod/c1", 2, 0)
        await world.watch.fetch()
        assert [kill.limit for kill in world.kills] == ["/pod", ""]

    run(tmp_path, body)


def test_kills_while_no_agent_ran_are_told_by_the_next_and_fetched_ones_never_again(tmp_path):
    async def body(world: World) -> None:
        world.write("/c1", 0, 0)
        account = world.arm("c1", "/c1")
        world.write("/c1", 1, 1)
        await world.watch.fetch()
        kept = json.loads(json.dumps([account.seen, account.unfetched]))
        world.watch.close()
        world.write("/c1", 2, 2)
        world.watch = world.start()
        world.arm("c1", "/c1", Account(*kept))
        assert await world.watch.fetch() == "c1"
        assert world.kills == [Kill("c1", 1, "/c1"), Kill("c1", 1, "/c1")]

    run(tmp_path, body)


def test_events_that_nobody_had_fetched_wait_in_the_next_agent(tmp_path):
    async def body(world: World) -> None:
        world.write("/c1", 0, 0)
        account = world.arm("c1", "/c1")
        world.write("/c1", 1, 1)
        world.watch.disarm("c1")
        assert (account.unfetched, world.saved) == (1, 1)
        world.watch.close()
        world.watch = world.start()
        restored = world.arm("c1", "/c1", Account(account.seen, account.unfetched))
        assert await world.watch.fetch() == "c1"
        assert restored.unfetched == 0
        assert len(world.kills) == 1, "it was told before"

    run(tmp_path, body)


def test_events_of_removed_containers_wait_in_the_next_agent_too(tmp_path):
    async def body(world: World) -> None:
        for name in ("a", "b"):
            world.write(f"/{name}", 0, 0)
            world.arm(name, f"/{name}")
            world.write(f"/{name}", 1, 1)
            world.watch.disarm(name)  # looks a last time
        world.watch.close()
        world.watch = world.start()
        world.watch.adopt()
        assert await world.watch.fetch() == "a"
        world.watch.close()
        world.watch = world.start()
        world.watch.adopt()
        assert await world.watch.fetch() == "b", "what was fetched is not told again"
        world.watch.close()
        world.watch = world.start()
        world.watch.adopt()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await world.watch.fetch()

    run(tmp_path, body)


def test_the_last_look_of_a_removal_sees_a_kill_that_no_notice_has_told_of(tmp_path):
    async def body(world: World) -> None:
        world.write("/c1", 0, 0)
        world.arm("c1", "/c1")
        world.write("/c1", 1, 1)  # the loop has not run since
        world.watch.disarm("c1")
        assert world.kills == [Kill("c1", 1, "/c1")]
        assert await world.watch.fetch() == "c1"

    run(tmp_path, body)


def test_an_event_goes_to_one_of_several_callers_and_none_to_one_that_left(tmp_path):
    async def body(world: World) -> None:
        world.write("/c1", 0, 0)
        world.arm("c1", "/c1")
        async with asyncio.TaskGroup() as group:
            callers = [group.create_task(world.watch.fetch()) for _ in range(3)]
            await asyncio.sleep(0)
            callers[0].cancel()
            world.write("/c1", 1, 1)
            assert await callers[1] == "c1"
            assert not callers[2].done()
            world.write("/c1", 2, 2)
            assert await callers[2] == "c1"

    run(tmp_path, body)


def test_a_caller_that_leaves_when_it_is_woken_hands_the_event_on(tmp_path):
    async def body(world: World) -> None:
        world.write("/c1", 0, 0)
        account = world.arm("c1", "/c1")
        async with asyncio.TaskGroup() as group:
            callers = [group.create_task(world.watch.fetch()) for _ in range(2)]
            await asyncio.sleep(0)
            world.write("/c1", 1, 1)
            world.watch.disarm("c1")  # wakes the first
            callers[0].cancel()
            assert await callers[1] == "c1"
        assert account.unfetched == 1, "a disarmed container's account is nobody's"

    run(tmp_path, body)


def test_a_queue_that_nobody_empties_drops_the_oldest_and_says_so(tmp_path):
    async def body(world: World) -> None:
        for name in ("old", "new"):
            world.write(f"/{name}", 0, 0)
        account = world.arm("old", "/old")
        world.write("/old", 1, 1)
        world.watch.disarm("old")
        world.arm("new", "/new")
        for count in range(QUEUE_LIMIT):
            world.write("/new", count + 1, count + 1)
            world.watch._look(next(iter(world.watch._watches.values())))
        assert world.dropped == ["old"]
        assert [await world.watch.fetch() for _ in range(QUEUE_LIMIT)] == ["new"] * QUEUE_LIMIT
        assert account.unfetched == 1

    run(tmp_path, body)


def test_whoever_waits_is_told_when_the_sandbox_goes(tmp_path):
    async def ask(watch: OomWatch) -> str:
        with pytest.raises(AgentError) as caught:
            await watch.fetch()
        return str(caught.value)

    async def body(world: World) -> None:
        async with asyncio.TaskGroup() as group:
            callers = [group.create_task(ask(world.watch)) for _ in range(2)]
            await asyncio.sleep(0)
            world.watch.close()
        assert [caller.result() for caller in callers] == ['""', '""']
        assert await ask(world.watch) == '""'

    run(tmp_path, body)


def test_without_a_memory_controller_there_is_nothing_to_watch(tmp_path):
    async def body(world: World) -> None:
        (tmp_path / "c1").mkdir()
        world.arm("c1", "/c1")
        world.watch.disarm("c1")
        assert world.kills == []

    run(tmp_path, body)
