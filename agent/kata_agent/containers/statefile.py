"""The state file of a container: what the next agent must know to go on with it.

Owns the format and that a reader sees all of a version or the one before. Must not know what is done with it.
"""

from __future__ import annotations

import os
from typing import Any

from kata_agent.cgroups.oom import Account
from kata_agent.containers.container import Container
from kata_agent.errors import UnknownState
from kata_agent.version import STATE_KNOWN, STATE_VERSION

FILE = "state.json"


def save(container: Container, work: str) -> None:
    """Write the state file into the container's work folder, replacing the one that is there."""
    import json  # not needed by an idle agent

    fields: dict[str, Any] = {
        "version": STATE_VERSION,
        "id": container.id,
        "state": container.state,
        "cgroup": container.cgroup,
        "parents": container.parents,
        "oom": (container.oom.seen, container.oom.unfetched),
        "hooks": container.hooks,
        "annotations": container.annotations,
        "storages": container.storages,
        "devices": container.devices,
        "root_mounted": container.root_mounted,
        "shares_pids": container.shares_pids,
        "process": container.process_spec,
        "processes": [
            (
                process.exec_id,
                process.number,
                process.pid,
                process.start_time,
                process.latest_start_time,
                process.terminal,
            )
            for process in container.processes()
        ],
    }
    path = f"{work}/{FILE}"
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        file.write(json.dumps(fields))
    os.rename(f"{path}.new", path)


def load(work: str) -> Container | None:
    """The container of a work folder, its processes without streams; None when nothing was made of it yet.

    Raises `UnknownState`.
    """
    import json

    try:
        with open(f"{work}/{FILE}", encoding="utf-8") as file:
            fields = json.load(file)
    except FileNotFoundError:
        return None
    if fields.get("version") not in STATE_KNOWN:
        known = " and ".join(map(str, STATE_KNOWN))
        raise UnknownState(f"{work}/{FILE} has version {fields.get('version')}, this agent knows {known}")
    container = Container(fields["id"])
    container.state = fields["state"]
    container.cgroup = fields["cgroup"]
    container.parents = tuple(fields.get("parents", ()))  # not there: written before it was known
    container.oom = Account(*fields["oom"])
    container.hooks = fields["hooks"]
    container.annotations = fields["annotations"]
    container.storages = tuple(fields["storages"])
    container.devices = fields.get("devices", {})
    container.root_mounted = fields["root_mounted"]
    container.shares_pids = fields["shares_pids"]
    container.process_spec = fields["process"]
    for exec_id, number, pid, earliest, latest, terminal in fields["processes"]:
        process = container.restore_process(exec_id, number)
        process.pid, process.terminal = pid, terminal
        process.start_time, process.latest_start_time = earliest, latest
    return container


def list_works(work_root: str) -> list[str]:
    """The work folder of every container that left one."""
    try:
        return [f"{work_root}/{name}" for name in os.listdir(work_root)]
    except FileNotFoundError:
        return []
