"""Mirrors from apt's two source formats, and what apt prints about files to fetch. Host names here are examples."""

from __future__ import annotations

from pathlib import Path

import pytest

from kata_images.apt import Apt, Archive, parse_uris
from kata_images.apt_sources import Source, choose_debian, mirror_of_machine, parse_deb822, parse_one_line
from kata_images.errors import ImageError

MIRROR = "http://mirror.example/debian"
SECURITY = "http://mirror.example/debian-security"


def test_one_line_sources_are_read_with_options_and_comments() -> None:
    text = f"""
# deb {MIRROR} sid main
deb-src {MIRROR} trixie main
deb [arch=amd64 signed-by=/k.gpg] {MIRROR}/ trixie main contrib # the usual
deb {SECURITY} trixie-security main
"""
    assert list(parse_one_line(text)) == [
        Source(f"{MIRROR}/", "trixie", ("main", "contrib"), "/k.gpg"),
        Source(SECURITY, "trixie-security", ("main",), ""),
    ]


def test_deb822_stanzas_give_a_source_for_each_uri_and_suite() -> None:
    text = f"""Types: deb deb-src
# a comment
URIs: {MIRROR}
 http://other.example/debian
Suites: trixie trixie-updates
Components: main
Signed-By: /usr/share/keyrings/k.gpg

Types: deb
URIs: http://off.example/debian
Suites: trixie
Components: main
Enabled: no

Types: deb-src
URIs: http://src.example/debian
Suites: trixie
Components: main
"""
    found = list(parse_deb822(text))
    assert [(source.uri, source.suite) for source in found] == [
        (MIRROR, "trixie"),
        (MIRROR, "trixie-updates"),
        ("http://other.example/debian", "trixie"),
        ("http://other.example/debian", "trixie-updates"),
    ]
    assert {source.signed_by for source in found} == {"/usr/share/keyrings/k.gpg"}


def test_a_key_written_into_the_stanza_is_no_path() -> None:
    text = f"Types: deb\nURIs: {MIRROR}\nSuites: sid\nComponents: main\nSigned-By:\n -----BEGIN\n .\n x\n"
    assert [source.signed_by for source in parse_deb822(text)] == [""]


def test_the_machines_mirror_is_its_first_plain_debian_suite(tmp_path: Path) -> None:
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (parts / "a-other.list").write_text("deb http://vendor.example/apt stable main\n")
    (parts / "b.sources").write_text(
        f"Types: deb\nURIs: {SECURITY}\nSuites: bookworm-security\nComponents: main\n\n"
        f"Types: deb\nURIs: {MIRROR}/\nSuites: bookworm\nComponents: main\nSigned-By: /k.gpg\n"
    )
    (parts / "c.sources.bak").write_text(
        "Types: deb\nURIs: http://x.example/debian\nSuites: sid\nComponents: main\n"
    )
    assert mirror_of_machine(tmp_path) == Source(MIRROR, "bookworm", ("main",), "/k.gpg")


def test_a_machine_without_debian_says_what_to_do() -> None:
    with pytest.raises(ImageError, match="no Debian mirror among apt's sources; name one with --mirror URL"):
        choose_debian([Source("http://vendor.example/ubuntu", "noble", ("main",))])


def test_printed_uris_become_archives_with_pool_paths() -> None:
    digest = "ab" * 32
    uri = f"{MIRROR}/pool/main/b/busybox/busybox-static_1.37.0-6%2bb9_amd64.deb"
    text = f"""Reading package lists...
'{uri}' busybox-static_1%3a1.37.0-6+b9_amd64.deb 955316 SHA256:{digest}
'{MIRROR}/pool/main/c/crun/crun_1.21.orig.tar.gz' crun_1.21.orig.tar.gz 1788933 SHA256:{digest}
Need to get 955 kB of archives.
"""
    busybox, crun = parse_uris(text)
    assert busybox == Archive(
        name="busybox-static",
        version="1:1.37.0-6+b9",
        pool="pool/main/b/busybox/busybox-static_1.37.0-6+b9_amd64.deb",
        uri=uri,
        sha256=digest,
        size=955316,
    )
    assert (crun.name, crun.version) == ("crun", "1.21")


def test_offline_with_an_empty_cache_says_what_to_do(tmp_path: Path) -> None:
    apt = Apt(
        tmp_path,
        mirror=MIRROR,
        keyring="/none",
        suite="trixie",
        offline=True,
        refresh=False,
        tell=pytest.fail,
    )
    with pytest.raises(ImageError, match="build once without --offline"):
        apt.resolve(["busybox-static"], dependencies=False)
    archive = Archive("busybox-static", "1", "pool/x.deb", f"{MIRROR}/pool/x.deb", "ab" * 32, 3)
    with pytest.raises(ImageError, match="not downloaded yet: busybox-static; build once without --offline"):
        apt.fetch([archive])
