from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EventKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EVENT_KIND_UNSPECIFIED: _ClassVar[EventKind]
    GAP: _ClassVar[EventKind]
    CONTAINER_CREATED: _ClassVar[EventKind]
    STARTED: _ClassVar[EventKind]
    EXITED: _ClassVar[EventKind]
    OOM: _ClassVar[EventKind]
    CONTAINER_REMOVED: _ClassVar[EventKind]
    AGENT_RESTARTED: _ClassVar[EventKind]
    DEVICE: _ClassVar[EventKind]
    PRESSURE: _ClassVar[EventKind]
    AGENT_HUNG: _ClassVar[EventKind]
    AGENT_UPGRADED: _ClassVar[EventKind]
    RESUMED: _ClassVar[EventKind]

class Stream(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STREAM_UNSPECIFIED: _ClassVar[Stream]
    STDOUT: _ClassVar[Stream]
    STDERR: _ClassVar[Stream]

class WhenFull(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WHEN_FULL_UNSPECIFIED: _ClassVar[WhenFull]
    BLOCK: _ClassVar[WhenFull]
    DROP_OLDEST: _ClassVar[WhenFull]
EVENT_KIND_UNSPECIFIED: EventKind
GAP: EventKind
CONTAINER_CREATED: EventKind
STARTED: EventKind
EXITED: EventKind
OOM: EventKind
CONTAINER_REMOVED: EventKind
AGENT_RESTARTED: EventKind
DEVICE: EventKind
PRESSURE: EventKind
AGENT_HUNG: EventKind
AGENT_UPGRADED: EventKind
RESUMED: EventKind
STREAM_UNSPECIFIED: Stream
STDOUT: Stream
STDERR: Stream
WHEN_FULL_UNSPECIFIED: WhenFull
BLOCK: WhenFull
DROP_OLDEST: WhenFull

class ErrorDetail(_message.Message):
    __slots__ = ("stage", "errno", "errno_name", "path", "hint")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    ERRNO_FIELD_NUMBER: _ClassVar[int]
    ERRNO_NAME_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    stage: str
    errno: int
    errno_name: str
    path: str
    hint: str
    def __init__(self, stage: _Optional[str] = ..., errno: _Optional[int] = ..., errno_name: _Optional[str] = ..., path: _Optional[str] = ..., hint: _Optional[str] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("cursor", "sequence", "time_ns", "kind", "container_id", "exec_id", "text", "gap", "exit", "oom", "restart", "pressure", "generation")
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    EXEC_ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    GAP_FIELD_NUMBER: _ClassVar[int]
    EXIT_FIELD_NUMBER: _ClassVar[int]
    OOM_FIELD_NUMBER: _ClassVar[int]
    RESTART_FIELD_NUMBER: _ClassVar[int]
    PRESSURE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    cursor: str
    sequence: int
    time_ns: int
    kind: EventKind
    container_id: str
    exec_id: str
    text: str
    gap: Gap
    exit: Exit
    oom: Oom
    restart: Restart
    pressure: Pressure
    generation: Generation
    def __init__(self, cursor: _Optional[str] = ..., sequence: _Optional[int] = ..., time_ns: _Optional[int] = ..., kind: _Optional[_Union[EventKind, str]] = ..., container_id: _Optional[str] = ..., exec_id: _Optional[str] = ..., text: _Optional[str] = ..., gap: _Optional[_Union[Gap, _Mapping]] = ..., exit: _Optional[_Union[Exit, _Mapping]] = ..., oom: _Optional[_Union[Oom, _Mapping]] = ..., restart: _Optional[_Union[Restart, _Mapping]] = ..., pressure: _Optional[_Union[Pressure, _Mapping]] = ..., generation: _Optional[_Union[Generation, _Mapping]] = ...) -> None: ...

class Gap(_message.Message):
    __slots__ = ("first", "end", "reason")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    first: int
    end: int
    reason: str
    def __init__(self, first: _Optional[int] = ..., end: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class Exit(_message.Message):
    __slots__ = ("container_id", "exec_id", "pid", "time_ns", "code", "signal", "oom")
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    EXEC_ID_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    OOM_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    exec_id: str
    pid: int
    time_ns: int
    code: int
    signal: int
    oom: bool
    def __init__(self, container_id: _Optional[str] = ..., exec_id: _Optional[str] = ..., pid: _Optional[int] = ..., time_ns: _Optional[int] = ..., code: _Optional[int] = ..., signal: _Optional[int] = ..., oom: _Optional[bool] = ...) -> None: ...

class Oom(_message.Message):
    __slots__ = ("kills", "limit")
    KILLS_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    kills: int
    limit: str
    def __init__(self, kills: _Optional[int] = ..., limit: _Optional[str] = ...) -> None: ...

class Restart(_message.Message):
    __slots__ = ("life", "reason", "code")
    LIFE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    life: int
    reason: str
    code: str
    def __init__(self, life: _Optional[int] = ..., reason: _Optional[str] = ..., code: _Optional[str] = ...) -> None: ...

class Pressure(_message.Message):
    __slots__ = ("resource", "stall_us", "window_us", "average", "missed")
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    STALL_US_FIELD_NUMBER: _ClassVar[int]
    WINDOW_US_FIELD_NUMBER: _ClassVar[int]
    AVERAGE_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    resource: str
    stall_us: int
    window_us: int
    average: float
    missed: int
    def __init__(self, resource: _Optional[str] = ..., stall_us: _Optional[int] = ..., window_us: _Optional[int] = ..., average: _Optional[float] = ..., missed: _Optional[int] = ...) -> None: ...

class EventsRequest(_message.Message):
    __slots__ = ("cursor", "only_new", "container_id")
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    ONLY_NEW_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    cursor: str
    only_new: bool
    container_id: str
    def __init__(self, cursor: _Optional[str] = ..., only_new: _Optional[bool] = ..., container_id: _Optional[str] = ...) -> None: ...

class PollEventsRequest(_message.Message):
    __slots__ = ("cursor", "only_new", "container_id", "limit", "wait_ms")
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    ONLY_NEW_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    cursor: str
    only_new: bool
    container_id: str
    limit: int
    wait_ms: int
    def __init__(self, cursor: _Optional[str] = ..., only_new: _Optional[bool] = ..., container_id: _Optional[str] = ..., limit: _Optional[int] = ..., wait_ms: _Optional[int] = ...) -> None: ...

class PollEventsResponse(_message.Message):
    __slots__ = ("events", "cursor")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[Event]
    cursor: str
    def __init__(self, events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ..., cursor: _Optional[str] = ...) -> None: ...

class ListExitsRequest(_message.Message):
    __slots__ = ("container_id",)
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    def __init__(self, container_id: _Optional[str] = ...) -> None: ...

class ListExitsResponse(_message.Message):
    __slots__ = ("exits", "dropped")
    EXITS_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    exits: _containers.RepeatedCompositeFieldContainer[Exit]
    dropped: int
    def __init__(self, exits: _Optional[_Iterable[_Union[Exit, _Mapping]]] = ..., dropped: _Optional[int] = ...) -> None: ...

class WhyRequest(_message.Message):
    __slots__ = ("container_id",)
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    def __init__(self, container_id: _Optional[str] = ...) -> None: ...

class WhyResponse(_message.Message):
    __slots__ = ("container_id", "state", "summary", "exit", "oom_kills", "signals", "failures", "events")
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    EXIT_FIELD_NUMBER: _ClassVar[int]
    OOM_KILLS_FIELD_NUMBER: _ClassVar[int]
    SIGNALS_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    state: str
    summary: str
    exit: Exit
    oom_kills: int
    signals: _containers.RepeatedCompositeFieldContainer[SignalSent]
    failures: _containers.RepeatedCompositeFieldContainer[Failure]
    events: _containers.RepeatedCompositeFieldContainer[Event]
    def __init__(self, container_id: _Optional[str] = ..., state: _Optional[str] = ..., summary: _Optional[str] = ..., exit: _Optional[_Union[Exit, _Mapping]] = ..., oom_kills: _Optional[int] = ..., signals: _Optional[_Iterable[_Union[SignalSent, _Mapping]]] = ..., failures: _Optional[_Iterable[_Union[Failure, _Mapping]]] = ..., events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ...) -> None: ...

class SignalSent(_message.Message):
    __slots__ = ("time_ns", "exec_id", "signal", "method")
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    EXEC_ID_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    time_ns: int
    exec_id: str
    signal: int
    method: str
    def __init__(self, time_ns: _Optional[int] = ..., exec_id: _Optional[str] = ..., signal: _Optional[int] = ..., method: _Optional[str] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("time_ns", "method", "message")
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    time_ns: int
    method: str
    message: str
    def __init__(self, time_ns: _Optional[int] = ..., method: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class ListProcessesRequest(_message.Message):
    __slots__ = ("container_id",)
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    def __init__(self, container_id: _Optional[str] = ...) -> None: ...

class ListProcessesResponse(_message.Message):
    __slots__ = ("processes",)
    PROCESSES_FIELD_NUMBER: _ClassVar[int]
    processes: _containers.RepeatedCompositeFieldContainer[Process]
    def __init__(self, processes: _Optional[_Iterable[_Union[Process, _Mapping]]] = ...) -> None: ...

class Process(_message.Message):
    __slots__ = ("container_id", "exec_id", "pid", "ppid", "name", "command", "state", "rss_bytes", "threads", "start_time_ns", "uid", "cgroup")
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    EXEC_ID_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    PPID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    RSS_BYTES_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    START_TIME_NS_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    CGROUP_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    exec_id: str
    pid: int
    ppid: int
    name: str
    command: _containers.RepeatedScalarFieldContainer[str]
    state: str
    rss_bytes: int
    threads: int
    start_time_ns: int
    uid: int
    cgroup: str
    def __init__(self, container_id: _Optional[str] = ..., exec_id: _Optional[str] = ..., pid: _Optional[int] = ..., ppid: _Optional[int] = ..., name: _Optional[str] = ..., command: _Optional[_Iterable[str]] = ..., state: _Optional[str] = ..., rss_bytes: _Optional[int] = ..., threads: _Optional[int] = ..., start_time_ns: _Optional[int] = ..., uid: _Optional[int] = ..., cgroup: _Optional[str] = ...) -> None: ...

class KillTreeRequest(_message.Message):
    __slots__ = ("container_id", "exec_id", "signal")
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    EXEC_ID_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    exec_id: str
    signal: int
    def __init__(self, container_id: _Optional[str] = ..., exec_id: _Optional[str] = ..., signal: _Optional[int] = ...) -> None: ...

class KillTreeResponse(_message.Message):
    __slots__ = ("signalled",)
    SIGNALLED_FIELD_NUMBER: _ClassVar[int]
    signalled: int
    def __init__(self, signalled: _Optional[int] = ...) -> None: ...

class GetBootRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetBootResponse(_message.Message):
    __slots__ = ("steps", "life", "last_end", "loop_lag_us", "worst_lag_us", "supervised", "code", "version", "generation")
    STEPS_FIELD_NUMBER: _ClassVar[int]
    LIFE_FIELD_NUMBER: _ClassVar[int]
    LAST_END_FIELD_NUMBER: _ClassVar[int]
    LOOP_LAG_US_FIELD_NUMBER: _ClassVar[int]
    WORST_LAG_US_FIELD_NUMBER: _ClassVar[int]
    SUPERVISED_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    steps: _containers.RepeatedCompositeFieldContainer[BootStep]
    life: int
    last_end: str
    loop_lag_us: int
    worst_lag_us: int
    supervised: bool
    code: str
    version: str
    generation: Generation
    def __init__(self, steps: _Optional[_Iterable[_Union[BootStep, _Mapping]]] = ..., life: _Optional[int] = ..., last_end: _Optional[str] = ..., loop_lag_us: _Optional[int] = ..., worst_lag_us: _Optional[int] = ..., supervised: _Optional[bool] = ..., code: _Optional[str] = ..., version: _Optional[str] = ..., generation: _Optional[_Union[Generation, _Mapping]] = ...) -> None: ...

class BootStep(_message.Message):
    __slots__ = ("name", "boottime_ns")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BOOTTIME_NS_FIELD_NUMBER: _ClassVar[int]
    name: str
    boottime_ns: int
    def __init__(self, name: _Optional[str] = ..., boottime_ns: _Optional[int] = ...) -> None: ...

class StreamPlan(_message.Message):
    __slots__ = ("stream", "ring_bytes", "when_full")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    RING_BYTES_FIELD_NUMBER: _ClassVar[int]
    WHEN_FULL_FIELD_NUMBER: _ClassVar[int]
    stream: Stream
    ring_bytes: int
    when_full: WhenFull
    def __init__(self, stream: _Optional[_Union[Stream, str]] = ..., ring_bytes: _Optional[int] = ..., when_full: _Optional[_Union[WhenFull, str]] = ...) -> None: ...

class OpenSessionRequest(_message.Message):
    __slots__ = ("container_id", "exec_id", "streams")
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    EXEC_ID_FIELD_NUMBER: _ClassVar[int]
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    exec_id: str
    streams: _containers.RepeatedCompositeFieldContainer[StreamPlan]
    def __init__(self, container_id: _Optional[str] = ..., exec_id: _Optional[str] = ..., streams: _Optional[_Iterable[_Union[StreamPlan, _Mapping]]] = ...) -> None: ...

class Session(_message.Message):
    __slots__ = ("container_id", "exec_id", "streams")
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    EXEC_ID_FIELD_NUMBER: _ClassVar[int]
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    exec_id: str
    streams: _containers.RepeatedCompositeFieldContainer[StreamState]
    def __init__(self, container_id: _Optional[str] = ..., exec_id: _Optional[str] = ..., streams: _Optional[_Iterable[_Union[StreamState, _Mapping]]] = ...) -> None: ...

class StreamState(_message.Message):
    __slots__ = ("stream", "ring_bytes", "when_full", "first", "end", "ended")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    RING_BYTES_FIELD_NUMBER: _ClassVar[int]
    WHEN_FULL_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    stream: Stream
    ring_bytes: int
    when_full: WhenFull
    first: int
    end: int
    ended: bool
    def __init__(self, stream: _Optional[_Union[Stream, str]] = ..., ring_bytes: _Optional[int] = ..., when_full: _Optional[_Union[WhenFull, str]] = ..., first: _Optional[int] = ..., end: _Optional[int] = ..., ended: _Optional[bool] = ...) -> None: ...

class ReadSessionRequest(_message.Message):
    __slots__ = ("container_id", "exec_id", "stream", "offset", "limit", "wait_ms", "release")
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    EXEC_ID_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    exec_id: str
    stream: Stream
    offset: int
    limit: int
    wait_ms: int
    release: int
    def __init__(self, container_id: _Optional[str] = ..., exec_id: _Optional[str] = ..., stream: _Optional[_Union[Stream, str]] = ..., offset: _Optional[int] = ..., limit: _Optional[int] = ..., wait_ms: _Optional[int] = ..., release: _Optional[int] = ...) -> None: ...

class ReadSessionResponse(_message.Message):
    __slots__ = ("offset", "data", "gap", "end", "ended")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    GAP_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    offset: int
    data: bytes
    gap: ByteGap
    end: int
    ended: bool
    def __init__(self, offset: _Optional[int] = ..., data: _Optional[bytes] = ..., gap: _Optional[_Union[ByteGap, _Mapping]] = ..., end: _Optional[int] = ..., ended: _Optional[bool] = ...) -> None: ...

class ByteGap(_message.Message):
    __slots__ = ("first", "end")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    first: int
    end: int
    def __init__(self, first: _Optional[int] = ..., end: _Optional[int] = ...) -> None: ...

class ListSessionsRequest(_message.Message):
    __slots__ = ("container_id",)
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    def __init__(self, container_id: _Optional[str] = ...) -> None: ...

class ListSessionsResponse(_message.Message):
    __slots__ = ("sessions",)
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    sessions: _containers.RepeatedCompositeFieldContainer[Session]
    def __init__(self, sessions: _Optional[_Iterable[_Union[Session, _Mapping]]] = ...) -> None: ...

class CloseSessionRequest(_message.Message):
    __slots__ = ("container_id", "exec_id")
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    EXEC_ID_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    exec_id: str
    def __init__(self, container_id: _Optional[str] = ..., exec_id: _Optional[str] = ...) -> None: ...

class CloseSessionResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListDevicesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListDevicesResponse(_message.Message):
    __slots__ = ("devices", "events_lost")
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    EVENTS_LOST_FIELD_NUMBER: _ClassVar[int]
    devices: _containers.RepeatedCompositeFieldContainer[Device]
    events_lost: int
    def __init__(self, devices: _Optional[_Iterable[_Union[Device, _Mapping]]] = ..., events_lost: _Optional[int] = ...) -> None: ...

class Device(_message.Message):
    __slots__ = ("handler", "address", "state", "reason", "name", "node", "driver", "group", "containers", "asked_ns", "event_ns", "ready_ns", "mounted_ns", "mount_ns")
    HANDLER_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    DRIVER_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    ASKED_NS_FIELD_NUMBER: _ClassVar[int]
    EVENT_NS_FIELD_NUMBER: _ClassVar[int]
    READY_NS_FIELD_NUMBER: _ClassVar[int]
    MOUNTED_NS_FIELD_NUMBER: _ClassVar[int]
    MOUNT_NS_FIELD_NUMBER: _ClassVar[int]
    handler: str
    address: str
    state: str
    reason: str
    name: str
    node: str
    driver: str
    group: str
    containers: _containers.RepeatedScalarFieldContainer[str]
    asked_ns: int
    event_ns: int
    ready_ns: int
    mounted_ns: int
    mount_ns: int
    def __init__(self, handler: _Optional[str] = ..., address: _Optional[str] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., name: _Optional[str] = ..., node: _Optional[str] = ..., driver: _Optional[str] = ..., group: _Optional[str] = ..., containers: _Optional[_Iterable[str]] = ..., asked_ns: _Optional[int] = ..., event_ns: _Optional[int] = ..., ready_ns: _Optional[int] = ..., mounted_ns: _Optional[int] = ..., mount_ns: _Optional[int] = ...) -> None: ...

class UpgradeRequest(_message.Message):
    __slots__ = ("path", "check_only", "drain_ms", "ready_ms")
    PATH_FIELD_NUMBER: _ClassVar[int]
    CHECK_ONLY_FIELD_NUMBER: _ClassVar[int]
    DRAIN_MS_FIELD_NUMBER: _ClassVar[int]
    READY_MS_FIELD_NUMBER: _ClassVar[int]
    path: str
    check_only: bool
    drain_ms: int
    ready_ms: int
    def __init__(self, path: _Optional[str] = ..., check_only: _Optional[bool] = ..., drain_ms: _Optional[int] = ..., ready_ms: _Optional[int] = ...) -> None: ...

class UpgradeResponse(_message.Message):
    __slots__ = ("code", "version", "life")
    CODE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LIFE_FIELD_NUMBER: _ClassVar[int]
    code: str
    version: str
    life: int
    def __init__(self, code: _Optional[str] = ..., version: _Optional[str] = ..., life: _Optional[int] = ...) -> None: ...

class QuiesceRequest(_message.Message):
    __slots__ = ("freeze_filesystems", "timeout_ms", "warm", "disk", "disk_fstype")
    FREEZE_FILESYSTEMS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    WARM_FIELD_NUMBER: _ClassVar[int]
    DISK_FIELD_NUMBER: _ClassVar[int]
    DISK_FSTYPE_FIELD_NUMBER: _ClassVar[int]
    freeze_filesystems: bool
    timeout_ms: int
    warm: bool
    disk: str
    disk_fstype: str
    def __init__(self, freeze_filesystems: _Optional[bool] = ..., timeout_ms: _Optional[int] = ..., warm: _Optional[bool] = ..., disk: _Optional[str] = ..., disk_fstype: _Optional[str] = ...) -> None: ...

class QuiesceResponse(_message.Message):
    __slots__ = ("steps", "containers")
    STEPS_FIELD_NUMBER: _ClassVar[int]
    CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    steps: _containers.RepeatedCompositeFieldContainer[Step]
    containers: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, steps: _Optional[_Iterable[_Union[Step, _Mapping]]] = ..., containers: _Optional[_Iterable[str]] = ...) -> None: ...

class Step(_message.Message):
    __slots__ = ("name", "duration_us", "note")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DURATION_US_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    name: str
    duration_us: int
    note: str
    def __init__(self, name: _Optional[str] = ..., duration_us: _Optional[int] = ..., note: _Optional[str] = ...) -> None: ...

class ResumedRequest(_message.Message):
    __slots__ = ("random", "time_ns", "hostname", "machine_id")
    RANDOM_FIELD_NUMBER: _ClassVar[int]
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    MACHINE_ID_FIELD_NUMBER: _ClassVar[int]
    random: bytes
    time_ns: int
    hostname: str
    machine_id: str
    def __init__(self, random: _Optional[bytes] = ..., time_ns: _Optional[int] = ..., hostname: _Optional[str] = ..., machine_id: _Optional[str] = ...) -> None: ...

class ResumedResponse(_message.Message):
    __slots__ = ("steps", "generation")
    STEPS_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    steps: _containers.RepeatedCompositeFieldContainer[Step]
    generation: Generation
    def __init__(self, steps: _Optional[_Iterable[_Union[Step, _Mapping]]] = ..., generation: _Optional[_Union[Generation, _Mapping]] = ...) -> None: ...

class Generation(_message.Message):
    __slots__ = ("number", "id")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    number: int
    id: str
    def __init__(self, number: _Optional[int] = ..., id: _Optional[str] = ...) -> None: ...

class LogLevelRequest(_message.Message):
    __slots__ = ("level",)
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    level: str
    def __init__(self, level: _Optional[str] = ...) -> None: ...

class LogLevelResponse(_message.Message):
    __slots__ = ("level", "before", "dropped")
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    level: str
    before: str
    dropped: int
    def __init__(self, level: _Optional[str] = ..., before: _Optional[str] = ..., dropped: _Optional[int] = ...) -> None: ...

class LastCallsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LastCallsResponse(_message.Message):
    __slots__ = ("calls", "life", "last_end", "crash")
    CALLS_FIELD_NUMBER: _ClassVar[int]
    LIFE_FIELD_NUMBER: _ClassVar[int]
    LAST_END_FIELD_NUMBER: _ClassVar[int]
    CRASH_FIELD_NUMBER: _ClassVar[int]
    calls: _containers.RepeatedCompositeFieldContainer[RecordedCall]
    life: int
    last_end: str
    crash: str
    def __init__(self, calls: _Optional[_Iterable[_Union[RecordedCall, _Mapping]]] = ..., life: _Optional[int] = ..., last_end: _Optional[str] = ..., crash: _Optional[str] = ...) -> None: ...

class RecordedCall(_message.Message):
    __slots__ = ("number", "time_ns", "life", "method", "container_id", "finished", "code", "duration_us")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    LIFE_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    DURATION_US_FIELD_NUMBER: _ClassVar[int]
    number: int
    time_ns: int
    life: int
    method: str
    container_id: str
    finished: bool
    code: int
    duration_us: int
    def __init__(self, number: _Optional[int] = ..., time_ns: _Optional[int] = ..., life: _Optional[int] = ..., method: _Optional[str] = ..., container_id: _Optional[str] = ..., finished: _Optional[bool] = ..., code: _Optional[int] = ..., duration_us: _Optional[int] = ...) -> None: ...

class NameStreamRequest(_message.Message):
    __slots__ = ("token",)
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    token: bytes
    def __init__(self, token: _Optional[bytes] = ...) -> None: ...

class NameStreamResponse(_message.Message):
    __slots__ = ("port",)
    PORT_FIELD_NUMBER: _ClassVar[int]
    port: int
    def __init__(self, port: _Optional[int] = ...) -> None: ...

class PolicyLogRequest(_message.Message):
    __slots__ = ("after",)
    AFTER_FIELD_NUMBER: _ClassVar[int]
    after: int
    def __init__(self, after: _Optional[int] = ...) -> None: ...

class PolicyLogResponse(_message.Message):
    __slots__ = ("source", "sha256", "audit", "allow_failures", "allowed", "refused", "decisions")
    class AllowedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class RefusedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    AUDIT_FIELD_NUMBER: _ClassVar[int]
    ALLOW_FAILURES_FIELD_NUMBER: _ClassVar[int]
    ALLOWED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    DECISIONS_FIELD_NUMBER: _ClassVar[int]
    source: str
    sha256: str
    audit: bool
    allow_failures: bool
    allowed: _containers.ScalarMap[str, int]
    refused: _containers.ScalarMap[str, int]
    decisions: _containers.RepeatedCompositeFieldContainer[PolicyDecision]
    def __init__(self, source: _Optional[str] = ..., sha256: _Optional[str] = ..., audit: _Optional[bool] = ..., allow_failures: _Optional[bool] = ..., allowed: _Optional[_Mapping[str, int]] = ..., refused: _Optional[_Mapping[str, int]] = ..., decisions: _Optional[_Iterable[_Union[PolicyDecision, _Mapping]]] = ...) -> None: ...

class PolicyDecision(_message.Message):
    __slots__ = ("sequence", "time_ns", "method", "rule", "container_id", "outcome", "enforced", "why", "prints", "duration_us")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    ENFORCED_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    PRINTS_FIELD_NUMBER: _ClassVar[int]
    DURATION_US_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    time_ns: int
    method: str
    rule: str
    container_id: str
    outcome: str
    enforced: bool
    why: str
    prints: str
    duration_us: int
    def __init__(self, sequence: _Optional[int] = ..., time_ns: _Optional[int] = ..., method: _Optional[str] = ..., rule: _Optional[str] = ..., container_id: _Optional[str] = ..., outcome: _Optional[str] = ..., enforced: _Optional[bool] = ..., why: _Optional[str] = ..., prints: _Optional[str] = ..., duration_us: _Optional[int] = ...) -> None: ...
