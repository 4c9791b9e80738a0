"""The steps of a mirror: what has changed, and in which order a reader must see it."""

from __future__ import annotations

from kata_agent.mounts.mirror.plan import Drop, PutFile, PutFolder, PutLink, is_changed, plan_steps
from kata_agent.mounts.mirror.snapshot import FILE, FOLDER, LINK, Item, Snapshot


def item(kind: str, number: int = 1, *, mode: int = 0o644, target: str = "", size: int = 3) -> Item:
    return Item(kind, (number, size, number, number), mode, 0, 0, target)


def config_map(version: int, *keys: str) -> Snapshot:
    folder = f"..v{version}"
    return {
        "": item(FOLDER),
        folder: item(FOLDER),
        "..data": item(LINK, target=folder),
        **{f"{folder}/{key}": item(FILE, version) for key in keys},
        **{key: item(LINK, target=f"..data/{key}") for key in keys},
    }


def test_new_version_is_whole_before_it_is_switched_to_and_the_old_one_goes_with_the_next_look():
    steps = plan_steps(config_map(2, "a", "new"), config_map(1, "a", "old"), {})
    assert [(type(step), step.path) for step in steps] == [
        (PutFolder, "..v2"),
        (PutFile, "..v2/a"),
        (PutFile, "..v2/new"),
        (PutLink, "..data"),
        (PutLink, "new"),
        (Drop, "old"),
    ]
    left = {**config_map(2, "a", "new"), "..v1": item(FOLDER), "..v1/a": item(FILE)}
    assert plan_steps(config_map(2, "a", "new"), left, {}) == (Drop("..v1"),)


def test_what_is_the_same_needs_no_step():
    assert plan_steps(config_map(1, "a"), config_map(1, "a"), {}) == ()


def test_folders_come_before_what_is_in_them():
    tree = {"": item(FOLDER), "a/b": item(FOLDER), "a": item(FOLDER), "a/b/c": item(FILE)}
    steps = plan_steps(tree, {"": item(FOLDER)}, {})
    assert [step.path for step in steps] == ["a", "a/b", "a/b/c"]


def test_only_the_top_of_what_is_gone_is_dropped():
    have = {"": item(FOLDER), "a": item(FOLDER), "a/b": item(FILE)}
    assert plan_steps({"": item(FOLDER)}, have, {}) == (Drop("a"),)


def test_a_file_of_the_same_age_and_size_is_another_one_if_its_stamp_is():
    old, new = item(FILE)._replace(stamp=(7, 3, 1, 1)), item(FILE)._replace(stamp=(8, 3, 1, 1))
    assert not is_changed(new, old, None)  # the copy has an inode of its own
    assert not is_changed(new, old, new.stamp)
    assert is_changed(new, old, old.stamp)


def test_mode_owner_kind_and_target_count():
    base = item(FILE)
    assert is_changed(base._replace(mode=0o600), base, None)
    assert is_changed(base._replace(uid=5), base, None)
    assert is_changed(base._replace(gid=5), base, None)
    assert is_changed(item(FOLDER), base, None)
    assert is_changed(item(LINK, target="x"), item(LINK, target="y"), None)
    assert is_changed(base, None, None)
