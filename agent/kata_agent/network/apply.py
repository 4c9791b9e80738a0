"""Does a plan's requests in order; when the kernel refuses one, takes back those before it.

Owns: which request an operation is, and how a refusal is told: the request, the errno, the kernel's own words.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, assert_never

from kata_agent.errors import ERRNO_CODES, AgentError, describe, errno_text
from kata_agent.network import ops
from kata_linux.netlink import Refused
from kata_protocols.status import Code

if TYPE_CHECKING:
    from collections.abc import Callable

    from kata_agent.network.ops import Operation
    from kata_linux.rtmessage import Route
    from kata_linux.rtnetlink import RouteNetlink


_ATTEMPTS = 3


class RequestFailed(AgentError):
    """The kernel refused a request; what was done before it has been taken back, or the text says what was not."""

    def __init__(self, text: str, number: int) -> None:
        super().__init__(text)
        self.errno = number
        self.code = ERRNO_CODES.get(number, Code.INTERNAL)


def apply(plan: Iterable[Operation], netlink: RouteNetlink) -> None:
    """Do all of it or nothing. Raises `RequestFailed`."""
    done: list[Operation] = []
    for operation in plan:
        try:
            perform(operation, netlink)
        except OSError as error:
            text = ops.describe_failure(operation, explain(error))
            raise RequestFailed("; ".join([text, *take_back(done, netlink)]), error.errno or 0) from error
        done.append(operation)


def settle(change: Callable[[], None]) -> None:
    """Look, plan and do once more when a name was taken in between, as by an interface that has just been plugged in.

    What was done has been taken back by then. Raises `RequestFailed` when that happens again and again.
    """
    for left in reversed(range(_ATTEMPTS)):
        try:
            return change()
        except RequestFailed as error:
            if error.errno != errno.EEXIST or not left:
                raise
    return None


def take_back(done: list[Operation], netlink: RouteNetlink) -> list[str]:
    """Undo in reverse order; gives what failed, because the rest has to be tried all the same."""
    failures = []
    for operation in reversed(done):
        inverse = ops.invert(operation)
        try:
            perform(inverse, netlink)
        except OSError as error:
            failures.append(f"taking it back, {ops.describe(inverse)}: {explain(error)}")
    return failures


def perform(operation: Operation, netlink: RouteNetlink) -> None:
    """One request."""
    match operation:
        case ops.SetFlags(link, _, flags, mask, _):
            netlink.set_flags(link, flags, mask)
        case ops.Rename(link, _, to):
            netlink.rename(link, to)
        case ops.SetMtu(link, _, mtu, _):
            netlink.set_mtu(link, mtu)
        case ops.PutAddress(_, address):
            netlink.put_address(address)
        case ops.RemoveAddress(_, address):
            netlink.remove_address(address)
        case ops.PutRoute(_, route, _, _):
            _put_route(netlink, route)
        case ops.RemoveRoute(_, route):
            netlink.remove_route(route)
        case ops.PutNeighbour(_, neighbour, _):
            netlink.put_neighbour(neighbour)
        case ops.RemoveNeighbour(_, neighbour):
            netlink.remove_neighbour(neighbour)
        case _:
            assert_never(operation)


def _put_route(netlink: RouteNetlink, route: Route) -> None:
    try:
        netlink.put_route(route)
    except Refused as error:
        if error.errno != errno.EEXIST:  # somebody else added it since we looked
            raise


def explain(error: OSError) -> str:
    """The errno as hosts know it, and what the kernel said beyond it."""
    if not isinstance(error, Refused) or error.errno is None:
        return describe(error)
    said = f" (kernel: {error.detail})" if error.detail else ""
    return f"{errno_text(error.errno)}{said}"


@contextmanager
def telling(what: str) -> Iterator[None]:
    """Every failure begins with what was asked for."""
    try:
        yield
    except AgentError as error:
        error.args = (f"{what}: {describe(error)}",)
        raise
    except OSError as error:
        raise AgentError(f"{what}: {explain(error)}") from error
