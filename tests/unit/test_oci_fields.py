"""What becomes of each field of the wire's Spec: a new field has no row here, and fails."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor

from kata_agent.containers import hooks, spec, sysctl
from kata_agent.errors import InvalidRequest, NotSupported
from kata_agent.services import oci
from kata_protocols.gen import oci_pb2 as pb

ROOTFS = "/run/kata-containers/c/rootfs"
SHARED = spec.Shared(guest_hooks={})


def message() -> pb.Spec:
    """Every field that a container may have, each with a value of its own."""
    hook = {"Args": ["a0"], "Env": ["E=1"], "Timeout": 7}
    sets = {
        "Bounding": ["CAP_KILL", "CAP_CHOWN", "CAP_FOWNER", "CAP_SETUID", "CAP_SETGID"],
        "Effective": ["CAP_CHOWN"],
        "Inheritable": ["CAP_FOWNER"],
        "Permitted": ["CAP_SETUID"],
        "Ambient": ["CAP_SETGID"],
    }
    return pb.Spec(
        Version="1.1.0",
        Hostname="its-own",
        Process=pb.Process(
            Terminal=True,
            ConsoleSize=pb.Box(Height=24, Width=80),
            User=pb.User(UID=11, GID=12, AdditionalGids=[13], Username="ignored"),
            Args=["prog", "arg"],
            Env=["A=1"],
            Cwd="/work",
            Capabilities=pb.LinuxCapabilities(**sets),
            Rlimits=[pb.POSIXRlimit(Type="RLIMIT_NOFILE", Hard=200, Soft=100)],
            NoNewPrivileges=True,
            ApparmorProfile="ignored",
            OOMScoreAdj=-5,
            SelinuxLabel="u:r:t:s0",
        ),
        Root=pb.Root(Path="/where", Readonly=True),
        Mounts=[pb.Mount(destination="/data", source="/src", type="bind", options=["rbind", "rslave"])],
        Hooks=pb.Hooks(
            Prestart=[pb.Hook(Path="/pre", **hook)],
            Poststart=[pb.Hook(Path="/poststart", **hook)],
            Poststop=[pb.Hook(Path="/poststop", **hook)],
            CreateRuntime=[pb.Hook(Path="/never", **hook)],
            CreateContainer=[pb.Hook(Path="/container", **hook)],
            StartContainer=[pb.Hook(Path="/start", **hook)],
        ),
        Annotations={"note": "kept"},
        Linux=pb.Linux(
            UIDMappings=[pb.LinuxIDMapping(HostID=1000, ContainerID=0, Size=10)],
            GIDMappings=[pb.LinuxIDMapping(HostID=2000, ContainerID=1, Size=20)],
            Sysctl={"kernel.shmmax": "1", "net.ipv4.ip_forward": "1"},
            CgroupsPath="slice:prefix:name",
            Namespaces=[
                *(pb.LinuxNamespace(Type=kind) for kind in ("mnt", "uts", "ipc", "user")),
                pb.LinuxNamespace(Type="pid", Path="/proc/9/ns/pid"),
                pb.LinuxNamespace(Type="net", Path="/run/netns/x"),
            ],
            Devices=[pb.LinuxDevice(Path="/dev/x", Type="c", Major=5, Minor=6, FileMode=0o640, UID=7, GID=8)],
            Seccomp=pb.LinuxSeccomp(
                DefaultAction="SCMP_ACT_ALLOW",
                Architectures=["SCMP_ARCH_X86_64"],
                Flags=["SECCOMP_FILTER_FLAG_LOG"],
                Syscalls=[
                    pb.LinuxSyscall(
                        Names=["mkdir"],
                        Action="SCMP_ACT_ERRNO",
                        errnoret=33,
                        Args=[pb.LinuxSeccompArg(Index=1, Value=2, ValueTwo=3, Op="SCMP_CMP_MASKED_EQ")],
                    )
                ],
            ),
            RootfsPropagation="rslave",
            MaskedPaths=["/masked"],
            ReadonlyPaths=["/kept"],
            MountLabel="label",
        ),
        Solaris=pb.Solaris(dummy="x"),
        Windows=pb.Windows(dummy="x"),
    )


# Handed to crun as it is: where in the document it is found, and the value.
PASSED: dict[str, tuple[str, object]] = {
    "Spec.Version": ("ociVersion", "1.1.0"),
    "Spec.Hostname": ("hostname", "its-own"),
    "Spec.Annotations": ("annotations.note", "kept"),
    "Process.Terminal": ("process.terminal", True),
    "Box.Height": ("process.consoleSize.height", 24),
    "Box.Width": ("process.consoleSize.width", 80),
    "User.UID": ("process.user.uid", 11),
    "User.GID": ("process.user.gid", 12),
    "User.AdditionalGids": ("process.user.additionalGids", [13]),
    "Process.Args": ("process.args", ["prog", "arg"]),
    "Process.Env": ("process.env", ["A=1"]),
    "Process.Cwd": ("process.cwd", "/work"),
    "LinuxCapabilities.Bounding": ("process.capabilities.bounding.4", "CAP_SETGID"),
    "LinuxCapabilities.Effective": ("process.capabilities.effective", ["CAP_CHOWN"]),
    "LinuxCapabilities.Inheritable": ("process.capabilities.inheritable", ["CAP_FOWNER"]),
    "LinuxCapabilities.Permitted": ("process.capabilities.permitted", ["CAP_SETUID"]),
    "LinuxCapabilities.Ambient": ("process.capabilities.ambient", ["CAP_SETGID"]),
    "POSIXRlimit.Type": ("process.rlimits.0.type", "RLIMIT_NOFILE"),
    "POSIXRlimit.Hard": ("process.rlimits.0.hard", 200),
    "POSIXRlimit.Soft": ("process.rlimits.0.soft", 100),
    "Process.NoNewPrivileges": ("process.noNewPrivileges", True),
    "Process.OOMScoreAdj": ("process.oomScoreAdj", -5),
    "Process.SelinuxLabel": ("process.selinuxLabel", "u:r:t:s0"),  # refused by the registry without SELinux
    "Root.Readonly": ("root.readonly", True),
    "Mount.destination": ("mounts.0.destination", "/data"),
    "Mount.source": ("mounts.0.source", "/src"),
    "Mount.type": ("mounts.0.type", "bind"),
    "Mount.options": ("mounts.0.options", ["rbind", "rslave"]),
    "LinuxIDMapping.HostID": ("linux.uidMappings.0.hostID", 1000),
    "LinuxIDMapping.ContainerID": ("linux.gidMappings.0.containerID", 1),
    "LinuxIDMapping.Size": ("linux.gidMappings.0.size", 20),
    "LinuxDevice.Path": ("linux.devices.0.path", "/dev/x"),
    "LinuxDevice.Type": ("linux.devices.0.type", "c"),
    "LinuxDevice.Major": ("linux.devices.0.major", 5),
    "LinuxDevice.Minor": ("linux.devices.0.minor", 6),
    "LinuxDevice.FileMode": ("linux.devices.0.fileMode", 0o640),
    "LinuxDevice.UID": ("linux.devices.0.uid", 7),
    "LinuxDevice.GID": ("linux.devices.0.gid", 8),
    "LinuxSeccomp.DefaultAction": ("linux.seccomp.defaultAction", "SCMP_ACT_ALLOW"),
    "LinuxSeccomp.Architectures": ("linux.seccomp.architectures", ["SCMP_ARCH_X86_64"]),
    "LinuxSeccomp.Flags": ("linux.seccomp.flags", ["SECCOMP_FILTER_FLAG_LOG"]),
    "LinuxSyscall.Names": ("linux.seccomp.syscalls.0.names", ["mkdir"]),
    "LinuxSyscall.Action": ("linux.seccomp.syscalls.0.action", "SCMP_ACT_ERRNO"),
    "LinuxSyscall.errnoret": ("linux.seccomp.syscalls.0.errnoRet", 33),
    "LinuxSeccompArg.Index": ("linux.seccomp.syscalls.0.args.0.index", 1),
    "LinuxSeccompArg.Value": ("linux.seccomp.syscalls.0.args.0.value", 2),
    "LinuxSeccompArg.ValueTwo": ("linux.seccomp.syscalls.0.args.0.valueTwo", 3),
    "LinuxSeccompArg.Op": ("linux.seccomp.syscalls.0.args.0.op", "SCMP_CMP_MASKED_EQ"),
    "Linux.RootfsPropagation": ("linux.rootfsPropagation", "rslave"),
    "Linux.MaskedPaths": ("linux.maskedPaths", ["/masked"]),
    "Linux.ReadonlyPaths": ("linux.readonlyPaths", ["/kept"]),
    "Linux.MountLabel": ("linux.mountLabel", "label"),
}
# What the agent makes of it.
TRANSLATED: dict[str, tuple[str, object]] = {
    "Root.Path": ("root.path", ROOTFS),
    "Linux.CgroupsPath": ("linux.cgroupsPath", "/planned"),
    "LinuxNamespace.Type": ("linux.namespaces.0.type", "mount"),
    "LinuxNamespace.Path": ("linux.namespaces.4.path", "/proc/9/ns/pid"),
    "Linux.Sysctl": ("linux.sysctl", {"kernel.shmmax": "1", "net.ipv4.ip_forward": "1"}),
    "Hooks.Prestart": ("hooks.prestart.0.path", "/pre"),
    "Hooks.Poststart": ("hooks.poststart.0.path", "/poststart"),
    "Hooks.Poststop": ("hooks.poststop.0.path", "/poststop"),
    "Hooks.CreateContainer": ("hooks.createContainer.0.path", "/container"),
    "Hooks.StartContainer": ("hooks.startContainer.0.path", "/start"),
    "Hook.Path": ("hooks.prestart.0.path", "/pre"),
    "Hook.Args": ("hooks.prestart.0.args", ["a0"]),
    "Hook.Env": ("hooks.prestart.0.env", ["E=1"]),
    "Hook.Timeout": ("hooks.prestart.0.timeout", 7),
}
# Limits are planned by `kata_agent.cgroups` and `containers/resources.py`, whose tests have their values.
RESOURCES = (
    "LinuxResources", "LinuxDeviceCgroup", "LinuxMemory", "LinuxCPU", "LinuxPids", "LinuxBlockIO",
    "LinuxWeightDevice", "LinuxThrottleDevice", "LinuxHugepageLimit", "LinuxNetwork", "LinuxInterfacePriority",
)  # fmt: skip
REFUSED = {"LinuxIntelRdt.L3CacheSchema": "intelRdt: cache allocation is the host's affair"}
# Kata's agent accepts and ignores these, and hosts send them by default: a refusal would lock those hosts out.
IGNORED = {
    "Spec.Solaris": "not of Linux",
    "Spec.Windows": "not of Linux",
    "Solaris.dummy": "not of Linux",
    "Windows.dummy": "not of Linux",
    "User.Username": "Windows containers only; users by name come in string_user",
    "Process.ApparmorProfile": "the guest has no AppArmor; containerd sends its profile with every container",
    "Hooks.CreateRuntime": "never run in Kata's guests: the host has run them",
}


def list_fields(descriptor: Descriptor, seen: set[str]) -> set[str]:
    """`Message.field` for each field that holds a value, all the way down."""
    found = set()
    for field in descriptor.fields:
        child = field.message_type
        if child is None or child.GetOptions().map_entry:
            found.add(f"{descriptor.name}.{field.name}")
        elif child.name not in seen:
            seen.add(child.name)
            found |= list_fields(child, seen)
    return found


def at(document: Any, path: str) -> object:
    for word in path.split("."):
        document = document[int(word)] if isinstance(document, list) else document[word]
    return document


@pytest.fixture(scope="module")
def planned() -> dict[str, Any]:
    return spec.rewrite(oci.spec(message()), ROOTFS, "/planned", SHARED)


def test_every_field_of_the_wire_has_a_row() -> None:
    fields = {name for name in list_fields(pb.Spec.DESCRIPTOR, set()) if name.split(".")[0] not in RESOURCES}
    hooks_of_lists = {f"Hooks.{field.name}" for field in pb.Hooks.DESCRIPTOR.fields}
    whole = {"Spec.Solaris", "Spec.Windows"}
    rows = [*PASSED, *TRANSLATED, *REFUSED, *IGNORED]
    assert sorted(rows) == sorted(set(rows)), "one fate for each"
    assert set(rows) == fields | hooks_of_lists | whole


@pytest.mark.parametrize("field", [*PASSED, *TRANSLATED])
def test_a_field_arrives_where_its_row_says(planned: dict[str, Any], field: str) -> None:
    path, value = {**PASSED, **TRANSLATED}[field]
    assert at(planned, path) == value


@pytest.mark.parametrize("field", IGNORED)
def test_an_ignored_field_is_not_in_the_document(planned: dict[str, Any], field: str) -> None:
    assert IGNORED[field]
    text = repr(planned)
    assert "ignored" not in text
    assert "/never" not in text
    assert not {"solaris", "windows"} & set(planned)


def test_cache_allocation_is_refused_by_name() -> None:
    changed = message()
    changed.Linux.IntelRdt.L3CacheSchema = "L3:0=f"
    with pytest.raises(NotSupported) as caught:
        spec.rewrite(oci.spec(changed), ROOTFS, "/planned", SHARED)
    assert REFUSED["LinuxIntelRdt.L3CacheSchema"] in str(caught.value)


def test_network_sysctls_are_the_guests_unless_a_network_is_joined() -> None:
    linux = {"sysctl": {"net.ipv4.ip_forward": "1", "kernel.shmmax": "2"}}
    assert sysctl.split(linux) == ({"kernel.shmmax": "2"}, {"net/ipv4/ip_forward": "1"})
    joined = {**linux, "namespaces": [{"type": "network", "path": "/run/netns/x"}]}
    assert sysctl.split(joined) == (linux["sysctl"], {})
    assert sysctl.to_path("net.ipv4.conf.eth0/100.forwarding") == "net/ipv4/conf/eth0.100/forwarding"


@pytest.mark.parametrize("name", ["net..x", "net.", "net.ipv4.//.x", "net.ipv4.\0"])
def test_a_sysctl_that_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="is not a name"):
        sysctl.to_path(name)


def test_network_sysctls_are_written_all_or_none(tmp_path: Any) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net/there").write_text("0")
    with pytest.raises(NotSupported, match=r"sysctl net\.gone: the guest's kernel has none"):
        sysctl.write_guests({"net/there": "1", "net/gone": "1"}, str(tmp_path))
    assert (tmp_path / "net/there").read_text() == "0"
    sysctl.write_guests({"net/there": "1"}, str(tmp_path))
    assert (tmp_path / "net/there").read_text() == "1"


def test_hooks_for_crun_are_behind_the_guard_but_for_the_containers_own(planned: dict[str, Any]) -> None:
    given = hooks.plan_for_crun(planned["hooks"], "/report")
    assert sorted(given) == ["createContainer", "prestart", "startContainer"]
    words = given["prestart"][0]["args"]
    assert words[3:] == [hooks.GUARD, "/report", "prestart", "7", "1", "E=1", "/pre", "a0"]
    assert given["startContainer"][0] == {"path": "/start", "args": ["a0"], "env": ["E=1"], "timeout": 7}
    assert hooks.sum_limits(planned["hooks"]) == 14
    assert hooks.limit_of({}) == 10
