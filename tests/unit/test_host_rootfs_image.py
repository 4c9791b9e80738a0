"""A folder as an image: made once, anew when anything has changed, one for each folder, and bounded in number."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kata_host.rootfs_image import MAX_IMAGES, ImageError, RootImage, Tool, find_image, find_tool

pytestmark = pytest.mark.requires("erofs")

EROFS_MAGIC = b"\xe2\xe1\xf5\xe0"


def make(folder: Path, cache: Path, tool: Tool | None = None) -> RootImage:
    return asyncio.run(find_image(folder, cache, tool))


def images(tmp_path: Path) -> list[Path]:
    """Everything in the cache but its lock."""
    return [path for path in (tmp_path / "cache").iterdir() if path.name != ".lock"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "root" / "etc").mkdir(parents=True)
    (tmp_path / "root" / "etc" / "file").write_text("text")
    (tmp_path / "root" / "link").symlink_to("etc/file")
    return tmp_path / "root"


def test_an_image_is_made_once_and_is_the_owner_s_alone(folder: Path, tmp_path: Path) -> None:
    first = make(folder, tmp_path / "cache")
    assert first.path.read_bytes()[1024:1028] == EROFS_MAGIC
    assert (first.fstype, first.options) == ("erofs", ("ro",))
    assert first.path.stat().st_mode & 0o777 == 0o600
    inode = first.path.stat().st_ino
    assert make(folder, tmp_path / "cache") == first
    assert first.path.stat().st_ino == inode
    assert images(tmp_path) == [first.path]


def rewrite(folder: Path) -> None:
    file = folder / "etc" / "file"
    found = file.stat()
    file.write_text("TEXT")
    os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))


CHANGES: dict[str, Callable[[Path], object]] = {
    "content at the same size and time": rewrite,
    "mode": lambda folder: (folder / "etc" / "file").chmod(0o755),
    "a new file": lambda folder: (folder / "etc" / "more").touch(),
    "a file less": lambda folder: (folder / "link").unlink(),
    "another name": lambda folder: (folder / "link").rename(folder / "elsewhere"),
    "a link's target": lambda folder: ((folder / "link").unlink(), (folder / "link").symlink_to("etc/none")),
}


@pytest.mark.parametrize("what", CHANGES)
def test_any_change_makes_another_image_in_the_place_of_the_old(
    folder: Path, tmp_path: Path, what: str
) -> None:
    first = make(folder, tmp_path / "cache")
    CHANGES[what](folder)
    second = make(folder, tmp_path / "cache")
    assert second.path != first.path
    assert images(tmp_path) == [second.path]


def test_no_more_images_than_the_bound_and_the_longest_unused_goes(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    made = []
    for number in range(MAX_IMAGES + 1):
        folder = tmp_path / f"root{number}"
        folder.mkdir()
        made.append(make(folder, cache).path)
        os.utime(made[-1], ns=(number, number))
        if number == MAX_IMAGES - 1:
            make(tmp_path / "root0", cache)  # used again: the second is the oldest now
    assert len(images(tmp_path)) == MAX_IMAGES
    assert made[0].exists()
    assert not made[1].exists()


def test_ext4_is_made_where_there_is_no_erofs(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    with pytest.raises(ImageError, match="install the package erofs-utils or e2fsprogs"):
        find_tool(str(tmp_path / "bin"))
    program = tmp_path / "bin" / "mke2fs"
    program.symlink_to(find_program("mke2fs"))
    image = make(folder, tmp_path / "cache", find_tool(str(tmp_path / "bin")))
    assert (image.fstype, image.options) == ("ext4", ("ro", "noload"))
    assert image.path.read_bytes()[1080:1082] == b"\x53\xef"


def find_program(name: str) -> str:
    found = shutil.which(name, path="/usr/sbin:/sbin:/usr/bin")
    assert found is not None
    return found


def write_tool(folder: Path, script: str) -> Tool:
    """A program in the place of mkfs.erofs; its third word is the folder."""
    program = folder / "mkfs"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return Tool("erofs", str(program))


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (
            "echo no space left; exit 3",
            r"no erofs image could be made of it: .*mkfs exited with 3:\nno space left",
        ),
        ("touch $3/more", "it was changed while an image was made of it; try again"),
    ],
)
def test_an_image_that_is_not_the_folder_s_is_not_kept(
    folder: Path, tmp_path: Path, script: str, told: str
) -> None:
    with pytest.raises(ImageError, match=told):
        make(folder, tmp_path / "cache", write_tool(tmp_path, script))
    assert images(tmp_path) == []


def test_what_is_no_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"etc/file: the root file system is no folder"):
        make(folder / "link", tmp_path / "cache")


def test_what_a_killed_maker_left_is_swept_and_a_live_one_s_is_not(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    make(folder, cache)
    for name in ("dead", "live"):
        (cache / f".draft-{name}").write_text("half")
    (folder / "more").touch()
    with (cache / ".draft-live").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        made = make(folder, cache)
        assert sorted(images(tmp_path)) == sorted([cache / ".draft-live", made.path])
