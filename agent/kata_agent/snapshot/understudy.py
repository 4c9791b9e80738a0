"""An agent that a rehearsal plays with: parts of its own beside the real agent's, in a folder of its own.

Owns: what differs from the real agent's parts, so that a rehearsal leaves no event, no record, no line in the log and
no recorded call. Must not know: what is rehearsed. PID 1, who reaps and keeps descriptors, is the real one.
"""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING

from kata_agent import tree
from kata_agent.agent import Agent
from kata_agent.errors import WrongState
from kata_agent.flight import Flight
from kata_agent.log import Log
from kata_agent.parts import RUN_DIRECTORY
from kata_linux import openat2

if TYPE_CHECKING:
    import asyncio

    from kata_agent.config import Config
    from kata_agent.containers.settings import Settings
    from kata_agent.hub.confidential import Confidential
    from kata_agent.parts import Host
    from kata_agent.processes.exits import ExitBook
    from kata_agent.sandbox import Sandbox

_NAME = "rehearsal"
FOLDER = f"{RUN_DIRECTORY}/{_NAME}"


class Understudy(Agent):
    """Owns its folder and its recorder until `aclose`. Raises `WrongState` where a killed agent has left a folder."""

    def __init__(
        self, config: Config, *, group: asyncio.TaskGroup, exits: ExitBook, host: Host, supervised: bool
    ) -> None:
        os.makedirs(RUN_DIRECTORY, mode=0o700, exist_ok=True)
        try:
            os.mkdir(FOLDER, 0o700)
        except FileExistsError:
            raise WrongState(
                f"{FOLDER}: an agent was killed while it rehearsed, and left this: save a machine that is booted anew"
            ) from None
        self._exact_reads = supervised
        self._silence = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        # Not supervised: what the real agent records for the next one, this one keeps in memory.
        super().__init__(
            config.replace(endpoints=None, tracing=False),
            Log(self._silence, config.log_level),
            group=group,
            exits=exits,
            host=host,
            stored={},
            supervised=False,
        )

    @cached_property
    def flight(self) -> Flight:
        """A recorder that nobody keeps."""
        return Flight(os.memfd_create(_NAME), -1)

    @cached_property
    def sandbox(self) -> Sandbox:
        """As the real one's, in folders of its own."""
        from kata_agent.sandbox import Sandbox

        return Sandbox(self, owns_guest=True, base=f"{FOLDER}/base", run=FOLDER)

    def check_confidential(self) -> None:
        """Nothing is run that the owner of this guest could mind."""

    async def aclose(self) -> None:
        """Remove what was made, and the folder. Raises what could not be removed: OSError, `AgentError`, groups."""
        try:
            if self._has("containers"):
                await self.containers.remove_all()
            if self._has("oom"):
                self.oom.close()
            if self._has("sandbox"):
                await self.sandbox.close()
            if self._has("hotplug"):
                self.hotplug.close()
            await self.worker.run(remove_folder)
        finally:
            if self._has("flight"):
                os.close(self.flight.ring)
            os.close(self._silence)

    def _place_containers(self) -> Settings:
        settings = super()._place_containers()
        return settings._replace(base_dir=f"{FOLDER}/base", run_dir=FOLDER, exact_reads=self._exact_reads)

    def _find_guard(self) -> Confidential | None:
        return None


def remove_folder() -> None:
    """The folder with all that is in it; EBUSY while something is mounted there."""
    parent = openat2.open_root(RUN_DIRECTORY)
    try:
        tree.remove(parent, _NAME)
    finally:
        os.close(parent)
