"""A span for each call: named as Kata's agent names it, below the caller's span when the call's metadata has one.

Must not know: how spans travel. Attributes are names and ids, never a request's contents. A
caller that does not sample gets no span.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from kata_agent.tracing.context import SAMPLED, read_context
from kata_protocols import span as spans
from kata_protocols.status import Code

if TYPE_CHECKING:
    from collections.abc import Callable

    from kata_agent.around import Begin, End

# Names that are not the method's own in small letters.
NAMES = {
    "UpdateEphemeralMounts": "update_mounts",
    "GetIPTables": "get_iptables",
    "SetIPTables": "set_iptables",
}
# As in Kata's agent; and ours that wait or stream.
UNTRACED = frozenset(
    {
        *(
            "WriteStdin",
            "ReadStdout",
            "ReadStderr",
            "GetOOMEvent",
            "MemAgentMemcgSet",
            "MemAgentCompactSet",
            "Check",
        ),
        *("Events", "PollEvents", "ReadSession"),
    }
)
MESSAGE_LIMIT = 500
RESOURCE: dict[str, spans.Value] = {"service.name": "kata-agent"}


class Tracer:
    """`put` takes each span's bytes in their frame."""

    def __init__(self, put: Callable[[bytes], None]) -> None:
        self._put = put

    def recorder(self, service: str, method: str) -> Begin:
        """What `around.surround` does around each call of this method."""
        name = name_of(method)

        def begin(request: Any, call: Any) -> End:
            parent = read_context(call.metadata)
            started = time.time_ns()
            clock = time.monotonic_ns()

            def end(code: Code, text: str) -> None:
                if parent is not None and not parent.flags & SAMPLED:
                    return
                attributes: dict[str, spans.Value] = {
                    "rpc.system": "ttrpc",
                    "rpc.service": service,
                    "rpc.method": method,
                    "rpc.status": code.name,
                }
                if container_id := getattr(request, "container_id", ""):
                    attributes["container-id"] = container_id
                span = spans.Span(
                    trace_id=parent.trace_id if parent else os.urandom(16),
                    span_id=os.urandom(8),
                    parent_id=parent.span_id if parent else bytes(8),
                    name=name,
                    start_ns=started,
                    end_ns=started + time.monotonic_ns() - clock,
                    state=parent.state if parent else (),
                    attributes=attributes,
                    status=spans.OK if code is Code.OK else spans.ERROR,
                    status_message=text[:MESSAGE_LIMIT],
                    resource=RESOURCE,
                )
                self._put(spans.frame(spans.encode_span(span)))

            return end

        return begin


def name_of(method: str) -> str:
    """`create_container` for `CreateContainer`."""
    if method in NAMES:
        return NAMES[method]
    pieces = []
    for at, letter in enumerate(method):
        follows_small = at > 0 and not method[at - 1].isupper()
        begins_word = at > 0 and at + 1 < len(method) and method[at + 1].islower()
        if letter.isupper() and (follows_small or begins_word):
            pieces.append("_")
        pieces.append(letter.lower())
    return "".join(pieces)
