"""Mounts and namespaces for real, each in a child with a mount namespace of its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kata_linux import interfaces, mount, mountinfo, namespaces, power

pytestmark = pytest.mark.requires("root")


def in_private_mounts(check: Callable[[], object]) -> None:
    """Run a check in a forked child; its failure is this test's."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            namespaces.make_private_mounts()
            check()
        except BaseException as error:  # noqa: BLE001 - carried to the parent
            os.write(write_end, f"{type(error).__name__}: {error}".encode()[:4000])
        os._exit(0)
    os.close(write_end)
    with open(read_end, encoding="utf-8") as file:
        told = file.read()
    os.waitpid(pid, 0)
    assert told == ""


def options_of(path: Path) -> tuple[str, ...]:
    found = mountinfo.find_mount(mountinfo.read_mounts(), os.fspath(path))
    assert found is not None, f"{path} is not mounted"
    return found.options


def test_mount_bind_move_remount_and_umount(tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in "abc")
    for folder in (first, second, third):
        folder.mkdir()

    def check() -> None:
        mount.mount("tmpfs", first, "tmpfs", mount.MS_NOSUID, "mode=700")
        (first / "file").touch()
        mount.bind(first, second)
        mount.remount_bind(second, mount.MS_RDONLY | mount.MS_NODEV)
        assert {"ro", "nodev"} <= set(options_of(second))
        assert "rw" in options_of(first)
        mount.move(second, third)
        assert (third / "file").exists()
        assert not (second / "file").exists()
        mount.umount(third)
        mount.umount(first, mount.MNT_DETACH)
        assert not (first / "file").exists()

    in_private_mounts(check)


def test_attributes_of_a_whole_tree_change_at_once(tmp_path: Path) -> None:
    def check() -> None:
        mount.mount("tmpfs", tmp_path, "tmpfs")
        (tmp_path / "inner").mkdir()
        mount.mount("tmpfs", tmp_path / "inner", "tmpfs")
        mount.set_attributes(tmp_path, add=mount.MOUNT_ATTR_RDONLY | mount.MOUNT_ATTR_NOEXEC, recursive=True)
        assert {"ro", "noexec"} <= set(options_of(tmp_path / "inner"))
        mount.set_attributes(tmp_path, remove=mount.MOUNT_ATTR_RDONLY)
        assert "rw" in options_of(tmp_path)

    in_private_mounts(check)


def test_a_tree_is_cloned_by_descriptor_and_attached(tmp_path: Path) -> None:
    def check() -> None:
        mount.mount("tmpfs", tmp_path, "tmpfs")
        (tmp_path / "a").mkdir()
        (tmp_path / "a/file").touch()
        (tmp_path / "b").mkdir()
        tree = mount.clone_tree(tmp_path / "a")
        mount.attach_tree(tree, tmp_path / "b")
        os.close(tree)
        assert (tmp_path / "b/file").exists()

    in_private_mounts(check)


def test_a_failed_mount_tells_what_and_where(tmp_path: Path) -> None:
    def check() -> None:
        with pytest.raises(OSError, match="mount nosuchfs: No such device") as caught:
            mount.mount("x", tmp_path, "nosuchfs")
        assert caught.value.filename == tmp_path
        with pytest.raises(OSError, match="umount: Invalid argument"):
            mount.umount(tmp_path)

    in_private_mounts(check)


@pytest.mark.parametrize("kind", ["ipc", "uts"])
def test_a_namespace_outlives_the_thread_that_made_it(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind

    def check() -> None:
        before = os.readlink(f"/proc/self/ns/{kind}")
        namespaces.persist(kind, os.fspath(path))
        assert os.readlink(f"/proc/self/ns/{kind}") == before, "the caller moved too"
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        namespaces.setns(fd, namespaces.KINDS[kind])
        os.close(fd)
        assert os.readlink(f"/proc/self/ns/{kind}") != before

    in_private_mounts(check)


def test_a_namespace_that_cannot_be_kept_is_an_error_of_the_caller(tmp_path: Path) -> None:
    def fail() -> None:
        raise RuntimeError("not today")

    with pytest.raises(RuntimeError, match="not today"):
        namespaces.persist("uts", os.fspath(tmp_path / "uts"), fail)


def test_lo_of_a_new_network_namespace_comes_up() -> None:
    def check() -> None:
        namespaces.unshare(namespaces.CLONE_NEWNET)
        assert not interfaces.is_up("lo")
        interfaces.set_up("lo")
        assert interfaces.is_up("lo")
        with pytest.raises(OSError, match="set up interface: No such device"):
            interfaces.set_up("none0")

    in_private_mounts(check)


def test_a_pid_namespace_of_its_own_is_not_taken_for_the_machines() -> None:
    def check() -> None:
        namespaces.unshare(namespaces.CLONE_NEWPID)
        pid = os.fork()
        if pid == 0:
            os._exit(power.is_initial_pid_namespace())
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    in_private_mounts(check)
