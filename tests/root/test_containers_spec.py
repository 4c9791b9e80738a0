"""What a container's spec asks for, seen from inside the container."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from kata_protocols.gen import agent_pb2, oci_pb2
from kata_protocols.status import StatusError
from kata_testing.native import NEEDS, NativeAgent, busybox_root, fresh_id, native_agent, oci_spec
from kata_testing.wire import run_async

pytestmark = pytest.mark.requires(*NEEDS)


async def create(agent: NativeAgent, spec: oci_pb2.Spec, **request: Any) -> str:
    container = fresh_id("spec")
    await agent.call("CreateContainer", container_id=container, OCI=spec, **request)
    agent.made.append(container)
    return container


async def output(agent: NativeAgent, spec: oci_pb2.Spec, **request: Any) -> list[str]:
    """The lines that the container's program writes."""
    container = await create(agent, spec, **request)
    await agent.call("StartContainer", container_id=container)
    lines = (await agent.read_all(container))[0].decode().splitlines()
    await agent.remove(container)
    return lines


async def inside(agent: NativeAgent, script: str) -> None:
    """Run a shell in the agent's mount namespace."""
    enter = ("nsenter", "--mount", "--target", str(agent.agent_pid()), "sh", "-ec", script)
    shell = await asyncio.create_subprocess_exec(*enter)
    assert await shell.wait() == 0, script


async def refusal(agent: NativeAgent, spec: oci_pb2.Spec, **request: Any) -> str:
    with pytest.raises(StatusError) as caught:
        await create(agent, spec, **request)
    return caught.value.message


def read(path: Path) -> list[str]:
    """The words of a file, none when it is not there."""
    return path.read_text().split() if path.exists() else []


def root_with_users(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for name in ("proc", "dev", "etc"):
        (root / name).mkdir(parents=True)
    shutil.copytree(busybox_root() / "bin", root / "bin", symlinks=True)
    (root / "etc/passwd").write_text("web:x:101:201::/:\n")
    (root / "etc/group").write_text("logs:x:301:web\nstaff:x:50:\n")
    return root


def with_users(tmp_path: Path) -> oci_pb2.Mount:
    """An /etc with users of its own."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/root:\nweb:x:101:201::/srv/web:\n")
    (tmp_path / "etc/group").write_text("www:x:201:\nlogs:x:301:web\n")
    return oci_pb2.Mount(destination="/etc", source=str(tmp_path / "etc"), type="bind", options=["rbind"])


def test_users_with_their_groups_by_number_and_the_home_of_the_passwd_file(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            spec = oci_spec("sh", "-c", "id -u; id -g; id -G; echo $HOME; stat -Lc %u /proc/self/fd/1")
            spec.Mounts.append(with_users(tmp_path))
            spec.Process.User.CopyFrom(oci_pb2.User(UID=101, GID=7, AdditionalGids=[8, 9]))
            assert await output(agent, spec) == ["101", "7", "7 8 9", "/srv/web", "101"]

    run_async(body())


def test_users_by_name_are_those_of_the_containers_own_files(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            root = root_with_users(tmp_path)  # a create looks into the root, an exec sees its mounts, too
            spec = oci_spec("sh", "-c", "id -u; id -g; id -G; sleep 1000", root=str(root))
            container = await create(agent, spec, string_user=agent_pb2.StringUser(uid="web"))
            await agent.call("StartContainer", container_id=container)
            seen = b""
            while seen.count(b"\n") < 3:
                seen += await agent.read(container)
            assert seen == b"101\n201\n201 301\n"
            names = agent_pb2.StringUser(uid="web", gid="staff", additionalGids=["logs", "17"])
            process = oci_pb2.Process(Args=["sh", "-c", "id -u; id -g; id -G"], Env=["PATH=/bin"], Cwd="/")
            await agent.call(
                "ExecProcess", container_id=container, exec_id="e", string_user=names, process=process
            )
            assert (await agent.read_all(container, "e"))[0] == b"101\n50\n50 17 301\n"
            names = agent_pb2.StringUser(uid="nobody-here")
            with pytest.raises(StatusError) as caught:
                await agent.call(
                    "ExecProcess", container_id=container, exec_id="f", string_user=names, process=process
                )
            assert "user 'nobody-here' is not in the container's /etc/passwd" in caught.value.message

    run_async(body())


def test_paths_are_masked_or_read_only_directories_too_and_missing_ones_are_fine(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            script = "ls -A /etc; touch /etc/x; touch /tmp/x; wc -c < /proc/uptime; echo done"
            spec = oci_spec("sh", "-c", script)
            spec.Linux.MaskedPaths.extend(["/etc", "/proc/uptime", "/no/such"])
            spec.Linux.ReadonlyPaths.extend(["/tmp", "/no/such"])
            container = await create(agent, spec)
            await agent.call("StartContainer", container_id=container)
            assert (await agent.read_all(container))[0] == b"0\ndone\n"
            errors = (await agent.read_all(container, stream="Stderr"))[0].decode()
            assert "touch: /etc/x: Read-only file system" in errors
            assert "touch: /tmp/x: Read-only file system" in errors

    run_async(body())


@pytest.mark.parametrize("readonly", [False, True])
def test_a_missing_working_directory_is_made_also_in_a_read_only_root(tmp_path, readonly):
    async def body():
        async with native_agent(tmp_path) as agent:
            spec = oci_spec(
                "sh", "-c", "pwd; touch /made-it 2>/dev/null && rm /made-it && echo writable; true"
            )
            spec.Process.Cwd = f"/tmp/cwd{int(readonly)}/deep"
            spec.Root.Readonly = readonly
            lines = await output(agent, spec)
            assert lines == [spec.Process.Cwd, *([] if readonly else ["writable"])]

    run_async(body())


def test_seccomp_refuses_with_the_errno_that_was_asked_for_and_knows_arguments(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            rules = [
                oci_pb2.LinuxSyscall(
                    Names=["mkdir", "mkdirat", "not_a_call_of_this_kernel"],
                    Action="SCMP_ACT_ERRNO",
                    errnoret=28,
                ),
                oci_pb2.LinuxSyscall(
                    Names=["kill"],
                    Action="SCMP_ACT_ERRNO",
                    errnoret=1,
                    Args=[oci_pb2.LinuxSeccompArg(Index=1, Value=10, Op="SCMP_CMP_EQ")],
                ),
            ]
            seccomp = oci_pb2.LinuxSeccomp(
                DefaultAction="SCMP_ACT_ALLOW", Flags=["SECCOMP_FILTER_FLAG_LOG"], Syscalls=rules
            )
            script = "mkdir /tmp/no 2>&1; kill -10 $$ 2>&1; kill -0 $$ && echo allowed; exit 0"
            spec = oci_spec("sh", "-c", script)
            spec.Linux.Seccomp.CopyFrom(seccomp)
            first, second, third = await output(agent, spec)
            assert "No space left on device" in first
            assert "Operation not permitted" in second
            assert third == "allowed"

    run_async(body())


def test_mounts_have_their_propagation_and_options(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            (tmp_path / "data").mkdir()
            spec = oci_spec("sh", "-c", "grep ' /data ' /proc/self/mountinfo; touch /data/x || true")
            spec.Mounts.append(
                oci_pb2.Mount(
                    destination="/data",
                    source=str(tmp_path / "data"),
                    type="bind",
                    options=["rbind", "ro", "nosuid", "rslave"],
                )
            )
            (line,) = await output(agent, spec)
            assert {"ro", "nosuid"} <= set(line.split()[5].split(","))
            assert not list((tmp_path / "data").iterdir())

    run_async(body())


@pytest.mark.parametrize(("word", "arrives"), [("rslave", True), ("rprivate", False)])
def test_a_mount_made_later_arrives_in_a_container_as_its_propagation_says(tmp_path, word, arrives):
    async def body():
        async with native_agent(tmp_path) as agent:
            source = tmp_path / "source"
            (source / "late").mkdir(parents=True)
            share = f"mount -t tmpfs none {source}; mount --make-shared {source}; mkdir {source}/late"
            await inside(agent, share)
            spec = oci_spec("sleep", "1000")
            spec.Linux.RootfsPropagation = word
            spec.Mounts.add(destination="/tmp", type="bind", source=str(source), options=["rbind", word])
            container = await create(agent, spec)
            await agent.call("StartContainer", container_id=container)
            await inside(agent, f"mount -t tmpfs none {source}/late")
            await agent.exec(container, "look", "grep", "-c", " /tmp/late ", "/proc/self/mounts")
            assert await agent.wait(container, "look") == (0 if arrives else 1)
            await agent.remove(container)
            await inside(agent, f"umount -R {source}")

    run_async(body())


@pytest.mark.requires("userns")
def test_an_id_mapped_mount_shows_its_files_as_the_containers_own(tmp_path):
    """The folder belongs to the guest's root; without the mapping a user namespace sees nobody's files."""

    async def body():
        async with native_agent(tmp_path) as agent:
            data = tmp_path / "data"
            data.mkdir(mode=0o700)
            (data / "file").write_text("x")
            owners = {}
            for name, options in (("plain", ["rbind"]), ("mapped", ["rbind", "idmap"])):
                spec = oci_spec("sh", "-c", "stat -c %u /tmp; cat /tmp/file; touch /tmp/made; echo $?")
                spec.Linux.Namespaces.add(Type="user")
                for field in (spec.Linux.UIDMappings, spec.Linux.GIDMappings):
                    field.add(ContainerID=0, HostID=100000, Size=65536)
                spec.Mounts.add(destination="/tmp", type="bind", source=str(data), options=options)
                owners[name] = await output(agent, spec)
            assert owners["plain"][0] == "65534"
            assert owners["mapped"] == ["0", "x0"]
            assert (data / "made").stat().st_uid == 0

    run_async(body())


def test_a_user_namespace_has_the_ids_that_were_mapped(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            spec = oci_spec("sh", "-c", "cat /proc/self/uid_map; cat /proc/self/gid_map; id -u")
            spec.Linux.Namespaces.append(oci_pb2.LinuxNamespace(Type="user"))
            for field in (spec.Linux.UIDMappings, spec.Linux.GIDMappings):
                field.append(oci_pb2.LinuxIDMapping(ContainerID=0, HostID=100000, Size=65536))
            lines = [line.split() for line in await output(agent, spec)]
            assert lines == [["0", "100000", "65536"], ["0", "100000", "65536"], ["0"]]

    run_async(body())


def test_a_network_sysctl_is_the_guests_and_an_unknown_one_is_refused_by_name(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            name = "net.ipv4.ip_default_ttl"
            value = read(Path("/proc/sys/net/ipv4/ip_default_ttl"))[0]  # stays as it is
            spec = oci_spec("cat", "/proc/sys/net/ipv4/ip_default_ttl")
            spec.Linux.Sysctl[name] = value
            assert await output(agent, spec) == [value]
            spec.Linux.Sysctl["net.ipv4.no_such"] = "1"
            assert "sysctl net.ipv4.no_such: the guest's kernel has none" in await refusal(agent, spec)

    run_async(body())


def test_a_network_namespace_is_joined_by_its_path(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            spec = oci_spec("readlink", "/proc/self/ns/net")
            own = os.readlink("/proc/self/ns/net")
            assert await output(agent, spec) == [own]
            first = oci_spec("sleep", "1000")
            holder = await create(agent, first)
            spec.Linux.Namespaces.append(
                oci_pb2.LinuxNamespace(Type="network", Path=f"/proc/{agent.agent_pid()}/ns/net")
            )
            assert await output(agent, spec) == [own]
            spec.Linux.Namespaces[-1].Path = "/run/no-such-namespace"
            assert "/run/no-such-namespace" in await refusal(agent, spec)
            await agent.remove(holder)

    run_async(body())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda spec: setattr(spec.Process, "SelinuxLabel", "a_u:b_r:c_t:s0"),
            "process.selinuxLabel: the guest",
        ),
        (lambda spec: setattr(spec.Linux.IntelRdt, "L3CacheSchema", "L3:0=f"), "intelRdt: cache allocation"),
        (lambda spec: spec.Linux.Namespaces.add(Type="time"), "time namespaces are not supported"),
        (
            lambda spec: spec.Linux.Sysctl.update({"kernel.hostname": "x"}),
            "sysctl kernel.hostname is not one",
        ),
        (lambda spec: setattr(spec.Linux, "CgroupsPath", "/a/../b"), "does not name a cgroup"),
        (lambda spec: spec.Linux.MaskedPaths.append("relative"), "maskedPaths 'relative' must be absolute"),
    ],
)
def test_what_nobody_can_do_is_refused_by_name(tmp_path, change, text):
    async def body():
        async with native_agent(tmp_path) as agent:
            spec = oci_spec("true")
            change(spec)
            assert text in await refusal(agent, spec)

    if "selinux" in text and Path("/sys/fs/selinux/enforce").exists():
        return
    run_async(body())


@pytest.mark.parametrize(
    ("notation", "path"), [("/kata-a/b-{}", "/kata-a/b-{}"), ("kata.slice:pre:{}", "/kata.slice/pre/{}")]
)
def test_the_cgroup_is_where_either_notation_says(tmp_path, notation, path):
    async def body():
        async with native_agent(tmp_path) as agent:
            spec = oci_spec("sleep", "1000")
            name = fresh_id("cg")
            spec.Linux.CgroupsPath = notation.format(name)
            container = await create(agent, spec)
            folder = Path(f"/proc/{agent.agent_pid()}/root/sys/fs/cgroup{path.format(name)}")
            assert len(read(folder / "cgroup.procs")) == 1
            await agent.remove(container)
            assert read(folder / "cgroup.procs") == []

    run_async(body())
