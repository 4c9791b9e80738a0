"""The dm-verity hash tree of a file system image, and the superblock in front of it (pure).

Format: Linux's Documentation/admin-guide/device-mapper/verity.rst for the tree, cryptsetup's "DMVerity" on-disk format
(version 1, hash type 1) for the superblock, so that `veritysetup verify` reads what is written here. The salt is given,
so that equal images give equal trees.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from hashlib import sha256
from uuid import UUID

from kata_images.errors import ImageError

BLOCK_BYTES = 4096
DIGEST_BYTES = 32
ALGORITHM = "sha256"
# signature, version, hash type, uuid, algorithm, block sizes of data and tree, data blocks, salt's length, salt
SUPERBLOCK = struct.Struct("<8sII16s32sIIQH6x256s168x")


@dataclass(frozen=True)
class HashTree:
    """What a person must know to have the image checked; `area` is superblock and tree, to be put behind the data."""

    root_hash: str
    data_blocks: int
    salt: str
    area: bytes


def make_hash_tree(data: bytes, *, salt: bytes, uuid: UUID) -> HashTree:
    """Return the tree over these bytes, whole blocks of them. One block needs none: its digest is the root hash."""
    if len(data) % BLOCK_BYTES or not data:
        raise ImageError(f"verity: {len(data)} bytes are not one or more blocks of {BLOCK_BYTES}")
    levels = [_digests(data, salt)]
    while len(levels[-1]) > BLOCK_BYTES:
        levels.append(_digests(levels[-1], salt))
    count = len(data) // BLOCK_BYTES
    head = SUPERBLOCK.pack(
        b"verity", 1, 1, uuid.bytes, ALGORITHM.encode(), BLOCK_BYTES, BLOCK_BYTES, count, len(salt), salt
    )
    if count == 1:
        return HashTree(_digest(data, salt).hex(), count, salt.hex(), _whole_blocks(head))
    area = _whole_blocks(head) + b"".join(reversed(levels))
    return HashTree(_digest(levels[-1], salt).hex(), count, salt.hex(), area)


def _digests(data: bytes, salt: bytes) -> bytes:
    """The digests of all blocks, themselves whole blocks: a level of the tree."""
    view = memoryview(data)
    found = [_digest(view[at : at + BLOCK_BYTES], salt) for at in range(0, len(data), BLOCK_BYTES)]
    return _whole_blocks(b"".join(found))


def _digest(block: bytes | memoryview, salt: bytes) -> bytes:
    digest = sha256(salt)
    digest.update(block)
    return digest.digest()


def _whole_blocks(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % BLOCK_BYTES)
