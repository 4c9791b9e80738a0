"""The kernel's text interfaces, read from texts and real temporary trees."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from kata_linux import (
    cgroupfs,
    cmdline,
    kernel_tail,
    kmsg,
    mountinfo,
    openat2,
    pidfd,
    pipes,
    procfs,
    signalfd,
)
from kata_linux._libc import call
from kata_linux.record import Record

LINE = r"36 35 98:0 /a\040b /mnt/x\011\134y rw,noatime shared:1 master:2 - fuse.x host:/a\040b rw,errors=continue"


class TestMountinfo:
    def test_a_line_is_parsed_and_unescaped(self) -> None:
        entry = mountinfo.parse_line(LINE)
        assert (entry.mount_id, entry.parent_id, entry.device) == (36, 35, "98:0")
        assert (entry.root, entry.mount_point) == ("/a b", "/mnt/x\t\\y")
        assert entry.optional == ("shared:1", "master:2")
        assert (entry.fstype, entry.source) == ("fuse.x", "host:/a b")
        assert entry.super_options == ("rw", "errors=continue")

    def test_a_mount_point_that_is_a_dash_does_not_end_the_optional_fields(self) -> None:
        assert mountinfo.parse_line("1 0 0:1 / - rw - proc proc rw").mount_point == "-"

    @pytest.mark.parametrize("line", ["", "x", "1 2 3 4 5 6", "1 0 0:1 / /x rw shared:1 proc proc rw"])
    def test_what_is_no_line_is_refused_by_its_text(self, line: str) -> None:
        with pytest.raises(ValueError, match="not a line of mountinfo"):
            mountinfo.parse_line(line)

    def test_the_topmost_mount_wins(self) -> None:
        mounts = mountinfo.parse_mountinfo("1 0 0:1 / /x rw - a a rw\n2 1 0:2 / /x rw - b b rw\n")
        found = mountinfo.find_mount(mounts, "/x")
        assert found is not None
        assert found.fstype == "b"

    def test_this_process_has_a_root(self) -> None:
        assert mountinfo.find_mount(mountinfo.read_mounts(), "/") is not None

    def test_a_backslash_without_three_digits_stays(self) -> None:
        assert mountinfo.unescape("a\\b\\09") == "a\\b\\09"


class TestProcfs:
    def test_a_name_with_blanks_and_brackets_is_no_trap(self) -> None:
        stat = procfs.parse_stat(b"7 (a) S (b) Z 3 4 5 " + b"0 " * 15 + b"99 1 2\n")
        assert (stat.pid, stat.comm, stat.state, stat.ppid, stat.start_time) == (7, "a) S (b", "Z", 3, 99)

    @pytest.mark.parametrize("data", [b"", b"1 (x", b"1 (x) S 1"])
    def test_what_is_no_stat_is_refused(self, data: bytes) -> None:
        with pytest.raises(ValueError, match="not a line of /proc/PID/stat"):
            procfs.parse_stat(data)

    def test_files_are_read_below_the_given_root(self, tmp_path: Path) -> None:
        (tmp_path / "7").mkdir()
        (tmp_path / "7/status").write_text("Name:\tx\nPid:\t7\n")
        (tmp_path / "7/cmdline").write_bytes(b"a\0b c\0")
        (tmp_path / "self").mkdir()
        root = os.fspath(tmp_path)
        assert procfs.read_status(7, proc=root) == {"Name": "x", "Pid": "7"}
        assert procfs.read_cmdline(7, proc=root) == ["a", "b c"]
        assert procfs.list_pids(proc=root) == [7]


class TestCmdline:
    def test_words_are_split_at_ascii_white_space_only(self) -> None:
        assert cmdline.split_cmdline(" a=b  c\td\u00a0e\n") == ["a=b", "c", "d\u00a0e"]

    def test_quotes_mean_nothing(self) -> None:
        assert cmdline.split_cmdline('a="b c"') == ['a="b', 'c"']


class TestCgroupfs:
    @pytest.fixture
    def group(self, tmp_path: Path) -> str:
        (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
        (tmp_path / "cgroup.subtree_control").write_text("")
        (tmp_path / "cgroup.events").write_text("populated 1\nfrozen 0\n")
        (tmp_path / "cgroup.procs").write_text("12\n13\n")
        return os.fspath(tmp_path)

    def test_files_are_read(self, group: str) -> None:
        assert cgroupfs.read_controllers(group) == ["cpu", "memory"]
        assert cgroupfs.read_flat(group, "cgroup.events") == {"populated": 1, "frozen": 0}
        assert cgroupfs.list_processes(group) == [12, 13]
        assert cgroupfs.is_populated(group)

    def test_a_misspelt_file_is_not_made(self, group: str) -> None:
        with pytest.raises(FileNotFoundError, match="write '1' to: No such file") as caught:
            cgroupfs.write_control(group, "cgroup.kil", "1")
        assert caught.value.filename == f"{group}/cgroup.kil"
        assert not Path(group, "cgroup.kil").exists()

    def test_each_controller_is_enabled_by_a_write_of_its_own(self, group: str) -> None:
        assert cgroupfs.enable_controllers(group) == []
        # a plain file is overwritten from its start by each write
        assert Path(group, "cgroup.subtree_control").read_text() == "+memory"

    def test_one_controller_that_fails_is_told_and_the_others_are_tried(self, group: str) -> None:
        Path(group, "cgroup.subtree_control").unlink()
        assert [type(error) for error in cgroupfs.enable_controllers(group)] == [FileNotFoundError] * 2

    def test_groups_are_removed_from_the_inside_and_gone_is_fine(self, tmp_path: Path) -> None:
        (tmp_path / "a/b/c").mkdir(parents=True)
        cgroupfs.remove(os.fspath(tmp_path / "a"))
        assert not (tmp_path / "a").exists()
        cgroupfs.remove(os.fspath(tmp_path / "a"))


class TestKmsg:
    def test_each_line_is_a_record_with_level_and_name(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        path.touch()
        log = kmsg.KernelLog("me", os.fspath(path))
        log.write(kmsg.ERROR, "one\ntwo")
        log.close()
        assert path.read_text() == "<27>me: one\n<27>me: two\n"

    def test_no_record_is_longer_than_the_kernel_takes(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        path.touch()
        log = kmsg.KernelLog("me", os.fspath(path))
        log.write(kmsg.INFO, "x" * 3000)
        log.close()
        lines = path.read_text().splitlines()
        assert sum(line.count("x") for line in lines) == 3000
        assert max(len(line) for line in lines) < 1000


class TestKernelTail:
    def test_a_record_is_its_text_without_what_the_kernel_knows_of_the_device(self) -> None:
        record = b"3,2859,28839521160,-;EXT4-fs (loop0): VFS: Can't find it\n SUBSYSTEM=block\n"
        assert kernel_tail.parse_record(record) == "EXT4-fs (loop0): VFS: Can't find it"

    def test_what_processes_write_is_left_out(self) -> None:
        assert kernel_tail.parse_record(b"27,5,1,-;me: overlayfs: a lie\n") is None

    def test_what_is_no_record_is_refused(self) -> None:
        with pytest.raises(ValueError, match="invalid literal"):
            kernel_tail.parse_record(b"nothing")


class TestOpenat2:
    @pytest.fixture
    def root(self, tmp_path: Path) -> str:
        (tmp_path / "root/etc").mkdir(parents=True)
        (tmp_path / "root/etc/name").write_text("inside")
        (tmp_path / "name").write_text("outside")
        (tmp_path / "root/up").symlink_to("../name")
        (tmp_path / "root/absolute").symlink_to("/etc/name")
        return os.fspath(tmp_path / "root")

    def read(self, root: str, path: str, resolve: int) -> str:
        folder = openat2.open_root(root)
        try:
            fd = openat2.openat2(folder, path, os.O_RDONLY, resolve=resolve)
        finally:
            os.close(folder)
        with open(fd, encoding="utf-8") as file:
            return file.read()

    def test_links_are_resolved_inside_the_root(self, root: str) -> None:
        assert self.read(root, "absolute", openat2.RESOLVE_IN_ROOT) == "inside"
        with pytest.raises(FileNotFoundError):
            self.read(root, "up", openat2.RESOLVE_IN_ROOT)

    @pytest.mark.parametrize("path", ["up", "absolute", "../name", "/etc/name"])
    def test_beneath_refuses_what_leaves(self, root: str, path: str) -> None:
        with pytest.raises(OSError, match="openat2: Invalid cross-device link"):
            self.read(root, path, openat2.RESOLVE_BENEATH)

    def test_links_can_be_forbidden(self, root: str) -> None:
        with pytest.raises(OSError, match="openat2: Too many levels of symbolic links"):
            self.read(root, "absolute", openat2.RESOLVE_IN_ROOT | openat2.RESOLVE_NO_SYMLINKS)


class TestPipes:
    def test_tee_copies_and_splice_takes(self) -> None:
        ends = [*os.pipe(), *os.pipe()]
        source, source_in, target, target_in = ends
        os.write(source_in, b"abc")
        assert pipes.tee(source, target_in, 10) == 3
        assert pipes.read_waiting(source) == 3
        assert pipes.splice(source, target_in, 10) == 3
        assert os.read(target, 10) == b"abcabc"
        with pytest.raises(BlockingIOError, match="tee"):
            pipes.tee(source, target_in, 10)
        assert pipes.set_size(source, 8192) == pipes.read_size(source) == 8192
        for fd in ends:
            os.close(fd)


class TestSignalfd:
    def test_a_blocked_signal_is_read_with_its_sender(self) -> None:
        mask = signalfd.block([signalfd.SIGHUP])
        fd = signalfd.open_signalfd([signalfd.SIGHUP])
        try:
            assert signalfd.read_signals(fd) == []
            # To this thread: one that another test has left behind would take the process's, and end it.
            signal.pthread_kill(threading.get_ident(), signalfd.SIGHUP)
            assert signalfd.read_signals(fd) == [(signalfd.SIGHUP, os.getpid())]
        finally:
            os.close(fd)
            signalfd.restore(mask)


class TestPidfd:
    def test_another_process_of_the_same_pid_is_not_opened(self) -> None:
        start_time = procfs.read_start_time(os.getpid())
        fd = pidfd.open_process(os.getpid(), start_time)
        pidfd.send_signal(fd, 0)
        os.close(fd)
        with pytest.raises(ProcessLookupError):
            pidfd.open_process(os.getpid(), start_time + 1)


def test_a_failure_tells_operation_and_path() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        call("umount2", "/no/such/place", 0, operation="umount", path="/no/such/place")
    assert (caught.value.strerror, caught.value.filename) == (
        "umount: No such file or directory",
        "/no/such/place",
    )


def test_a_path_with_a_nul_is_refused_before_c_sees_a_shorter_one() -> None:
    with pytest.raises(ValueError, match="null byte"):
        call("umount2", "/proc\0/x", 0, operation="umount")


class Point(Record):
    x: int
    y: int = 2


class TestRecord:
    def test_it_is_a_named_tuple(self) -> None:
        point = Point(1)
        assert (point.x, point.y) == (1, 2) == point
        assert repr(point) == "Point(x=1, y=2)"
        assert point._replace(x=5) == Point(x=5, y=2)
        match point:
            case Point(1, y):
                assert y == 2
            case _:
                pytest.fail("records match by position")

    @pytest.mark.parametrize(
        ("values", "named"), [((), {}), ((1, 2, 3), {}), ((1,), {"z": 1}), ((1,), {"x": 1})]
    )
    def test_wrong_fields_are_refused(self, values: tuple[int, ...], named: dict[str, int]) -> None:
        with pytest.raises(TypeError, match="Point"):
            Point(*values, **named)

    def test_it_cannot_be_changed(self) -> None:
        with pytest.raises(AttributeError):
            Point(1).x = 2  # type: ignore[misc]
