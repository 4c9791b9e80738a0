"""Program: take a copy of another agent's code, and let that code say whether it can go on with what is here.

Owns the copy. Standard library only: it runs in an interpreter of its own, so that neither a broken archive nor what
the other code imports reaches the agent. It ends with 0 when the other code can take over (then its version is on
standard output), with REFUSED when it cannot, with the reasons on standard output, a line each.

Words: SOURCE TARGET LIMIT_BYTES PATHS RUN_DIR STATE_VERSION CONTROL_VERSION
PATHS is the search path for what the code does not bring along, separated by colons.
"""

from __future__ import annotations

import os
import resource
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

REFUSED = 3
FILES_LIMIT = 20_000
TAKEOVER = "kata_agent.upgrade.takeover"
_CHUNK_BYTES = 1 << 20


class Refusal(Exception):
    """Why the code is not taken; the text is for people."""


def main(words: list[str]) -> int:
    """Copy and ask; the exit status."""
    source, target, limit, paths, *facts = words
    os.umask(0o077)
    # nothing that the other code writes or says is larger than all of it may be
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    try:
        copy_code(source, target, int(limit))
        check = load_check(target, paths.split(":"))
        reasons, version = check(*facts)
    except (Refusal, OSError, ImportError, SyntaxError, AttributeError) as error:
        reasons, version = [str(error)], ""
    sys.stdout.write("\n".join(reasons or [version]) + "\n")
    return REFUSED if reasons else 0


def copy_code(source: str, target: str, limit_bytes: int) -> None:
    """Copy a folder, or unpack a zip archive, into the new folder `target`."""
    os.makedirs(target)
    if os.path.isdir(source):
        _copy_folder(source, target, limit_bytes)
    else:
        _unpack(source, target, limit_bytes)
    if not os.path.isdir(f"{target}/kata_agent"):
        raise Refusal(
            f"{source}: there is no package kata_agent in it; name the folder that holds the packages"
        )


def _copy_folder(source: str, target: str, limit_bytes: int) -> None:
    count = 0
    for folder, folders, files in os.walk(source):
        folders[:] = [name for name in folders if name != "__pycache__"]
        inside = os.path.relpath(folder, source)
        for name in folders:
            os.mkdir(os.path.join(target, inside, name))
        for name in files:
            with open(os.path.join(folder, name), "rb") as file:
                data = file.read(limit_bytes + 1)
            limit_bytes, count = _count(source, limit_bytes - len(data), count)
            _write(os.path.join(target, inside, name), data)


def _unpack(source: str, target: str, limit_bytes: int) -> None:
    import zipfile  # only who brings an archive

    count = 0
    try:
        archive = zipfile.ZipFile(source)
    except zipfile.BadZipFile:
        raise Refusal(f"{source}: neither a folder nor a zip archive") from None
    with archive:
        for entry in archive.infolist():
            name = os.path.normpath(entry.filename)
            if name.startswith(("/", "..")):
                raise Refusal(f"{source}: {entry.filename!r} leads out of the archive")
            path = f"{target}/{name}"
            if entry.is_dir():
                os.makedirs(path, exist_ok=True)
                continue
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with archive.open(entry) as file:
                data = file.read(limit_bytes + 1)
            limit_bytes, count = _count(source, limit_bytes - len(data), count)
            _write(path, data)


def _count(source: str, left_bytes: int, count: int) -> tuple[int, int]:
    if left_bytes < 0 or count >= FILES_LIMIT:
        raise Refusal(f"{source}: too large for an agent's code")
    return left_bytes, count + 1


def _write(path: str, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)


def load_check(target: str, paths: list[str]) -> Callable[..., tuple[list[str], str]]:
    """The other code's own word on what it can go on with. ImportError when it has none."""
    sys.path[:0] = [target]
    sys.path += [path for path in paths if path not in sys.path]
    sys.dont_write_bytecode = False  # the agent that follows starts from the byte code that this leaves
    __import__(TAKEOVER)
    check: Callable[..., tuple[list[str], str]] = sys.modules[TAKEOVER].check
    return check


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
