"""Entry point of `kata-agent-ctl`: a Ctrl-C while the program is still being loaded ends it without a trace of Python.

Imports nothing of the program before that holds; `program.py` is the program.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the process's exit status."""
    # Nothing has been started yet that would have to be taken down; the event loop sets handlers of its own.
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        from kata_host.cli import program

        return program.run(argv)
    finally:
        signal.signal(signal.SIGINT, before)


if __name__ == "__main__":
    sys.exit(main())
