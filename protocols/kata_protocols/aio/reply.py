"""PipeReply: an answer whose data goes from a pipe to the socket without passing through this process.

An agent that is killed at any instruction must neither lose nor double a byte of a container's output. So the
answer is put into a pipe that somebody else holds too, whole, and the connection moves it from there by
splice(2); whoever comes next can see from the pipe what has not been sent. See docs/architecture.md, seam 1.
"""

from __future__ import annotations


class PipeReply:
    """Base of such answers. The payload is `payload_head` and then `length` bytes from the pipe.

    `payload_head` is the message up to the data: for ReadStreamResponse, the tag and length of its `data`.
    """

    payload_head: bytes
    length: int
    wire_fd: int

    def fill(self, head: bytes) -> None:
        """Put `head` (frame header, envelope, `payload_head`) and the data into the pipe behind `wire_fd`.

        Called when everything before it on this connection has been sent. An exception becomes the call's status.
        """
        raise NotImplementedError

    def take(self) -> bytes:
        """Return the `length` bytes of data, for peers that need them framed otherwise (gRPC)."""
        raise NotImplementedError

    def finished(self, delivered: bool) -> None:  # noqa: FBT001  # the seam's signature
        """Nothing more will be asked of this reply: called exactly once, also when the client is gone."""
        raise NotImplementedError
