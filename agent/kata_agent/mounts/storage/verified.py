"""Disks that are checked block by block (dm-verity), and partitions of disks: what the host's words make of a disk.

Owns: the words `X-kata.dmverity*`, `X-kata.gpt-partitioned`, `X-kata.partition-number`, and the driver `dmverity` with
its `verity_info`. Must not know: ioctls, hash trees (`kata_linux.verity`). Follows: what Kata's hosts send since 3.24
for EROFS snapshots, and its confidential containers' `dmverity` volumes; the agent of 3.21 has neither. What asks for
a check is checked or refused: no spelling of it mounts the bare disk.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kata_agent.errors import InvalidRequest, NotSupported
from kata_agent.mounts import ops, plan
from kata_linux import verity
from kata_linux.record import Record

if TYPE_CHECKING:
    from kata_agent.mounts.storage.request import StorageRequest

PREFIX = "X-kata."
DRIVER = "dmverity"
ENABLED = "X-kata.dmverity-enabled="
_KEY = "X-kata.dmverity."
_KEYS = ("roothash", "hashoffset", "blocksize", "hashsize", "salt", "no-superblock", "blocknum", "hashtype")
_NUMBERS = ("hashoffset", "blocksize", "hashsize", "blocknum")
_GPT = "X-kata.gpt-partitioned="
_PARTITION = "X-kata.partition-number="
_SOURCE_TYPES = {
    "virtio_pci": "blk",
    "virtio_mmio": "mmioblk",
    "scsi": "scsi",
    "pmem": "nvdimm",
    "virtio_ccw": "blk-ccw",
}
_PARTITIONS = 128
_DEFAULT_BLOCK = 4096


class Wanted(Record):
    """How the disk is to be checked, as the host says it; sizes in bytes, None where the disk's superblock tells."""

    root_hash: str
    hash_offset: int
    data_block: int | None = None
    hash_block: int | None = None
    salt: str | None = None
    superblock: bool = True
    data_blocks: int | None = None
    algorithm: str | None = None


def asks(storage: StorageRequest) -> bool:
    """Whether any word is one of these. Pure."""
    return any(word.startswith(PREFIX) for word in storage.options)


def plan_disk(storage: StorageRequest) -> tuple[ops.Op, ...]:
    """Mount the disk's partition if one is named, through a device that checks it if that is asked for."""
    from kata_agent.mounts.storage.driver import observe

    words = [word for word in storage.options if word.startswith(PREFIX)]
    check_words(words)
    request = storage._replace(
        source=find_node(storage.source, words),
        options=tuple(word for word in storage.options if not word.startswith(PREFIX)),
    )
    wanted = find_wanted(words)
    if wanted is None:
        return plan.plan_mount(request, observe(request))
    seen = observe(request)
    if seen.mounted_fstype == request.fstype:
        return plan.plan_mount(request, seen)
    device = ops.CheckedDevice(
        f"kata-verity-{os.urandom(6).hex()}", request.source, resolve(wanted, request.source)
    )
    options = tuple(word for word in request.options if word not in ("ro", "rw"))
    checked = request._replace(source=device.node, options=(*options, "ro"))
    return (device, *plan.plan_mount(checked, seen))


def check_words(words: list[str]) -> None:
    """Refuse a word that is not known: it may ask for protection that would not be there. Pure.

    The words of layers are gone by now (`layers`); what is left of them is misspelt.
    """
    known = (ENABLED, _GPT, _PARTITION, *(f"{_KEY}{key}" for key in _KEYS))
    for word in words:
        if not word.startswith(known):
            raise NotSupported(f"storage option {word!r}: this agent does not know it")


def find_node(source: str, words: list[str]) -> str:
    """The disk, or its partition of the number that is named. Pure."""
    values = _values(words, _PARTITION)
    if not values:
        if "true" in _values(words, _GPT):
            raise InvalidRequest(f"{source}: {_GPT}true without {_PARTITION}N")
        return source
    number = _parse_number(_PARTITION, values[-1], _PARTITIONS)
    return f"{source}{'p' if source[-1:].isdigit() else ''}{number}"


def find_wanted(words: list[str]) -> Wanted | None:
    """The check that the words ask for, if they do. Raises `InvalidRequest`. Pure."""
    found = {
        word[len(_KEY) :].partition("=")[0]: word.partition("=")[2] for word in words if word.startswith(_KEY)
    }
    enabled = _values(words, ENABLED)
    if not found and not enabled:
        return None
    if enabled and enabled[-1] != "true":
        raise InvalidRequest(
            f"{ENABLED}{enabled[-1]}: only true is known; a disk that is not checked has no such words"
        )
    for key in ("roothash", "hashoffset"):
        if not found.get(key):
            raise InvalidRequest(f"{_KEY}{key}=: missing; a disk that is checked needs it")
    numbers = {key: _parse_number(f"{_KEY}{key}=", found[key]) for key in found if key in _NUMBERS}
    return Wanted(
        root_hash=found["roothash"].lower(),
        hash_offset=numbers["hashoffset"],
        data_block=numbers.get("blocksize"),
        hash_block=numbers.get("hashsize"),
        salt=found.get("salt"),
        superblock=found.get("no-superblock", "false") == "false",
        data_blocks=numbers.get("blocknum"),
        algorithm=found.get("hashtype"),
    )


def resolve(wanted: Wanted, node: str) -> verity.Verity:
    """The whole description: the superblock's where the disk has one, else the host's. Raises `InvalidRequest`."""
    try:
        read = (
            verity.read_superblock(node, wanted.hash_offset, wanted.root_hash) if wanted.superblock else None
        )
        found = _without_superblock(wanted) if read is None else _agree(wanted, read)
        verity.check(found)
    except ValueError as error:
        raise InvalidRequest(str(error)) from None
    return found


def _without_superblock(wanted: Wanted) -> verity.Verity:
    data_block, hash_block = wanted.data_block or _DEFAULT_BLOCK, wanted.hash_block or _DEFAULT_BLOCK
    blocks = wanted.data_blocks or wanted.hash_offset // data_block
    start = -(-wanted.hash_offset // hash_block)
    algorithm, salt = wanted.algorithm or "sha256", "" if wanted.salt in (None, "-") else wanted.salt
    return verity.Verity(
        wanted.root_hash, blocks, start, data_block, hash_block, algorithm.lower(), salt or ""
    )


def _agree(wanted: Wanted, read: verity.Verity) -> verity.Verity:
    """What the superblock says, unless the host said something else."""
    pairs = (
        ("blocksize", wanted.data_block, read.data_block),
        ("hashsize", wanted.hash_block, read.hash_block),
        ("salt", wanted.salt, read.salt),
        ("blocknum", wanted.data_blocks, read.data_blocks),
        ("hashtype", wanted.algorithm, read.algorithm),
    )
    for key, said, found in pairs:
        if said is not None and said not in (found, "-"):
            raise ValueError(f"verity: the host says {key}={said}, the disk's superblock {found}")
    return read


def from_volume(storage: StorageRequest) -> StorageRequest:
    """A `dmverity` volume as the same disk with words; others as they are. Raises `InvalidRequest`. Pure."""
    if storage.driver != DRIVER:
        return storage
    import json

    pairs = dict(word.partition("=")[::2] for word in storage.driver_options)
    kind = pairs.get("source_type", "")
    if kind not in _SOURCE_TYPES:
        raise InvalidRequest(f"{DRIVER}: source_type={kind}: use one of {', '.join(_SOURCE_TYPES)}")
    try:
        info = json.loads(pairs.get("verity_info", ""))
        words = {
            "roothash": str(info["hash"]),
            "hashoffset": int(info["offset"]),
            "hashtype": str(info["hashtype"]),
            "blocknum": int(info["blocknum"]),
            "blocksize": int(info["blocksize"]),
            "hashsize": int(info["hashsize"]),
        }
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise InvalidRequest(f"{DRIVER}: verity_info: {type(error).__name__}: {error}") from None
    options = (*storage.options, f"{ENABLED}true", *(f"{_KEY}{key}={value}" for key, value in words.items()))
    return storage._replace(driver=_SOURCE_TYPES[kind], options=options)


def _values(words: list[str], start: str) -> list[str]:
    return [word[len(start) :] for word in words if word.startswith(start)]


def _parse_number(name: str, text: str, limit: int = 2**63 - 1) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= limit):
        raise InvalidRequest(f"{name}{text}: a whole number from 1 to {limit} is needed")
    return int(text)
