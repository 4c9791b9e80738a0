"""Initdata: the disk's layout, the document, and where its parts go."""

from __future__ import annotations

import gzip
import hashlib
import stat

import pytest

from kata_agent.hub import initdata, probe
from kata_agent.hub.initdata import InitdataError

TEXT = b"""version = "0.1.0"
algorithm = "sha384"
[data]
"aa.toml" = "[token]\\n"
"cdh.toml" = "socket = 'x'\\n"
other = "stays in the document"
"""


def pack(text: bytes, *, magic: bytes = b"initdata", length: int | None = None) -> bytes:
    packed = gzip.compress(text)
    return magic + (len(packed) if length is None else length).to_bytes(8, "little") + packed


def test_document_of_a_disk_is_read_measured_and_installed(tmp_path):
    disk = tmp_path / "vdb"
    disk.write_bytes(pack(TEXT) + bytes(512))
    found = initdata.read(str(disk))
    assert found.algorithm == "sha384"
    assert found.digest == hashlib.sha384(TEXT).hexdigest()
    initdata.install(found, str(tmp_path / "run"), can_enforce=False)
    files = {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()}
    assert files == {"initdata.toml": TEXT, "aa.toml": b"[token]\n", "cdh.toml": b"socket = 'x'\n"}
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "run").iterdir()} == {0o600}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (pack(TEXT, length=1 << 40), "1099511627776 bytes, more than 16777216"),
        (pack(TEXT, length=9999), r"it ends after \d+ of 9999 bytes"),
        (b"initdata" + (4).to_bytes(8, "little") + b"nope", "not gzip: "),
        (pack(TEXT, length=20), "not gzip: it ends too early"),
        (pack(bytes(initdata.LIMIT_BYTES + 1)), "more than 16777216 bytes when unpacked"),
        (pack(b"version = "), "not TOML: "),
        (pack(b"\xff"), "not TOML: "),
        (pack(b"a = " + b"[" * 5000), "not TOML: "),
        (pack(b"a = " + b"9" * 5000), "not TOML: "),
        (pack(b"algorithm = 'sha256'"), "version None: 0.1.0 is known"),
        (pack(b"version = '0.1.0'\nalgorithm = 'md5'"), "algorithm 'md5': one of sha256, sha384, sha512"),
        (
            pack(b"version = '0.1.0'\nalgorithm = 'sha256'\n[data]\nx = 1"),
            "data: a table of strings is needed",
        ),
    ],
)
def test_what_is_wrong_with_a_disk_is_named(tmp_path, content, text):
    disk = tmp_path / "vda"
    disk.write_bytes(content)
    with pytest.raises(InitdataError, match=text) as caught:
        initdata.read(str(disk))
    assert str(disk) in str(caught.value)


def test_policy_that_nobody_enforces_is_refused(tmp_path):
    found = initdata.parse(b"version = '0.1.0'\nalgorithm = 'sha256'\n[data]\n'policy.rego' = 'package x'")
    with pytest.raises(InitdataError, match="this agent cannot enforce a policy"):
        initdata.install(found, str(tmp_path / "run"), can_enforce=False)
    assert not (tmp_path / "run").exists()


def test_first_disk_with_the_magic_is_the_one(tmp_path):
    for name, content in {
        "sda": pack(TEXT), "vda": b"ext4", "vdb": b"", "vdc": pack(TEXT), "vdd": pack(TEXT),
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(content)
    assert probe.find_initdata(str(tmp_path)) == str(tmp_path / "vdc")
    (tmp_path / "vdc").unlink()
    (tmp_path / "vdd").unlink()
    assert probe.find_initdata(str(tmp_path)) == ""
