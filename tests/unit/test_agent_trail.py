"""The record of what was tried on containers: bounded, and kept for the next agent."""

from __future__ import annotations

from pathlib import Path

from kata_agent.trail import TEXT_LIMIT, Trail


def test_the_newest_of_each_are_kept_in_memory_and_for_the_next_agent(tmp_path: Path) -> None:
    trail = Trail(str(tmp_path), limit=3)
    for number in range(1, 12):
        trail.note_signal("c", "e", number, "SignalProcess")
    trail.note_failure("c", "ExecProcess", "x" * 2 * TEXT_LIMIT)
    trail.note_failure("other", "ExecProcess", "of no interest")
    before = trail.signals("c"), trail.failures("c")
    trail.close()
    assert [signalled.signal for signalled in before[0]] == [9, 10, 11]
    assert [(failed.method, len(failed.text)) for failed in before[1]] == [("ExecProcess", TEXT_LIMIT)]
    with open(tmp_path / "signals", "ab") as file:
        file.write(b"\0\0\0\x63cut by a death")
    again = Trail(str(tmp_path), limit=3)
    assert (again.signals("c"), again.failures("c")) == before
    again.close()


def test_without_a_folder_nothing_is_written(tmp_path: Path) -> None:
    trail = Trail()
    trail.note_signal("c", "", 15, "KillTree")
    assert [signalled.method for signalled in trail.signals("c")] == ["KillTree"]
    assert list(tmp_path.iterdir()) == []
