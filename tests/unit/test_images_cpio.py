"""The archive's bytes: one golden archive, parents before children, the same bytes whatever the order of making."""

from __future__ import annotations

from pathlib import Path

from kata_images.cpio import Entry, character_device, file, folder, link, pack, read_tree, with_parents


def record(
    number: int, mode: int, links: int, data: bytes, name: bytes, device: tuple[int, int] = (0, 0)
) -> bytes:
    """Write one record by hand, as the kernel's buffer-format document lays it out."""
    numbers = [number, mode, 0, 0, links, 0, len(data), 0, 0, *device, len(name) + 1, 0]
    head = b"070701" + "".join(f"{value:08X}" for value in numbers).encode() + name + b"\0"
    head += b"\0" * (-len(head) % 4)
    return head + data + b"\0" * (-len(data) % 4)


def test_the_archive_is_the_documented_format_byte_for_byte() -> None:
    tree = {
        "etc/name": file(b"guest\n", 0o640),
        "dev/console": character_device(5, 1, 0o600),
        "init": link("etc/name"),
    }
    expected = [
        record(1, 0o040755, 2, b"", b"dev"),
        record(2, 0o020600, 1, b"", b"dev/console", (5, 1)),
        record(3, 0o040755, 2, b"", b"etc"),
        record(4, 0o100640, 1, b"guest\n", b"etc/name"),
        record(5, 0o120777, 1, b"etc/name", b"init"),
        record(0, 0, 1, b"", b"TRAILER!!!"),
    ]
    assert b"".join(pack(tree)) == b"".join(expected)


def test_the_order_of_making_does_not_show() -> None:
    entries: dict[str, Entry] = {"b": file(b"2"), "a/c": file(b"1"), "a": folder(0o700)}
    backwards = dict(reversed(entries.items()))
    assert b"".join(pack(entries)) == b"".join(pack(backwards))


def test_parents_are_added_but_never_replaced() -> None:
    tree = with_parents({"a/b/c": file(b""), "a": folder(0o700)})
    assert tree["a"] == folder(0o700)
    assert tree["a/b"] == folder(0o755)
    assert "." not in tree


def test_a_folder_is_read_without_owners_and_times(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir(mode=0o750)
    (tmp_path / "d" / "f").write_bytes(b"text")
    (tmp_path / "d" / "f").chmod(0o755)
    (tmp_path / "l").symlink_to("d/f")
    tree = read_tree(tmp_path)
    assert tree["d"] == folder(0o750)
    assert (tree["d/f"].mode, tree["d/f"].read(), tree["d/f"].size) == (0o100755, b"text", 4)
    assert tree["l"] == link("d/f")
