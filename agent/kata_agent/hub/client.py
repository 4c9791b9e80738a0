"""The client of the confidential data hub: `api.*` of Kata's wire contract, ttRPC over its unix socket.

Owns: the calls, their limits and the words of their failures. Must not know: what is done with the answers. Each call
has a connection of its own: they are few, a pull takes minutes, and a hub that was started again is simply met again.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from kata_agent.deadline import bound
from kata_agent.errors import AgentError, NotSupported, TimedOut
from kata_agent.hub.probe import HUB_SOCKET
from kata_protocols import services
from kata_protocols.aio.address import UnixAddress
from kata_protocols.aio.client import Client, ConnectionLostError
from kata_protocols.aio.dial import dial
from kata_protocols.status import Code, StatusError

if TYPE_CHECKING:
    from kata_agent.hub.component import Components

MODULE = "confidential_data_hub_pb2"
NAME = "confidential-data-hub"
# Between a socket's file and its listening there is a moment of which nothing tells.
CONNECT_S = 2.0


class Hub:
    """One per agent; made for guests that have a hub, or when one is asked for."""

    def __init__(
        self,
        *,
        api_timeout_s: float,
        pull_timeout_s: float,
        components: Components | None = None,
        why_none: str = "",
        socket_path: str = HUB_SOCKET,
    ) -> None:
        """`components` are what starts the hub; `why_none` says why nothing does."""
        self._api_timeout_s = api_timeout_s
        self._pull_timeout_s = pull_timeout_s
        self._components = components
        self._why_none = why_none
        self._socket_path = socket_path

    @property
    def is_expected(self) -> bool:
        """Whether there is a hub, or one is on its way."""
        return self._components is not None or self._has_socket()

    async def pull_image(self, reference: str, bundle: str) -> None:
        """Have an image's root made at `<bundle>/rootfs`."""
        limit = bound(self._pull_timeout_s, "agent.image_pull_timeout")
        about = _method("ImagePullService", "PullImage")
        request = about.request_type(image_url=reference, bundle_path=bundle)
        await self._call(f"pull image {reference}", about, request, limit)

    async def secure_mount(
        self, kind: str, options: dict[str, str], flags: tuple[str, ...], target: str
    ) -> str:
        """Have a volume mounted at `target`; where it is."""
        about = _method("SecureMountService", "SecureMount")
        request = about.request_type(volume_type=kind, options=options, flags=flags, mount_point=target)
        answer = await self._call(f"mount {kind} securely on {target}", about, request, self._api_limit())
        path: str = answer.mount_path
        return path

    async def get_resource(self, path: str) -> bytes:
        """A resource of the key broker, by its path (`REPOSITORY/TYPE/TAG`)."""
        about = _method("GetResourceService", "GetResource")
        request = about.request_type(ResourcePath=f"kbs://{path}")
        answer = await self._call(f"get resource {path}", about, request, self._api_limit())
        resource: bytes = answer.Resource
        return resource

    async def unseal(self, what: str, secret: bytes) -> bytes:
        """The plain text of a sealed secret; `what` names it in errors, its content is in none."""
        about = _method("SealedSecretService", "UnsealSecret")
        request = about.request_type(secret=secret)
        answer = await self._call(f"unseal {what}", about, request, self._api_limit())
        plain: bytes = answer.plaintext
        return plain

    def _api_limit(self) -> tuple[float, str]:
        return bound(self._api_timeout_s, "agent.cdh_api_timeout")

    async def _call(self, what: str, about: services.Method, request: Any, limit: tuple[float, str]) -> Any:
        seconds, whose = limit
        waiting = "the guest components to get ready"
        try:
            async with asyncio.timeout(seconds):
                await self._wait_ready(what)
                waiting = "the confidential data hub to answer"
                async with Client(await self._connect(what)) as client:
                    return await client.call(about, request, timeout_s=seconds)
        except TimeoutError:
            raise TimedOut(f"{what}: waited {seconds:.1f} s ({whose}) for {waiting}") from None
        except StatusError as error:
            if error.code == Code.DEADLINE_EXCEEDED:
                raise TimedOut(f"{what}: waited {seconds:.1f} s ({whose}) for {waiting}") from None
            text = f"{what}: the confidential data hub says {error.code.name}: {error.message}"
            raise AgentError(text) from None
        except DecodeError:
            raise AgentError(f"{what}: the confidential data hub's answer does not parse") from None
        except ConnectionLostError:
            raise AgentError(f"{what}: the confidential data hub went away{self._tell_end()}") from None

    async def _wait_ready(self, what: str) -> None:
        if self._components is None:
            return
        try:
            await self._components.wait_ready()
        except AgentError as error:
            raise NotSupported(f"{what}: no confidential data hub: {error}") from None

    async def _connect(self, what: str) -> Any:
        if not self._has_socket():
            why = self._why_none or f"there is no {self._socket_path}"
            raise NotSupported(f"{what}: no confidential data hub: {why}{self._tell_end()}")
        try:
            return await dial(UnixAddress(self._socket_path), timeout_s=CONNECT_S)
        except OSError as error:
            text = f"{what}: nobody listens at {self._socket_path}{self._tell_end()}"
            raise AgentError(text) from error

    def _has_socket(self) -> bool:
        return os.path.exists(self._socket_path)

    def _tell_end(self) -> str:
        ended = self._components.tell_end(NAME) if self._components else ""
        return f": {NAME} {ended}" if ended else ""


def _method(service: str, name: str) -> services.Method:
    return services.load_service(MODULE, service).methods[name]
