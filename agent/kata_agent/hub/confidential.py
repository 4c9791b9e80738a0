"""What makes a guest a confidential one, as the agent uses it: initdata, guest components, hub, secrets.

Owns: their order at the start, and what a container's spec goes through. Must not know: the wire. A guest whose
initdata cannot be read runs no container: its owner had asked for something. Follows: Kata's agent 3.21, "Initdata and
confidential-containers helpers" and steps 6 and 8 of CreateContainer.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from kata_agent.hub import initdata, probe
from kata_agent.hub.client import Hub
from kata_agent.hub.component import Components
from kata_agent.hub.initdata import Initdata, InitdataError
from kata_agent.hub.plan import plan_components
from kata_policy.extension import find_extension

if TYPE_CHECKING:
    import asyncio

    from kata_agent.config import Config
    from kata_agent.log import Log
    from kata_agent.processes.exits import ExitBook
    from kata_agent.worker import Worker

IMAGE_STORE = "/run/kata-containers/image/"
STORE_DEVICE = "/dev/trusted_store"
# Words that go straight to the hub.
STORE_KIND = "BlockDevice"


class Confidential:
    """One per agent, made at the start where the guest has something of it, else when a call asks."""

    def __init__(self, config: Config, log: Log, worker: Worker) -> None:
        self._config = config
        self._log = log
        self._worker = worker
        self._components: Components | None = None
        self.initdata: Initdata | None = None
        self.problem: InitdataError | None = None
        self.missing = probe.list_missing(probe.list_wanted(config.guest_components_procs))
        self.hub = self._make_hub(None)

    def load_initdata(self, disk: str) -> None:
        """Read and install what the disk has; a failure is kept for `check`."""
        try:
            self.initdata = initdata.read(disk)
            initdata.install(self.initdata, can_enforce=find_extension() is not None)
        except (InitdataError, OSError) as error:
            self.problem = error if isinstance(error, InitdataError) else InitdataError(f"initdata: {error}")
            self._log.write("critical", "confidential", "initdata cannot be used", error=str(self.problem))
            return
        fields = {"algorithm": self.initdata.algorithm, "digest": self.initdata.digest}
        self._log.info("confidential", "initdata loaded", disk=disk, **fields)

    def start_components(
        self, exits: ExitBook, group: asyncio.TaskGroup, *, cgroup: str = "", record: str = ""
    ) -> None:
        """Start the guest components that the settings name, if the image has them all."""
        wanted = probe.list_wanted(self._config.guest_components_procs)
        if self.problem is not None or not wanted:
            return
        if self.missing:
            missing = " ".join(self.missing)
            self._log.warning("confidential", "guest components are not all there", missing=missing)
            return
        files = os.listdir(initdata.FOLDER) if self.initdata is not None else ()
        plan = plan_components(wanted, self._config.guest_components_rest_api, initdata.FOLDER, files)
        self._components = Components(plan, exits, self._log, cgroup=cgroup, record=record)
        self._components.begin(group)
        if any(component.socket == probe.HUB_SOCKET for component in plan):
            self.hub = self._make_hub(self._components)

    @property
    def policy(self) -> str | None:
        """The owner's policy."""
        return self.initdata.data.get(initdata.POLICY) if self.initdata is not None else None

    def stop_starting(self) -> None:
        """The agent ends."""
        if self._components is not None:
            self._components.stop_starting()

    def kill(self) -> None:
        """Stand-alone: end what was started."""
        if self._components is not None:
            self._components.kill()

    def check(self) -> None:
        """Raise why no container may be made here."""
        if self.problem is not None:
            raise self.problem

    async def prepare_store(self, spec: dict[str, Any]) -> None:
        """Before storages: the encrypted store for images, when the spec has its device (numbers are the guest's)."""
        for device in (spec.get("linux") or {}).get("devices") or []:
            if device.get("path") == STORE_DEVICE and self.hub.is_expected:
                options = {
                    "deviceId": f"{device.get('major', 0)}:{device.get('minor', 0)}",
                    "encryptType": "LUKS",
                    "dataIntegrity": "true" if self._config.secure_storage_integrity else "false",
                }
                await self.hub.secure_mount(STORE_KIND, options, (), IMAGE_STORE)

    async def unseal(self, spec: dict[str, Any]) -> None:
        """After storages: plain secrets in place of sealed ones."""
        if not self.hub.is_expected:
            return
        from kata_agent.hub import secret

        await secret.unseal_environment(spec.get("process") or {}, self.hub, self._log)
        await secret.unseal_files(spec.get("mounts") or [], self.hub, self._worker, self._log)

    def _make_hub(self, components: Components | None) -> Hub:
        procs = self._config.guest_components_procs
        why = f"agent.guest_components_procs={procs} does not start one"
        if self.missing:
            why = f"{', '.join(f'{probe.BINARIES}/{name}' for name in self.missing)} missing: nothing was started"
        return Hub(
            api_timeout_s=self._config.cdh_api_timeout_s,
            pull_timeout_s=self._config.image_pull_timeout_s,
            components=components,
            why_none=why,
        )
