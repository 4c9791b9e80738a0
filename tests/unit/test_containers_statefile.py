"""What one agent writes the next one reads; what it does not know it refuses by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kata_agent.containers import state, statefile
from kata_agent.containers.container import Container
from kata_agent.errors import UnknownState


def save_one(folder: Path) -> Container:
    container = Container("one")
    container.state = state.RUNNING
    process = container.add_process("one")
    process.pid, process.start_time, process.latest_start_time = 7, 100, 103
    statefile.save(container, str(folder))
    return container


def test_the_range_of_a_start_time_survives(tmp_path: Path) -> None:
    save_one(tmp_path)
    loaded = statefile.load(str(tmp_path))
    assert loaded is not None
    assert (loaded.init.pid, loaded.init.start_time, loaded.init.latest_start_time) == (7, 100, 103)
    assert loaded.state == state.RUNNING


@pytest.mark.parametrize("version", [None, 0, 2])
def test_a_version_that_is_not_known_is_refused(tmp_path: Path, version: int | None) -> None:
    save_one(tmp_path)
    path = tmp_path / statefile.FILE
    fields = json.loads(path.read_text(encoding="utf-8"))
    fields["version"] = version
    path.write_text(json.dumps(fields), encoding="utf-8")
    with pytest.raises(UnknownState, match=rf"version {version}, this agent knows 1"):
        statefile.load(str(tmp_path))
