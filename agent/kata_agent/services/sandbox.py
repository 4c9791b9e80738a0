"""Handlers of the sandbox's life cycle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kata_agent.sandbox import KernelModule, SandboxRequest
from kata_agent.services.storage import decode_storages
from kata_protocols.gen.empty_pb2 import Empty

if TYPE_CHECKING:
    from kata_agent.agent import Agent
    from kata_protocols.gen import agent_pb2


async def create_sandbox(agent: Agent, request: agent_pb2.CreateSandboxRequest) -> Empty:
    """Make what the sandbox's containers share. `sandbox_pidns` is ignored, as in Kata's agent."""
    agent.check_confidential()
    await agent.sandbox.create(
        SandboxRequest(
            sandbox_id=request.sandbox_id,
            hostname=request.hostname,
            dns=tuple(request.dns),
            storages=decode_storages(request.storages),
            guest_hook_path=request.guest_hook_path,
            kernel_modules=tuple(
                KernelModule(module.name, tuple(module.parameters)) for module in request.kernel_modules
            ),
        )
    )
    return Empty()


async def destroy_sandbox(agent: Agent, _request: agent_pb2.DestroySandboxRequest) -> Empty:
    """Remove every container; the agent ends after the reply."""
    await agent.destroy()
    return Empty()


HANDLERS = {"CreateSandbox": create_sandbox, "DestroySandbox": destroy_sandbox}
