"""Code for an upgrade: what is copied, what is refused, and what the code says of the state that it finds."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from kata_agent.upgrade import prepare, takeover
from kata_agent.upgrade.upgrader import clear_codes, remove_tree
from kata_agent.version import PROJECT_VERSION, STATE_VERSION
from kata_init import control

LIMIT = 1000


def make_folder(path: Path) -> Path:
    (path / "kata_agent" / "__pycache__").mkdir(parents=True)
    (path / "kata_agent" / "__init__.py").write_text("x = 1\n")
    (path / "kata_agent" / "__pycache__" / "old.pyc").write_text("stale")
    (path / "other").mkdir()
    (path / "other" / "__init__.py").write_text("")
    return path


def make_archive(path: Path, **files: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def copied(target: Path) -> list[str]:
    return sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())


def test_a_folder_is_copied_whole_without_byte_code_of_another_place(tmp_path: Path) -> None:
    target = tmp_path / "run" / "1.1"
    prepare.copy_code(str(make_folder(tmp_path / "code")), str(target), LIMIT)
    assert copied(target) == ["kata_agent/__init__.py", "other/__init__.py"]


def test_an_archive_is_unpacked(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "code.zip", **{"kata_agent/__init__.py": "", "kata_agent/a/b.pyc": "b"})
    prepare.copy_code(str(archive), str(tmp_path / "1.1"), LIMIT)
    assert copied(tmp_path / "1.1") == ["kata_agent/__init__.py", "kata_agent/a/b.pyc"]


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"kata_agent/__init__.py": "", "../../etc/passwd": "x"}, "leads out of the archive"),
        ({"kata_agent/__init__.py": "", "/etc/passwd": "x"}, "leads out of the archive"),
        ({"kata_agent/__init__.py": "x" * (LIMIT + 1)}, "too large for an agent's code"),
        ({"kata_agent/a": "x" * LIMIT, "kata_agent/b": "x"}, "too large for an agent's code"),
        ({"another/__init__.py": ""}, "there is no package kata_agent in it"),
    ],
)
def test_an_archive_that_is_no_agent_is_refused(tmp_path: Path, files: dict[str, str], reason: str) -> None:
    archive = make_archive(tmp_path / "code.zip", **files)
    with pytest.raises(prepare.Refusal, match=reason):
        prepare.copy_code(str(archive), str(tmp_path / "1.1"), LIMIT)
    assert not (tmp_path.parent / "etc").exists()


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "code").write_text("no archive")
    with pytest.raises(prepare.Refusal, match="neither a folder nor a zip archive"):
        prepare.copy_code(str(tmp_path / "code"), str(tmp_path / "1.1"), LIMIT)


def leave_state(run: Path, name: str, version: object) -> None:
    work = run / "containers" / name
    work.mkdir(parents=True)
    (work / "state.json").write_text(json.dumps({"version": version}))


def test_state_of_a_known_version_is_taken_over(tmp_path: Path) -> None:
    leave_state(tmp_path, "known", STATE_VERSION)
    (tmp_path / "containers" / "half-made").mkdir()
    answer = takeover.check(str(tmp_path), str(STATE_VERSION), str(control.VERSION))
    assert answer == ([], PROJECT_VERSION)


def test_each_thing_of_an_unknown_version_is_a_reason(tmp_path: Path) -> None:
    leave_state(tmp_path, "known", STATE_VERSION)
    leave_state(tmp_path, "later", 9)
    reasons, _ = takeover.check(str(tmp_path), "8", "7")
    assert reasons == [
        f"PID 1 speaks version 7 of the control channel, this agent {control.VERSION}",
        "the agent's state has version 8, this agent knows 1",
        f"{tmp_path}/containers/later/state.json has version 9, this agent knows 1",
    ]


def test_copies_that_nobody_runs_from_are_removed(tmp_path: Path) -> None:
    for name in ("1.1", "1.2", "2.1"):
        make_folder(tmp_path / name)
    clear_codes(str(tmp_path), str(tmp_path / "1.2"))
    assert [path.name for path in tmp_path.iterdir()] == ["1.2"]
    remove_tree(str(tmp_path / "gone"))
