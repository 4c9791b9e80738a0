"""Handlers of the processes' standard streams and terminals."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from kata_protocols.gen import agent_pb2
from kata_protocols.gen.empty_pb2 import Empty

if TYPE_CHECKING:
    from kata_agent.agent import Agent


def read_stdout(agent: Agent, request: agent_pb2.ReadStreamRequest) -> Any:
    """Read what waits on the standard output, at least a byte; the end is an error."""
    return _reply(agent.containers.read(request.container_id, request.exec_id, "stdout", request.len))


def read_stderr(agent: Agent, request: agent_pb2.ReadStreamRequest) -> Any:
    """Read what waits on the standard error, at least a byte; the end is an error."""
    return _reply(agent.containers.read(request.container_id, request.exec_id, "stderr", request.len))


async def write_stdin(agent: Agent, request: agent_pb2.WriteStreamRequest) -> agent_pb2.WriteStreamResponse:
    """Write all of it to the standard input; nothing closes it."""
    written = await agent.containers.write_stdin(request.container_id, request.exec_id, request.data)
    return agent_pb2.WriteStreamResponse(len=written)


def close_stdin(agent: Agent, request: agent_pb2.CloseStdinRequest) -> Empty:
    """End the standard input."""
    agent.containers.close_stdin(request.container_id, request.exec_id)
    return Empty()


def tty_win_resize(agent: Agent, request: agent_pb2.TtyWinResizeRequest) -> Empty:
    """Set a terminal's size."""
    agent.containers.resize(request.container_id, request.exec_id, request.row, request.column)
    return Empty()


def _reply(result: Any) -> Any:
    """Bytes become a message; a `PipeReply` goes to the server as it is; what is not there yet is awaited."""
    if isinstance(result, bytes):
        return agent_pb2.ReadStreamResponse(data=result)
    if isinstance(result, Awaitable):
        return _reply_later(result)
    result.payload_head = _data_head(result.length)
    return result


def _data_head(length: int) -> bytes:
    """What stands before the data of a ReadStreamResponse: tag 1, length-delimited, and the length as a varint."""
    head = bytearray(b"\x0a")
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head)


async def _reply_later(pending: Awaitable[Any]) -> Any:
    return _reply(await pending)


HANDLERS = {
    "WriteStdin": write_stdin,
    "ReadStdout": read_stdout,
    "ReadStderr": read_stderr,
    "CloseStdin": close_stdin,
    "TtyWinResize": tty_win_resize,
}
