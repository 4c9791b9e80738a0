"""An agent's life: what it opens at its start and takes over, what it tells, what its end takes down.

Owns: the order of these. Must not know: the wire, how a part is made (`parts`).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kata_agent import flight
from kata_agent.parts import COMPONENTS_CGROUP, LAST_CALLS, RUN_DIRECTORY, Parts

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable

    from kata_agent.channel import Channel


class Agent(Parts):
    """An agent that serves."""

    channel: Channel | None = None
    _channel_task: asyncio.Task[None] | None = None

    def start_memory_agent(self) -> None:
        """Begin to take back cold memory, if that is configured. A failure is logged: everything else works."""
        if not self.config.mem_agent_enable:
            return
        from kata_agent.memory.agent import MemoryAgent

        self.memory = MemoryAgent(self.config, worker=self.worker, exits=self._exits, log=self.log)
        self.memory.start(self._group)

    def stop_tasks(self) -> None:
        """End what goes on without anybody's call; the task group waits for it."""
        if self.memory is not None:
            self.memory.close()
        if self._has("confidential"):
            self.confidential.stop_starting()

    def begin_confidential(self) -> None:
        """Load initdata and start the guest components, where the guest has any of it."""
        from kata_agent.hub import probe

        disk = probe.find_initdata()
        wanted = probe.list_wanted(self.config.guest_components_procs)
        if not disk and probe.list_missing(wanted) == wanted:
            return
        if disk:
            self.confidential.load_initdata(disk)
        kept = (
            {"cgroup": COMPONENTS_CGROUP, "record": f"{RUN_DIRECTORY}/components"} if self.supervised else {}
        )
        self.confidential.start_components(self._exits, self._group, **kept)

    def owners_policy(self) -> str | None:
        """What initdata has of it."""
        return self.confidential.policy if self._has("confidential") else None

    def check_confidential(self) -> None:
        """Raise why nothing may run in this guest."""
        if self._has("confidential"):
            self.confidential.check()

    def listen_for_streams(self) -> None:
        """Open the listener for the streams' own connections, if one is configured, or go on with that of an
        agent before this one. A failure is logged: everything else works without it."""
        if not self.config.passfd_listener:
            return
        from kata_agent.kept_listener import open_listener
        from kata_agent.processes import passed

        try:
            listener = open_listener(passed.LISTENER, self.config.passfd_listener, self._host, self._stored)
        except (OSError, ValueError) as error:
            self._report("no streams on connections of their own", error)
            return
        self._passed = passed.PassedConnections(listener, self._host, self.log, self._stored)

    def serve_channel(self, serve: Callable[[socket.socket, str], None]) -> None:
        """Serve on the serial channel too, if the settings name one."""
        if not self.config.channel:
            return
        from kata_agent.channel import Channel

        self.channel = Channel(self.config.channel, serve, host=self._host, stored=self._stored, log=self.log)
        self._channel_task = self._group.create_task(self.channel.run())

    async def end_channel(self) -> None:
        """Let the last answers out on it, and listen no more."""
        if self.channel is not None:
            await self.channel.settle()
        if self._channel_task is not None:
            self._channel_task.cancel()

    def watch_pressure(self) -> None:
        """Tell of pressure, if that is configured."""
        if self.config.pressure == "off":
            return
        from kata_agent.cgroups import pressure

        limits = pressure.parse_limits(self.config.pressure)
        self._pressure = pressure.PressureWatch(limits, tell=self._tell_pressure, report=self._report)

    def tell_last_end(self) -> None:
        """Open the recorder, and log what the agent before this one was doing when it ended."""
        recorder = self.flight
        if self.life.number == 1:
            return
        calls = [call for call in recorder.read() if call.life == self.life.number - 1]
        fields = {"reason": self.life.last_end, "calls": flight.describe(calls, LAST_CALLS)}
        if recorder.last_crash:
            fields["crash"] = recorder.last_crash
        self.log.error("root", "the agent before this one has ended", life=self.life.number - 1, **fields)

    def open_for_operators(self) -> None:
        """Open what operators read, where the settings ask for it."""
        config = self.config
        if config.log_listener or config.kernel_log or config.debug_console:
            from kata_agent.operators import Operators

            self.operators = Operators(self, self._host, self._stored)
        self.tell_last_end()
        self.log.forget_early()

    def note_late(self, seconds: float) -> None:
        """The event loop did not turn for so long that PID 1 called this agent silent."""
        self.log.error("loop", "the event loop did not turn", seconds=f"{seconds:.1f}")
        self.events.emit("hung", text=f"the agent did not answer for {seconds:.1f} s")

    def note_lost_exits(self) -> None:
        """PID 1 had to drop exits, some since this was told last: processes ended, and nobody knows how."""
        from kata_agent.events import GAP

        hub, lost = self.events, self.life.lost_exits
        told = max((int(event.fields.get("exits", 0)) for event in hub.of_kind(GAP)), default=0)
        if lost > told:
            reason = f"PID 1's exit ledger was full: {lost - told} of the oldest exits are lost"
            self.log.error("supervisor", reason, since_boot=lost)
            hub.emit(GAP, first=hub.next + 1, end=hub.next + 1, reason=reason, exits=lost)

    def _tell_life(self) -> None:
        """Which agent goes on, and why."""
        life = self.life
        if life.number > 1:
            kind = "upgraded" if life.outcome == "upgraded" else "restarted"
            self.events.emit(kind, life=life.number, reason=life.last_end, code=life.code)
        if life.lost_exits:
            self.note_lost_exits()

    def note_failure(self, container_id: str, method: str, text: str) -> None:
        """A call has failed; those about a container are kept for `Why`."""
        if container_id:
            self.trail.note_failure(container_id, method, text)

    async def destroy(self) -> None:
        """Remove every container, then let the agent end once the replies are out. Raises the first failure."""
        if self._has("containers"):
            await self.containers.remove_all()
        if self._has("oom"):
            self.oom.close()
        self.log.info("sandbox", "sandbox destroyed")
        self.destroyed = True
        self.stopping.set()

    async def close(self) -> None:
        """Stand-alone: remove everything that this agent made. Failures are logged, the rest goes on."""
        if self._has("containers"):
            try:
                await self.containers.remove_all()
            except Exception as error:  # noqa: BLE001 - the end goes on
                self._report("containers could not be removed", error)
        if self._has("oom"):
            self.oom.close()
        if self._has("sandbox"):
            await self.sandbox.close()
        if self._has("confidential"):
            self.confidential.kill()
        if self._has("hotplug"):
            self.hotplug.close()
        if self._passed is not None:
            self._passed.close()
        if self.gate is not None:
            await self.gate.close()
        if self._pressure is not None:
            self._pressure.close()
        if self.operators is not None:
            self.operators.close()
        self.flight.close()

    async def adopt(self) -> None:
        """After a restart under PID 1: take over the sandbox and the containers that are there."""
        if self._stored or _has_state():
            self._tell_life()
            self.sandbox.adopt()
            self.snapshot.adopt()
            self.oom.adopt()
            await self.containers.adopt()
            await self.storages.sweep()


def _has_state() -> bool:
    """Whether an agent before this one left state files, which a fresh guest has not."""
    return os.path.isdir(RUN_DIRECTORY) and bool(os.listdir(RUN_DIRECTORY))
