"""Processors and memory of a machine as data, and what is asked of QEMU to plug more."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from kata_host.vm import resize
from kata_host.vm.base import Accelerator, GuestFiles, VmConfig, VmError
from kata_host.vm.command_line import plan_command
from kata_testing.wire import run_async

GUEST = GuestFiles(Path("/g/vmlinuz"), Path("/g/initrd.img"))
SLOTS: list[dict[str, Any]] = [
    {"type": "max-x86_64-cpu", "props": {"socket-id": number, "core-id": 0, "thread-id": 0}}
    for number in (3, 2, 1)
] + [
    {
        "type": "max-x86_64-cpu",
        "props": {"socket-id": 0, "core-id": 0, "thread-id": 0},
        "qom-path": "/machine",
    }
]


class FakeMachine:
    """Answers, and refuses the commands that it is told to."""

    def __init__(self, refused: str = "", answers: dict[str, object] | None = None) -> None:
        self.asked: list[tuple[str, dict[str, object]]] = []
        self._refused = refused
        self._answers = answers or {}

    async def execute(self, command: str, arguments: dict[str, object] | None = None) -> object:
        self.asked.append((command, arguments or {}))
        if self._refused and self._refused in f"{command} {arguments}":
            raise VmError(f"qemu refused {command}")
        return self._answers.get(command)


def words(accelerator: str, **config: Any) -> dict[str, str]:
    """The options of which there is one."""
    command = plan_command(
        VmConfig(GUEST, **config),
        Accelerator(accelerator, "test"),
        (),
        Path("/run/vm"),
        7,
        "1700",  # type: ignore[arg-type]
    )
    pairs = pairwise(command)
    return {option: value for option, value in pairs if option in ("-smp", "-cpu", "-machine", "-smbios")}


def test_machine_without_room_for_more_is_as_it_was() -> None:
    assert words("tcg", cpus=2) == {
        "-machine": "q35,memory-backend=mem,kernel-irqchip=split",
        "-cpu": "max,-cx16",
        "-smp": "2,maxcpus=4",
    }


def test_processors_that_may_come_have_a_socket_each_and_emulation_has_a_hypervisor_that_the_kernel_knows() -> (
    None
):
    sockets = "1,sockets=4,cores=1,threads=1,maxcpus=4"
    assert words("kvm", cpus=1, max_cpus=4) == {
        "-machine": "q35,memory-backend=mem,kernel-irqchip=split",
        "-cpu": "host",
        "-smp": sockets,
    }
    assert words("tcg", cpus=1, max_cpus=4) == {
        "-machine": "q35,memory-backend=mem,kernel-irqchip=split,vmport=on",
        "-cpu": "max,-cx16,-hypervisor",
        "-smp": sockets,
        "-smbios": "type=1,serial=VMware-0",
    }


def test_memory_device_has_a_shared_memfd_and_begins_with_nothing() -> None:
    command = plan_command(
        VmConfig(GUEST, memory_device_mib=256), Accelerator("tcg", ""), (), Path("/run/vm"), 7, "1"
    )
    assert "memory-backend-memfd,id=vmem0-backend,size=256M,share=on,reserve=off" in command
    assert "virtio-mem-pci,id=vmem0,memdev=vmem0-backend,requested-size=0" in command


def test_processors_go_into_the_lowest_free_sockets() -> None:
    assert [arguments["id"] for arguments in resize.plan_cpus(SLOTS, 2)] == ["cpu-1-0-0", "cpu-2-0-0"]
    assert resize.plan_cpus(SLOTS, 1)[0] == {
        "driver": "max-x86_64-cpu",
        "id": "cpu-1-0-0",
        "socket-id": 1,
        "core-id": 0,
        "thread-id": 0,
    }
    with pytest.raises(VmError, match="cannot plug 4 processors: 1 of 4 are there"):
        resize.plan_cpus(SLOTS, 4)


def test_processors_are_plugged_all_or_none() -> None:
    machine = FakeMachine("cpu-2-0-0", {"query-hotpluggable-cpus": SLOTS})
    with pytest.raises(VmError, match="qemu refused device_add"):
        run_async(resize.plug_cpus(machine, 2))
    assert machine.asked[-1] == ("device_del", {"id": "cpu-1-0-0"})


def test_processors_of_a_name_are_listed_in_the_order_to_pull_them_in() -> None:
    slots = [
        {**slot, "qom-path": f"/machine/peripheral/more-{slot['props']['socket-id']}-0-0"} for slot in SLOTS
    ]
    machine = FakeMachine(answers={"query-hotpluggable-cpus": slots})

    async def ask() -> None:
        assert await resize.list_cpus(machine, "more") == (
            "more-3-0-0",
            "more-2-0-0",
            "more-1-0-0",
            "more-0-0-0",
        )
        assert await resize.list_cpus(machine, "mor") == ()

    run_async(ask())


def test_memory_that_is_refused_leaves_no_backend() -> None:
    machine = FakeMachine("device_add")
    with pytest.raises(VmError, match="qemu refused device_add"):
        run_async(resize.plug_memory(machine, "dimm0", 128))
    assert [command for command, _ in machine.asked] == ["object-add", "device_add", "object-del"]


def test_a_module_that_is_no_block_of_the_guest_s_is_refused_before_qemu_is_asked() -> None:
    machine = FakeMachine()
    with pytest.raises(VmError, match="a module of 100 MiB: the guest takes memory in blocks of 128 MiB"):
        run_async(resize.plug_memory(machine, "dimm0", 100))
    assert machine.asked == []


def test_size_of_the_memory_device_is_in_bytes_for_qemu() -> None:
    machine = FakeMachine(answers={"qom-get": 3 << 20})
    run_async(resize.resize_memory_device(machine, 2))
    assert machine.asked[0][1]["value"] == 2 << 20

    async def read() -> None:
        assert await resize.read_memory_device(machine) == 3

    run_async(read())
