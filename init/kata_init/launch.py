"""Forking the agent: PID 1's interpreter is shared, so the agent starts without one of its own (decision 0003).

Owns: the child's way from fork to the entry point and to its exit. Must not know: what the agent does, when to restart.
The child inherits the control socket and the standard streams, nothing else.
"""

from __future__ import annotations

import gc
import os
import sys

from kata_init.journal import Journal, describe_failure, write_stderr
from kata_linux import prctl, signalfd

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable

    from kata_init.control import AgentChannel

OOM_SCORE_ADJ = "-997"
"""Kata's agent has the same. PID 1 needs none: the kernel never chooses it."""
EXIT_FAILED = 70  # EX_SOFTWARE of sysexits.h


OURS = ("kata_agent", "kata_init", "kata_linux", "kata_protocols")
"""Import packages that an upgrade brings along; PID 1 itself goes on with its own."""


def fork_agent(
    entry: str, words: tuple[str, ...], end: _socket.socket, mask: bytes, log_path: str, code: str = ""
) -> int:
    """Start the agent with its `end` of the control channel; gives its pid. The caller closes its copy of `end`.

    With `code` it imports from that folder first.
    """
    gc.freeze()  # what is there now is never looked at again by the child's collector, so its pages stay shared
    pid = os.fork()
    if pid:
        return pid
    status = EXIT_FAILED
    try:
        status = _run_child(entry, words, end, mask, code)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else EXIT_FAILED if error.code else 0
    except BaseException as error:  # noqa: BLE001 - a child that returned would be a second PID 1
        _report(f"agent {entry}: {describe_failure(error)}", log_path)
    finally:
        os._exit(status)


def load_entry(entry: str) -> Callable[[AgentChannel], int | None]:
    """Import `package.module:function`; ImportError and AttributeError tell what is missing."""
    module, _, function = entry.partition(":")
    __import__(module)
    found: Callable[[AgentChannel], int | None] = getattr(sys.modules[module], function)
    return found


def _run_child(entry: str, words: tuple[str, ...], end: _socket.socket, mask: bytes, code: str) -> int:
    os.setsid()
    signalfd.restore(mask)
    _close_others(end.fileno())
    prctl.set_name("kata-agent")
    _protect()
    sys.argv = ["kata-agent", *words]
    if code:
        use_code(code)
    from kata_init.control import AgentChannel  # of the other code, if there is one

    return load_entry(entry)(AgentChannel(end)) or 0


def use_code(folder: str) -> None:
    """Import our packages from this folder from now on, those that were imported already too."""
    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        del sys.modules[name]
    sys.path.insert(0, folder)


def _protect() -> None:
    """The last choice of the out-of-memory killer. Containers' processes are given a value of their own, 0 if none.

    Lowering it takes CAP_SYS_RESOURCE, which PID 1 of a machine has and root of a test's namespaces may lack.
    """
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(OOM_SCORE_ADJ)
    except PermissionError as error:
        write_stderr(f"kata-init: the agent is not protected from the out-of-memory killer: {error}")


def _close_others(kept: int) -> None:
    os.closerange(3, kept)
    os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))


def _report(text: str, log_path: str) -> None:
    journal = Journal()
    journal.open(log_path)
    journal.error(text)
    if not journal.is_open:
        write_stderr(text)
