"""The guest as a disk: what goes onto it, which command makes it, what is behind it, what its stage needs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from kata_images.bootstage import stage_tree
from kata_images.cpio import character_device, file, folder, link
from kata_images.errors import ImageError
from kata_images.manifest import format_table, make_manifest
from kata_images.recipe import parse_recipe, read_recipe
from kata_images.rootfs import ALIGNMENT_BYTES, COMMANDS, disk_tree, finish_image
from kata_images.verity import make_hash_tree
from kata_testing.repository import ROOT

DEFAULT = ROOT / "images" / "recipes" / "default.toml"
ID = UUID(int=5)


def test_a_disk_has_the_folders_that_files_need_and_no_device_nodes() -> None:
    tree = disk_tree(
        {"dev/console": character_device(5, 1, 0o600), "usr/bin/a": file(b"x"), "tmp": folder(0o1777)}
    )
    assert sorted(tree) == ["tmp", "usr", "usr/bin", "usr/bin/a"]
    assert tree["tmp"].mode == 0o041777


def test_the_image_is_data_then_tree_then_padding_and_the_same_each_time(tmp_path: Path) -> None:
    data = b"d" * 10_000
    first = finish_image(data, "erofs", "digest", tmp_path / "one")
    assert finish_image(data, "erofs", "digest", tmp_path / "two") == replace(first, file="two")
    written = (tmp_path / "one").read_bytes()
    assert written == (tmp_path / "two").read_bytes()
    assert len(written) == ALIGNMENT_BYTES
    assert (first.hash_offset, first.data_blocks) == (12288, 3)
    salt = bytes.fromhex(first.salt)
    tree = make_hash_tree(written[:12288], salt=salt, uuid=UUID(bytes=written[12304:12320]))
    assert tree.root_hash == first.root_hash
    assert written[12288:].startswith(tree.area)
    other = finish_image(data, "erofs", "another", tmp_path / "three")
    assert other.salt != first.salt


@pytest.mark.parametrize("name", ["erofs", "ext4"])
def test_the_commands_fix_what_would_differ_from_one_build_to_the_next(name: str) -> None:
    words = " ".join(COMMANDS[name]({"a": file(b"x" * 5000)}, ID))
    assert str(ID) in words
    assert (
        ("-T0" in words and "--all-root" in words)
        if name == "erofs"
        else f"hash_seed={ID},root_owner=0:0" in words
    )


def test_only_known_file_systems_are_taken_by_the_recipe() -> None:
    import tomllib

    document = tomllib.loads(DEFAULT.read_text())
    document["root"]["filesystems"] = ["erofs", "vfat"]
    with pytest.raises(ImageError, match=r"here: root\.filesystems: vfat: only erofs and ext4 can be made"):
        parse_recipe(document, "here", DEFAULT.parent)
    del document["root"]
    assert parse_recipe(document, "here", DEFAULT.parent).root.filesystems == ()
    assert read_recipe(DEFAULT).root.filesystems == ("erofs", "ext4")


def test_the_stage_has_what_was_seen_and_the_links_that_lead_to_libraries() -> None:
    tree = {
        "usr/bin/python3.13": file(b"elf", 0o755),
        "usr/lib/python3.13/os.pyc": file(b"os"),
        "usr/lib/python3.13/json/__init__.pyc": file(b"json"),
        "usr/lib/x/libm.so.6.1": file(b"m"),
        "usr/lib/x/libm.so.6": link("libm.so.6.1"),
        "usr/lib/x/libother.so": link("libother.so.1"),
    }
    chosen = stage_tree(tree, ["/usr/lib/python3.13/os.pyc", "/usr/lib/x/libm.so.6.1"], "usr/bin/python3.13")
    assert {path for path in chosen if path.startswith("usr/")} == set(tree) - {
        "usr/lib/python3.13/json/__init__.pyc",
        "usr/lib/x/libother.so",
    }
    assert b"from kata_init.stage import main" in chosen["init"].read()
    assert chosen["init"].mode == 0o100755


def test_show_prints_the_root_hashes(tmp_path: Path) -> None:
    image = finish_image(b"d" * 9000, "erofs", "digest", tmp_path / "root.erofs")
    document = make_manifest(
        key="k", release="6.12", suite="s", tools={}, parts=[], layers=[],
        outputs={"root.erofs": tmp_path / "root.erofs"}, roots={"erofs": image},
    )  # fmt: skip
    assert document["roots"]["erofs"]["root_hash"] == image.root_hash
    assert f"erofs root hash         {image.root_hash}" in format_table(document).splitlines()
