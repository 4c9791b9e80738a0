"""What operators read: opens the log port, the kernel's messages and the debug console, where the settings ask for it.

A part that cannot be opened is told and left out: nothing else depends on it. Imported where one is asked for.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from kata_agent import errors

if TYPE_CHECKING:
    from collections.abc import Callable

    from kata_agent.agent import Agent
    from kata_agent.log_port import LogPort
    from kata_agent.parts import Host


class Operators:
    """The parts that are open."""

    def __init__(self, agent: Agent, host: Host, stored: dict[str, tuple[int, ...]]) -> None:
        """Needs the running loop. `host` keeps listeners, `stored` has those of an agent before."""
        self._agent = agent
        self._host = host
        self._stored = stored
        self.log_port: LogPort | None = None
        self._closers: list[Callable[[], None]] = []
        config = agent.config
        for wanted, what, open_part in (
            (config.log_listener, "no log port", self._open_log_port),
            (config.kernel_log, "the kernel's messages are not passed", self._open_kernel_log),
            (config.debug_console, "no debug console", self._open_console),
        ):
            if wanted:
                self._attempt(what, open_part)

    def close(self) -> None:
        """Close what is open."""
        for closer in reversed(self._closers):
            closer()
        self._closers.clear()

    def _attempt(self, what: str, open_part: Callable[[], None]) -> None:
        try:
            open_part()
        except (OSError, ValueError) as error:
            self._agent.log.write("error", "root", what, error=errors.describe(error))

    def _open_log_port(self) -> None:
        from kata_agent import log_port
        from kata_agent.kept_listener import open_listener
        from kata_agent.log import render

        def describe_loss(count: int) -> bytes:
            fields: dict[str, object] = {"dropped-records": count}
            return render("warn", "log", "this reader was behind", fields, time.time_ns(), os.getpid())

        address = self._agent.config.log_listener
        listener = open_listener(log_port.NAME, address, self._host, self._stored)
        self.log_port = log_port.LogPort(listener, describe_loss)
        self._closers.append(self.log_port.close)
        self._agent.log.attach(self.log_port.write)

    def _open_console(self) -> None:
        from kata_agent import debug_console
        from kata_agent.kept_listener import open_listener

        agent = self._agent
        address = agent.config.debug_console_listener
        if not address:
            if agent.life.number == 1:
                debug_console.open_on_console(agent.log)
            return
        listener = open_listener(debug_console.NAME, address, self._host, self._stored)
        console = debug_console.DebugConsole(listener, agent.exits, agent.log)
        self._closers.append(console.close)

    def _open_kernel_log(self) -> None:
        from kata_agent.kernel_log import KernelLog

        passing = KernelLog(self._agent.log, only_new=self._agent.life.number > 1)
        self._closers.append(passing.close)
