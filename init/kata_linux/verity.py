"""dm-verity: the area behind a device's data that vouches for it, and the device-mapper target that checks it.

Owns: cryptsetup's on-disk superblock ("DMVerity", version 1), the target's table line (Linux's
Documentation/admin-guide/device-mapper/verity.rst), and the check of the tree's root before anything is mounted: the
kernel itself says only "input/output error" when somebody reads. Must not know: where a root hash comes from.
Errors: `ValueError` for what cannot be right (its text is for people), `OSError` from the device.
"""

from __future__ import annotations

import os
import struct

from kata_linux import dm
from kata_linux.record import Record

TARGET = "verity"
SIGNATURE = b"verity\0\0"
PANIC = "panic_on_corruption"
# signature, version, hash type, uuid, algorithm, block sizes of data and tree, data blocks, salt's length, salt
_SUPERBLOCK = struct.Struct("<8sII16s32sIIQH6x256s168x")
_BLOCK_SIZES = (512, 1024, 2048, 4096)
_DIGEST_BYTES = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}


class Verity(Record):
    """How a device's data is checked. Sizes in bytes; the tree begins at block `hash_start` of the same device."""

    root_hash: str
    data_blocks: int
    hash_start: int
    data_block: int = 4096
    hash_block: int = 4096
    algorithm: str = "sha256"
    salt: str = ""

    @property
    def sectors(self) -> int:
        """How long the checked device is."""
        return self.data_blocks * self.data_block // dm.SECTOR_BYTES


def make_table(verity: Verity, node: str, *options: str) -> str:
    """The target's parameters. Pure."""
    words = [
        "1", node, node, verity.data_block, verity.hash_block, verity.data_blocks, verity.hash_start,
        verity.algorithm, verity.root_hash, verity.salt or "-",
    ]  # fmt: skip
    if options:
        words += [len(options), *options]
    return " ".join(str(word) for word in words)


def read_superblock(node: str, offset: int, root_hash: str) -> Verity | None:
    """What the superblock at `offset` says; None when there is none."""
    data = _read(node, offset, _SUPERBLOCK.size)
    signature, version, kind, _, name, data_block, hash_block, blocks, length, salt = _SUPERBLOCK.unpack(data)
    if signature != SIGNATURE:
        return None
    if version != 1 or kind != 1:
        raise ValueError(
            f"{node}: verity superblock at {offset}: version {version} type {kind}, only 1 and 1 are known"
        )
    if hash_block not in _BLOCK_SIZES:
        raise ValueError(f"{node}: verity superblock at {offset}: hash blocks of {hash_block} bytes")
    start = -(-(offset + _SUPERBLOCK.size) // hash_block)
    algorithm = name.rstrip(b"\0").decode("ascii", "replace")
    return Verity(root_hash, blocks, start, data_block, hash_block, algorithm, salt[:length].hex())


def check(verity: Verity) -> None:
    """Refuse what the kernel would refuse without a word. Pure."""
    if verity.algorithm not in _DIGEST_BYTES:
        raise ValueError(f"verity: hash {verity.algorithm!r} is none of {', '.join(_DIGEST_BYTES)}")
    for text, length in ((verity.root_hash, _DIGEST_BYTES[verity.algorithm]), (verity.salt, None)):
        if set(text) - set("0123456789abcdefABCDEF") or (
            len(text) != 2 * length if length else len(text) % 2
        ):
            what = f"{length} bytes in hexadecimal" if length else "hexadecimal"
            raise ValueError(f"verity: {text!r}: {what} is needed")
    if verity.data_block not in _BLOCK_SIZES or verity.hash_block not in _BLOCK_SIZES:
        raise ValueError(
            f"verity: blocks of {verity.data_block} and {verity.hash_block} bytes: use one of {_BLOCK_SIZES}"
        )
    if verity.data_blocks < 1 or verity.hash_start < 1:
        raise ValueError(
            f"verity: {verity.data_blocks} data blocks, tree at block {verity.hash_start}: both must be above 0"
        )


def check_root(verity: Verity, node: str) -> None:
    """Compare the root hash with the tree's first block, so that a wrong one is told as what it is."""
    import hashlib  # not needed by an idle guest

    per_block = verity.hash_block // (1 << (_DIGEST_BYTES[verity.algorithm] - 1).bit_length())
    # A tree of one data block has no block of its own: the root hash is that of the data.
    alone = verity.data_blocks == 1 or per_block < 2
    offset, length = (
        (0, verity.data_block) if alone else (verity.hash_start * verity.hash_block, verity.hash_block)
    )
    found = hashlib.new(
        verity.algorithm, bytes.fromhex(verity.salt) + _read(node, offset, length)
    ).hexdigest()
    if found != verity.root_hash.lower():
        raise ValueError(
            f"{node}: verity root hash mismatch: {verity.root_hash.lower()} is wanted, the device's tree has {found}"
        )


def open_device(name: str, verity: Verity, node: str, *options: str) -> str:
    """Make the checked device `name` over `node`; gives its node. On a failure nothing is left."""
    check(verity)
    check_root(verity, node)
    checked = dm.create(name)
    try:
        dm.load(name, TARGET, verity.sectors, make_table(verity, node, *options))
        dm.resume(name)
    except BaseException:
        dm.remove(name)
        raise
    return checked


def _read(node: str, offset: int, length: int) -> bytes:
    fd = os.open(node, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.pread(fd, length, offset)
    finally:
        os.close(fd)
    if len(data) != length:
        raise ValueError(
            f"{node}: verity: only {len(data)} bytes of {length} at offset {offset}: the device is too short"
        )
    return data
