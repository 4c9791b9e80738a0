"""`Sandbox/ListProcesses` and `KillTree`: what runs in containers, and ending all of it or a branch."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from kata_agent.errors import InvalidRequest
from kata_agent.processes.signals import MAX_SIGNAL
from kata_protocols.gen import sandbox_pb2 as pb
from kata_protocols.ttrpc.envelope import clean_text

if TYPE_CHECKING:
    from kata_agent.agent import Agent


def list_processes(agent: Agent, request: pb.ListProcessesRequest) -> pb.ListProcessesResponse:
    """The processes in the containers' control groups."""
    if not request.container_id and not agent.has_containers():
        return pb.ListProcessesResponse()
    return pb.ListProcessesResponse(
        processes=[
            pb.Process(
                container_id=found.container_id,
                exec_id=found.exec_id,
                pid=found.pid,
                ppid=found.ppid,
                name=clean_text(found.name),
                command=[clean_text(word) for word in found.command],
                state=found.state,
                rss_bytes=found.rss_bytes,
                threads=found.threads,
                start_time_ns=found.start_time_ns,
                uid=found.uid,
                cgroup=clean_text(found.cgroup),
            )
            for found in agent.containers.list_processes(request.container_id)
        ]
    )


def kill_tree(agent: Agent, request: pb.KillTreeRequest) -> pb.KillTreeResponse:
    """Signal a container's processes, or a process with all that descend from it."""
    if request.signal > MAX_SIGNAL:
        raise InvalidRequest(f"signal {request.signal}: there are 1 to {MAX_SIGNAL}, and 0 for SIGKILL")
    number = request.signal or int(signal.SIGKILL)
    count = agent.containers.kill_tree(request.container_id, request.exec_id, number)
    return pb.KillTreeResponse(signalled=count)


HANDLERS = {"ListProcesses": list_processes, "KillTree": kill_tree}
