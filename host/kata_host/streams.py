"""A process's standard streams and its end, as iterators and writers over the agent's calls.

Reads ask for 32 KiB at a time until the agent answers with an error, which is how output ends; writes go in
pieces of at most 32 KiB. Follows 3.3, 3.4 and 3.15.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from kata_host.client import AgentClient, is_end_of_stream, is_not_found
from kata_protocols.gen import agent_pb2 as pb
from kata_protocols.status import StatusError

READ_BYTES = 32768
WRITE_BYTES = 32768


class Process:
    """One process of a container: its init when `exec_id` is the container's id."""

    def __init__(self, client: AgentClient, container_id: str, exec_id: str) -> None:
        self.client = client
        self.container_id = container_id
        self.exec_id = exec_id

    def read_stdout(self) -> AsyncIterator[bytes]:
        """What the process prints, until its end."""
        return self._read(stderr=False)

    def read_stderr(self) -> AsyncIterator[bytes]:
        """What it prints as errors, until its end."""
        return self._read(stderr=True)

    async def _read(self, *, stderr: bool) -> AsyncIterator[bytes]:
        call = self.client.read_stderr if stderr else self.client.read_stdout
        request = pb.ReadStreamRequest(container_id=self.container_id, exec_id=self.exec_id, len=READ_BYTES)
        while True:
            try:
                answer = await call(request)
            except StatusError as exc:
                # A process that has been removed has no more output either.
                if is_end_of_stream(exc) or is_not_found(exc):
                    return
                raise
            if not answer.data:
                return  # other agents may say it so
            yield answer.data

    async def write_stdin(self, data: bytes) -> None:
        """Write all of `data`; the process may take it slowly."""
        view = memoryview(data)
        while view:
            request = pb.WriteStreamRequest(
                container_id=self.container_id, exec_id=self.exec_id, data=bytes(view[:WRITE_BYTES])
            )
            answer = await self.client.write_stdin(request, timeout_s=None)
            view = view[answer.len or len(request.data) :]

    async def close_stdin(self) -> None:
        """No more input will come."""
        await self.client.close_stdin(
            pb.CloseStdinRequest(container_id=self.container_id, exec_id=self.exec_id)
        )

    async def wait(self, timeout_s: float | None = None) -> int:
        """The exit status as Kata's agents give it: 0-255, and a killed process's is the bare number of its signal."""
        request = pb.WaitProcessRequest(container_id=self.container_id, exec_id=self.exec_id)
        answer = await self.client.wait_process(request, timeout_s=timeout_s)
        return answer.status

    async def signal(self, number: int) -> None:
        """Send a signal to this process alone; one that has ended already is no error."""
        request = pb.SignalProcessRequest(container_id=self.container_id, exec_id=self.exec_id, signal=number)
        try:
            await self.client.signal_process(request)
        except StatusError as exc:
            if not is_not_found(exc):
                raise

    async def resize(self, rows: int, columns: int) -> None:
        """Tell its terminal the window's size."""
        request = pb.TtyWinResizeRequest(
            container_id=self.container_id, exec_id=self.exec_id, row=rows, column=columns
        )
        await self.client.tty_win_resize(request)
