"""From the exec of PID 1 to its first ring at the doorbell, as PID 1 of fresh namespaces on the machine itself.

The interpreter gets the flags that it has in the guest, but for -OO: a checkout has no byte code of that level.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

from kata_bench.native import ROOT
from kata_bench.result import Effort, Result, median_result
from kata_linux import mount, namespaces

_RING_TIMEOUT_S = 20.0
# A file as in the guest: for the text of `-c` Python 3.13 loads more modules.
_LAUNCHER = "import sys\nsys.path[:0] = {paths!r}\nfrom kata_init.main import main\nmain()\n"


def write_command(folder: Path) -> list[str]:
    """PID 1's launcher, written, and its command line, with everything it writes below `folder`."""
    paths = [*(str(ROOT / name) for name in ("init", "agent", "protocols")), sysconfig.get_path("purelib")]
    launcher = folder / "kata-init"
    launcher.write_text(_LAUNCHER.format(paths=paths))
    return [
        sys.executable,
        "-IS",
        str(launcher),
        f"agent.server_addr=unix://{folder}/agent.sock",
        f"kata.doorbell=unix:{folder}/bell",
        f"kata.log={folder}/log",
    ]


def start_pid1(command: list[str], begun: int) -> int:
    """Fork a PID 1 into fresh namespaces; it writes its monotonic time (ns) to `begun` right before exec. Gives the
    pid of the process that waits for it and ends with it."""
    child = os.fork()
    if child:
        return child
    try:
        namespaces.unshare(namespaces.CLONE_NEWNS | namespaces.CLONE_NEWPID)
        mount.set_propagation("/", mount.MS_PRIVATE, recursive=True)
        pid1 = os.fork()
        if pid1 == 0:
            quiet = os.open(os.devnull, os.O_RDWR)
            for fd in (0, 1, 2):
                os.dup2(quiet, fd)
            os.write(begun, struct.pack("q", time.monotonic_ns()))
            os.execv(command[0], command)  # noqa: S606 - an exec is what is measured
        signal.signal(signal.SIGTERM, lambda *_: os.kill(pid1, signal.SIGKILL))
        os.waitpid(pid1, 0)
    finally:
        os._exit(0)


def time_ring(folder: Path) -> float:
    """Milliseconds of one start."""
    (folder / "log").touch()
    begun, write_end = os.pipe()
    with socket.socket(socket.AF_UNIX) as bell:
        bell.bind(str(folder / "bell"))
        bell.listen(8)
        bell.settimeout(_RING_TIMEOUT_S)
        child = start_pid1(write_command(folder), write_end)
        try:
            connection, _ = bell.accept()
            now = time.monotonic_ns()
            with connection:
                line = connection.recv(100)
        except TimeoutError:
            log = (folder / "log").read_text()
            raise RuntimeError(
                f"PID 1 did not ring within {_RING_TIMEOUT_S:.0f} s; it said: {log[-1500:]}"
            ) from None
        finally:
            os.kill(child, signal.SIGTERM)
            os.waitpid(child, 0)
            start = struct.unpack("q", os.read(begun, 8))[0]
            os.close(begun)
            os.close(write_end)
    if not line.startswith(b"pid1 up"):
        raise RuntimeError(f"the first ring was {line!r}")
    return float(now - start) / 1e6


def measure_doorbell(effort: Effort) -> list[Result]:
    """`doorbell` in ms."""
    samples = []
    for _ in range(effort.pick(21, 3)):
        with tempfile.TemporaryDirectory(prefix="kata-bench-") as folder:
            samples.append(time_ring(Path(folder)))
    return [median_result("doorbell", samples)]
