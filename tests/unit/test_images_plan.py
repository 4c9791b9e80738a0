"""What goes into the layers: patterns, selection, launchers, and the check that nothing needed is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from kata_images.cpio import Entry, file, folder, link
from kata_images.errors import ImageError
from kata_images.layers import base_layer, busybox_layer, check_libraries, program_files, select
from kata_images.manifest import Layer, format_table, is_current, make_manifest
from kata_images.pattern import matches
from kata_images.recipe import Busybox, Programs, read_recipe
from kata_images.wheels import parse_requirements
from kata_testing.repository import ROOT

DEFAULT = ROOT / "images" / "recipes" / "default.toml"


@pytest.mark.parametrize(
    ("path", "pattern", "expected"),
    [
        ("a/b.py", "a/*.py", True),
        ("a/b/c.py", "a/*.py", False),
        ("a/b/c.py", "a/**/*.py", True),
        ("a/c.py", "a/**/*.py", True),
        ("a/b/c", "a/**", True),
        ("ab", "a/**", False),
        ("x/_ssl.so", "x/{_ssl,_hash*}.*", True),
        ("x/_hashlib.so", "x/{_ssl,_hash*}.*", True),
        ("x/_sslx", "x/{_ssl,_hash*}.*", False),
        ("cp437.py", "cp[0-35-9]*.py", False),
        ("cp1252.py", "cp[0-35-9]*.py", True),
        ("b.x", "[!a].x", True),
        ("a.x", "[!a].x", False),
        ("a.b", "a?b", True),
        ("a/b", "a?b", False),
        ("a+b", "a+b", True),
    ],
)
def test_patterns_match_whole_paths(path: str, pattern: str, *, expected: bool) -> None:
    assert matches(path, [pattern]) is expected


def test_selection_takes_what_is_kept_and_not_dropped_and_no_folders() -> None:
    tree = {"u": folder(), "u/a": file(b""), "u/b": file(b""), "u/l": link("a"), "v": file(b"")}
    assert sorted(select(tree, ["u", "u/**"], ["u/b"])) == ["u/a", "u/l"]


def test_the_base_has_a_launcher_for_pid_1_that_starts_isolated() -> None:
    tree = base_layer(read_recipe(DEFAULT))
    text = tree["usr/bin/kata-init"].read().decode()
    assert text.startswith("#!/usr/bin/python3.13 -ISOOB\n")
    assert "from kata_init.main import main" in text
    assert tree["usr/bin/kata-init"].mode == 0o100755
    assert tree["init"] == link("usr/bin/kata-init")
    assert tree["dev/console"].device == (5, 1)
    assert tree["tmp"].mode == 0o041777


def test_programs_lie_where_the_guest_has_them_and_nothing_else_is_taken() -> None:
    tree = {
        name: file(b"", 0o755)
        for name in ("usr/sbin/tool", "usr/lib/libtool.so.1", "usr/lib/b.so", "usr/share/doc")
    }
    recipe = Programs(("tool",), ("usr/sbin/*", "usr/lib/**"), ("**/b.so",))
    assert sorted(program_files(tree, recipe)) == ["usr/bin/tool", "usr/lib/libtool.so.1"]


def test_an_applet_is_a_link_to_busybox(tmp_path: Path) -> None:
    tree = busybox_layer(tmp_path / "busybox", Busybox("busybox-static", "usr/bin/busybox", ("sh",)))
    assert tree["usr/bin/sh"] == link("busybox")


def test_a_library_that_is_not_in_the_image_is_named() -> None:
    program = Path("/bin/ls")
    tree: dict[str, Entry] = {"usr/bin/ls": file(program, 0o755)}
    with pytest.raises(ImageError, match=r"usr/bin/ls needs lib\S+, which is not in the image"):
        check_libraries(tree)


def test_requirements_are_locked_by_hash() -> None:
    text = f"# why\nh2==4.4.1 \\\n    --hash=sha256:{'a' * 64} --hash=sha256:{'b' * 64}  # note\n"
    (item,) = parse_requirements(text, "r.txt")
    assert (item.name, item.version, item.hashes) == ("h2", "4.4.1", ("a" * 64, "b" * 64))


@pytest.mark.parametrize("line", ["h2==4.4.1", "h2>=4", "-i http://x", "h2 @ http://x/h2.whl"])
def test_a_requirement_without_version_and_hash_is_refused(line: str) -> None:
    with pytest.raises(ImageError, match=r"r\.txt: .*must be name==version with --hash"):
        parse_requirements(line + "\n", "r.txt")


def make_document(folder: Path) -> dict[str, object]:
    layers = [
        Layer("python", 2, 300, 100, "aa"),
        Layer("agent", 1, 30, 10, "bb"),
        Layer("crun", 1, 9, 5, "cc"),
    ]
    return make_manifest(
        key="k",
        release="6.12",
        suite="trixie",
        tools={},
        parts=[],
        layers=layers,
        outputs={"x": folder / "x"},
    )


def test_the_manifest_counts_interpreter_agent_and_libraries(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    document = make_document(tmp_path)
    assert document["interpreter_agent_libraries"] == 110
    assert "crun" in format_table(document)


def test_an_image_is_current_only_with_its_inputs_and_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    document = make_document(tmp_path)
    assert is_current(document, "k", tmp_path)
    assert not is_current(document, "other", tmp_path)
    (tmp_path / "x").write_bytes(b"abd")
    assert not is_current(document, "k", tmp_path)
    (tmp_path / "x").unlink()
    assert not is_current(document, "k", tmp_path)
