"""What cannot be asked of a copy is refused with the reason and what to do; everything else reaches its order."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from kata_host.cli.copies import add_copy_options, read_copy, read_own, wants_copy
from kata_host.cli.errors import CliError
from kata_host.cli.machine import add_machine_options
from kata_host.cli.run_machine import plan_root
from kata_host.rootfs_image import RootImage
from kata_host.templates.copy import Copy, Own
from kata_host.templates.make import plan_source
from kata_host.templates.store import TemplateError
from kata_host.vm.base import GuestFiles, VmConfig


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--name")
    parser.add_argument("--share", type=Path)
    parser.add_argument("--savable", action="store_true")
    parser.add_argument("--stdio", default="rpc")
    add_copy_options(parser)
    add_machine_options(parser)
    return parser.parse_args(words)


REFUSED = {
    "--memory 512": "--memory with --template: it is the template's for good; make another template",
    "--cpus 2": "--cpus with --template: it is the template's for good",
    "--max-cpus 4": "--max-cpus with --template: it is the template's for good",
    "--image erofs": "--image with --template: it is the template's for good",
    "--kernel-arg agent.trace": "--kernel-arg with --template: it is the template's for good",
    "--accel tcg": "--accel with --template: it is the template's for good",
    "--guest-dir /srv/guest": "--guest-dir with --template: it is the template's for good",
    "--ksm": "--ksm with --template: copies share their template's pages already",
    "--memory-device 64": "--memory-device with --template: a machine with a memory device cannot be saved",
    "--savable": "--savable with --template: a copy of a template is saved by making another",
    "--stdio vsock": "--stdio vsock with --template: templates listen for calls alone; leave it away",
    "--pool other": "--template and --pool: give one of them",
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_a_copy_cannot_have_is_refused_with_the_reason(words: str) -> None:
    with pytest.raises(CliError, match=REFUSED[words]) as refused:
        wants_copy(parse("--template", "one", *words.split()))
    assert refused.value.status == 2


def test_a_machine_of_a_pool_has_its_name_already() -> None:
    with pytest.raises(CliError, match="--name with --pool: the machine is named already"):
        wants_copy(parse("--pool", "one", "--name", "two"))
    for words in (("--share", "/srv"), ("--channel", "vsock")):
        with pytest.raises(
            CliError, match=f"{words[0]}.* with --pool: .* in memory that no other process can map"
        ):
            wants_copy(parse("--pool", "one", *words))


def test_a_machine_that_is_booted_may_have_it_all() -> None:
    assert not wants_copy(parse(*" ".join(word for word in REFUSED if "--pool" not in word).split()))


def test_what_a_copy_has_of_its_own_reaches_its_keeper() -> None:
    words = (
        "--template",
        "one",
        "--name",
        "n",
        "--disk",
        "/d",
        "--nic",
        "02:00:00:00:00:01",
        "--timeout",
        "9",
    )
    options = parse(*words, "--template-dir", "/t")
    assert wants_copy(options)
    copy, own = read_copy(options), read_own(options, Path("/root.erofs"))
    assert Copy.load(copy.dump()) == copy == Copy("one", Path("/t"), "n", 9.0)
    assert Own.load(own.dump()) == own == Own((Path("/d"),), Path("/root.erofs"), ("02:00:00:00:00:01",))
    assert Own.load({}) == Own()


def test_a_copy_may_have_a_shared_folder_and_a_vsock(tmp_path: Path) -> None:
    options = parse(
        "--template", "one", "--share", str(tmp_path), "--channel", "vsock", "--template-dir", "/t"
    )
    assert wants_copy(options)
    copy = read_copy(options)
    assert Copy.load(copy.dump()) == copy == Copy("one", Path("/t"), share=tmp_path, channel="vsock")
    with pytest.raises(CliError, match="none: the folder to share does not exist"):
        read_copy(parse("--template", "one", "--share", str(tmp_path / "none")))


def test_a_new_interface_has_an_address_of_its_own() -> None:
    options = parse("--template", "one", "--nic", "new", "--nic", "new")
    first, second = options.nic
    assert first != second
    assert first.startswith("02:")
    assert len(first.split(":")) == 6


@pytest.mark.parametrize("writable", [False, True])
def test_a_container_s_root_is_on_the_disk_and_a_written_one_has_a_layer(writable: bool) -> None:
    root = plan_root(RootImage(Path("/i"), "erofs"), "04/00", writable=writable)
    (storage,) = root.storages
    assert root.container_id is not None
    assert root.path == storage.mount_point == f"/run/kata-containers/{root.container_id}/rootfs"
    assert (storage.driver, storage.source, storage.fstype) == ("blk", "04/00", "erofs")
    assert list(storage.options)[:1] == ["ro"]
    assert ("X-kata.overlay-lower" in storage.options) is writable
    assert not root.is_share


def test_a_template_has_the_channel_that_can_be_saved_and_no_share() -> None:
    guest = GuestFiles(Path("/vmlinuz"), Path("/initrd"))
    source = plan_source(VmConfig(guest, name="n", share=Path("/srv"), memory_mib=128))
    assert (source.name, source.share, source.channel, source.savable) == (None, None, "serial", True)
    assert source.memory_mib == 128
    with pytest.raises(TemplateError, match="image erofs-dax: its memory is shared with the host"):
        plan_source(VmConfig(guest, image="erofs-dax"))
