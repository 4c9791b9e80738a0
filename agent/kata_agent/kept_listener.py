"""Listening sockets that outlive the agent that has opened them.

Must not know: who accepts. Imported only where such a listener is configured.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from kata_protocols.aio import listen
from kata_protocols.aio.address import parse_address

if TYPE_CHECKING:
    from kata_agent.parts import Host


def open_listener(name: str, address: str, host: Host, stored: dict[str, tuple[int, ...]]) -> socket.socket:
    """That of the agent before this one, else a new one; `host` keeps it under `name`. OSError, ValueError."""
    if name in stored:
        (fd,) = stored.pop(name)
        return socket.socket(fileno=fd)
    listener = listen.open_listener(parse_address(address))
    host.store(name, (listener.fileno(),))
    return listener
