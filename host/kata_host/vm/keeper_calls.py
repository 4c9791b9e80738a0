"""What the keeper of a machine can be asked while the machine runs, over a socket in the machine's folder.

One call at a time: a line of JSON, answered by lines of JSON: `{"step": TEXT}` for what happens, and at the end
`{"done": ...}` or `{"error": TEXT}`. Whoever ends his side, or is killed, has taken the call back: it is undone.
Owns: both sides of the socket. Must not know: what a call does.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from kata_host.vm.base import VmError
from kata_protocols.status import StatusError

SOCKET = "keeper.sock"
REQUEST_TIMEOUT_S = 10.0
LINE_BYTES = 65536
_BACKLOG = 4

Note = Callable[[str], None]
Answer = Callable[[dict[str, Any], Note], Awaitable[object]]


def open_calls(folder: Path) -> socket.socket:
    """Listen; who may enter the folder may call."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(folder / SOCKET))
    listener.listen(_BACKLOG)
    listener.settimeout(0)
    return listener


async def serve_calls(listener: socket.socket, answer: Answer) -> None:
    """Answer one call after the other until cancelled."""
    loop = asyncio.get_running_loop()
    with listener:
        while True:
            connection, _ = await loop.sock_accept(listener)
            reader, writer = await asyncio.open_connection(sock=connection, limit=LINE_BYTES)
            try:
                await _serve(reader, writer, answer)
            except (ConnectionError, TimeoutError, ValueError):
                pass  # a caller that is gone, says nothing or no JSON: the next one's turn
            finally:
                writer.close()


async def call(socket_path: Path, request: dict[str, object], note: Note) -> Any:
    """Ask, and hear of the steps. VmError: nobody there, or the call failed. Cancelled, it waits for the undoing."""
    try:
        reader, writer = await asyncio.open_unix_connection(str(socket_path), limit=LINE_BYTES)
    except OSError as exc:
        raise VmError(
            f"{socket_path}: nobody keeps the machine there ({exc.strerror}); those of `vm start` and `vm restore` "
            "can be asked, and no others"
        ) from exc
    try:
        writer.write(json.dumps(request).encode() + b"\n")
        async for answer in _read_answers(reader):
            if "step" in answer:
                note(answer["step"])
            elif "error" in answer:
                raise VmError(answer["error"])
            else:
                return answer["done"]
        raise VmError(f"{socket_path}: the machine's keeper ended in the middle of the call")
    except asyncio.CancelledError:
        writer.write_eof()
        async for _ in _read_answers(reader):
            pass  # the keeper undoes what it did
        raise
    finally:
        writer.close()


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Answer) -> None:
    async with asyncio.timeout(REQUEST_TIMEOUT_S):
        request = json.loads(await reader.readline())

    def say(line: dict[str, object]) -> None:
        if not writer.is_closing():
            writer.write(json.dumps(line).encode() + b"\n")

    async def work() -> None:
        try:
            say({"done": await answer(request, lambda text: say({"step": text}))})
        except (VmError, StatusError, OSError) as exc:
            say({"error": str(exc)})

    async with asyncio.TaskGroup() as group:
        working = group.create_task(work())
        leaving = group.create_task(_wait_end(reader))
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        if not working.done():
            working.cancel()
    await writer.drain()


async def _wait_end(reader: asyncio.StreamReader) -> None:
    """Until the caller ends his side."""
    try:
        while await reader.read(LINE_BYTES):
            pass  # nothing more is to be said
    except ConnectionError:
        return  # killed with answers unread: that is an end, too


async def _read_answers(reader: asyncio.StreamReader) -> AsyncIterator[dict[str, Any]]:
    while line := await reader.readline():
        yield json.loads(line)
