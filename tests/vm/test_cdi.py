"""CDI in the guest: a container waits for the file that defines its device, and gets what it says."""

from __future__ import annotations

import asyncio

import pytest

from kata_host.sandbox import Sandbox
from kata_host.spec import BindMount
from kata_testing.guest import Guest, plan, read_all

pytestmark = pytest.mark.requires("root", "qemu", "guest-image")

# As the vendor's generator writes it: YAML, a number for a name, edits for all devices after those of each.
FILE = """\
---
cdiVersion: 0.5.0
kind: vendor.com/gpu
devices:
- name: "0"
  containerEdits:
    deviceNodes:
    - path: /dev/gpu0
      hostPath: /dev/vda
      permissions: r
containerEdits:
  env:
  - GPU=all
  hooks:
  - hookName: createContainer
    path: /bin/busybox
    args: [busybox, touch, /run/cdi-hook-ran]
  mounts:
  - hostPath: /etc/hostname
    containerPath: /usr/share/gpu/name
    options: [ro, nosuid, nodev, bind]
"""
WRITE = "mkdir -p /guest/run/cdi && cat > /guest/run/cdi/.draft && mv /guest/run/cdi/.draft /guest/run/cdi/gpu.yaml"
LOOK = "stat -c %F:%t:%T:%a /dev/gpu0; echo $GPU; cat /usr/share/gpu/name; head -c 4 /dev/gpu0 | wc -c"
GUEST = BindMount("/", "/guest", ("rbind", "rw"))


async def run_in_guest(sandbox: Sandbox, script: str, data: bytes = b"") -> None:
    async with sandbox.container(plan("sh", "-c", script, binds=[GUEST], masked=False)) as container:
        await container.start()
        await container.write_stdin(data)
        await container.close_stdin()
        assert await container.wait(30) == 0, (await read_all(container, stderr=True)).decode()


async def run_with_device(sandbox: Sandbox, name: str) -> str:
    spec = plan("sh", "-c", LOOK)
    spec["annotations"] = {"cdi.k8s.io/vfio17": name}
    async with sandbox.container(spec) as container:
        await container.start()
        output, errors = await read_all(container), await read_all(container, stderr=True)
        assert await container.wait(30) == 0, errors.decode()
        return output.decode()


def test_container_gets_its_device_when_the_file_that_defines_it_comes(guest: Guest) -> None:
    async def run() -> None:
        async with guest.connect() as sandbox, asyncio.TaskGroup() as group:
            device = group.create_task(run_with_device(sandbox, "vendor.com/gpu=0"))
            await run_in_guest(sandbox, WRITE, FILE.encode())
            async with asyncio.timeout(60):
                said = (await device).splitlines()
            assert said == ["block special file:fe:0:600", "all", "localhost", "4"]
            await run_in_guest(sandbox, "cd /guest/run && test -e cdi-hook-ran && rm -r cdi cdi-hook-ran")

    asyncio.run(run())
