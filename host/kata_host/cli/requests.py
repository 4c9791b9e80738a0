"""Fills each call's request from a command's arguments and from the values that `connect` makes up.

JSON wins over options, options over what is remembered, and that over what is made up. What a call needs beyond
that is a row in `_PREPARE`. Follows the spec of the host side, 1.5-1.8. Knows no connection: it hands out
requests.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from kata_host.cli.notation import Arguments, NotationError, parse_arguments, parse_bytes, parse_signal
from kata_host.client import RPCS
from kata_host.copyfile import plan_copy
from kata_host.message_json import fill_message
from kata_host.sandbox import make_id
from kata_protocols.gen import agent_pb2 as pb

_LEAST_ID_LENGTH = 8

# The names that the original gives to commands, where they are not the RPC's.
_SPELLINGS = {"GetIptables": "GetIPTables", "SetIptables": "SetIPTables"}
API_COMMANDS = tuple(sorted({*(set(RPCS) - set(_SPELLINGS.values())), *_SPELLINGS}))


def find_rpc(name: str) -> str | None:
    """The RPC that a command stands for."""
    rpc = _SPELLINGS.get(name, name)
    return rpc if rpc in RPCS else None


@dataclass
class Session:
    """What one run of `connect` remembers from command to command."""

    auto_values: bool = True
    bundle_dir: str | None = None
    remembered: dict[str, str] = field(default_factory=dict)

    def find_id(self, options: dict[str, str], key: str) -> str:
        """`cid`, `sid` or `exec_id`: given, remembered, or made up and remembered."""
        if key in options:
            self.remembered[key] = options[key]
        elif key not in self.remembered:
            made = self.find_id(options, "cid") if key == "exec_id" else make_id()
            if key == "exec_id":
                return made
            self.remembered[key] = made
        return self.remembered[key]


def _parse_bool(text: str) -> bool:
    if text not in ("true", "false"):
        raise NotationError(f"{text!r}: want true or false")
    return text == "true"


# option -> (field, parser); ids and specs are handled by name below
_OPTIONS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "signal": ("signal", parse_signal),
    "row": ("row", int),
    "column": ("column", int),
    "len": ("len", int),
    "data": ("data", parse_bytes),
    "wait": ("wait", _parse_bool),
    "nb_cpus": ("nb_cpus", int),
    "cpu_only": ("cpu_only", _parse_bool),
    "sec": ("Sec", int),
    "usec": ("Usec", int),
}


def build_requests(session: Session, rpc: str, argument: str) -> Iterator[Message]:
    """The request, or requests, of one command."""
    arguments = parse_arguments(argument)
    private = _PRIVATE.get(rpc)
    if (
        private is not None
        and arguments.document is not None
        and (answer := private(arguments.document)) is not None
    ):
        yield from answer
        return
    request: Message = RPCS[rpc].request()
    if arguments.document is not None:
        fill_message(request, arguments.document)
    _apply_options(request, arguments.options)
    prepare = _PREPARE.get(rpc)
    if prepare is not None:
        prepare(session, request, arguments)
    if session.auto_values:
        _apply_auto_values(session, request, arguments.options)
    else:
        _apply_given_ids(session, request, arguments.options)
    yield request


def _apply_options(request: Message, options: dict[str, str]) -> None:
    fields = request.DESCRIPTOR.fields_by_name
    for key, text in options.items():
        if key == "memHotplugProbeAddr" and key in fields:
            getattr(request, key).extend(int(word, 16) for word in text.split(","))
        elif key in _OPTIONS and _OPTIONS[key][0] in fields:
            name, parse = _OPTIONS[key]
            try:
                setattr(request, name, parse(text))
            except ValueError as exc:
                raise NotationError(f"{key}={text}: {exc}") from None


_IDS = {"container_id": "cid", "exec_id": "exec_id"}


def _apply_auto_values(session: Session, request: Message, options: dict[str, str]) -> None:
    for name, key in _IDS.items():
        if name in request.DESCRIPTOR.fields_by_name and not getattr(request, name):
            setattr(request, name, session.find_id(options, key))
    if isinstance(request, pb.SignalProcessRequest) and not request.signal:
        request.signal = parse_signal("SIGKILL")
    if isinstance(request, pb.GuestDetailsRequest):
        request.mem_block_size = request.mem_hotplug_probe = True


def _apply_given_ids(session: Session, request: Message, options: dict[str, str]) -> None:
    for name, key in _IDS.items():
        if name in request.DESCRIPTOR.fields_by_name and key in options:
            setattr(request, name, session.find_id(options, key))


def _load_spec(session: Session, arguments: Arguments) -> tuple[dict[str, Any], str] | None:
    """The OCI document that `spec=`, `bundle-dir=` or --bundle-dir names, and its folder."""
    named = arguments.options.get("spec")
    bundle = arguments.options.get("bundle-dir") or session.bundle_dir
    if named:
        path = Path(named.removeprefix("file://"))
    elif bundle:
        path = Path(bundle) / "config.json"
    else:
        return None
    document = parse_arguments(f"file://{path}").document or {}
    return document, str(path.parent.absolute())


def _prepare_create_container(session: Session, request: Any, arguments: Arguments) -> None:
    if request.HasField("OCI"):
        return
    loaded = _load_spec(session, arguments)
    if loaded is None:
        raise NotationError(
            "CreateContainer: no specification; give --bundle-dir DIR, spec=file://PATH or OCI in JSON"
        )
    document, folder = loaded
    root = dict(document.get("root") or {})
    root["path"] = os.path.join(folder, root.get("path", "rootfs"))
    dropped = ("hooks", "annotations", "hostname")
    kept = {key: value for key, value in document.items() if key not in dropped}
    fill_message(request.OCI, {**kept, "root": root})
    given = arguments.options.get("cid", "")
    if given and len(given) < _LEAST_ID_LENGTH:
        raise NotationError(f"container id {given!r}: at least {_LEAST_ID_LENGTH} characters")


def _prepare_create_sandbox(session: Session, request: Any, arguments: Arguments) -> None:
    if not request.sandbox_id:
        request.sandbox_id = session.find_id(arguments.options, "sid")


def _prepare_exec(session: Session, request: Any, arguments: Arguments) -> None:
    if request.HasField("process") or not session.auto_values:
        return
    loaded = _load_spec(session, arguments)
    if loaded is None:
        raise NotationError(
            "ExecProcess: no process; give --bundle-dir DIR, spec=file://PATH or process in JSON"
        )
    fill_message(request.process, loaded[0].get("process"))


def _prepare_add_swap(_session: Session, request: Any, _arguments: Arguments) -> None:
    request.Clear()  # the original sends an empty list whatever it is given


_PREPARE: dict[str, Callable[[Session, Any, Arguments], None]] = {
    "CreateContainer": _prepare_create_container,
    "CreateSandbox": _prepare_create_sandbox,
    "ExecProcess": _prepare_exec,
    "AddSwap": _prepare_add_swap,
}


def _copy_file(document: dict[str, object]) -> Iterator[Message] | None:
    if "src" not in document:
        return None
    return _copy_requests(str(document["src"]), str(document.get("dest", "")))


def _copy_requests(source: str, destination: str) -> Iterator[Message]:
    try:
        yield from plan_copy(source, destination)
    except OSError as exc:
        raise NotationError(f"CopyFile: {source}: {exc.strerror}") from None


def _set_policy(document: dict[str, object]) -> Iterator[Message] | None:
    if "policy_file" not in document:
        return None
    path = str(document["policy_file"])
    try:
        return iter([pb.SetPolicyRequest(policy=Path(path).read_text())])
    except OSError as exc:
        raise NotationError(f"SetPolicy: {path}: {exc.strerror}") from None


def _create_from_image(document: dict[str, object]) -> Iterator[Message] | None:
    if "image" not in document:
        return None
    raise NotationError("CreateContainer: pulling an image is not built; unpack it and use --bundle-dir DIR")


# Commands whose JSON may be a shape of the tool's own instead of the request's.
_PRIVATE: dict[str, Callable[[dict[str, object]], Iterator[Message] | None]] = {
    "CopyFile": _copy_file,
    "SetPolicy": _set_policy,
    "CreateContainer": _create_from_image,
}
