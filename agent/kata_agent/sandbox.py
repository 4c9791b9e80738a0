"""The sandbox: what its containers share, made by CreateSandbox.

Owns: the shared ipc and uts namespaces, the sandbox's storages, its name server file, kernel modules, guest hooks,
and the record of these from which a restarted agent goes on. Must not know: the wire, containers' insides.
Follows: Kata's agent 3.21, "Sandbox life cycle". Whatever fails undoes what was done before it.

In a guest of ours the base folder is emptied first, as Kata's agent does, but nothing is deleted through a mount.
Outside one (`owns_guest` false) what lies there may be another program's, so nothing is deleted.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING

from kata_agent import tree
from kata_agent.devices import online
from kata_agent.errors import InvalidRequest, WrongState, describe
from kata_agent.guest import dns, hook, module
from kata_agent.mounts.storage.request import StorageRequest
from kata_linux import mount, namespaces, openat2
from kata_linux.record import Record

if TYPE_CHECKING:
    from kata_agent.parts import Parts

NAMESPACE_DIRECTORY = "/run/sandbox-ns"
NAMESPACES = ("ipc", "uts")
HOSTNAME_LIMIT = 64

# The name under which the sandbox uses storages; no container can have it.
USER = ""


class KernelModule(Record):
    """A module to load before anything else."""

    name: str
    parameters: tuple[str, ...] = ()


class SandboxRequest(Record):
    """What CreateSandbox asks for."""

    sandbox_id: str = ""
    hostname: str = ""
    dns: tuple[str, ...] = ()
    storages: tuple[StorageRequest, ...] = ()
    guest_hook_path: str = ""
    kernel_modules: tuple[KernelModule, ...] = ()


class Sandbox:
    """One per agent. Before `create` it has no shared namespaces, and containers cannot be made."""

    def __init__(self, agent: Parts, *, owns_guest: bool, base: str, run: str) -> None:
        self._agent = agent
        self._owns_guest = owns_guest
        self._base = base
        self._run = run
        self._state_file = f"{run}/sandbox.json"
        self._undo: AsyncExitStack | None = None
        self._creating = False
        self.sandbox_id = ""
        self.exists = False
        self.guest_hooks: dict[str, list[dict[str, object]]] = {}

    @property
    def ipc_path(self) -> str | None:
        """Path of the shared ipc namespace."""
        return f"{NAMESPACE_DIRECTORY}/ipc" if self.exists else None

    @property
    def uts_path(self) -> str | None:
        """Path of the shared uts namespace."""
        return f"{NAMESPACE_DIRECTORY}/uts" if self.exists else None

    async def create(self, request: SandboxRequest) -> None:
        """Make everything that `request` names, or nothing. Without containers a second call starts afresh."""
        check(request)
        if self._creating:
            raise WrongState("the sandbox is being created by another call")
        if self._agent.has_containers():
            raise WrongState(
                f"sandbox {self.sandbox_id!r} has containers: remove them before it is created again"
            )
        self._creating = True
        try:
            await self.close()
            await self._create(request)
        finally:
            self._creating = False

    async def close(self) -> None:
        """Undo what `create` made."""
        undo, self._undo, self.exists = self._undo, None, False
        if undo is not None:
            await undo.aclose()

    def adopt(self) -> None:
        """After a restart of the agent: go on with what the record tells. No record: there was no sandbox."""
        import json  # a guest that never restarts its agent does not pay for it

        try:
            with open(self._state_file, encoding="utf-8") as file:
                record = json.load(file)
        except FileNotFoundError:
            return
        self.sandbox_id = record["id"]
        self.guest_hooks = record["guest_hooks"]
        names = tuple(record["storages"])
        self._agent.storages.adopt(USER, names)
        self._undo = AsyncExitStack()
        self._undo.callback(_ignore_missing, self._state_file)
        for kind in NAMESPACES:
            self._undo_later(self._undo, partial(self._unshare, f"{NAMESPACE_DIRECTORY}/{kind}"))
        self._undo.push_async_callback(self._agent.storages.release, USER, names)
        self._undo.push_async_callback(self._agent.storages.release_kept)
        if record["dns"]:
            self._undo_later(self._undo, partial(dns.remove, f"{self._base}/sandbox"))
        self.exists = True

    async def _create(self, request: SandboxRequest) -> None:
        run = self._agent.worker.run
        async with AsyncExitStack() as undo:
            undo.callback(_ignore_missing, self._state_file)
            await run(partial(self._prepare_base, wipe=self._owns_guest and not self._agent.has_copied()))
            for entry in request.kernel_modules:
                await module.load(self._agent.exits, entry.name, entry.parameters)
            await online.drive_memory(online.MEMORY, self._agent.load_module, self._agent.log)
            await self._share("ipc", None, undo)
            hostname = request.hostname[:HOSTNAME_LIMIT]
            await self._share("uts", partial(socket.sethostname, hostname) if hostname else None, undo)
            names = await self._agent.storages.mount(USER, request.storages)
            undo.push_async_callback(self._agent.storages.release, USER, names)
            undo.push_async_callback(self._agent.storages.release_kept)
            hooks = self._scan_hooks(request.guest_hook_path)
            if request.dns:
                await run(partial(dns.install, request.dns, f"{self._base}/sandbox"))
                self._undo_later(undo, partial(dns.remove, f"{self._base}/sandbox"))
            await run(partial(self._record, request, hooks, names))
            self.sandbox_id = request.sandbox_id
            self.guest_hooks = hooks
            self.exists = True
            self._undo = undo.pop_all()
        self._agent.log.info("sandbox", "sandbox created", sandbox=self.sandbox_id)
        if self._owns_guest:  # nobody waits until the host has its memory back
            self._agent.start(online.drive_memory(online.BALLOON, self._agent.load_module, self._agent.log))

    def _scan_hooks(self, path: str) -> dict[str, list[dict[str, object]]]:
        """The guest's hooks. A folder that cannot be read costs the hooks, not the sandbox, as in Kata's agent."""
        try:
            return hook.scan(path) if path else {}
        except OSError as error:
            self._agent.log.warning("sandbox", "guest hooks could not be read", error=describe(error))
            return {}

    def _prepare_base(self, *, wipe: bool) -> None:
        os.makedirs(self._base, mode=0o755, exist_ok=True)
        if not wipe:
            return
        parent = openat2.open_root(os.path.dirname(self._base))
        try:
            tree.clear(parent, os.path.basename(self._base))
        finally:
            os.close(parent)

    async def _share(self, kind: str, prepare: Callable[[], None] | None, undo: AsyncExitStack) -> None:
        path = f"{NAMESPACE_DIRECTORY}/{kind}"
        await self._agent.worker.run(partial(_persist, kind, path, prepare))
        self._undo_later(undo, partial(self._unshare, path))

    def _undo_later(self, undo: AsyncExitStack, step: Callable[[], None]) -> None:
        run: Callable[[Callable[[], None]], Awaitable[None]] = self._agent.worker.run
        undo.push_async_callback(run, step)

    def _unshare(self, path: str) -> None:
        try:
            mount.umount(path, mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)
            os.unlink(path)
            os.rmdir(os.path.dirname(path))
        except FileNotFoundError:
            pass  # gone, as it should be
        except OSError as error:
            # Another agent's namespaces may share the folder; nothing depends on its going.
            self._agent.log.debug("sandbox", "left in place", path=path, error=describe(error))

    def _record(
        self, request: SandboxRequest, hooks: dict[str, list[dict[str, object]]], names: tuple[str, ...]
    ) -> None:
        import json

        os.makedirs(self._run, mode=0o700, exist_ok=True)
        record = {
            "id": request.sandbox_id,
            "dns": bool(request.dns),
            "guest_hooks": hooks,
            "storages": names,
        }
        with open(f"{self._state_file}.new", "w", encoding="utf-8") as file:
            json.dump(record, file)
        os.rename(f"{self._state_file}.new", self._state_file)


def check(request: SandboxRequest) -> None:
    """Refuse what cannot be made, before anything is."""
    for entry in request.kernel_modules:
        if not entry.name:
            raise InvalidRequest("kernel module: the name is empty")
    if "\0" in request.hostname:
        raise InvalidRequest("hostname contains a NUL")


def _persist(kind: str, path: str, prepare: Callable[[], None] | None) -> None:
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    namespaces.persist(kind, path, prepare)


def _ignore_missing(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass  # it was never written
