"""dm-verity: what the builder writes is what the guest reads, and what cryptsetup's own tool verifies."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from uuid import UUID

import pytest

from kata_images.errors import ImageError
from kata_images.verity import BLOCK_BYTES, HashTree, make_hash_tree
from kata_linux import dm, verity

UUID_1 = UUID(int=1)
SALT = bytes(range(32))


def write_image(path: Path, blocks: int, salt: bytes = SALT) -> tuple[HashTree, int]:
    """A device with `blocks` blocks of data and their tree; gives the tree and its offset."""
    data = b"".join(number.to_bytes(4, "little") * (BLOCK_BYTES // 4) for number in range(blocks))
    tree = make_hash_tree(data, salt=salt, uuid=UUID_1)
    path.write_bytes(data + tree.area)
    return tree, len(data)


# No tree at all, one level of it, exactly full, one block more, and three levels.
@pytest.mark.parametrize("blocks", [1, 2, 128, 129, 128 * 128 + 1])
def test_the_superblock_and_the_trees_root_are_read_as_they_were_written(tmp_path: Path, blocks: int) -> None:
    tree, offset = write_image(tmp_path / "disk", blocks)
    read = verity.read_superblock(str(tmp_path / "disk"), offset, tree.root_hash)
    assert read == verity.Verity(tree.root_hash, blocks, blocks + 1, 4096, 4096, "sha256", SALT.hex())
    verity.check(read)
    verity.check_root(read, str(tmp_path / "disk"))
    assert read.sectors == blocks * 8


@pytest.mark.requires("veritysetup")
@pytest.mark.parametrize("blocks", [1, 2, 129, 128 * 128 + 1])
def test_cryptsetups_own_tool_verifies_the_tree(tmp_path: Path, blocks: int) -> None:
    tree, offset = write_image(tmp_path / "disk", blocks)
    disk = str(tmp_path / "disk")
    argv = ["veritysetup", "verify", disk, disk, tree.root_hash, f"--hash-offset={offset}"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_equal_data_and_salt_give_an_equal_area() -> None:
    data = os.urandom(3 * BLOCK_BYTES)
    assert make_hash_tree(data, salt=SALT, uuid=UUID_1) == make_hash_tree(data, salt=SALT, uuid=UUID_1)
    assert (
        make_hash_tree(data, salt=b"", uuid=UUID_1).root_hash
        != make_hash_tree(data, salt=SALT, uuid=UUID_1).root_hash
    )


@pytest.mark.parametrize("size", [0, 1, 2 * BLOCK_BYTES + 1])
def test_data_that_is_not_whole_blocks_is_refused(size: int) -> None:
    with pytest.raises(ImageError, match=f"verity: {size} bytes are not one or more blocks"):
        make_hash_tree(bytes(size), salt=SALT, uuid=UUID_1)


def test_a_wrong_root_hash_is_told_with_both_hashes(tmp_path: Path) -> None:
    tree, offset = write_image(tmp_path / "disk", 5)
    wrong = "ab" * 32
    read = verity.read_superblock(str(tmp_path / "disk"), offset, wrong)
    assert read is not None
    with pytest.raises(
        ValueError, match=f"root hash mismatch: {wrong} is wanted, the device's tree has {tree.root_hash}"
    ):
        verity.check_root(read, str(tmp_path / "disk"))


def test_a_tampered_tree_no_longer_has_the_root_hash(tmp_path: Path) -> None:
    tree, offset = write_image(tmp_path / "disk", 300)
    read = verity.read_superblock(str(tmp_path / "disk"), offset, tree.root_hash)
    assert read is not None
    with (tmp_path / "disk").open("r+b") as file:
        file.seek(read.hash_start * 4096 + 17)
        file.write(b"x")
    with pytest.raises(ValueError, match="root hash mismatch"):
        verity.check_root(read, str(tmp_path / "disk"))


def test_where_no_superblock_is_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(8192))
    assert verity.read_superblock(str(tmp_path / "disk"), 4096, "00" * 32) is None


def test_a_device_that_ends_before_the_superblock_is_too_short(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(4100))
    with pytest.raises(ValueError, match="only 4 bytes of 512 at offset 4096: the device is too short"):
        verity.read_superblock(str(tmp_path / "disk"), 4096, "00" * 32)


GOOD = verity.Verity("ab" * 32, 5, 6)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (GOOD._replace(root_hash="ab"), "'ab': 32 bytes in hexadecimal is needed"),
        (GOOD._replace(root_hash="zz" * 32), "32 bytes in hexadecimal is needed"),
        (GOOD._replace(algorithm="md5"), "hash 'md5' is none of sha1, sha256"),
        (GOOD._replace(salt="abc"), "'abc': hexadecimal is needed"),
        (GOOD._replace(salt="- 1 restart_on_corruption"), "hexadecimal is needed"),
        (GOOD._replace(data_block=8192), "blocks of 8192 and 4096 bytes"),
        (GOOD._replace(hash_start=0), "both must be above 0"),
    ],
)
def test_what_the_kernel_would_refuse_is_refused_with_words(wrong: verity.Verity, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        verity.check(wrong)


def test_the_table_is_the_kernels_line() -> None:
    line = verity.make_table(GOOD, "/dev/vda", verity.PANIC)
    assert line == f"1 /dev/vda /dev/vda 4096 4096 5 6 sha256 {'ab' * 32} - 1 panic_on_corruption"
    assert verity.make_table(GOOD._replace(salt="00ff"), "/dev/vda").endswith(" 00ff")


@pytest.mark.parametrize("name", ["", "a/b", "n" * 128])
def test_a_name_that_device_mapper_cannot_have_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no device-mapper name"):
        dm.create(name)
