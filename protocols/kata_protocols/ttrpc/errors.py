"""What goes wrong in the codec, and the table of answers a receiver owes for frames it cannot use.

The texts and codes are those of the agent that hosts know (Kata 3.x); where that agent has no text, Go's is
used.
"""

from __future__ import annotations

from typing import NamedTuple

from kata_protocols.status import Code


class LocalProtocolError(Exception):
    """The caller asked the codec for something that the protocol or the stream's state forbids."""


class MessageTooLargeError(LocalProtocolError):
    """A request exceeds the largest message; nothing of it was sent."""


class Fault(NamedTuple):
    """An answer of the house: status code and text, with `{}` fields."""

    code: Code
    text: str


TOO_LARGE = Fault(
    Code.INVALID_ARGUMENT, "message length {length} exceed maximum message size of {limit_bytes}"
)
EVEN_STREAM = Fault(Code.INVALID_ARGUMENT, "StreamID must be odd for client initiated streams")
STREAM_IN_USE = Fault(Code.INVALID_ARGUMENT, "StreamID cannot be re-used and must increment")
UNKNOWN_STREAM = Fault(Code.INVALID_ARGUMENT, "data frame for a stream that is not open")
TOO_MANY_STREAMS = Fault(Code.RESOURCE_EXHAUSTED, "too many calls at once: at most {max_streams}")
BAD_REQUEST = Fault(Code.INVALID_ARGUMENT, "request envelope does not parse")
BAD_RESPONSE = Fault(Code.INTERNAL, "response envelope does not parse")
