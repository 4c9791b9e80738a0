"""The event history: order, cursors that outlive the agent, gaps with their bounds, bounds of everything."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from kata_agent import events
from kata_agent.events import EventHub
from kata_testing.wire import run_async


def numbers(hub: EventHub, cursor: str = "") -> list[int]:
    first, _ = hub.find(cursor)
    return [event.sequence for event in hub.since(first, 100)]


def test_events_are_numbered_in_order_and_hold_what_they_were_given() -> None:
    hub = EventHub()
    hub.emit(events.CREATED, "one")
    hub.emit(events.EXITED, "one", "e\n1", time_ns=7, code=3, text="a\0b")
    first, second = hub.since(1, 10)
    assert (first.sequence, first.kind, first.container_id) == (1, "created", "one")
    assert second == events.Event(2, 7, "exited", "one", "e\n1", {"code": "3", "text": "a b"})


def test_a_cursor_goes_on_where_its_reader_was() -> None:
    hub = EventHub()
    for _ in range(5):
        hub.emit(events.STARTED, "one")
    assert numbers(hub) == [1, 2, 3, 4, 5]
    assert numbers(hub, hub.cursor(4)) == [4, 5]
    assert hub.find(hub.cursor(6)) == (6, None)
    assert hub.find("", only_new=True) == (6, None)


def test_a_ring_that_overflowed_tells_which_events_are_missing() -> None:
    hub = EventHub(limit=3)
    old = hub.cursor(2)
    for _ in range(10):
        hub.emit(events.STARTED, "one")
    number, gap = hub.find(old)
    assert gap is not None
    assert (number, gap.kind) == (8, "gap")
    assert (gap.fields["first"], gap.fields["end"]) == ("2", "8")
    assert numbers(hub) == [8, 9, 10]
    lost = hub.is_lost(5)
    assert lost is not None
    assert (lost.fields["first"], lost.fields["end"]) == ("5", "8")
    assert hub.is_lost(8) is None


@pytest.mark.parametrize("cursor", ["0badcafe.3", "{token}.99"])
def test_a_cursor_of_another_history_is_a_gap(cursor: str) -> None:
    hub = EventHub()
    hub.emit(events.STARTED, "one")
    number, gap = hub.find(cursor.replace("{token}", hub.token))
    assert number == 1
    assert gap is not None
    assert "history of that cursor is gone" in gap.fields["reason"]


@pytest.mark.parametrize("cursor", ["nonsense", ".", "abc.-1", "abc.x"])
def test_what_is_no_cursor_is_refused_by_name(cursor: str) -> None:
    with pytest.raises(ValueError, match=r"it is `TOKEN\.NUMBER`"):
        EventHub().find(cursor)


def test_the_next_agent_goes_on_with_the_same_numbers_and_cursors(tmp_path: Path) -> None:
    path = str(tmp_path / "events")
    hub = EventHub(path, limit=4)
    for count in range(11):  # more than twice the limit, so that the file was written anew
        hub.emit(events.EXITED, "one", f"e{count}", code=count)
    cursor = hub.cursor(10)
    hub.close()
    second = EventHub(path, limit=4)
    assert numbers(second, cursor) == [10, 11]
    assert numbers(second) == [8, 9, 10, 11]
    assert second.emit(events.STARTED, "two") == 12
    assert [event.fields["code"] for event in second.since(10, 2)] == ["9", "10"]
    second.close()
    assert os.listdir(tmp_path) == ["events"]


@pytest.mark.parametrize("cut", [1, 3, 4, 10])
def test_a_record_that_was_cut_by_a_death_is_not_one(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "events"
    hub = EventHub(str(path))
    hub.emit(events.STARTED, "one")
    hub.emit(events.STARTED, "two")
    hub.close()
    path.write_bytes(path.read_bytes()[:-cut])
    second = EventHub(str(path))
    assert numbers(second) == [1]
    assert second.emit(events.STARTED, "three") == 2
    second.close()


def test_a_copy_that_cannot_be_kept_is_told_and_removed(tmp_path: Path) -> None:
    told: list[str] = []
    missing = str(tmp_path / "nowhere" / "events")
    hub = EventHub(missing, report=lambda what, error: told.append(f"{what}: {type(error).__name__}"))
    assert hub.emit(events.STARTED, "one") == 1
    assert told == [f"events are kept in memory alone: {missing}: FileNotFoundError"]


def test_a_file_that_is_no_history_begins_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.write_bytes(b"\0\0\0\3abc")
    hub = EventHub(str(path))
    assert hub.emit(events.STARTED, "one") == 1
    hub.close()


def test_exits_outlive_other_events_and_are_bounded() -> None:
    hub = EventHub(limit=2, exits_limit=3)
    for count in range(5):
        hub.emit(events.EXITED, "one", code=count)
        hub.emit(events.STARTED, "one")
        hub.emit(events.STARTED, "one")
    assert [event.fields["code"] for event in hub.exits()] == ["2", "3", "4"]
    assert hub.exits_dropped == 2


def test_readers_wait_for_their_event_and_leave_nothing_when_cancelled() -> None:
    async def scenario() -> None:
        hub = EventHub()
        async with asyncio.TaskGroup() as group:
            first, second = group.create_task(hub.wait_for(1)), group.create_task(hub.wait_for(2))
            gone = group.create_task(hub.wait_for(1))
            await asyncio.sleep(0)
            gone.cancel()
            await asyncio.sleep(0)
            assert len(hub._waiters) == 2
            hub.emit(events.STARTED, "one")
            await first
            assert not second.done()
            hub.emit(events.STARTED, "one")
        assert hub._waiters == set()

    run_async(scenario())


def test_a_container_has_its_events(tmp_path: Path) -> None:
    hub = EventHub()
    hub.emit(events.CREATED, "one")
    hub.emit(events.CREATED, "two")
    hub.emit(events.STARTED, "one")
    assert [event.kind for event in hub.about("one")] == ["created", "started"]
