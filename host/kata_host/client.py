"""The agent's 43 calls as typed methods: `await client.create_container(CreateContainerRequest(...),
timeout_s=60)`.

One row for each RPC of `grpc.AgentService` and `grpc.Health`; a test holds the rows against the generated
descriptors. Knows no machine and no socket: it sends through anything that has `call` (see `Caller`). Follows the
host side's spec, 3.2 and 3.15.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Generic, Protocol, Self, TypeVar, cast, overload

from google.protobuf.message import Message

from kata_protocols import services
from kata_protocols.aio.client import ConnectionLostError
from kata_protocols.gen import agent_pb2 as pb
from kata_protocols.gen import csi_pb2, health_pb2, types_pb2
from kata_protocols.gen.empty_pb2 import Empty
from kata_protocols.services import Method, Service
from kata_protocols.status import Code, StatusError

Metadata = tuple[tuple[str, str], ...]

# What the Go runtime gives each call, in seconds; None waits as long as the container lives.
DEFAULT_TIMEOUT_S = 60.0
TIMEOUTS_S: dict[str, float | None] = {
    "Check": 30.0,
    "WaitProcess": None,
    "GetOOMEvent": None,
    "ReadStdout": None,
    "ReadStderr": None,
}

Request = TypeVar("Request", bound=Message, contravariant=True)
Response = TypeVar("Response", bound=Message, covariant=True)


class Caller(Protocol):
    """A connection to an agent."""

    async def call(
        self, method: Method, request: Message, *, timeout_s: float | None = None, metadata: Metadata = ()
    ) -> Any:
        """Send a request; the answer, or StatusError, or ConnectionLostError."""

    async def aclose(self) -> None:
        """End the connection."""


class BoundRpc(Protocol[Request, Response]):
    """What `client.some_call` is. Without `timeout_s` the call has the time that Kata's runtime gives it."""

    def __call__(
        self, request: Request | None = None, *, timeout_s: float | None = ..., metadata: Metadata = ()
    ) -> Awaitable[Response]:
        """Send the request (an empty one when None) and wait for the answer."""


class Rpc(Generic[Request, Response]):
    """A row of the table: which service and method, and the types of its messages."""

    def __init__(self, service: str, name: str, request: type[Request], response: type[Response]) -> None:
        self.service = service
        self.name = name
        self.request = request
        self.response = response

    @property
    def method(self) -> Method:
        """The method's entry in the wire's own table."""
        table: Service = getattr(services, self.service)
        return table.methods[self.name]

    @overload
    def __get__(self, client: None, owner: type[AgentClient]) -> Rpc[Request, Response]: ...
    @overload
    def __get__(self, client: AgentClient, owner: type[AgentClient]) -> BoundRpc[Request, Response]: ...
    def __get__(self, client: AgentClient | None, owner: type[AgentClient]) -> object:
        if client is None:
            return self

        async def call(
            request: Message | None = None,
            *,
            timeout_s: float | None = TIMEOUTS_S.get(self.name, DEFAULT_TIMEOUT_S),
            metadata: Metadata = (),
        ) -> Message:
            sent = self.request() if request is None else request
            answer = await client.caller.call(self.method, sent, timeout_s=timeout_s, metadata=metadata)
            return cast("Message", answer)

        return call


_AGENT = "AGENT_SERVICE"
_HEALTH = "HEALTH_SERVICE"


class AgentClient:
    """Every call of the agent over one connection; the context closes it."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller

    async def aclose(self) -> None:
        """End the connection; calls that wait fail with ConnectionLostError."""
        await self.caller.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    check = Rpc(_HEALTH, "Check", health_pb2.CheckRequest, health_pb2.HealthCheckResponse)
    version = Rpc(_HEALTH, "Version", health_pb2.CheckRequest, health_pb2.VersionCheckResponse)
    create_container = Rpc(_AGENT, "CreateContainer", pb.CreateContainerRequest, Empty)
    start_container = Rpc(_AGENT, "StartContainer", pb.StartContainerRequest, Empty)
    remove_container = Rpc(_AGENT, "RemoveContainer", pb.RemoveContainerRequest, Empty)
    exec_process = Rpc(_AGENT, "ExecProcess", pb.ExecProcessRequest, Empty)
    signal_process = Rpc(_AGENT, "SignalProcess", pb.SignalProcessRequest, Empty)
    wait_process = Rpc(_AGENT, "WaitProcess", pb.WaitProcessRequest, pb.WaitProcessResponse)
    update_container = Rpc(_AGENT, "UpdateContainer", pb.UpdateContainerRequest, Empty)
    update_ephemeral_mounts = Rpc(_AGENT, "UpdateEphemeralMounts", pb.UpdateEphemeralMountsRequest, Empty)
    stats_container = Rpc(_AGENT, "StatsContainer", pb.StatsContainerRequest, pb.StatsContainerResponse)
    pause_container = Rpc(_AGENT, "PauseContainer", pb.PauseContainerRequest, Empty)
    resume_container = Rpc(_AGENT, "ResumeContainer", pb.ResumeContainerRequest, Empty)
    remove_stale_virtiofs_share_mounts = Rpc(
        _AGENT, "RemoveStaleVirtiofsShareMounts", pb.RemoveStaleVirtiofsShareMountsRequest, Empty
    )
    write_stdin = Rpc(_AGENT, "WriteStdin", pb.WriteStreamRequest, pb.WriteStreamResponse)
    read_stdout = Rpc(_AGENT, "ReadStdout", pb.ReadStreamRequest, pb.ReadStreamResponse)
    read_stderr = Rpc(_AGENT, "ReadStderr", pb.ReadStreamRequest, pb.ReadStreamResponse)
    close_stdin = Rpc(_AGENT, "CloseStdin", pb.CloseStdinRequest, Empty)
    tty_win_resize = Rpc(_AGENT, "TtyWinResize", pb.TtyWinResizeRequest, Empty)
    update_interface = Rpc(_AGENT, "UpdateInterface", pb.UpdateInterfaceRequest, types_pb2.Interface)
    update_routes = Rpc(_AGENT, "UpdateRoutes", pb.UpdateRoutesRequest, pb.Routes)
    list_interfaces = Rpc(_AGENT, "ListInterfaces", pb.ListInterfacesRequest, pb.Interfaces)
    list_routes = Rpc(_AGENT, "ListRoutes", pb.ListRoutesRequest, pb.Routes)
    add_arp_neighbors = Rpc(_AGENT, "AddARPNeighbors", pb.AddARPNeighborsRequest, Empty)
    get_iptables = Rpc(_AGENT, "GetIPTables", pb.GetIPTablesRequest, pb.GetIPTablesResponse)
    set_iptables = Rpc(_AGENT, "SetIPTables", pb.SetIPTablesRequest, pb.SetIPTablesResponse)
    get_metrics = Rpc(_AGENT, "GetMetrics", pb.GetMetricsRequest, pb.Metrics)
    mem_agent_memcg_set = Rpc(_AGENT, "MemAgentMemcgSet", pb.MemAgentMemcgConfig, Empty)
    mem_agent_compact_set = Rpc(_AGENT, "MemAgentCompactSet", pb.MemAgentCompactConfig, Empty)
    create_sandbox = Rpc(_AGENT, "CreateSandbox", pb.CreateSandboxRequest, Empty)
    destroy_sandbox = Rpc(_AGENT, "DestroySandbox", pb.DestroySandboxRequest, Empty)
    online_cpu_mem = Rpc(_AGENT, "OnlineCPUMem", pb.OnlineCPUMemRequest, Empty)
    reseed_random_dev = Rpc(_AGENT, "ReseedRandomDev", pb.ReseedRandomDevRequest, Empty)
    get_guest_details = Rpc(_AGENT, "GetGuestDetails", pb.GuestDetailsRequest, pb.GuestDetailsResponse)
    mem_hotplug_by_probe = Rpc(_AGENT, "MemHotplugByProbe", pb.MemHotplugByProbeRequest, Empty)
    set_guest_date_time = Rpc(_AGENT, "SetGuestDateTime", pb.SetGuestDateTimeRequest, Empty)
    copy_file = Rpc(_AGENT, "CopyFile", pb.CopyFileRequest, Empty)
    get_oom_event = Rpc(_AGENT, "GetOOMEvent", pb.GetOOMEventRequest, pb.OOMEvent)
    add_swap = Rpc(_AGENT, "AddSwap", pb.AddSwapRequest, Empty)
    add_swap_path = Rpc(_AGENT, "AddSwapPath", pb.AddSwapPathRequest, Empty)
    get_volume_stats = Rpc(_AGENT, "GetVolumeStats", pb.VolumeStatsRequest, csi_pb2.VolumeStatsResponse)
    resize_volume = Rpc(_AGENT, "ResizeVolume", pb.ResizeVolumeRequest, Empty)
    set_policy = Rpc(_AGENT, "SetPolicy", pb.SetPolicyRequest, Empty)


RPCS: dict[str, Rpc[Any, Any]] = {row.name: row for row in vars(AgentClient).values() if isinstance(row, Rpc)}


def is_not_found(error: BaseException) -> bool:
    """Whether the agent says that the thing is gone already, in any of the ways agents say it."""
    return isinstance(error, StatusError) and (
        error.code == Code.NOT_FOUND
        or any(words in error.message for words in ("not found", "not exist", "ESRCH: No such process"))
    )


def is_unimplemented(error: BaseException) -> bool:
    """Whether the agent does not offer the call (agents answer UNIMPLEMENTED, or NOT_FOUND `... is not supported`)."""
    return isinstance(error, StatusError) and (
        error.code == Code.UNIMPLEMENTED
        or (error.code == Code.NOT_FOUND and "is not supported" in error.message)
    )


def is_end_of_stream(error: BaseException) -> bool:
    """Whether a read ended because there is no more output: an error with `eof` in its text, never empty data."""
    return isinstance(error, StatusError) and error.code == Code.INTERNAL and "eof" in error.message.lower()


def is_connection_lost(error: BaseException) -> bool:
    """Whether nobody knows what became of the call, because the connection ended before it."""
    return isinstance(error, ConnectionLostError)
