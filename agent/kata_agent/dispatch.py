"""From the name of a method to its handler, wrapped once: error mapping and the failed call's log line.

Owns: which methods there are and what surrounds every handler, a policy before all.
Must not know: what a handler does. Follows: Kata's wire contract, whose methods are all here.

Messages of `grpc.AgentService` are imported with the first call of that service: a guest whose host only asks for
health never pays for them.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from importlib import import_module
from types import AsyncGeneratorType, CoroutineType
from typing import TYPE_CHECKING, Any

from kata_agent import errors
from kata_agent.around import surround
from kata_agent.flight import QUIET
from kata_protocols import services
from kata_protocols.aio.router import Endpoint, Router
from kata_protocols.status import StatusError

if TYPE_CHECKING:
    from kata_agent.agent import Agent
    from kata_protocols.aio.router import Call
    from kata_protocols.services import Service

# A handler as `services/` writes it, and as the server calls it.
Handler = Callable[["Agent", Any], Any]
Wrapped = Callable[[Any, "Call"], Any]

HEALTH = "grpc.Health"
AGENT = "grpc.AgentService"
SANDBOX = "kata.agent.v1.Sandbox"

# Method -> module below `kata_agent.services` whose HANDLERS has it.
METHODS: dict[str, dict[str, str]] = {
    HEALTH: {"Check": "health", "Version": "health"},
    AGENT: {
        "CreateContainer": "containers",
        "StartContainer": "containers",
        "RemoveContainer": "containers",
        "ExecProcess": "containers",
        "SignalProcess": "containers",
        "WaitProcess": "containers",
        "UpdateContainer": "cgroups",
        "UpdateEphemeralMounts": "volumes",
        "StatsContainer": "cgroups",
        "PauseContainer": "cgroups",
        "ResumeContainer": "cgroups",
        "RemoveStaleVirtiofsShareMounts": "volumes",
        "WriteStdin": "streams",
        "ReadStdout": "streams",
        "ReadStderr": "streams",
        "CloseStdin": "streams",
        "TtyWinResize": "streams",
        "UpdateInterface": "network",
        "UpdateRoutes": "network",
        "ListInterfaces": "network",
        "ListRoutes": "network",
        "AddARPNeighbors": "network",
        "GetIPTables": "network",
        "SetIPTables": "network",
        "GetMetrics": "metrics",
        "MemAgentMemcgSet": "memory",
        "MemAgentCompactSet": "memory",
        "CreateSandbox": "sandbox",
        "DestroySandbox": "sandbox",
        "OnlineCPUMem": "guest",
        "ReseedRandomDev": "guest",
        "GetGuestDetails": "guest",
        "MemHotplugByProbe": "guest",
        "SetGuestDateTime": "guest",
        "CopyFile": "files",
        "GetOOMEvent": "oom",
        "AddSwap": "volumes",
        "AddSwapPath": "volumes",
        "GetVolumeStats": "volumes",
        "ResizeVolume": "volumes",
        "SetPolicy": "policy",
    },
    SANDBOX: {
        "Events": "events",
        "PollEvents": "events",
        "ListExits": "ends",
        "Why": "ends",
        "ListProcesses": "inspect",
        "KillTree": "inspect",
        "GetBoot": "boot",
        "ListDevices": "devices",
        "OpenSession": "sessions",
        "ReadSession": "sessions",
        "ListSessions": "sessions",
        "CloseSession": "sessions",
        "NameStream": "passed",
        "PolicyLog": "policy",
        "Upgrade": "upgrade",
        "Quiesce": "snapshot",
        "Resumed": "snapshot",
        "LogLevel": "operator",
        "LastCalls": "operator",
    },
}

_SOURCES = {HEALTH: "HEALTH_SERVICE", AGENT: "AGENT_SERVICE", SANDBOX: "SANDBOX_SERVICE"}

# A caller that has gone wants no answer from these, and leaving them changes nothing.
CANCEL_ON_DISCONNECT = frozenset(
    {"WaitProcess", "ReadStdout", "ReadStderr", "GetOOMEvent", "PollEvents", "ReadSession", "NameStream"}
)

# What these wait for may be slower than their callers are patient: the wait is bounded by the call's deadline.
SLOW = frozenset({"CreateContainer"})

# What changes a life cycle is logged when it is done, by ids alone.
CHANGES = {
    "CreateContainer": "container created",
    "StartContainer": "container started",
    "RemoveContainer": "container removed",
    "ExecProcess": "process started",
    "UpdateContainer": "container updated",
    "PauseContainer": "container paused",
    "ResumeContainer": "container resumed",
}


# What must not begin while the machine stands still to be saved: it would change that, or wait for a frozen disk.
HELD = frozenset(
    {
        *CHANGES,
        "CreateSandbox",
        "DestroySandbox",
        "UpdateEphemeralMounts",
        "RemoveStaleVirtiofsShareMounts",
        "CopyFile",
    }
    | {"AddSwap", "AddSwapPath", "ResizeVolume", "OpenSession", "Upgrade"}
)


class Dispatcher(Router):
    """The router that the wire server asks; one for all connections."""

    _services: dict[str, Service]

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        self._agent = agent

    @property
    def services(self) -> dict[str, Service]:
        """All services, read by reflection and by the answers for unknown names; loaded with the first look."""
        if not self._services:
            loaded = (getattr(services, source) for source in _SOURCES.values())
            self._services = {service.name: service for service in loaded}
        return self._services

    @services.setter
    def services(self, value: dict[str, Service]) -> None:
        self._services = value

    def find(self, service: str, method: str) -> Endpoint:
        """The endpoint of a method. Raises `StatusError` with the text that hosts know."""
        endpoint = self._endpoints.get((service, method))
        if endpoint is None:
            endpoint = self._make(service, method)
            self._endpoints[service, method] = endpoint
        return endpoint

    def _make(self, service: str, method: str) -> Endpoint:
        module = METHODS.get(service, {}).get(method)
        if module is None:
            raise self._missing(service, method)
        about = getattr(services, _SOURCES[service]).methods[method]
        handler = self._gate(service, method, about.request_type.DESCRIPTOR.name)
        if handler is None:
            handler = import_module(f"kata_agent.services.{module}").HANDLERS[method]
            handler = hold(method, handler) if method in HELD else handler
        return Endpoint(
            about.request_type,
            self._surround(
                service, method, self._wrap(service, method, handler, streaming=about.server_streaming)
            ),
            cancel_on_disconnect=method in CANCEL_ON_DISCONNECT,
            server_streaming=about.server_streaming,
        )

    def _gate(self, service: str, method: str, message: str) -> Handler | None:
        """The refusal of an endpoint that the settings do not allow."""
        allowed = self._agent.config.endpoints
        if allowed is None:
            return None
        from kata_agent import endpoints

        if endpoints.is_allowed(allowed, service, method, message):
            return None
        refusal: Handler = endpoints.refuse(allowed, message)
        return refusal

    def _surround(self, service: str, method: str, inner: Wrapped) -> Wrapped:
        """What is done around the whole call, its status known: the flight recorder, and a span."""
        if method not in QUIET:
            inner = surround(inner, self._agent.flight.recorder(method))
        if self._agent.tracer is not None:
            from kata_agent.tracing.tracer import UNTRACED

            if method not in UNTRACED:
                inner = surround(inner, self._agent.tracer.recorder(service, method))
        return inner

    def _wrap(self, service: str, method: str, handler: Handler, *, streaming: bool) -> Wrapped:
        agent = self._agent
        durations = agent.durations

        def wrapped(request: Any, call: Call) -> Any:
            started = time.monotonic_ns()
            try:
                gate = agent.gate
                if gate is None:
                    result = handler(agent, request)
                else:
                    result = gate.guard(service, method, handler, agent, request, streaming=streaming)
            except Exception as error:  # the one place that maps every error
                raise self._answer(service, method, request, error, started) from error
            if isinstance(result, CoroutineType):
                return self._finish(service, method, request, result, started, call.deadline)
            if isinstance(result, AsyncGeneratorType):
                return self._relay(service, method, request, result, started)
            durations.note(method, time.monotonic_ns() - started)
            return result

        return wrapped

    async def _relay(
        self, service: str, method: str, request: Any, messages: AsyncGenerator[Any, None], started: int
    ) -> AsyncGenerator[Any, None]:
        try:
            async with aclosing(messages):
                async for message in messages:
                    yield message
        except Exception as error:  # the one place that maps every error
            raise self._answer(service, method, request, error, started) from error

    async def _finish(
        self,
        service: str,
        method: str,
        request: Any,
        work: Awaitable[Any],
        started: int,
        deadline: float | None,
    ) -> Any:
        if method in SLOW:
            from kata_agent.deadline import DEADLINE

            DEADLINE.set(deadline)
        try:
            answer = await work
        except Exception as error:  # the one place that maps every error
            raise self._answer(service, method, request, error, started) from error
        self._agent.durations.note(method, time.monotonic_ns() - started)
        if method in CHANGES:
            fields = {"container-id": request.container_id, "duration-us": elapsed_us(started)}
            if method == "ExecProcess":
                fields["exec-id"] = request.exec_id
            self._agent.log.info("container", CHANGES[method], **fields)
        return answer

    def _answer(self, service: str, method: str, request: Any, error: Exception, started: int) -> StatusError:
        """The status of a failed call, after its line in the log and its note in the trail."""
        cause = errors.unwrap(error)
        code, text = errors.wire_status(method, cause)
        if service == SANDBOX and isinstance(cause, errors.AgentError):
            code = cause.code  # our own service hides nothing behind INTERNAL
        self._agent.durations.note(method, time.monotonic_ns() - started)
        if not isinstance(cause, errors.EndOfOutput):
            self._agent.durations.note_failure(method, code.name)
        fields: dict[str, object] = {
            "method": method,
            "status": code.name,
            "duration-us": elapsed_us(started),
            "error": text,
        }
        if errors.is_defect(cause):
            self._agent.log.error("rpc", "call failed by a defect", trace=format_trace(cause), **fields)
        else:
            level = "debug" if isinstance(cause, errors.EndOfOutput) else "warn"
            self._agent.log.write(level, "rpc", "call failed", **fields)
        if isinstance(cause, errors.EndOfOutput):
            return StatusError(code, text)  # the end of a stream is no failure
        if service == AGENT:
            self._agent.note_failure(getattr(request, "container_id", ""), method, text)
        from kata_agent.services.detail import describe

        return StatusError(code, text, describe(method, cause))


def hold(method: str, handler: Handler) -> Handler:
    """The handler of a method that must not begin while the machine is quiesced."""

    def held(agent: Agent, request: Any) -> Any:
        if agent.is_quiet():
            raise errors.WrongState(f"{method}: the machine is quiesced; call Resumed first")
        return handler(agent, request)

    return held


def elapsed_us(started: int) -> int:
    """Microseconds since `started`, a reading of the monotonic clock in nanoseconds."""
    return (time.monotonic_ns() - started) // 1000


def format_trace(error: BaseException) -> str:
    """Where an unforeseen error came from, innermost first: files and lines, never values."""
    places = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{code.co_filename.rpartition('/')[2]}:{trace.tb_lineno} {code.co_qualname}")
        trace = trace.tb_next
    return " < ".join(reversed(places))
