"""A confidential guest: initdata from a disk, guest components, and a container whose image the guest pulls itself.

The components are programs of the test that are put into the running guest; the agent that PID 1 starts after a kill
finds them. The hub is `kata_testing.fake_hub`, run by the guest's own interpreter and started by the agent.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata_host.connect import connect
from kata_host.message_json import fill_message
from kata_host.sandbox import Sandbox, plan_share_storage
from kata_host.spec import BindMount, ProcessPlan, plan_spec
from kata_protocols.gen import agent_pb2 as pb
from kata_protocols.status import StatusError
from kata_testing import fake_hub
from kata_testing.guest import (
    GUEST_LIBRARY,
    ROOT,
    Guest,
    boot_guest,
    plan_python,
    read_agent_life,
    read_all,
)
from kata_testing.guest_chaos import start_killer

pytestmark = pytest.mark.requires("root", "qemu", "guest-image")

BASE = "/run/kata-containers"
BIN = "/usr/local/bin"
INITDATA = b"""version = "0.1.0"
algorithm = "sha256"
[data]
"cdh.toml" = "socket = 'of the hub'"
"""
SHEBANG = f"#!/usr/bin/python3.13 -IS\nimport sys\nsys.path.insert(0, '{GUEST_LIBRARY}')\n"
# Each notes its words.
NOTE = "open('/run/started', 'a').write(' '.join(sys.argv) + chr(10))\n"
AGENT = (
    SHEBANG
    + NOTE
    + """
import socket, signal
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[2].removeprefix('unix://'))
listener.listen()
signal.pause()
"""
)
HUB = f"{SHEBANG}{NOTE}sys.argv[1:] = ['/run/confidential-containers/cdh.sock', {ROOT!r}]\n" + Path(
    fake_hub.__file__
).read_text().replace("from __future__ import annotations\n", "")
REST = f"{SHEBANG}{NOTE}import signal\nsignal.pause()\n"
RUN = BindMount("/run", "/tmp/run", ("rbind", "ro"))
PROC = BindMount("/proc", "/tmp/proc", ("rbind", "ro"))
SHARE = BindMount(f"{BASE}/shared/containers", "/tmp/share", ("rbind", "ro"))
MAKE_PAUSE = """
import os, shutil
os.makedirs("/pause_bundle/rootfs")
shutil.copy("/tmp/share/busybox/bin/busybox", "/pause_bundle/rootfs/sleep")
open("/pause_bundle/config.json", "w").write('{"process": {"args": ["/sleep", "1000"], "cwd": "/"}}')
"""
LIST = """
import glob
for path in glob.glob("/tmp/proc/[0-9]*/cmdline"):
    try:
        print(open(path).read().rstrip(chr(0)).replace(chr(0), " "))
    except OSError:
        pass
"""
# The last of the components makes no socket, so that the agent waits for it no longer than until it is started.
AWAIT_STARTED = """
import select
from kata_linux import inotify
fd = inotify.open_inotify()
inotify.add_watch(fd, "/tmp/run/started")
while open("/tmp/run/started").read().count(chr(10)) < 3:
    select.select([fd], [], [])
    inotify.read_events(fd)
"""
INSTALL = """
import os
for name, text in PROGRAMS.items():
    os.makedirs("/usr/local/bin", exist_ok=True)
    path = "/usr/local/bin/" + name
    open(path, "w").write(text)
    os.chmod(path, 0o755)
"""


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory, short_folder: Path) -> Iterator[Guest]:
    disk = tmp_path_factory.mktemp("initdata") / "disk"
    packed = gzip.compress(INITDATA)
    disk.write_bytes((b"initdata" + len(packed).to_bytes(8, "little") + packed).ljust(1 << 20, b"\0"))
    folder = short_folder / "pull"
    folder.mkdir()
    with boot_guest(folder, options=("--disk", str(disk))) as booted:
        yield booted


def pull(container_id: str, image: str, kind: str = "container") -> pb.Storage:
    metadata = {"metadata": {"io.kubernetes.cri.container-type": kind}}
    return pb.Storage(
        driver="image_guest_pull",
        driver_options=["image_guest_pull=" + json.dumps(metadata)],
        source=image,
        fstype="overlay",
        mount_point=f"{BASE}/{container_id}/rootfs",
    )


async def run(sandbox: Sandbox, spec: dict[str, object], *storages: pb.Storage, name: str = "") -> str:
    async with sandbox.container(spec, name or None, storages=storages) as container:
        await container.start()
        output = await read_all(container)
        errors = await read_all(container, stderr=True)
        assert await container.wait(60) == 0, errors.decode()
        return output.decode()


async def read_files(sandbox: Sandbox, *paths: str, first: str = "") -> list[str]:
    """What is in files of the guest, after this script."""
    script = f"{first}\nfor p in {paths!r}: print(open(p).read(), end=chr(0))"
    return (await run(sandbox, plan_python(script, binds=[RUN, PROC]))).split("\0")[:-1]


def image_spec(name: str, *command: str) -> dict[str, object]:
    return plan_spec(ProcessPlan(command), f"{BASE}/{name}/rootfs")


def test_image_is_pulled_by_components_that_the_agent_started_and_that_outlive_it(guest: Guest) -> None:
    async def scenario() -> None:
        async with await connect(guest.address) as client:
            request = pb.CreateSandboxRequest(sandbox_id="shared", storages=[plan_share_storage()])
            await client.create_sandbox(request)
        async with guest.connect() as sandbox:
            missing = "no confidential data hub: /usr/local/bin/attestation-agent"
            with pytest.raises(StatusError, match=f"pull image app: {missing}"):
                await sandbox.create(
                    image_spec("none", "true"), container_id="none", storages=[pull("none", "app")]
                )
            programs = {"attestation-agent": AGENT, "confidential-data-hub": HUB, "api-server-rest": REST}
            await run(sandbox, plan_python(f"PROGRAMS = {programs!r}\n{INSTALL}", writable=True))
        async with start_killer(guest) as killer:
            life = await read_agent_life(guest)
            await killer.kill()
            await pull_twice(guest)
            await killer.kill()
            assert await read_agent_life(guest) == life + 2
            await pull_twice(guest)

    asyncio.run(scenario())
    digest = hashlib.sha256(INITDATA).hexdigest()
    assert f'"digest":"{digest}"' in guest.console.read_text(errors="replace")


async def pull_twice(guest: Guest) -> None:
    """With an agent that has just been started: the call waits for what the components need."""
    async with guest.connect(reconnect=True) as sandbox:
        said = await run(sandbox, image_spec("app", "echo", "from the image"), pull("app", "app"), name="app")
        assert said == "from the image\n"
        with pytest.raises(StatusError, match="hub says PERMISSION_DENIED: the image is not signed"):
            await sandbox.create(
                image_spec("bad", "true"), container_id="bad", storages=[pull("bad", "refuse")]
            )
        started, mounts, cdh = await read_files(
            sandbox,
            "/tmp/run/started",
            "/tmp/proc/1/mountinfo",
            "/tmp/run/confidential-containers/initdata/cdh.toml",
            first=AWAIT_STARTED,
        )
        folder = "/run/confidential-containers/initdata"
        socket = "/run/confidential-containers/attestation-agent/attestation-agent.sock"
        assert started.splitlines() == [
            f"{BIN}/attestation-agent --attestation_sock unix://{socket} --initdata-toml {folder}/initdata.toml",
            f"{BIN}/confidential-data-hub -c {folder}/cdh.toml",
            f"{BIN}/api-server-rest --features resource",
        ]
        assert f"{BASE}/app" not in mounts
        assert cdh == "socket = 'of the hub'"


def test_caller_that_gave_up_is_told_what_was_waited_for(guest: Guest) -> None:
    async def scenario() -> None:
        async with guest.connect() as sandbox:
            request = pb.CreateContainerRequest(container_id="slow", storages=[pull("slow", "slow")])
            fill_message(request.OCI, image_spec("slow", "true"))
            with pytest.raises(
                StatusError, match=r"pull image slow: waited [3-8]\.\d s \(the caller's deadline\) for"
            ):
                await sandbox.client.create_container(request, timeout_s=10.0)
            (mounts,) = await read_files(sandbox, "/tmp/proc/1/mountinfo")
            assert f"{BASE}/slow" not in mounts

    asyncio.run(scenario())


def test_sandbox_s_own_container_runs_the_pause_image_of_the_guest(guest: Guest) -> None:
    async def scenario() -> None:
        async with guest.connect() as sandbox:
            await run(sandbox, plan_python(MAKE_PAUSE, writable=True, binds=[SHARE]))
            spec = plan_spec(ProcessPlan(("what the host sent",)), f"{BASE}/pod/rootfs")
            spec["annotations"] = {"io.kubernetes.cri.container-type": "sandbox"}
            storages = [pull("pod", "pause", "sandbox")]
            async with sandbox.container(spec, container_id="pod", storages=storages) as container:
                await container.start()
                assert (
                    "/sleep 1000" in (await run(sandbox, plan_python(LIST, binds=[RUN, PROC]))).splitlines()
                )
            mounts, _ = await read_files(sandbox, "/tmp/proc/1/mountinfo", "/tmp/run/started")
            assert f"{BASE}/pod" not in mounts

    asyncio.run(scenario())
