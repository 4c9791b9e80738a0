"""Runs a test's body in a child with a mount namespace of its own and an empty /run.

The child is forked, so that the test process stays where it is; whatever the body raises fails the test with its
trace. A body may mount what it likes: all of it ends with the child.
"""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable

from kata_linux import mount, mountinfo, namespaces

DEADLINE_S = 120


def run_in_private_mounts(body: Callable[[], None]) -> None:
    """Run `body` as described above. Raises AssertionError with the child's trace."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _run_child(writer, body)
    os.close(writer)
    with open(reader, encoding="utf-8") as file:
        text = file.read()
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"child ended with status {status}:\n{text}"


def mount_points(prefix: str) -> list[str]:
    """What is mounted below a folder now, in the order of mounting."""
    return [entry.mount_point for entry in mountinfo.read_mounts() if entry.mount_point.startswith(prefix)]


def _run_child(writer: int, body: Callable[[], None]) -> None:
    status = 1
    try:
        signal.alarm(DEADLINE_S)
        namespaces.make_private_mounts()
        mount.mount("test", "/run", "tmpfs")
        body()
        status = 0
    except BaseException:  # noqa: BLE001 - told to the parent
        os.write(writer, traceback.format_exc().encode())
    finally:
        os._exit(status)
