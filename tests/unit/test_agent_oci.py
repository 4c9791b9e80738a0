"""OCI messages to OCI documents: every field of the contract, and what counts as "not set"."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from kata_agent.errors import InvalidRequest
from kata_agent.services import oci
from kata_protocols.gen import oci_pb2

# A valid word for each string that is one of an enumeration, by message and field.
WORDS = {
    ("POSIXRlimit", "Type"): "RLIMIT_NOFILE",
    ("LinuxNamespace", "Type"): "mount",
    ("LinuxDevice", "Type"): "c",
    ("LinuxDeviceCgroup", "Type"): "b",
    ("LinuxDeviceCgroup", "Access"): "rw",
    ("LinuxSeccomp", "DefaultAction"): "SCMP_ACT_ERRNO",
    ("LinuxSeccomp", "Architectures"): "SCMP_ARCH_X86_64",
    ("LinuxSeccomp", "Flags"): "SECCOMP_FILTER_FLAG_LOG",
    ("LinuxSyscall", "Action"): "SCMP_ACT_ALLOW",
    ("LinuxSeccompArg", "Op"): "SCMP_CMP_EQ",
    ("Linux", "RootfsPropagation"): "rslave",
}
IGNORED = {"Solaris", "Windows"}


def fill(message: Any, leaves: list[object]) -> None:
    """Give every field of `message` a value of its own; the values are collected in `leaves`."""
    descriptor: Descriptor = message.DESCRIPTOR
    for field in descriptor.fields:
        if field.name in IGNORED:
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            leaves.append(f"value{len(leaves)}")
            getattr(message, field.name)[f"key{len(leaves)}"] = leaves[-1]
        elif field.message_type is not None:
            child = getattr(message, field.name)
            fill(child.add() if field.is_repeated else child, leaves)
        else:
            value = make_value(descriptor.name, field, len(leaves))
            leaves.append(value)
            if field.is_repeated:
                getattr(message, field.name).append(value)
            else:
                setattr(message, field.name, value)


def make_value(message: str, field: FieldDescriptor, number: int) -> object:
    if message == "LinuxCapabilities":
        return "CAP_SYS_ADMIN"
    if (message, field.name) in WORDS:
        return WORDS[message, field.name]
    if field.type == FieldDescriptor.TYPE_BOOL:
        return True
    return f"text{number}" if field.type == FieldDescriptor.TYPE_STRING else 1000 + number


def leaves_of(document: object) -> list[object]:
    if isinstance(document, dict):
        return [leaf for value in document.values() for leaf in leaves_of(value)]
    if isinstance(document, list):
        return [leaf for value in document for leaf in leaves_of(value)]
    return [document]


def test_every_field_of_the_contract_arrives_in_the_document() -> None:
    message = oci_pb2.Spec()
    expected: list[object] = []
    fill(message, expected)
    found = leaves_of(oci.spec(message))
    assert len(expected) > 100
    assert sorted(map(str, found)) == sorted(map(str, expected))


def test_keys_are_those_of_the_runtime_specification() -> None:
    message = oci_pb2.Spec()
    fill(message, [])
    document = oci.spec(message)
    assert set(document) == {
        "ociVersion", "process", "root", "hostname", "mounts", "hooks", "annotations", "linux",
    }  # fmt: skip
    assert set(document["linux"]) == {
        "uidMappings", "gidMappings", "sysctl", "resources", "cgroupsPath", "namespaces", "devices", "seccomp",
        "rootfsPropagation", "maskedPaths", "readonlyPaths", "mountLabel", "intelRdt",
    }  # fmt: skip
    assert set(document["process"]) == {
        "terminal", "consoleSize", "user", "args", "env", "cwd", "capabilities", "rlimits", "noNewPrivileges",
        "apparmorProfile", "oomScoreAdj", "selinuxLabel",
    }  # fmt: skip
    assert set(document["linux"]["resources"]) == {
        "devices", "memory", "cpu", "pids", "blockIO", "hugepageLimits", "network",
    }  # fmt: skip
    assert document["linux"]["seccomp"]["syscalls"][0]["errnoRet"] > 0


def test_absent_messages_stay_absent() -> None:
    assert oci.spec(oci_pb2.Spec()) == {"ociVersion": "1.0.2"}


def test_empty_arguments_run_sh() -> None:
    assert oci.process(oci_pb2.Process())["args"] == ["sh"]


def test_score_and_groups_are_set_even_when_zero_or_empty() -> None:
    document = oci.process(oci_pb2.Process(User=oci_pb2.User(UID=0)))
    assert document["oomScoreAdj"] == 0
    assert document["user"] == {"uid": 0, "gid": 0, "additionalGids": []}


def test_unlimited_is_kept_and_zero_is_not_set() -> None:
    memory = oci_pb2.LinuxMemory(Limit=-1, Swap=0)
    assert oci.resources(oci_pb2.LinuxResources(Memory=memory)) == {"memory": {"limit": -1}}


def test_process_limit_is_honoured_and_not_inverted() -> None:
    assert oci.resources(oci_pb2.LinuxResources(Pids=oci_pb2.LinuxPids(Limit=7))) == {"pids": {"limit": 7}}
    assert oci.resources(oci_pb2.LinuxResources()) == {}


def test_poststop_hooks_are_their_own() -> None:
    hooks = oci_pb2.Hooks(Poststart=[oci_pb2.Hook(Path="/a")], Poststop=[oci_pb2.Hook(Path="/b", Timeout=3)])
    assert oci.spec(oci_pb2.Spec(Hooks=hooks))["hooks"] == {
        "poststart": [{"path": "/a"}],
        "poststop": [{"path": "/b", "timeout": 3}],
    }


def test_seccomp_errno_of_zero_differs_from_none() -> None:
    calls = [
        oci_pb2.LinuxSyscall(Names=["a"], Action="SCMP_ACT_ERRNO", errnoret=0),
        oci_pb2.LinuxSyscall(Names=["b"], Action="SCMP_ACT_ERRNO"),
    ]
    seccomp = oci_pb2.LinuxSeccomp(DefaultAction="SCMP_ACT_ALLOW", Syscalls=calls)
    found = oci.spec(oci_pb2.Spec(Linux=oci_pb2.Linux(Seccomp=seccomp)))["linux"]["seccomp"]["syscalls"]
    assert [call.get("errnoRet") for call in found] == [0, None]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"Allow": False, "Access": "rwm"}, {"allow": False, "access": "rwm"}),
        ({"Allow": False, "Major": -1, "Minor": -1}, {"allow": False}),
        ({"Allow": True, "Type": "a"}, {"allow": True, "type": "a", "major": 0, "minor": 0}),
        ({"Allow": True, "Type": "c", "Major": 5, "Minor": -1}, {"allow": True, "type": "c", "major": 5}),
        (
            {"Allow": False, "Type": "b", "Major": 8, "Minor": 0},
            {"allow": False, "type": "b", "major": 8, "minor": 0},
        ),
    ],
)
def test_zero_in_an_allow_rule_never_becomes_a_wildcard(rule: dict[str, Any], expected: object) -> None:
    resources = oci_pb2.LinuxResources(Devices=[oci_pb2.LinuxDeviceCgroup(**rule)])
    assert oci.resources(resources) == {"devices": [expected]}


@pytest.mark.parametrize("text", ["NET_ADMIN", "CAP_NET_ADMIN", '"CAP_NET_ADMIN"', "cap_net_admin"])
def test_capability_is_known_in_every_spelling_of_the_wire(text: str) -> None:
    process = oci_pb2.Process(Capabilities=oci_pb2.LinuxCapabilities(Bounding=[text]))
    assert oci.process(process)["capabilities"]["bounding"] == ["CAP_NET_ADMIN"]


@pytest.mark.parametrize(
    "spec",
    [
        oci_pb2.Spec(Process=oci_pb2.Process(Capabilities=oci_pb2.LinuxCapabilities(Ambient=["CAP_NONE"]))),
        oci_pb2.Spec(Process=oci_pb2.Process(Rlimits=[oci_pb2.POSIXRlimit(Type="NOFILE")])),
        oci_pb2.Spec(Linux=oci_pb2.Linux(Namespaces=[oci_pb2.LinuxNamespace(Type="bogus")])),
        oci_pb2.Spec(Linux=oci_pb2.Linux(Devices=[oci_pb2.LinuxDevice(Path="/dev/x", Type="z")])),
        oci_pb2.Spec(Linux=oci_pb2.Linux(Seccomp=oci_pb2.LinuxSeccomp(DefaultAction="ALLOW"))),
        oci_pb2.Spec(
            Linux=oci_pb2.Linux(Seccomp=oci_pb2.LinuxSeccomp(DefaultAction="SCMP_ACT_LOG", Flags=["LOG"]))
        ),
        oci_pb2.Spec(Linux=oci_pb2.Linux(RootfsPropagation="sideways")),
        oci_pb2.Spec(Hooks=oci_pb2.Hooks(Prestart=[oci_pb2.Hook(Path="/a", Timeout=-1)])),
    ],
)
def test_word_outside_the_specification_is_refused_by_name(spec: oci_pb2.Spec) -> None:
    with pytest.raises(InvalidRequest):
        oci.spec(spec)


@pytest.mark.parametrize(("short", "name"), [("mnt", "mount"), ("net", "network"), ("pid", "pid")])
def test_namespace_s_short_name_is_spelt_out(short: str, name: str) -> None:
    linux = oci_pb2.Linux(Namespaces=[oci_pb2.LinuxNamespace(Type=short, Path="/p")])
    assert oci.spec(oci_pb2.Spec(Linux=linux))["linux"]["namespaces"] == [{"type": name, "path": "/p"}]
