"""Gives a machine its vsock: the kernel's vhost-vsock where it works, else the program vhost-device-vsock.

Both come out as one `Vsock`: QEMU's arguments, the agent's address, and where the host listens for the guest's
calls. Follows vsock(7), linux/vhost.h (VHOST_VSOCK_SET_GUEST_CID) and vhost-device-vsock's README.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import secrets
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from kata_host.vm.base import AGENT_PORT, DOORBELL_PORT, VmError
from kata_host.vm.process import Child, ChildFailed, run_while_alive
from kata_host.vm.watch import wait_exists

START_TIMEOUT_S = 10.0

_VHOST_VSOCK_SET_GUEST_CID = 0x4008AF60
_CID_TRIES = 16

# Guests that send a packet as several fragments hang with the default of 65536: the device drops all but two of them.
_TX_BUFFER_BYTES = 32768


@dataclass(frozen=True)
class Vsock:
    """One machine's vsock, ready for QEMU."""

    kind: str
    address: str
    qemu_args: tuple[str, ...]
    pass_fds: tuple[int, ...] = ()
    cid: int | None = None
    folder: Path | None = None
    child: Child | None = None

    def open_listener(self) -> tuple[socket.socket, str]:
        """Listen for the guest's connections to the host (CID 2); the socket, and the port that the guest calls.

        The kernel's vsock ports are all machines' together, so there it chooses a free one.
        """
        if self.folder is None:
            listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
            listener.bind((socket.VMADDR_CID_ANY, socket.VMADDR_PORT_ANY))
            port: int = listener.getsockname()[1]
        else:
            port = DOORBELL_PORT
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind(str(self.folder / f"vsock_{port}"))
        listener.listen(8)
        listener.settimeout(0)
        return listener, str(port)

    def begin(self, bell: socket.socket, stack: ExitStack) -> None:
        """QEMU runs: nothing is left to do."""


def has_vsock(program: Path | None) -> bool:
    """Whether this host can give a machine a vsock: by its kernel, or by the program."""
    if program is not None and os.access(program, os.X_OK):
        return True
    if (reserved := reserve_cid()) is None:
        return False
    os.close(reserved[0])
    return True


def reserve_cid(device: str = "/dev/vhost-vsock") -> tuple[int, int] | None:
    """An open vhost-vsock with a guest CID that is ours until it is closed; None when the host has no working one."""
    try:
        fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None  # no module, no permission: the other kind serves
    for _ in range(_CID_TRIES):
        cid = 3 + secrets.randbelow(2**31)
        try:
            fcntl.ioctl(fd, _VHOST_VSOCK_SET_GUEST_CID, struct.pack("=Q", cid))
        except OSError as exc:
            if exc.errno == errno.EADDRINUSE:
                continue
            break
        return fd, cid
    os.close(fd)
    return None


@asynccontextmanager
async def open_vsock(folder: Path, program: Path | None) -> AsyncIterator[Vsock]:
    """The machine's vsock, with its sockets in `folder`."""
    if (reserved := reserve_cid()) is not None:
        fd, cid = reserved
        try:
            yield Vsock(
                kind="vhost-vsock",
                address=f"vsock://{cid}:{AGENT_PORT}",
                qemu_args=("-device", f"vhost-vsock-pci,vhostfd={fd},guest-cid={cid}"),
                pass_fds=(fd,),
                cid=cid,
            )
        finally:
            os.close(fd)
        return
    async with _start_device(folder, program) as child:
        yield Vsock(
            kind="vhost-device-vsock",
            address=f"hvsock://{folder / 'vsock'}:{AGENT_PORT}",
            qemu_args=(
                "-chardev", f"socket,id=vsock,path={folder / 'vhost.sock'}",
                "-device", "vhost-user-vsock-pci,chardev=vsock",
            ),
            folder=folder,
            child=child,
        )  # fmt: skip


@asynccontextmanager
async def _start_device(folder: Path, program: Path | None) -> AsyncIterator[Child]:
    if program is None or not os.access(program, os.X_OK):
        raise VmError(
            f"this host has no working /dev/vhost-vsock and there is no {program or 'vhost-device-vsock'}; "
            "`kata-image build` or `scripts/run` fetches it"
        )
    vm = f"guest-cid=3,socket={folder / 'vhost.sock'},uds-path={folder / 'vsock'},tx-buffer-size={_TX_BUFFER_BYTES}"
    async with Child("vhost-device-vsock", [str(program), "--vm", vm], log=folder / "vsock.log") as child:
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await run_while_alive(wait_exists(folder / "vhost.sock"), child)
        except TimeoutError:
            raise VmError(f"vhost-device-vsock made no socket within {START_TIMEOUT_S:g} s") from None
        except ChildFailed as exc:
            raise VmError(str(exc)) from None
        yield child
