"""Gives a machine a channel that needs no vsock: virtio ports for the agent and for the doorbell, shared by a proxy.

Owns: the ports' names, QEMU's arguments for them, and once QEMU runs, the proxy that is the agent's address. It
stands where a `Vsock` would. Follows QEMU's docs of character devices. Must not know: how the machine is started.
"""

from __future__ import annotations

import socket
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from kata_host.proxy import Proxy, listen_unix
from kata_protocols.aio.serial import open_channel

CHANNEL_NAME = "agent.channel.0"  # as Kata 1.x has it
BELL_NAME = "kata.doorbell.0"
CHANNEL_WORDS = (f"kata.channel={CHANNEL_NAME}",)
KIND = "virtio-serial"
ADDRESS_FILE = "agent.sock"
CHANNEL_FILE = "channel.sock"
_BELL_FILE = "bell.sock"


def plan_serial(folder: Path) -> tuple[str, ...]:
    """QEMU's arguments. QEMU listens, so that whoever uses the ports may go and come."""
    arguments = ["-device", "virtio-serial-pci,id=serial0"]
    for name, file in ((CHANNEL_NAME, CHANNEL_FILE), (BELL_NAME, _BELL_FILE)):
        chardev = file.removesuffix(".sock")
        arguments += [
            "-chardev", f"socket,id={chardev},path={folder / file},server=on,wait=off",
            "-device", f"virtserialport,bus=serial0.0,chardev={chardev},name={name},id={chardev}0",
        ]  # fmt: skip
    return tuple(arguments)


@dataclass(frozen=True)
class Serial:
    """One machine's channel."""

    folder: Path
    kind: str = KIND
    qemu_args: tuple[str, ...] = ()  # `plan_serial` is for every machine that has it, also a restored one
    pass_fds: tuple[int, ...] = ()
    cid: None = None
    child: None = None

    @property
    def address(self) -> str:
        """Where any number of clients reach the agent, while this process lives."""
        return f"unix://{self.folder / ADDRESS_FILE}"

    def open_listener(self) -> tuple[socket.socket, str]:
        """What hears the doorbell, and the doorbell's name; it is connected by `begin`."""
        return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), f"serial:{BELL_NAME}"

    def begin(self, bell: socket.socket, stack: ExitStack) -> None:
        """QEMU runs: hear the doorbell, and let clients in until the stack unwinds. OSError."""
        bell.connect(str(self.folder / _BELL_FILE))
        bell.settimeout(0)
        listener = stack.enter_context(listen_unix(str(self.folder / ADDRESS_FILE)))
        stack.callback(Proxy(open_channel(str(self.folder / CHANNEL_FILE)), listener).close)
