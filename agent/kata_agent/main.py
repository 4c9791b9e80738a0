"""Entry points: the command `kata-agent`, and the function that PID 1 calls in the child it forked.

Owns: the command line, the order of start-up and shutdown. Must not know: any method. Follows: Kata's agent 3.21,
sections "Start-up" and "RPC server". Everything that Check does not need is imported later.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import NoReturn

    from kata_agent.config import Reading
    from kata_init.control import AgentChannel

USAGE = """\
usage: kata-agent [--config FILE]

Serves Kata Containers' agent protocol. Needs root. Listens on KATA_AGENT_SERVER_ADDR, by default
vsock://-1:1024; unix:///PATH and unix://@NAME work too.

  -c, --config FILE  read settings from a TOML file instead of the kernel command line
  -v, --version      print the version and exit
  -h, --help         print this and exit
"""

CMDLINE = "/proc/cmdline"


def main() -> NoReturn:
    """The command `kata-agent`: the agent without a PID 1 of ours."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Obey the command line; the result is the exit status."""
    match arguments:
        case []:
            return _run_alone(None)
        case ["--config" | "-c", path]:
            return _run_alone(path)
        case ["--version" | "-v"]:
            from kata_agent.version import version_line

            sys.stdout.write(version_line() + "\n")
            return 0
        case ["--help" | "-h"]:
            sys.stdout.write(USAGE)
            return 0
        case [word] if word.startswith("--config="):
            return _run_alone(word.removeprefix("--config="))
    sys.stderr.write(f"kata-agent: cannot make sense of {' '.join(arguments)!r}\n{USAGE}")
    return 2


def run_supervised(channel: AgentChannel) -> None:
    """Be the agent of a guest whose PID 1 is ours. Returns when PID 1 has been asked to power off."""
    prepare_process()
    from kata_agent import serve

    serve.run_supervised(channel, read_settings(None))


def prepare_process() -> None:
    """What must hold before anything else is imported or made."""
    from kata_agent.spare import spare_imports

    spare_imports()
    os.umask(0o022)  # modes are meant as they are written; whoever started us may have thought otherwise


def read_settings(path: str | None) -> Reading:
    """Settings from a TOML file or else the kernel command line, then the environment. Raises OSError."""
    from kata_agent import config

    with open(path or CMDLINE, encoding="utf-8", errors="surrogateescape") as file:
        text = file.read()
    reading = config.parse_toml(text) if path else config.parse_cmdline(text)
    return config.apply_environment(reading, os.environ)


def _run_alone(path: str | None) -> int:
    if os.geteuid() != 0:
        sys.stderr.write("kata-agent: needs root, to make its own mount namespace and containers\n")
        return 1
    try:
        reading = read_settings(path)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        sys.stderr.write(f"kata-agent: settings of {path or CMDLINE}: {why}\n")
        return 1
    prepare_process()
    from kata_agent import serve

    return serve.run_alone(reading)
