"""Generates `gen/` from `proto/`: `python -m kata_protocols.generate`; `--check` says what is out of date.

Runs on a developer's machine only (grpcio-tools is in the `dev` extra). protoc names a module after its
file's path, so `kata_protocols/proto/agent.proto` would import from `kata_protocols.proto`; the imports are
rewritten to `kata_protocols.gen`, where the modules are. The long file names keep ours apart from other
people's `health.proto` or `csi.proto` in the process-wide descriptor pool.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

PACKAGE = Path(__file__).parent
PROTO = PACKAGE / "proto"
GEN = PACKAGE / "gen"


def run_protoc(destination: Path) -> None:
    """Compile every file of `proto/` below `destination`."""
    from importlib.resources import files

    from grpc_tools import protoc

    arguments = [
        "protoc",
        f"--proto_path={PACKAGE.parent}",
        f"--proto_path={files('grpc_tools') / '_proto'}",
        f"--python_out={destination}",
        f"--pyi_out={destination}",
        *(str(path) for path in sorted(PROTO.glob("*.proto"))),
    ]
    status: int = protoc.main(arguments)
    if status != 0:
        raise RuntimeError(f"protoc ended with status {status}: its messages are above")


def rewrite_imports(source: str) -> str:
    """Point imports of other generated modules, and classes' `__module__`, at `kata_protocols.gen`."""
    source = source.replace("from kata_protocols.proto import", "from kata_protocols.gen import")
    return source.replace("'kata_protocols.proto.", "'kata_protocols.gen.")


def generate() -> dict[str, str]:
    """Return the generated files, name to text."""
    with tempfile.TemporaryDirectory() as scratch:
        run_protoc(Path(scratch))
        folder = Path(scratch) / "kata_protocols" / "proto"
        return {path.name: rewrite_imports(path.read_text()) for path in sorted(folder.iterdir())}


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
