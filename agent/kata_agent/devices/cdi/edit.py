"""From the edits of CDI devices to a container's specification. Pure, but for `observe_node`.

Owns what each edit does to the OCI dictionary. Must not know: files of CDI, waiting. Follows: CDI 1.1, "OCI Edits", and
the interface's own library where the text is silent: variables, nodes and mounts replace those of the same name, path
and place; a node belongs to the container's user; mounts are sorted by depth.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

from kata_agent.devices.cdi.definition import NO_ACCESS
from kata_agent.errors import InvalidRequest, NotSupported
from kata_linux.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kata_agent.devices.cdi.definition import Edits
    from kata_agent.devices.cdi.folder import Origin
    from kata_agent.devices.cdi.name import Name

Spec = dict[str, Any]

_TYPES = {stat.S_IFBLK: "b", stat.S_IFCHR: "c", stat.S_IFIFO: "p"}
_ALIKE = {"u": "c"}
# Both run when the namespaces are there and before the root changes, in the runtime's own; the agent runs the first.
_HOOK_KINDS = {"createRuntime": "prestart"}


class Node(Record):
    """A device node of the guest."""

    type: str
    major: int
    minor: int
    mode: int


def collect(origins: Iterable[tuple[Name, Origin]]) -> list[Edits]:
    """The edits in their order: a file's own once, before those of the first of its devices that is asked for."""
    edits = []
    files = set()
    for name, origin in origins:
        if origin.path not in files:
            files.add(origin.path)
            edits.append(origin.definition.edits)
        edits.append(origin.definition.devices[name.device])
    return edits


def list_nodes(edits: Iterable[Edits]) -> tuple[str, ...]:
    """The guest's nodes that the edits refer to."""
    return tuple({_source(node): None for one in edits for node in one.get("deviceNodes") or []})


def list_missing(edits: Iterable[Edits], nodes: Mapping[str, Node | None]) -> tuple[str, ...]:
    """The nodes that must be there, since their file does not say what they are, and are not."""
    wanted = [node for one in edits for node in one.get("deviceNodes") or [] if not _is_complete(node)]
    return tuple({_source(node): None for node in wanted if nodes.get(_source(node)) is None})


def observe_node(path: str) -> Node | None:
    """What is at a path of the guest; None when nothing is. InvalidRequest when it is no device node."""
    try:
        about = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    kind = _TYPES.get(stat.S_IFMT(about.st_mode))
    if kind is None:
        raise InvalidRequest(f"CDI device node {path}: is not a device node")
    return Node(kind, os.major(about.st_rdev), os.minor(about.st_rdev), stat.S_IMODE(about.st_mode))


def apply(spec: Spec, edits: Iterable[Edits], nodes: Mapping[str, Node | None]) -> Spec:
    """The specification with all edits; `spec` stays as it is. InvalidRequest, NotSupported."""
    edited = _copy(spec)
    for one in edits:
        _add_variables(edited, one.get("env") or [])
        for node in one.get("deviceNodes") or []:
            _add_node(edited, node, nodes.get(_source(node)))
        if one.get("netDevices"):
            names = ", ".join(device["hostInterfaceName"] for device in one["netDevices"])
            raise NotSupported(
                f"CDI netDevices {names}: a container shares the guest's network, leave them out"
            )
        if one.get("mounts"):
            _add_mounts(edited, one["mounts"])
        for hook in one.get("hooks") or []:
            kind = _HOOK_KINDS.get(hook["hookName"], hook["hookName"])
            planned = {key: value for key, value in hook.items() if key != "hookName"}
            edited["hooks"].setdefault(kind, []).append(planned)
        if one.get("intelRdt"):
            edited["linux"]["intelRdt"] = one["intelRdt"]
        _add_groups(edited, one.get("additionalGids") or [])
    return edited


def _copy(spec: Spec) -> Spec:
    """Deep enough for what is changed here, with the parts that may be missing."""
    from kata_agent.containers.process_spec import DEFAULT
    from kata_agent.containers.spec import DEFAULT_LINUX

    process = dict(spec.get("process") or DEFAULT)
    user = dict(process.get("user") or {})
    user["additionalGids"] = list(user.get("additionalGids") or [])
    linux = dict(spec.get("linux") or DEFAULT_LINUX)
    resources = dict(linux.get("resources") or {})
    resources["devices"] = list(resources.get("devices") or [])
    linux.update(devices=list(linux.get("devices") or []), resources=resources)
    process.update(env=list(process.get("env") or []), user=user)
    hooks = {kind: list(listed) for kind, listed in (spec.get("hooks") or {}).items()}
    return {
        **spec,
        "process": process,
        "linux": linux,
        "mounts": list(spec.get("mounts") or []),
        "hooks": hooks,
    }


def _add_variables(spec: Spec, variables: list[str]) -> None:
    environment = spec["process"]["env"]
    for variable in variables:
        start = variable.partition("=")[0] + "="
        kept = [entry for entry in environment if not entry.startswith(start)]
        environment[:] = [*kept, variable]


def _source(node: Mapping[str, Any]) -> str:
    return str(node.get("hostPath") or node["path"])


def _is_complete(node: Mapping[str, Any]) -> bool:
    """Whether a file says itself what the node is."""
    return bool(node.get("type") and (node.get("major") or node["type"] == "p"))


def _add_node(spec: Spec, node: Mapping[str, Any], there: Node | None) -> None:
    kind, major, minor = node.get("type") or "", node.get("major") or 0, node.get("minor") or 0
    if not _is_complete(node):
        if there is None:
            raise InvalidRequest(f"CDI device node {_source(node)}: is not there")
        if kind and _ALIKE.get(kind, kind) != there.type:
            raise InvalidRequest(f"CDI device node {_source(node)}: is of type {there.type!r}, not {kind!r}")
        kind, major, minor = kind or there.type, there.major, there.minor
    planned: dict[str, Any] = {"path": node["path"], "type": kind}
    if kind != "p":
        planned.update(major=major, minor=minor)
    mode = node.get("fileMode", there.mode if there else None)
    if mode is not None:
        planned["fileMode"] = mode
    for key in ("uid", "gid"):
        owner = node.get(key, spec["process"]["user"].get(key) or None)
        if owner is not None:
            planned[key] = owner
    devices = spec["linux"]["devices"]
    devices[:] = [*(device for device in devices if device.get("path") != node["path"]), planned]
    access = node.get("permissions") or "rwm"
    if kind in ("b", "c") and access != NO_ACCESS:
        rule = {"allow": True, "type": kind, "major": major, "minor": minor, "access": access}
        spec["linux"]["resources"]["devices"].append(rule)


def _add_mounts(spec: Spec, mounts: list[dict[str, Any]]) -> None:
    has_users = any(entry.get("type") == "user" for entry in spec["linux"].get("namespaces") or [])
    for mount in mounts:
        target = mount["containerPath"]
        options = list(mount.get("options") or [])
        if (
            has_users
            and not {"bind", "rbind"}.isdisjoint(options)
            and {"idmap", "ridmap"}.isdisjoint(options)
        ):
            options.append("idmap")
        planned = {"destination": target, "source": mount["hostPath"], "options": options}
        if mount.get("type"):
            planned["type"] = mount["type"]
        spec["mounts"] = [*(one for one in spec["mounts"] if one.get("destination") != target), planned]
    spec["mounts"].sort(key=_depth)


def _depth(mount: Mapping[str, Any]) -> int:
    return os.path.normpath(str(mount.get("destination") or "/")).count("/")


def _add_groups(spec: Spec, groups: list[int]) -> None:
    there = spec["process"]["user"]["additionalGids"]
    there.extend(group for group in dict.fromkeys(groups) if group and group not in there)
