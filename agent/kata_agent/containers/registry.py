"""The domain's face for containers: life cycle, processes and their streams.

Owns the map of containers, one entry each; there is no lock around the map, look-ups never wait. Everything that
changes a container runs under that container's own lock. Must not know the wire: it takes and gives the OCI
dictionary, bytes, exits, and raises `kata_agent.errors` (or OSError). See docs/architecture.md, seam 3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Sequence

    from kata_agent.processes.exits import ExitBook
    from kata_init.exits import Exit


class ContainerRequest(NamedTuple):
    """What CreateContainer asks for, without the wire: `spec` is the OCI dictionary, `storages` is opaque."""

    container_id: str
    spec: dict[str, object]
    storages: Sequence[object] = ()
    sandbox_pidns: bool = False


class Storages(Protocol):
    """Mounts of a container that others own (`kata_agent.mounts`); called after the request was found good."""

    async def mount(self, container_id: str, storages: Sequence[object]) -> tuple[str, ...]:
        """Mount all or nothing; gives the names under which `release` will undo them (kept in the state file)."""

    async def release(self, container_id: str, names: tuple[str, ...]) -> None:
        """Undo what `mount` gave; called once, after the container's processes are gone."""

    def adopt(self, container_id: str, names: tuple[str, ...]) -> None:
        """After an agent restart: this container still uses these names."""


class Sandbox(Protocol):
    """What a container needs to know of its sandbox, read at each create."""

    @property
    def ipc_path(self) -> str | None:
        """Path of the shared ipc namespace, None before CreateSandbox."""

    @property
    def uts_path(self) -> str | None:
        """Path of the shared uts namespace, None before CreateSandbox."""

    @property
    def guest_hooks(self) -> dict[str, list[dict[str, object]]]:
        """OCI hooks of the guest by kind (prestart, poststart, poststop), appended to the container's own."""


class Keeper(Protocol):
    """The descriptor store of PID 1 (`control.AgentChannel`), or one that forgets at once when stand-alone."""

    def store(self, name: str, fds: Sequence[int]) -> None:
        """Keep copies of these descriptors under this name until `discard`."""

    def discard(self, name: str) -> None:
        """Close what is kept under this name; unknown names are fine."""


class Settings(NamedTuple):
    """Where things are and what they measure; handed down from the agent's configuration."""

    crun_path: str = "/usr/bin/crun"
    base_dir: str = "/run/kata-containers"
    run_dir: str = "/run/kata-agent"
    cgroup_root: str = "/sys/fs/cgroup"
    container_pipe_size_bytes: int = 0
    exact_reads: bool = False
    """Answer reads by PipeReply, so that no byte is lost or doubled when the agent dies; for supervised agents."""


class Containers:
    """Every container of the sandbox; see docs/architecture.md, seam 3.

    Errors of all methods: InvalidRequest (id not valid, spec refused), NotFound (`Invalid container id`,
    `Invalid exec id`), AlreadyExists, WrongState, NotSupported, TimedOut, KernelError, OSError.
    An empty exec id and the container's id both name the container's init process.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        group: asyncio.TaskGroup,
        exits: ExitBook,
        sandbox: Sandbox,
        storages: Storages,
        keeper: Keeper | None = None,
        stored: dict[str, list[int]] | None = None,
        report: Callable[[str, BaseException], None] | None = None,
    ) -> None:
        """`group` outlives every call and owns cleanup; `stored` are descriptors PID 1 handed back at start
        (names `container/...` are taken out of it); `report` hears of background failures."""

    async def create(self, request: ContainerRequest) -> None:
        """Make the container and its init process, stopped before exec. All or nothing, also when cancelled."""

    async def start(self, container_id: str) -> None:
        """Let init run. WrongState when it was started before or is gone."""

    async def remove(self, container_id: str, timeout_s: float | None = None) -> None:
        """Kill what runs and undo everything; None or 0 waits without limit of the caller's.

        TimedOut (text `ETIME`) after timeout_s; the removal goes on to its end in the background.
        """

    async def exec(self, container_id: str, exec_id: str, process: dict[str, object]) -> None:
        """Run another process in the container; a skeletal OCI process is completed from the container's own."""

    async def signal(self, container_id: str, exec_id: str, number: int) -> None:
        """Signal a process; an empty exec id means init and all of the container's cgroup. Gone is success."""

    async def wait(self, container_id: str, exec_id: str) -> Exit:
        """Wait for the exit, any number of waiters, before and after it, until the container is removed."""
        raise NotImplementedError

    def read(
        self, container_id: str, exec_id: str, stream: str, limit: int
    ) -> bytes | object | Awaitable[bytes | object]:
        """Read 1..limit bytes of "stdout" or "stderr": bytes when some wait, a PipeReply with `exact_reads`.

        Otherwise an awaitable of either. End of output raises EndOfOutput (text `read meet eof`), never b"".
        """
        raise NotImplementedError

    async def write_stdin(self, container_id: str, exec_id: str, data: bytes) -> int:
        """Write all of data before returning its length; b"" closes stdin."""
        raise NotImplementedError

    def close_stdin(self, container_id: str, exec_id: str) -> None:
        """End of input; on a terminal the end-of-file character. Twice is fine."""

    def resize(self, container_id: str, exec_id: str, rows: int, columns: int) -> None:
        """Set the terminal's size; WrongState `no tty` without one."""

    async def adopt(self) -> None:
        """After an agent restart: take over what the state files, stored descriptors and exits tell."""

    async def remove_all(self) -> None:
        """Remove every container (DestroySandbox); raises the first failure after trying all."""

    def ids(self) -> tuple[str, ...]:
        """Ids of the containers there are, oldest first."""
        return ()
