"""The program that runs a hook, when it is told to end."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from kata_agent.containers.hooks import GUARD


def test_a_request_to_end_that_comes_before_the_guard_listens_ends_the_hook(tmp_path: Path) -> None:
    report = tmp_path / "report"
    report.touch()
    hook = ("/bin/sh", "sh", "-c", "exec sleep 1000")
    words = [sys.executable, "-I", "-S", GUARD, str(report), "poststop", "60", "0", *hook]
    pid = os.posix_spawn(sys.executable, words, {}, setsigmask=[signal.SIGTERM])
    os.kill(pid, signal.SIGTERM)  # waits until the guard lets it in
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert report.read_text() == "poststop /bin/sh: killed, because who had started it went away\n"
