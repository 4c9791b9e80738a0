"""From the host's numbers of devices to the guest's, in a specification. Pure.

Follows: Kata's agent 3.21, "Rewriting the OCI spec", with its faults left out: rules are rewritten before the guest's
own are added, so no number is changed twice, and a specification without resources gets them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kata_agent.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kata_agent.devices.request import DeviceRequest, Node

Spec = dict[str, Any]
_Numbers = tuple[str, int, int]


def plan_nodes(pairs: Sequence[tuple[DeviceRequest, Node]]) -> dict[str, Node]:
    """The guest's node for each path of the container. Raises `InvalidRequest` when two want the same path."""
    nodes: dict[str, Node] = {}
    for device, node in pairs:
        if device.container_path in nodes:
            raise InvalidRequest(f"Conflicting device updates for {device.container_path}")
        nodes[device.container_path] = node
    return nodes


def rewrite(spec: Spec, nodes: Mapping[str, Node]) -> Spec:
    """The specification with the guest's numbers, in devices and rules, and what the nodes need allowed."""
    if not nodes:
        return spec
    linux = spec.get("linux")
    if linux is None:
        raise InvalidRequest(
            f"Spec didn't contain linux field, but devices are asked for: {', '.join(nodes)}"
        )
    devices, moved = _rewrite_devices(linux.get("devices") or [], nodes)
    resources = dict(linux.get("resources") or {})
    rules = [_rewrite_rule(rule, moved) for rule in resources.get("devices") or []]
    resources["devices"] = [*rules, *(_allow(node) for node in nodes.values())]
    return {**spec, "linux": {**linux, "devices": devices, "resources": resources}}


def _rewrite_devices(
    devices: Sequence[Spec], nodes: Mapping[str, Node]
) -> tuple[list[Spec], dict[_Numbers, Node]]:
    """The devices, and which node each of the host's numbers has become."""
    moved: dict[_Numbers, Node] = {}
    found: set[str] = set()
    result = []
    for device in devices:
        node = nodes.get(device.get("path", ""))
        if node is None:
            result.append(device)
            continue
        found.add(device["path"])
        numbers = (device.get("type", ""), device.get("major", 0), device.get("minor", 0))
        if moved.setdefault(numbers, node) is not node:
            raise InvalidRequest(f"Conflicting resource updates for {numbers[0]} {numbers[1]}:{numbers[2]}")
        path = node.path or device["path"]
        result.append({**device, "path": path, "type": node.kind, "major": node.major, "minor": node.minor})
    missing = sorted(set(nodes) - found)
    if missing:
        raise InvalidRequest(f"Missing devices in OCI spec: {', '.join(missing)}")
    return result, moved


def _rewrite_rule(rule: Spec, moved: Mapping[_Numbers, Node]) -> Spec:
    """A rule about one of the host's devices becomes one about the guest's; numbers are looked up once."""
    node = moved.get((rule.get("type", ""), rule.get("major", -1), rule.get("minor", -1)))
    return rule if node is None else {**rule, "major": node.major, "minor": node.minor}


def _allow(node: Node) -> Spec:
    return {"allow": True, "type": node.kind, "major": node.major, "minor": node.minor, "access": "rwm"}
