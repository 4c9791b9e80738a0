"""The agent's own service, `kata.agent.v1.Sandbox`, for programs: typed questions, and events that outlive the agent.

Knows no machine. `follow` dials again when the connection is lost and goes on from its cursor, so that an agent that
dies and comes back costs no event; what is gone nevertheless arrives as a gap.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

from kata_host.client import Caller
from kata_host.connect import open_caller
from kata_protocols import services
from kata_protocols.aio.address import Address
from kata_protocols.aio.client import Client, ConnectionLostError
from kata_protocols.gen import sandbox_pb2 as pb
from kata_protocols.status import Code, StatusError

TIMEOUT_S = 30.0
QUIESCE_TIMEOUT_MS = 30_000
UPGRADE_TIMEOUT_S = 180.0
"""The other code is looked at, and compiled if need be, before the answer."""
_METHODS = services.SANDBOX_SERVICE.methods


class SandboxService:
    """Questions over one connection, which the caller owns."""

    def __init__(self, client: Caller) -> None:
        self._client = client

    async def poll_events(self, request: pb.PollEventsRequest) -> pb.PollEventsResponse:
        """Events from a cursor on; `wait_ms` waits for the first."""
        answer: pb.PollEventsResponse = await self._ask(
            "PollEvents", request, TIMEOUT_S + request.wait_ms / 1000
        )
        return answer

    async def list_exits(self, container_id: str = "") -> pb.ListExitsResponse:
        """What has ended, and how."""
        answer: pb.ListExitsResponse = await self._ask(
            "ListExits", pb.ListExitsRequest(container_id=container_id)
        )
        return answer

    async def list_processes(self, container_id: str = "") -> pb.ListProcessesResponse:
        """What runs in one container or in all."""
        answer: pb.ListProcessesResponse = await self._ask(
            "ListProcesses", pb.ListProcessesRequest(container_id=container_id)
        )
        return answer

    async def kill_tree(self, container_id: str, exec_id: str = "", signal: int = 0) -> int:
        """Signal a container or a process with its descendants; how many processes there were."""
        request = pb.KillTreeRequest(container_id=container_id, exec_id=exec_id, signal=signal)
        return int((await self._ask("KillTree", request)).signalled)

    async def name_stream(self, token: bytes) -> int:
        """The port of the connection for streams whose first bytes are this token."""
        return int((await self._ask("NameStream", pb.NameStreamRequest(token=token))).port)

    async def policy_log(self, after: int = 0) -> pb.PolicyLogResponse:
        """The policy in force, and its decisions after this sequence number."""
        answer: pb.PolicyLogResponse = await self._ask("PolicyLog", pb.PolicyLogRequest(after=after))
        return answer

    async def why(self, container_id: str) -> pb.WhyResponse:
        """What is known of a container and its end."""
        answer: pb.WhyResponse = await self._ask("Why", pb.WhyRequest(container_id=container_id))
        return answer

    async def list_devices(self) -> pb.ListDevicesResponse:
        """The devices that the agent has waited for."""
        answer: pb.ListDevicesResponse = await self._ask("ListDevices", pb.ListDevicesRequest())
        return answer

    async def get_boot(self) -> pb.GetBootResponse:
        """The boot's time line and the agent's life."""
        answer: pb.GetBootResponse = await self._ask("GetBoot", pb.GetBootRequest())
        return answer

    async def upgrade(self, request: pb.UpgradeRequest) -> pb.UpgradeResponse:
        """Have the agent end for other code that lies in the guest; `kata_host.upgrade` waits for the outcome."""
        answer: pb.UpgradeResponse = await self._ask("Upgrade", request, UPGRADE_TIMEOUT_S)
        return answer

    async def quiesce(self, request: pb.QuiesceRequest) -> pb.QuiesceResponse:
        """Bring the machine to a halt before it is saved."""
        wait_s = (request.timeout_ms or QUIESCE_TIMEOUT_MS) / 1000
        answer: pb.QuiesceResponse = await self._ask("Quiesce", request, TIMEOUT_S + wait_s)
        return answer

    async def resumed(self, request: pb.ResumedRequest) -> pb.ResumedResponse:
        """Repair a copy of a machine that was saved, and let it go on."""
        answer: pb.ResumedResponse = await self._ask("Resumed", request)
        return answer

    async def log_level(self, level: str = "") -> pb.LogLevelResponse:
        """The agent's log level; with one, it is changed."""
        answer: pb.LogLevelResponse = await self._ask("LogLevel", pb.LogLevelRequest(level=level))
        return answer

    async def last_calls(self) -> pb.LastCallsResponse:
        """What the agent was asked last, and the one before it, and how that ended."""
        answer: pb.LastCallsResponse = await self._ask("LastCalls", pb.LastCallsRequest())
        return answer

    async def _ask(self, name: str, request: Any, timeout_s: float = TIMEOUT_S) -> Any:
        return await self._client.call(_METHODS[name], request, timeout_s=timeout_s)


async def follow(
    address: Address | str,
    request: pb.EventsRequest,
    *,
    opener: Callable[[Address | str], Awaitable[Client]] = open_caller,
) -> AsyncGenerator[pb.Event, None]:
    """Events from the request's cursor on, for ever, over as many connections as it takes.

    Raises StatusError (a cursor that is none, an agent without the service) and OSError when nobody answers any more.
    """
    wanted = pb.EventsRequest()
    wanted.CopyFrom(request)
    if wanted.only_new and not wanted.cursor:
        wanted.cursor = await _read_end(await opener(address))
    while True:
        client = await opener(address)
        try:
            async with client, aclosing(client.stream(_METHODS["Events"], wanted)) as events:
                async for event in events:
                    wanted.cursor = event.cursor
                    yield event
        except ConnectionLostError:
            continue  # the agent died: PID 1 starts another, which has the history
        except StatusError as error:
            if error.code is not Code.UNAVAILABLE:
                raise


async def _read_end(client: Client) -> str:
    """The cursor of the next event: a connection lost before the first event must not lose what came meanwhile."""
    async with client:
        answer = await SandboxService(client).poll_events(pb.PollEventsRequest(only_new=True))
        return answer.cursor
