"""The input document: the shape in which policies written for Kata's agent find a request."""

from __future__ import annotations

import json

from kata_policy.document import input_document, input_json
from kata_protocols.gen import agent_pb2, oci_pb2, sandbox_pb2, types_pb2


def test_every_field_is_there_with_null_list_object_and_zero_kept_apart() -> None:
    document = input_document(agent_pb2.CreateContainerRequest(container_id="a"))
    assert document["container_id"] == "a"
    assert document["OCI"] is None
    assert document["devices"] == []
    assert document["sandbox_pidns"] is False
    assert set(document) == {field.name for field in agent_pb2.CreateContainerRequest.DESCRIPTOR.fields}


def test_names_are_the_protos_and_type_has_an_underscore() -> None:
    spec = oci_pb2.Spec(
        Mounts=[oci_pb2.Mount(destination="/proc", type="proc")], Annotations={"io.katacontainers.x": "1"}
    )
    document = input_document(agent_pb2.CreateContainerRequest(OCI=spec))["OCI"]
    assert document["Mounts"] == [{"destination": "/proc", "source": "", "type_": "proc", "options": []}]
    assert document["Annotations"] == {"io.katacontainers.x": "1"}
    assert document["Process"] is None
    assert "Sec" in input_document(agent_pb2.SetGuestDateTimeRequest(Sec=1))


def test_enums_are_numbers_and_bytes_are_lists() -> None:
    interface = types_pb2.Interface(IPAddresses=[types_pb2.IPAddress(family=types_pb2.IPFamily.v6)])
    assert input_document(interface)["IPAddresses"][0]["family"] == 1
    assert input_document(agent_pb2.CopyFileRequest(data=b"\x00\xff"))["data"] == [0, 255]


def test_wide_numbers_stay_whole() -> None:
    resources = oci_pb2.LinuxResources(Memory=oci_pb2.LinuxMemory(Limit=-1, Kernel=2**63 - 1))
    text = input_json(resources)
    assert '"Limit":-1' in text
    assert '"Kernel":9223372036854775807' in text
    assert json.loads(text)["Memory"]["Kernel"] == 2**63 - 1


def test_the_oneof_is_one_key_with_a_tagged_value() -> None:
    document = input_document(oci_pb2.LinuxSyscall(Names=["open"]))
    assert document["ErrnoRet"] is None
    assert "errnoret" not in document
    assert input_document(oci_pb2.LinuxSyscall(errnoret=38))["ErrnoRet"] == {"Errnoret": 38}


def test_an_optional_scalar_that_is_not_set_is_null() -> None:
    document = input_document(agent_pb2.MemAgentMemcgConfig(disabled=False))
    assert document["disabled"] is False
    assert document["swap"] is None


def test_our_own_requests_have_the_same_shape() -> None:
    assert input_document(sandbox_pb2.WhyRequest(container_id="a")) == {"container_id": "a"}
