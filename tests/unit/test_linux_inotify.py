"""inotify: which file was modified, and what an overflow looks like."""

from __future__ import annotations

import os
import struct

import pytest

from kata_linux import inotify


@pytest.fixture
def fd():
    fd = inotify.open_inotify()
    yield fd
    os.close(fd)


def test_tells_the_watches_of_the_files_that_were_modified(fd, tmp_path):
    paths = [tmp_path / name for name in "abc"]
    watches = []
    for path in paths:
        path.write_text("")
        watches.append(inotify.add_watch(fd, str(path)))
    assert inotify.read_watches(fd) == (set(), False)
    for path in (paths[0], paths[2], paths[0]):
        path.write_text("x")
    assert inotify.read_watches(fd) == ({watches[0], watches[2]}, False)


def test_an_ended_watch_tells_nothing(fd, tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    watch = inotify.add_watch(fd, str(path))
    inotify.remove_watch(fd, watch)
    path.write_text("x")
    assert inotify.read_watches(fd) == (set(), False)
    with pytest.raises(OSError, match="end a watch: Invalid argument"):
        inotify.remove_watch(fd, watch)


def test_a_file_that_is_not_there_is_named(fd, tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        inotify.add_watch(fd, str(tmp_path / "gone"))
    assert caught.value.filename == str(tmp_path / "gone")


def test_lost_events_are_told():
    """The queue's length is the system's (fs.inotify.max_queued_events), so the event is made up."""
    read_end, write_end = os.pipe()
    named = struct.pack("iIII", 5, inotify.IN_MODIFY, 0, 16) + b"name".ljust(16, b"\0")
    os.write(write_end, named + struct.pack("iIII", -1, inotify.IN_Q_OVERFLOW, 0, 0))
    try:
        assert inotify.read_watches(read_end) == ({5}, True)
    finally:
        os.close(read_end)
        os.close(write_end)


def test_a_folder_s_events_have_names(fd, tmp_path):
    watch = inotify.add_watch(fd, str(tmp_path), inotify.IN_CREATE | inotify.IN_MOVED_TO)
    (tmp_path / "one").symlink_to("x")
    (tmp_path / "one").rename(tmp_path / "other")
    events, lost = inotify.read_events(fd)
    assert events == [
        inotify.Event(watch, inotify.IN_CREATE, "one"),
        inotify.Event(watch, inotify.IN_MOVED_TO, "other"),
    ]
    assert not lost
