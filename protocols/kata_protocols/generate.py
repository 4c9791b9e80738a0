"""Generates `gen/` from `proto/`: `python -m kata_protocols.generate`; `--check` says what is out of date.

Runs on a developer's machine only (grpcio-tools is in the `dev` extra). protoc gives descriptors and type stubs; a
module is its file's descriptor, handed to `messages.load` (not protoc's Python: see there). The long file names keep
ours apart from other people's `health.proto` or `csi.proto` in the process-wide descriptor pool.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

PACKAGE = Path(__file__).parent
PROTO = PACKAGE / "proto"
GEN = PACKAGE / "gen"


def run_protoc(destination: Path) -> FileDescriptorSet:
    """Compile every file of `proto/`: type stubs below `destination`, descriptors as the result."""
    from importlib.resources import files

    from google.protobuf.descriptor_pb2 import FileDescriptorSet
    from grpc_tools import protoc

    descriptors = destination / "descriptors"
    arguments = [
        "protoc",
        f"--proto_path={PACKAGE.parent}",
        f"--proto_path={files('grpc_tools') / '_proto'}",
        "--include_imports",
        f"--descriptor_set_out={descriptors}",
        f"--pyi_out={destination}",
        *(str(path) for path in sorted(PROTO.glob("*.proto"))),
    ]
    status: int = protoc.main(arguments)
    if status != 0:
        raise RuntimeError(f"protoc ended with status {status}: its messages are above")
    return FileDescriptorSet.FromString(descriptors.read_bytes())


def module_name(file: str) -> str:
    """The generated module of a file: `kata_protocols/proto/oci.proto` is in `oci_pb2`."""
    return Path(file).stem + "_pb2"


def write_module(file: FileDescriptorProto) -> str:
    """The source of a generated module."""
    needs = "".join(
        f"from kata_protocols.gen import {module_name(name)}  # noqa: F401 - the pool wants it first\n"
        for name in file.dependency
    )
    return (
        f'"""Messages of {file.name}. Written by kata_protocols.generate: do not edit."""\n\n'
        f"{needs}from kata_protocols.messages import load\n\n"
        f"DESCRIPTOR = load(__name__, {file.SerializeToString(deterministic=True)!r}, globals())\n"
    )


def write_stub(file: FileDescriptorProto, folder: Path) -> str:
    """The type stub of a generated module; a file that is not ours has protobuf's own."""
    path = folder / Path(file.name).with_name(module_name(file.name) + ".pyi")
    if path.exists():
        return path.read_text().replace("from kata_protocols.proto import", "from kata_protocols.gen import")
    source = file.name.removesuffix(".proto").replace("/", ".") + "_pb2"
    lines = [f"from {source} import {message.name} as {message.name}\n" for message in file.message_type]
    return (
        "from google.protobuf.descriptor import FileDescriptor\n"
        + "".join(lines)
        + "\nDESCRIPTOR: FileDescriptor\n"
    )


def generate() -> dict[str, str]:
    """Return the generated files, name to text."""
    made = {}
    with tempfile.TemporaryDirectory() as scratch:
        for file in run_protoc(Path(scratch)).file:
            made[module_name(file.name) + ".py"] = write_module(file)
            made[module_name(file.name) + ".pyi"] = write_stub(file, Path(scratch))
    return made


def find_stale(wanted: Mapping[str, str], folder: Path = GEN) -> list[str]:
    """Name the files of `folder` that are missing, differ from `wanted` or should not be there."""
    present = {path.name for pattern in ("*_pb2.py", "*_pb2.pyi") for path in folder.glob(pattern)}
    differing = {name for name in present & wanted.keys() if (folder / name).read_text() != wanted[name]}
    return sorted(differing | (wanted.keys() - present) | (present - wanted.keys()))


def main(arguments: list[str]) -> int:
    """Write `gen/`, or with `--check` compare it."""
    wanted = generate()
    stale = find_stale(wanted)
    if arguments == ["--check"]:
        for name in stale:
            sys.stderr.write(f"gen/{name}: out of date, run python -m kata_protocols.generate\n")
        return 1 if stale else 0
    GEN.mkdir(exist_ok=True)
    for name in stale:
        if name in wanted:
            (GEN / name).write_text(wanted[name])
        else:
            (GEN / name).unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
