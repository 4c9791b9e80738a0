"""Every message, field, enum and method is what the wire contract says, and nothing more.

`data/wire-contract.json` is the contract as it was taken from Kata 3.21.0's compiled descriptors.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor

from kata_protocols import services

CONTRACT = json.loads((Path(__file__).parent / "data" / "wire-contract.json").read_text())
FILES = [file for file in CONTRACT["files"] if not file["file"].startswith("google/")]
TYPE_NAMES = {
    value: name.removeprefix("TYPE_").lower()
    for name, value in vars(FieldDescriptor).items()
    if name.startswith("TYPE_")
}


def load(file: dict[str, Any]) -> FileDescriptor:
    descriptor: FileDescriptor = import_module(
        f"kata_protocols.gen.{file['file'].removesuffix('.proto')}_pb2"
    ).DESCRIPTOR
    return descriptor


def type_name(field: FieldDescriptor) -> str:
    if field.message_type is not None:
        return field.message_type.full_name
    return field.enum_type.full_name if field.enum_type is not None else TYPE_NAMES[field.type]


def describe_field(field: FieldDescriptor) -> dict[str, Any]:
    """The field in the contract's words."""
    oneof = field.containing_oneof
    described = {
        "number": field.number,
        "name": field.name,
        "json_name": field.json_name,
        "type": type_name(field),
        "kind": TYPE_NAMES[field.type],
        "label": "repeated" if field.is_repeated else "singular",
    }
    if oneof is not None and not oneof.name.startswith("_"):
        described |= {"label": f"oneof {oneof.name}", "oneof": oneof.name}
    elif oneof is not None:
        described["label"] = "optional"
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        entry = field.message_type.fields_by_name
        key, value = type_name(entry["key"]), type_name(entry["value"])
        described |= {
            "type": f"map<{key}, {value}>",
            "kind": "map",
            "label": "map",
            "map_key": key,
            "map_value": value,
        }
    return described


def walk(messages: Any) -> tuple[dict[str, Descriptor], dict[str, EnumDescriptor]]:
    """Messages and enums by full name, nested ones included, map entries not."""
    found: dict[str, Descriptor] = {}
    enums: dict[str, EnumDescriptor] = {}
    for message in messages:
        if message.GetOptions().map_entry:
            continue
        found[message.full_name] = message
        inner, inner_enums = walk(message.nested_types)
        found |= inner
        enums |= inner_enums | {enum.full_name: enum for enum in message.enum_types}
    return found, enums


@pytest.mark.parametrize("file", FILES, ids=[file["file"] for file in FILES])
def test_messages_have_the_contracts_fields(file: dict[str, Any]) -> None:
    descriptor = load(file)
    ours, _ = walk(descriptor.message_types_by_name.values())
    wanted = {message["name"]: message["fields"] for message in file["messages"]}
    assert ours.keys() == wanted.keys()
    for name, message in ours.items():
        assert [describe_field(field) for field in sorted(message.fields, key=lambda f: f.number)] == sorted(
            wanted[name], key=lambda field: field["number"]
        ), name


@pytest.mark.parametrize("file", FILES, ids=[file["file"] for file in FILES])
def test_enums_have_the_contracts_values(file: dict[str, Any]) -> None:
    descriptor = load(file)
    _, enums = walk(descriptor.message_types_by_name.values())
    enums |= {enum.full_name: enum for enum in descriptor.enum_types_by_name.values()}
    ours = {name: {value.name: value.number for value in enum.values} for name, enum in enums.items()}
    wanted = {
        enum["name"]: {value["name"]: value["number"] for value in enum["values"]} for enum in file["enums"]
    }
    assert ours == wanted


@pytest.mark.parametrize("file", FILES, ids=[file["file"] for file in FILES])
def test_services_have_the_contracts_methods_in_order(file: dict[str, Any]) -> None:
    descriptor = load(file)
    assert descriptor.package == file["package"]
    ours = {
        service.full_name: [
            {
                "name": method.name,
                "request": method.input_type.full_name,
                "response": method.output_type.full_name,
                "client_streaming": method.client_streaming,
                "server_streaming": method.server_streaming,
            }
            for method in service.methods
        ]
        for service in descriptor.services_by_name.values()
    }
    assert ours == {service["name"]: service["methods"] for service in file["services"]}


def test_the_two_services_of_the_agent_have_41_and_2_methods() -> None:
    assert (services.AGENT_SERVICE.name, len(services.AGENT_SERVICE.methods)) == ("grpc.AgentService", 41)
    assert (services.HEALTH_SERVICE.name, list(services.HEALTH_SERVICE.methods)) == (
        "grpc.Health",
        ["Check", "Version"],
    )
