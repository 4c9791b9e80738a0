"""Entry points: the command `kata-agent`, and the function that PID 1 calls in the child it forked.

Owns: the command line, the order of start-up and shutdown. Must not know: any method. Follows: Kata's agent 3.21,
sections "Start-up" and "RPC server". Everything that Check does not need is imported later.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from kata_agent.config import Reading
    from kata_init.control import AgentChannel

USAGE = """\
usage: kata-agent [--config FILE] [--print-config [--json]]

Serves Kata Containers' agent protocol. Needs root. Listens on KATA_AGENT_SERVER_ADDR, by default
vsock://-1:1024; unix:///PATH and unix://@NAME work too.

  -c, --config FILE  read settings from a TOML file (and config.d/*.toml beside it) instead of the
                     kernel command line
  --print-config     print every setting with where it comes from and exit: 1 if one was not understood
  --json             print them as JSON
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
        case ["--config" | "-c", path, "--print-config", *rest] if rest in ([], ["--json"]):
            return _print_config(path, json=bool(rest))
        case ["--print-config", *rest] if rest in ([], ["--json"]):
            return _print_config(None, json=bool(rest))
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

    serve.run_supervised(channel, note_listener(read_settings(None, sys.argv[1:])))


def note_listener(reading: Reading) -> Reading:
    """Complain of a file's address: PID 1 reads no files, and listens since long."""
    if not reading.origins.get("server_address", "").startswith("/"):
        return reading
    where = f"{reading.origins['server_address']}: server_addr"
    complaint = f"{where}: not used, PID 1 listens where agent.server_addr= of the kernel command line says"
    return reading._replace(complaints=(*reading.complaints, complaint))


def prepare_process() -> None:
    """What must hold before anything else is imported or made."""
    from kata_agent.spare import spare_imports

    spare_imports()
    os.umask(0o022)  # modes are meant as they are written; whoever started us may have thought otherwise


def read_settings(path: str | None, words: Sequence[str] = (), *, lines: bool = False) -> Reading:
    """Settings from files, the kernel command line with `words` behind it, and the environment.

    Raises `SettingsFileError` for the file at `path`. `lines`: origins in files have their line.
    """
    from kata_agent import config

    cmdline = ""
    if path is None:
        with open(CMDLINE, encoding="utf-8", errors="surrogateescape") as file:
            cmdline = " ".join((file.read(), *words))
    return config.read_settings(path, cmdline, os.environ, lines=lines)


def _print_config(path: str | None, *, json: bool) -> int:
    from kata_agent.config import show

    try:
        reading = read_settings(path, lines=True)
    except (OSError, ValueError) as error:
        sys.stderr.write(_settings_problem(error))
        return 1
    sys.stdout.write(show.format_json(reading) if json else show.format_text(reading))
    return 1 if reading.complaints else 0


def _settings_problem(error: Exception) -> str:
    """A settings file's error names the file; what is left is the kernel's own."""
    why = f"{CMDLINE}: {error.strerror}" if isinstance(error, OSError) else error
    return f"kata-agent: settings of {why}\n"


def _run_alone(path: str | None) -> int:
    if os.geteuid() != 0:
        sys.stderr.write("kata-agent: needs root, to make its own mount namespace and containers\n")
        return 1
    try:
        reading = read_settings(path)
    except (OSError, ValueError) as error:
        sys.stderr.write(_settings_problem(error))
        return 1
    prepare_process()
    from kata_agent import serve

    return serve.run_alone(reading)
