"""CopyFile in a real folder: pieces, folders, links, and that nothing leads out of the root."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from kata_agent import tree
from kata_agent.errors import InvalidRequest
from kata_agent.guest.copyfile import Copier, Piece, temporary_name
from kata_agent.worker import Worker
from kata_linux import mount
from kata_linux._libc import AT_FDCWD, call
from kata_testing.wire import run_async

EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2)
REGULAR = stat.S_IFREG | 0o644


def copy(root: Path, *pieces: Piece) -> None:
    async def work() -> None:
        copier = Copier(str(root), Worker(4))
        for piece in pieces:
            await copier.copy(piece)

    run_async(work())


def piece(root: Path, name: str, data: bytes, *, size: int, offset: int = 0, mode: int = REGULAR) -> Piece:
    return Piece(f"{root}/{name}", size, mode, 0o755, -1, -1, offset, data)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def test_file_is_seen_only_when_its_last_piece_has_come(root: Path) -> None:
    copy(root, piece(root, "a.txt", b"hel", size=5))
    assert not (root / "a.txt").exists()
    copy(root, piece(root, "a.txt", b"lo", size=5, offset=3))
    assert (root / "a.txt").read_bytes() == b"hello"
    assert os.listdir(root) == ["a.txt"]


def test_empty_file_is_complete_with_its_single_piece(root: Path) -> None:
    copy(root, piece(root, "empty", b"", size=0))
    assert (root / "empty").read_bytes() == b""


def test_files_that_differ_only_in_their_extension_do_not_mix(root: Path) -> None:
    copy(
        root,
        piece(root, "a.txt", b"12", size=4),
        piece(root, "a.json", b"ab", size=4),
        piece(root, "a.txt", b"34", size=4, offset=2),
        piece(root, "a.json", b"cd", size=4, offset=2),
    )
    assert (root / "a.txt").read_bytes() == b"1234"
    assert (root / "a.json").read_bytes() == b"abcd"


def test_last_piece_sent_again_changes_nothing(root: Path) -> None:
    last = piece(root, "f", b"lo", size=5, offset=3)
    copy(root, piece(root, "f", b"hel", size=5), last, last)
    assert (root / "f").read_bytes() == b"hello"


def test_piece_without_the_ones_before_it_is_refused(root: Path) -> None:
    with pytest.raises(InvalidRequest, match="a piece at 3 without the ones before it"):
        copy(root, piece(root, "f", b"lo", size=5, offset=3))
    assert not (root / "f").exists()


def test_mode_comes_with_the_file(root: Path) -> None:
    copy(root, piece(root, "f", b"x", size=1, mode=stat.S_IFREG | 0o4711))
    assert stat.S_IMODE((root / "f").stat().st_mode) == 0o4711


def test_only_the_last_missing_folder_gets_the_mode_that_was_sent(root: Path) -> None:
    copy(root, Piece(f"{root}/a/b/c", 1, REGULAR, 0o20000000710, -1, -1, 0, b"x"))
    assert stat.S_IMODE((root / "a").stat().st_mode) == 0o755
    assert stat.S_IMODE((root / "a/b").stat().st_mode) == 0o710


def test_existing_folder_keeps_its_mode(root: Path) -> None:
    (root / "a").mkdir(parents=True, mode=0o700)
    copy(root, Piece(f"{root}/a/c", 1, REGULAR, 0o777, -1, -1, 0, b"x"))
    assert stat.S_IMODE((root / "a").stat().st_mode) == 0o700


def test_folder_replaces_a_file_and_keeps_its_content_when_it_is_there(root: Path) -> None:
    folder = Piece(f"{root}/d", 0, stat.S_IFDIR | 0o750)
    copy(root, piece(root, "d", b"x", size=1), folder)
    (root / "d/inside").write_text("stays")
    copy(root, folder)
    assert (root / "d/inside").read_text() == "stays"
    assert stat.S_IMODE((root / "d").stat().st_mode) == 0o750


def test_file_replaces_a_folder_with_content(root: Path) -> None:
    (root / "d/deep").mkdir(parents=True)
    (root / "d/deep/f").write_text("old")
    copy(root, piece(root, "d", b"new", size=3))
    assert (root / "d").read_text() == "new"


def test_link_is_made_with_its_text_as_sent_and_replaces_what_is_there(root: Path) -> None:
    link = Piece(f"{root}/l", 0, stat.S_IFLNK | 0o777, data=b"../any where")
    copy(root, piece(root, "l", b"x", size=1), link, link)
    assert (root / "l").readlink() == Path("../any where")


def test_file_replaces_a_link_and_does_not_write_through_it(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("untouched")
    root.mkdir()
    (root / "l").symlink_to(outside)
    copy(root, piece(root, "l", b"new", size=3))
    assert outside.read_text() == "untouched"
    assert (root / "l").read_text() == "new"
    assert not (root / "l").is_symlink()


@pytest.mark.parametrize("planted", ["l", "l/deeper"])
def test_link_on_the_way_is_not_followed(root: Path, tmp_path: Path, planted: str) -> None:
    outside = tmp_path / "outside"
    (outside / "deeper").mkdir(parents=True)
    root.mkdir()
    (root / "l").symlink_to(outside)
    with pytest.raises(OSError, match=r"openat2|Not a directory|Too many"):
        copy(root, piece(root, f"{planted}/f", b"x", size=1))
    assert os.listdir(outside / "deeper") == []
    assert os.listdir(outside) == ["deeper"]


def test_link_planted_under_the_temporary_name_is_not_followed(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("untouched")
    root.mkdir()
    (root / temporary_name("f")).symlink_to(outside)
    with pytest.raises(OSError, match="Too many levels"):
        copy(root, piece(root, "f", b"x", size=1))
    assert outside.read_text() == "untouched"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("{root}/../x", "contains '..'"),
        ("{root}/a/../../x", "contains '..'"),
        ("{root}x/f", "is not below"),
        ("/etc/passwd", "is not below"),
        ("relative", "is not below"),
        ("{root}", "the root of all copied files"),
        ("{root}/./", "the root of all copied files"),
        ("{root}/a\0b", "NUL"),
        pytest.param("{root}" + "/q" * 3000, "longer than 4096 bytes", id="too long"),
    ],
)
def test_path_that_does_not_lie_plainly_below_the_root_is_refused(root: Path, path: str, text: str) -> None:
    with pytest.raises(InvalidRequest, match=text):
        copy(root, Piece(path.format(root=root), 0, REGULAR))


def test_link_to_a_name_that_cannot_be_is_refused_by_its_path(root: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"/l: the link's target contains a NUL"):
        copy(root, Piece(f"{root}/l", 0, stat.S_IFLNK | 0o777, data=b"a\0b"))


@pytest.mark.parametrize(
    ("offset", "size", "data"), [(-1, 1, b"x"), (0, -1, b""), (0, 1, b"xy"), (1, 1, b"x")]
)
def test_piece_that_does_not_fit_its_file_is_refused(root: Path, offset: int, size: int, data: bytes) -> None:
    with pytest.raises(InvalidRequest):
        copy(root, piece(root, "f", data, size=size, offset=offset))


def test_owner_that_is_no_id_is_refused_by_name(root: Path) -> None:
    with pytest.raises(InvalidRequest, match="owner -1:-2 is neither an id nor -1"):
        copy(root, Piece(f"{root}/f", 1, REGULAR, 0o755, -1, -2, 0, b"x"))
    assert not root.exists()


@pytest.mark.requires("root")
def test_file_that_cannot_take_its_place_leaves_nothing_behind(root: Path) -> None:
    held = root / "held"
    held.mkdir(parents=True)
    mount.mount("tmpfs", str(held), "tmpfs")
    try:
        with pytest.raises(OSError, match="held"):
            copy(root, piece(root, "held", b"x", size=1))
        assert os.listdir(root) == ["held"]
    finally:
        mount.umount(str(held))


@pytest.mark.requires("root")
@pytest.mark.parametrize("mode", [REGULAR, stat.S_IFLNK | 0o777], ids=["file", "link"])
def test_a_folder_with_a_mount_in_it_is_refused_before_anything_of_it_is_removed(
    root: Path, mode: int
) -> None:
    """A live container's folder is one: its root is mounted there."""
    inside = root / "bundle" / "rootfs"
    inside.mkdir(parents=True)
    (root / "bundle" / "config.json").write_text("precious")
    mount.mount("tmpfs", str(inside), "tmpfs")
    try:
        with pytest.raises(OSError, match=f"{inside} mounted in it"):
            copy(root, piece(root, "bundle", b"x", size=1, mode=mode))
        assert (root / "bundle" / "config.json").read_text() == "precious"
        assert os.listdir(root) == ["bundle"]
    finally:
        mount.umount(str(inside))


def test_temporary_name_fits_any_file_name(root: Path) -> None:
    longest = "é" * 127
    copy(root, piece(root, longest, b"x", size=1))
    assert os.listdir(root) == [longest]


def test_folder_swapped_for_a_link_meanwhile_never_leads_out(root: Path, tmp_path: Path) -> None:
    """The race: while files are copied into a folder, someone swaps it for a link to the outside."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / "d").mkdir(parents=True)
    (tmp_path / "link").symlink_to(outside)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            call(
                "renameat2",
                AT_FDCWD,
                str(root / "d"),
                AT_FDCWD,
                str(tmp_path / "link"),
                EXCHANGE,
                operation="swap",
            )

    async def work() -> tuple[int, int]:
        copier = Copier(str(root), Worker(4))
        done = refused = 0
        for number in range(300):
            try:
                await copier.copy(piece(root, f"d/f{number}", b"x", size=1))
                done += 1
            except (OSError, InvalidRequest):
                refused += 1
        return done, refused

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        done, refused = run_async(work())
    finally:
        stop.set()
        thread.join()
    assert os.listdir(outside) == []
    assert done + refused == 300


def test_clear_keeps_the_folder_and_removes_the_rest(root: Path) -> None:
    (root / "a/b").mkdir(parents=True)
    (root / "a/b/f").write_text("x")
    (root / "l").symlink_to("/")
    fd = os.open(root.parent, os.O_RDONLY)
    try:
        tree.clear(fd, "root")
    finally:
        os.close(fd)
    assert os.listdir(root) == []


def send_tree(source: Path, target: str) -> list[Piece]:
    """The requests of Kata's Go runtime for a folder that it cannot share: a walk in order of names."""
    pieces = []
    for folder, folders, files in os.walk(source):
        folders.sort()
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in ["", *sorted([*files, *links])]:
            path = Path(folder) / name if name else Path(folder)
            found = path.lstat()
            data = b""
            if path.is_symlink():
                data = os.fsencode(os.readlink(path))
            elif path.is_file():
                data = path.read_bytes()
            size = found.st_size if stat.S_ISREG(found.st_mode) else 0
            where = f"{target}/{path.relative_to(source)}" if path != source else target
            # The directory's mode is Go's: its bit for a folder is above what an unsigned 31 bits hold.
            mode = 0x800001E8 & 0x7FFFFFFF
            step = 3 if size else 1
            for offset in range(0, max(size, 1), step):
                chunk = data[offset : offset + step] if size else data
                pieces.append(
                    Piece(where, size, found.st_mode, mode, found.st_uid, found.st_gid, offset, chunk)
                )
    return pieces


def describe_tree(folder: Path) -> dict[str, object]:
    found = {}
    for path in sorted([folder, *folder.rglob("*")]):
        status = path.lstat()
        content: object = None
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_file():
            content = path.read_bytes()
        found[str(path.relative_to(folder))] = (status.st_mode, status.st_uid, status.st_gid, content)
    return found


def test_tree_of_a_host_arrives_as_it_was_with_modes_owners_and_links(root: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "..v1" / "deep").mkdir(parents=True)
    (source / "..v1" / "key").write_text("a longer text")
    (source / "..v1" / "deep" / "empty").write_text("")
    (source / "..v1" / "tool").write_text("#!")
    (source / "..v1" / "tool").chmod(0o4755)
    (source / "..v1" / "deep").chmod(0o1700)
    (source / "..data").symlink_to("..v1")
    (source / "key").symlink_to("..data/key")
    (source / "dangling").symlink_to("nowhere/at all")
    (source / "folder link").symlink_to("..v1/deep")
    if os.geteuid() == 0:
        os.chown(source / "..v1" / "key", 1000, 2000)
        os.chown(source / "..v1" / "tool", 7, 8)
        os.lchown(source / "dangling", 3, 4)
    copy(root, *send_tree(source, f"{root}/app-0123-config"))
    assert describe_tree(root / "app-0123-config") == describe_tree(source)
    copy(root, *send_tree(source, f"{root}/app-0123-config"))  # once more, as after a lost answer
    assert describe_tree(root / "app-0123-config") == describe_tree(source)


def test_reader_never_misses_a_link_that_is_switched(root: Path) -> None:
    copy(root, piece(root, "..v0/key", b"0", size=1), link(root, "..data", "..v0"))
    broken: list[str] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            try:
                (root / "..data" / "key").read_bytes()
            except OSError as error:
                broken.append(str(error))
                return

    reader = threading.Thread(target=look)
    reader.start()
    try:
        for number in range(1, 150):
            copy(root, piece(root, f"..v{number}/key", b"0", size=1), link(root, "..data", f"..v{number}"))
    finally:
        done.set()
        reader.join()
    assert not broken
    assert sorted(os.listdir(root)) == sorted(["..data", *(f"..v{number}" for number in range(150))])


def link(root: Path, name: str, target: str) -> Piece:
    return Piece(f"{root}/{name}", mode=stat.S_IFLNK | 0o777, data=target.encode())
