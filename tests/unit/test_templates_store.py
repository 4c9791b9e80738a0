"""The folder of templates: whole or not there, one maker at a time, left-overs swept, readers undisturbed."""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kata_host.templates.manifest import Manifest, ManifestError
from kata_host.templates.store import (
    Draft,
    TemplateError,
    TemplateStore,
    find_template_root,
    sync_path,
)

IDENTITY = {"kernel": "k"}
# What publish syncs, in its order: two files, their folder, the manifest's draft, the root.
SYNCS = 5
SEEN_AFTER = 4


@pytest.fixture
def store(tmp_path: Path) -> TemplateStore:
    return TemplateStore(tmp_path / "templates")


def fill(draft: Draft, text: str = "memory") -> None:
    (draft.folder / "memory").write_text(text)
    (draft.folder / "state").write_text("state")


def make(store: TemplateStore, name: str = "one", text: str = "memory", *, replace: bool = False) -> None:
    with store.draft(name, replace=replace) as draft:
        fill(draft, text)
        draft.publish(IDENTITY, {"cpus": 2})


def names(store: TemplateStore) -> list[str]:
    return [each.name for each in store.list()]


def data(store: TemplateStore) -> list[str]:
    return [path.name for path in store.root.glob("data-*")]


def read(store: TemplateStore, name: str = "one") -> str:
    with store.open(name) as template:
        return (template.folder / "memory").read_text()


@contextmanager
def child(run: Callable[[], None]) -> Iterator[int]:
    """A process that runs this and is killed at the end of the context, if it has not ended."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reader)
            run()
            status = 0
            os.close(writer)
            signal.pause()
        finally:
            os._exit(status)
    os.close(writer)
    try:
        os.read(reader, 1)  # its end: it has run, or died
        yield pid
    finally:
        os.close(reader)
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def test_a_template_is_seen_when_it_is_whole_and_not_before(store: TemplateStore) -> None:
    with store.draft("one") as draft:
        fill(draft)
        assert names(store) == []
        draft.publish(IDENTITY, {"cpus": 2})
        assert read(store) == "memory", "readable at once, though its maker has not let go yet"
    (found,) = store.list()
    assert isinstance(found, Manifest)
    assert (found.identity, found.machine, found.files["memory"].size) == (IDENTITY, {"cpus": 2}, 6)


def test_files_are_the_owner_s_alone(store: TemplateStore) -> None:
    before = os.umask(0)
    try:
        make(store)
    finally:
        os.umask(before)
    modes = {path.name.partition("-")[0]: stat.S_IMODE(path.stat().st_mode) for path in store.root.rglob("*")}
    assert modes == {
        ".lock": 0o600, "one.json": 0o600, "data": 0o700, "lock": 0o600, "memory": 0o600, "state": 0o600,
    }  # fmt: skip
    assert stat.S_IMODE(store.root.stat().st_mode) == 0o700


def test_what_is_not_published_is_gone(store: TemplateStore) -> None:
    with store.draft("one") as draft:
        fill(draft)
        assert len(data(store)) == 1
    assert (names(store), data(store)) == ([], [])


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("moment", range(SYNCS))
def test_a_maker_killed_at_any_moment_leaves_the_old_or_the_new_and_nothing_else(
    tmp_path: Path, moment: int, replace: bool
) -> None:
    syncs: list[Path] = []

    def die(path: Path) -> None:
        if len(syncs) == moment:
            os._exit(9)
        syncs.append(path)
        sync_path(path)

    root = tmp_path / "templates"
    store = TemplateStore(root)
    if replace:
        make(store, text="old")
    with child(lambda: make(TemplateStore(root, die), text="new", replace=replace)):
        pass
    seen = moment >= SEEN_AFTER
    assert names(store) == (["one"] if seen or replace else [])
    store.sweep()
    assert len(data(store)) == len(names(store))
    if names(store):
        assert read(store) == ("new" if seen else "old")
    make(store, text="again", replace=True)
    assert read(store) == "again"
    assert sorted(path.name for path in root.iterdir()) == sorted([".lock", "one.json", *data(store)])


def test_a_disk_that_is_full_leaves_the_old_template(tmp_path: Path) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    store = TemplateStore(tmp_path / "templates")
    make(store, text="old")
    failing = TemplateStore(store.root, full)
    with pytest.raises(OSError, match="No space left on device"):
        make(failing, text="new", replace=True)
    assert read(store) == "old"
    assert len(data(store)) == 1


def test_a_disk_without_room_for_a_line_is_told_by_name_and_keeps_no_folder(
    store: TemplateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match=rf"No space left on device: '{store.root}/data-\w+/lock'"):
        make(store)
    assert data(store) == []


def test_two_makers_of_one_name_do_not_meet(store: TemplateStore) -> None:
    with store.draft("one") as draft:
        with pytest.raises(TemplateError, match=rf"template one: process {os.getpid()} is making it; wait"):
            make(store)
        make(store, "two")
        fill(draft)
        draft.publish(IDENTITY, {})
    assert names(store) == ["one", "two"]


def test_what_a_live_maker_has_is_not_swept_and_what_a_dead_one_had_is(store: TemplateStore) -> None:
    def begin() -> None:
        draft = store.draft("one")
        fill(draft.__enter__())
        kept.append(draft)

    kept: list[object] = []
    with child(begin):
        make(store, "two")
        assert len(data(store)) == 2
    make(store, "three")
    assert names(store) == ["three", "two"]
    assert len(data(store)) == 2


def test_one_that_is_there_is_kept_unless_it_is_to_be_made_anew(store: TemplateStore) -> None:
    make(store, text="old")
    with pytest.raises(
        TemplateError, match=r"there is one already; make it anew with: .* create --force one"
    ):
        make(store)
    make(store, text="new", replace=True)
    assert read(store) == "new"


@pytest.mark.parametrize("how", ["remove", "replace"])
def test_who_reads_one_that_is_taken_away_keeps_its_data_until_done(store: TemplateStore, how: str) -> None:
    make(store, text="old")
    with store.open("one") as template:
        if how == "remove":
            store.remove("one")
        else:
            make(store, text="new", replace=True)
        assert (template.folder / "memory").read_text() == "old"
    assert not template.folder.exists()


def test_a_template_that_is_not_there_is_told_with_what_to_do(store: TemplateStore) -> None:
    told = "template one: there is none; make it with: kata-agent-ctl vm template create one"
    for attempt in (lambda: read(store), lambda: store.remove("one")):
        with pytest.raises(TemplateError, match=told):
            attempt()


def test_a_file_that_was_changed_is_refused_and_says_which(store: TemplateStore) -> None:
    make(store)
    (folder,) = store.root.glob("data-*")
    (folder / "memory").write_text("memorx")
    os.utime(folder / "memory", ns=(1, 1))
    with pytest.raises(TemplateError, match=r"data-.*/memory: it was written to since; make it anew"):
        read(store)
    (folder / "memory").write_text("longer than before")
    with pytest.raises(TemplateError, match="it has 18 bytes, and had 6"):
        read(store)
    (folder / "memory").unlink()
    with pytest.raises(TemplateError, match="memory: it is gone"):
        read(store)


def test_another_format_is_listed_kept_and_can_be_removed(store: TemplateStore) -> None:
    make(store)
    path = store.root / "one.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 7}))
    with pytest.raises(TemplateError, match="it has format 7, this program knows 1; make it anew"):
        read(store)
    (found,) = store.list()
    assert isinstance(found, ManifestError)
    make(store, "two")
    assert len(data(store)) == 2, "another program's template is not swept"
    store.remove("one")
    assert (names(store), len(data(store))) == (["two"], 1)


def test_nothing_is_swept_while_a_manifest_cannot_be_read(store: TemplateStore) -> None:
    make(store)
    (store.root / "one.json").write_text("{")
    make(store, "two")
    assert len(data(store)) == 2
    store.remove("one")
    assert len(data(store)) == 1


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "../x", "x" * 33])
def test_a_name_that_is_none_is_refused(store: TemplateStore, name: str) -> None:
    for attempt in (lambda: make(store, name), lambda: store.remove(name), lambda: read(store, name)):
        with pytest.raises(TemplateError, match="a template's name is up to 32 letters"):
            attempt()


def test_a_folder_of_somebody_else_s_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(TemplateError, match="set KATA_CACHE_DIR"):
        make(TemplateStore(tmp_path / "open"))


def test_templates_are_not_kept_among_machines_whose_folders_are_swept() -> None:
    environ = {"KATA_VM_DIR": "/vms"}
    for chosen, more in (("/vms/x", {}), (None, {"KATA_CACHE_DIR": "/vms"})):
        with pytest.raises(TemplateError, match="lies in /vms, where only machines that run may be"):
            find_template_root(chosen, environ | more)
    assert find_template_root("/vms-cache", environ) == Path("/vms-cache")


def test_where_templates_lie() -> None:
    assert find_template_root("/a", {"KATA_CACHE_DIR": "/b"}) == Path("/a")
    assert find_template_root(None, {"KATA_CACHE_DIR": "/b"}) == Path("/b/templates")
    if os.geteuid() == 0:
        assert find_template_root(None, {}) == Path("/var/cache/kata-guest/templates")
    else:
        assert find_template_root(None, {"HOME": "/h"}) == Path("/h/.cache/kata-guest/templates")
        assert find_template_root(None, {"XDG_CACHE_HOME": "/c"}) == Path("/c/kata-guest/templates")
