"""Kernel modules: the closure of what they depend on, read from real ELF files that the test makes."""

from __future__ import annotations

import lzma
import struct
from pathlib import Path

import pytest

from kata_images.elf import module_info, needed_libraries, read_sections
from kata_images.errors import ImageError
from kata_images.kernel import BOOT_LIST, load_closure, plan_modules

RELEASE = "6.12.0-test"


def make_elf(sections: dict[str, bytes]) -> bytes:
    """Make a 64-bit little-endian object file with these sections."""
    names = b"\0" + b"".join(name.encode() + b"\0" for name in [*sections, ".shstrtab"])
    offsets = {name: names.index(b"\0" + name.encode() + b"\0") + 1 for name in [*sections, ".shstrtab"]}
    body, rows = b"", [struct.pack("<IIQQQQIIQQ", *[0] * 10)]
    for name, data in [*sections.items(), (".shstrtab", names)]:
        rows.append(struct.pack("<IIQQQQIIQQ", offsets[name], 1, 0, 0, 64 + len(body), len(data), 0, 0, 1, 0))
        body += data
    ident = b"\x7fELF\x02\x01\x01" + b"\0" * 9
    table = 64 + len(body)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", ident, 1, 62, 1, 0, 0, table, 0, 64, 0, 0, 64, len(rows), len(rows) - 1
    )
    return header + body + b"".join(rows)


def make_module(name: str, depends: str = "", alias: str = "") -> bytes:
    info = [f"name={name}", f"depends={depends}", *([f"alias={alias}"] if alias else [])]
    return make_elf({".modinfo": b"\0".join(item.encode() for item in info) + b"\0"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A kernel of five modules: top needs left and right, both need bottom; one is alone."""
    base = tmp_path / RELEASE
    (base / "kernel").mkdir(parents=True)
    modules = {
        "top": make_module("top", "left-side,right"),
        "left-side": make_module("left_side", "bottom"),
        "right": make_module("right", "bottom,inside"),
        "bottom": make_module("bottom", alias="fs-bottom"),
        "alone": make_module("alone"),
    }
    for name, image in modules.items():
        (base / "kernel" / f"{name}.ko.xz").write_bytes(lzma.compress(image))
    (base / "modules.builtin").write_text("kernel/fs/inside.ko\n")
    (base / "modules.order").write_text("")
    return base


def test_each_module_comes_after_what_it_needs_and_once(folder: Path) -> None:
    assert list(load_closure(folder, ["top"])) == ["bottom", "left_side", "right", "top"]


def test_what_the_kernel_has_built_in_is_left_out(folder: Path) -> None:
    assert load_closure(folder, ["inside"]) == {}


def test_an_unknown_module_is_named_with_who_asked(folder: Path) -> None:
    with pytest.raises(
        ImageError, match=f"kernel module wrong, asked for by the recipe: not in kernel {RELEASE}"
    ):
        load_closure(folder, ["wrong"])
    (folder / "kernel" / "alone.ko.xz").write_bytes(lzma.compress(make_module("alone", "gone")))
    with pytest.raises(ImageError, match="kernel module gone, asked for by alone"):
        load_closure(folder, ["alone"])


def test_the_layer_lists_boot_modules_in_order_and_plain(folder: Path) -> None:
    tree = plan_modules(folder, ["left-side"], {"some": ["top", "alone"]})
    base = f"usr/lib/modules/{RELEASE}"
    assert tree[BOOT_LIST].read().decode() == f"/{base}/kernel/bottom.ko\n/{base}/kernel/left-side.ko\n"
    assert module_info(tree[f"{base}/kernel/bottom.ko"].read())["name"] == "bottom"
    assert tree[f"{base}/kernel/top.ko.xz"].read() == (folder / "kernel/top.ko.xz").read_bytes()
    assert f"{base}/kernel/bottom.ko.xz" not in tree


def test_the_indexes_name_the_files_as_they_are_stored(folder: Path) -> None:
    tree = plan_modules(folder, ["bottom"], {"some": ["top"]})
    base = f"usr/lib/modules/{RELEASE}"
    lines = tree[f"{base}/modules.dep"].read().decode().splitlines()
    assert lines == [
        "kernel/bottom.ko:",
        "kernel/left-side.ko.xz: kernel/bottom.ko",
        "kernel/right.ko.xz: kernel/bottom.ko",
        "kernel/top.ko.xz: kernel/right.ko.xz kernel/left-side.ko.xz kernel/bottom.ko",
    ]
    assert tree[f"{base}/modules.alias"].read() == b"alias fs-bottom bottom\n"


def test_what_is_no_elf_has_no_sections() -> None:
    assert read_sections(b"#!/bin/sh\n") == {}
    assert needed_libraries(b"") == []


def test_needed_libraries_are_read_from_the_dynamic_section() -> None:
    strings = b"\0libone.so.1\0libtwo.so\0"
    dynamic = struct.pack("<6Q", 1, 1, 1, 13, 0, 0)
    assert needed_libraries(make_elf({".dynamic": dynamic, ".dynstr": strings})) == [
        "libone.so.1",
        "libtwo.so",
    ]
