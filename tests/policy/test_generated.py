"""The generated messages are what `proto/` says."""

from __future__ import annotations

from pathlib import Path

from kata_protocols import generate


def test_generated_code_is_in_sync_with_the_proto_files() -> None:
    stale = generate.find_stale(generate.generate())
    assert stale == [], "run python -m kata_protocols.generate"


def test_a_changed_missing_or_surplus_file_is_found(tmp_path: Path) -> None:

    folder = tmp_path
    (folder / "same_pb2.py").write_text("1")
    (folder / "changed_pb2.py").write_text("old")
    (folder / "surplus_pb2.pyi").write_text("")
    wanted = {"same_pb2.py": "1", "changed_pb2.py": "new", "missing_pb2.py": ""}
    assert generate.find_stale(wanted, folder) == ["changed_pb2.py", "missing_pb2.py", "surplus_pb2.pyi"]
