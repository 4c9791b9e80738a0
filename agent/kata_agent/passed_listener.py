"""The listening socket for the streams' own connections, which outlives the agent that has opened it.

Must not know: who accepts (`processes.passed`). Imported only where such a listener is configured.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from kata_agent.processes.passed import LISTENER
from kata_protocols.aio import listen
from kata_protocols.aio.address import parse_address

if TYPE_CHECKING:
    from kata_agent.agent import Host


def open_listener(address: str, host: Host, stored: dict[str, tuple[int, ...]]) -> socket.socket:
    """That of the agent before this one, else a new one; `host` keeps it. OSError, ValueError."""
    if LISTENER in stored:
        (fd,) = stored.pop(LISTENER)
        return socket.socket(fileno=fd)
    listener = listen.open_listener(parse_address(address))
    host.store(LISTENER, (listener.fileno(),))
    return listener
