"""Initdata: what the owner of a confidential guest hands in by a disk that is part of its measurement.

Owns: the disk's layout, the document, and where its parts go. Must not know: who uses them. Follows: Kata's agent 3.21,
"Initdata": magic `initdata`, the length as 8 bytes little-endian, gzip, TOML with `version`, `algorithm` and `data`.
"""

from __future__ import annotations

import os

from kata_agent.errors import AgentError
from kata_agent.hub.probe import MAGIC
from kata_linux.record import Record

FOLDER = "/run/confidential-containers/initdata"
VERSION = "0.1.0"
ALGORITHMS = ("sha256", "sha384", "sha512")
# What the others do not know stays in the document.
FILES = ("aa.toml", "cdh.toml")
POLICY = "policy.rego"
# A policy and two configurations; a disk that claims more is not believed.
LIMIT_BYTES = 16 << 20


class InitdataError(AgentError):
    """There is initdata, and it cannot be used: the guest must not go on as if there were none."""


class Initdata(Record):
    """A document: its text, how it is measured, and its parts by name."""

    text: bytes
    algorithm: str
    digest: str
    data: dict[str, str]


def read(path: str) -> Initdata:
    """What is on the disk. Raises `InitdataError`."""
    try:
        with open(path, "rb") as disk:
            head = disk.read(len(MAGIC) + 8)
            length = int.from_bytes(head[len(MAGIC) :], "little")
            if length > LIMIT_BYTES:
                raise InitdataError(f"initdata on {path}: {length} bytes, more than {LIMIT_BYTES}")
            packed = disk.read(length)
    except OSError as error:
        raise InitdataError(f"initdata on {path}: {os.strerror(error.errno or 0)}") from error
    if len(packed) < length:
        raise InitdataError(f"initdata on {path}: it ends after {len(packed)} of {length} bytes")
    try:
        return parse(unpack(packed))
    except InitdataError as error:
        raise InitdataError(f"initdata on {path}: {error}") from None


def unpack(packed: bytes) -> bytes:
    """gzip to text, bounded. Raises `InitdataError`. Pure."""
    import zlib

    inflate = zlib.decompressobj(wbits=31)
    try:
        text = inflate.decompress(packed, LIMIT_BYTES)
    except zlib.error as error:
        raise InitdataError(f"not gzip: {error}") from None
    if inflate.unconsumed_tail:
        raise InitdataError(f"more than {LIMIT_BYTES} bytes when unpacked")
    if not inflate.eof:
        raise InitdataError("not gzip: it ends too early")
    return text


def parse(text: bytes) -> Initdata:
    """The document. Raises `InitdataError`, which names the key. Pure."""
    import hashlib
    import tomllib

    try:
        document = tomllib.loads(text.decode())
    except (ValueError, RecursionError) as error:  # also numbers and nesting beyond Python's own bounds
        raise InitdataError(f"not TOML: {error}") from None
    if document.get("version") != VERSION:
        raise InitdataError(f"version {document.get('version')!r}: {VERSION} is known")
    algorithm = document.get("algorithm")
    if algorithm not in ALGORITHMS:
        raise InitdataError(f"algorithm {algorithm!r}: one of {', '.join(ALGORITHMS)} is needed")
    data = document.get("data", {})
    if not isinstance(data, dict) or not all(isinstance(value, str) for value in data.values()):
        raise InitdataError("data: a table of strings is needed")
    return Initdata(text, algorithm, hashlib.new(algorithm, text).hexdigest(), data)


def install(initdata: Initdata, folder: str = FOLDER, *, can_enforce: bool) -> None:
    """Write the document and the components' configurations where those look for them, for root alone.

    Raises `InitdataError` for a policy that this agent cannot enforce: its owner must not think that it does.
    """
    if POLICY in initdata.data and not can_enforce:
        raise InitdataError(
            f"initdata: {POLICY}: this agent cannot enforce a policy, its image has no engine"
        )
    os.makedirs(folder, mode=0o700, exist_ok=True)
    _write(f"{folder}/initdata.toml", initdata.text)
    for name in FILES:
        if name in initdata.data:
            _write(f"{folder}/{name}", initdata.data[name].encode())


def _write(path: str, data: bytes) -> None:
    with open(f"{path}.new", "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(data)
    os.rename(f"{path}.new", path)
