"""What needs the network is tried again: how often, after which pauses, and what a person hears of it."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

import pytest

from kata_images import command, network
from kata_images.apt import Apt, Archive, OutdatedError
from kata_images.errors import ImageError
from kata_images.network import PAUSES_S, persist


class Attempts:
    """Fails so many times, and notes what was told and slept."""

    def __init__(self, failures: int) -> None:
        self.left = failures
        self.made = 0
        self.told: list[str] = []
        self.slept: list[float] = []

    def attempt(self) -> str:
        self.made += 1
        if self.left:
            self.left -= 1
            raise ImageError(f"no answer to {self.made}")
        return f"answer to {self.made}"

    def persist(self) -> str:
        return persist("asking", self.attempt, self.told.append, sleep=self.slept.append)


def test_what_succeeds_is_done_once_and_nothing_is_told() -> None:
    attempts = Attempts(0)
    assert attempts.persist() == "answer to 1"
    assert (attempts.told, attempts.slept) == ([], [])


def test_each_failure_is_told_before_the_pause_after_it() -> None:
    attempts = Attempts(2)
    assert attempts.persist() == "answer to 3"
    assert attempts.told == [
        "asking failed, trying again in 5 s: no answer to 1",
        "asking failed, trying again in 15 s: no answer to 2",
    ]
    assert attempts.slept == [5, 15]


def test_the_last_failure_is_raised() -> None:
    attempts = Attempts(99)
    with pytest.raises(ImageError, match=f"^no answer to {len(PAUSES_S) + 1}$"):
        attempts.persist()
    assert attempts.slept == list(PAUSES_S)


def test_another_kind_of_error_is_raised_at_once() -> None:
    slept: list[float] = []
    with pytest.raises(ZeroDivisionError):
        persist("asking", lambda: 1 // 0, pytest.fail, sleep=slept.append)
    assert slept == []


# apt


MIRROR = "http://mirror.example/debian"
APT = """#!/bin/sh
shift 2
echo "$1" >> "$LOG"
[ -e "$LOG.fail" ] && { rm "$LOG.fail"; echo "E: Connection timed out" >&2; exit 100; }
case "$*" in
    *--print-uris*) echo "'http://mirror.example/debian/pool/x/x_1_amd64.deb' x_1_amd64.deb 3 SHA256:$DIGEST" ;;
    download-file*)
        shift
        while [ $# -gt 0 ]; do
            [ -e "$LOG.missing" ] && case $1 in */rare) rm "$LOG.missing"; exit 100 ;; esac
            echo "$1" | tee -a "$LOG" > "$2"
            shift 3
        done
        ;;
esac
"""


class Mirror:
    """Programs in place of apt's, which fail once when they are told to."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.told: list[str] = []
        (folder / "bin").mkdir()
        for name in ("apt-get", "apt-helper"):
            program = folder / "bin" / name
            program.write_text(APT.replace("$LOG", str(self.log)).replace("$DIGEST", "ab" * 32))
            program.chmod(0o755)
        monkeypatch.setattr(command, "SEARCH_PATH", f"{folder}/bin:{os.environ['PATH']}")
        monkeypatch.setattr("kata_images.apt.HELPER", str(folder / "bin" / "apt-helper"))
        monkeypatch.setattr(network, "PAUSES_S", (0.0, 0.0))

    def open(self) -> Apt:
        return Apt(
            self.folder, mirror=MIRROR, keyring="/none", suite="trixie",
            offline=False, refresh=False, tell=self.told.append,
        )  # fmt: skip

    def fail_once(self) -> None:
        (self.folder / "log.fail").touch()

    def asked(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mirror:
    return Mirror(tmp_path, monkeypatch)


def fetch(apt: Apt) -> list[Archive]:
    archives = apt.resolve(["x"], dependencies=False)
    apt.fetch(archives)
    return archives


def test_a_mirror_that_does_not_answer_at_first_is_asked_for_its_lists_again(mirror: Mirror) -> None:
    mirror.fail_once()
    assert [archive.name for archive in fetch(mirror.open())] == ["x"]
    assert mirror.asked() == [
        "update",
        "update",
        "download",
        "download-file",
        f"{MIRROR}/pool/x/x_1_amd64.deb",
    ]
    (told,) = mirror.told
    assert told.startswith(
        "apt-get update for trixie failed, trying again in 0 s: apt-get failed with status 100:"
    )
    assert told.endswith("E: Connection timed out")


def test_a_package_that_its_own_lists_name_is_fetched_again(mirror: Mirror) -> None:
    apt = mirror.open()
    archives = apt.resolve(["x"], dependencies=False)
    mirror.fail_once()
    apt.fetch(archives)
    assert mirror.asked()[:4] == ["update", "download", "download-file", "download-file"]
    assert [told.partition(",")[0] for told in mirror.told] == ["downloading 1 packages failed"]


def test_what_came_whole_is_not_fetched_again_for_what_did_not(mirror: Mirror) -> None:
    apt = mirror.open()
    apt.resolve(["x"], dependencies=False)
    uris = [f"{MIRROR}/pool/{name}" for name in ("usual", "rare")]
    digests = [sha256(f"{uri}\n".encode()).hexdigest() for uri in uris]
    archives = [Archive("x", "1", uri, uri, digest, 3) for uri, digest in zip(uris, digests, strict=True)]
    (mirror.folder / "log.missing").touch()
    found = apt.fetch(archives)
    assert {digest: path.read_text().strip() for digest, path in found.items()} == dict(
        zip(digests, uris, strict=True)
    )
    assert mirror.asked()[2:] == ["download-file", uris[0], "download-file", uris[1]]
    assert sorted(path.name for path in (mirror.folder / "archives").iterdir()) == sorted(digests)


def test_a_package_that_older_lists_name_is_asked_for_afresh_at_once(mirror: Mirror) -> None:
    archives = mirror.open().resolve(["x"], dependencies=False)
    mirror.fail_once()
    with pytest.raises(OutdatedError, match="trixie: the mirror does not have what was resolved"):
        mirror.open().fetch(archives)
    assert mirror.told == []
