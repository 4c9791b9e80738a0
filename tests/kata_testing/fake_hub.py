"""A confidential data hub for tests: a process of its own that serves `api.*` over ttRPC and does as it is told.

`python -m kata_testing.fake_hub SOCKET [ROOT]`; needs `kata_protocols` alone, so that it also runs in the guest. What
it does with an image is in the image's name: `lie` says that it was pulled, `refuse` answers with a status, `babble`
with what is no message, `slow` never answers, `die` ends the process, every other name gets a root: `copy` a copy of
ROOT, others a mount of it (a tmpfs with the file `image` without ROOT). A line on standard output tells each call, and
that it listens.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import sys
from typing import Any

from kata_protocols import services
from kata_protocols.aio.address import UnixAddress
from kata_protocols.aio.listen import open_listener
from kata_protocols.aio.router import Handler, Router
from kata_protocols.aio.server import serve
from kata_protocols.status import Code, StatusError

MODULE = "confidential_data_hub_pb2"
EXIT_STATUS = 9


class Hub:
    """The handlers."""

    def __init__(self, root: str) -> None:
        self._root = root

    def router(self) -> Router:
        router = Router()
        handlers: dict[tuple[str, str], Handler] = {
            ("ImagePullService", "PullImage"): self.pull,
            ("SecureMountService", "SecureMount"): self.mount,
            ("GetResourceService", "GetResource"): self.resource,
            ("SealedSecretService", "UnsealSecret"): self.unseal,
        }
        for (service, method), handler in handlers.items():
            router.add(services.load_service(MODULE, service), method, handler)
        return router

    async def pull(self, request: Any, _call: Any) -> Any:
        say(f"pull {request.image_url} {request.bundle_path}")
        name = request.image_url
        if "refuse" in name:
            raise StatusError(Code.PERMISSION_DENIED, "the image is not signed")
        if "die" in name:
            os._exit(EXIT_STATUS)
        if "slow" in name:
            await asyncio.Event().wait()
        if "babble" in name:
            return Nonsense()
        if "lie" not in name:
            make_root(f"{request.bundle_path}/rootfs", self._root, copy="copy" in name)
        return answer("ImagePullService", "PullImage")

    def mount(self, request: Any, _call: Any) -> Any:
        say(f"mount {request.volume_type} {dict(sorted(request.options.items()))} {request.mount_point}")
        return answer("SecureMountService", "SecureMount", mount_path=request.mount_point)

    def resource(self, request: Any, _call: Any) -> Any:
        say(f"resource {request.ResourcePath}")
        return answer("GetResourceService", "GetResource", Resource=b"of " + request.ResourcePath.encode())

    def unseal(self, request: Any, _call: Any) -> Any:
        say(f"unseal {request.secret.decode()}")
        if b"broken" in request.secret:
            raise StatusError(Code.INVALID_ARGUMENT, "not a secret of this guest")
        plain = request.secret.removeprefix(b"sealed.")[::-1]
        return answer("SealedSecretService", "UnsealSecret", plaintext=plain)


def make_root(target: str, root: str, *, copy: bool) -> None:
    """What the real hub leaves in a bundle."""
    if copy:
        shutil.copytree(root, target, symlinks=True)
        return
    os.makedirs(target, exist_ok=True)
    libc = ctypes.CDLL(None, use_errno=True)
    source, kind, flags = (root.encode(), None, 4096) if root else (b"image", b"tmpfs", 0)
    if libc.mount(source, target.encode(), kind, flags, None):
        raise OSError(ctypes.get_errno(), "mount", target)
    if not root:
        with open(f"{target}/image", "w", encoding="utf-8") as file:
            file.write("pulled")


class Nonsense:
    """An answer that is no message of the call."""

    def SerializeToString(self) -> bytes:  # noqa: N802 - protobuf's name
        return b"\xff" * 20


def answer(service: str, method: str, **fields: Any) -> Any:
    return services.load_service(MODULE, service).methods[method].response_type(**fields)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def run(path: str, root: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open_listener(UnixAddress(path)) as listener:
        async with serve(Hub(root).router(), [listener]):
            say("listens")
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""))
