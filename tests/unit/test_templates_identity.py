"""What a template is bound to: looked at once for each file as it is, compared value by value."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from kata_host.templates.identity import (
    Identity,
    Marks,
    digest_file,
    find_changes,
    observe,
    read_host_cpu,
)
from kata_host.templates.store import TemplateError
from kata_host.vm.base import Accelerator, GuestFiles, VmConfig

TCG = Accelerator("tcg", "asked for")
KVM = Accelerator("kvm", "asked for")
HERE = Identity("k", "initrd i", "7.2.1", "tcg", "max", "any")
CPUINFO = """processor\t: 0
vendor_id\t: V
model\t\t: 85
flags\t\t: fpu vme
cpu MHz\t\t: {}

processor\t: 1
flags\t\t: other
"""


@pytest.fixture
def config(tmp_path: Path) -> VmConfig:
    """A guest of small files, and a QEMU that counts how often it is asked."""
    for name in ("vmlinuz", "initrd.img"):
        (tmp_path / name).write_text(name)
    program = tmp_path / "qemu"
    program.write_text(
        f"#!/bin/sh\necho asked >> {tmp_path}/log\necho 'QEMU emulator version 7.2.1 (Debian)'\n"
    )
    program.chmod(0o755)
    guest = GuestFiles(tmp_path / "vmlinuz", tmp_path / "initrd.img")
    return VmConfig(guest, program=str(program))


def test_the_same_machine_has_the_same_identity(config: VmConfig) -> None:
    first = observe(config, TCG, "max", {})
    assert first == observe(replace(config, memory_mib=1024, cpus=1), TCG, "max", {})
    assert find_changes(first.dump(), first) == []
    assert (first.qemu, first.accelerator, first.host_cpu) == ("7.2.1 (Debian)", "tcg", "any")


@pytest.mark.parametrize(
    ("field", "told"),
    [
        ("kernel", "it was made with kernel k, here is new"),
        ("image", "it was made with guest image initrd i, here is new"),
        ("qemu", "it was made with QEMU 7.2.1, here is new"),
        ("accelerator", "it was made with accelerator tcg, here is new"),
        ("cpu", "it was made with processor model max, here is new"),
        ("host_cpu", "it was made with host processor any, here is new"),
    ],
)
def test_each_value_that_differs_is_told_with_both(field: str, told: str) -> None:
    assert find_changes(HERE.dump(), replace(HERE, **{field: "new"})) == [told]


def test_a_value_that_a_template_does_not_have_is_a_change() -> None:
    had = HERE.dump()
    del had["qemu"]
    assert find_changes(had, HERE) == ["it was made with QEMU unknown, here is 7.2.1"]


@pytest.mark.parametrize("name", ["vmlinuz", "initrd.img"])
def test_another_build_is_another_identity_also_at_the_same_size_and_time(
    config: VmConfig, name: str
) -> None:
    marks: Marks = {}
    before = observe(config, TCG, "max", marks)
    path = config.guest.kernel.parent / name
    found = path.stat()
    path.write_text(path.read_text().upper())
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    after = observe(config, TCG, "max", marks)
    assert len(find_changes(before.dump(), after)) == 1
    assert after == observe(config, TCG, "max", {})


def test_what_did_not_change_is_not_looked_at_again(config: VmConfig) -> None:
    marks: Marks = {}
    log = config.guest.kernel.parent / "log"
    for _ in range(3):
        observe(config, TCG, "max", marks)
    assert log.read_text() == "asked\n"
    kernel = config.guest.kernel
    marks.update({mark: "kept" for mark in marks if mark.startswith(f"{kernel} ")})
    assert observe(config, TCG, "max", marks).kernel == "kept"
    os.utime(kernel)
    assert observe(config, TCG, "max", marks).kernel == digest_file(kernel)
    assert len(marks) == 3, "what was known of files that are no more is forgotten"


def test_a_file_that_is_gone_is_named(config: VmConfig) -> None:
    with pytest.raises(TemplateError, match="qemu-none: not found; install the package qemu-system-x86"):
        observe(replace(config, program="qemu-none"), TCG, "max", {})
    config.guest.initrd.unlink()
    with pytest.raises(
        TemplateError, match=r"initrd\.img: No such file or directory; a template is bound to it"
    ):
        observe(config, TCG, "max", {})


def test_a_qemu_that_fails_is_told(config: VmConfig) -> None:
    Path(config.program).write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(TemplateError, match=r"qemu --version: .*exit status 3"):
        observe(config, TCG, "max", {})


def test_the_host_s_processor_counts_under_kvm_by_what_a_guest_sees(config: VmConfig) -> None:
    assert observe(config, KVM, "host", {}).host_cpu not in ("any", "")
    assert read_host_cpu(CPUINFO.format(2000)) == read_host_cpu(CPUINFO.format(3100.5))
    assert read_host_cpu(CPUINFO.format(1)) != read_host_cpu(CPUINFO.format(1).replace("vme", "vme avx", 1))
