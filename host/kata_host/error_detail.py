"""What an agent of ours says about a failure beyond its text: stage, errno, path and a hint."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from kata_protocols.gen import sandbox_pb2 as pb
from kata_protocols.status import StatusError

TYPE_URL = "type.googleapis.com/kata.agent.v1.ErrorDetail"


def find_detail(error: StatusError) -> pb.ErrorDetail | None:
    """The detail that came with this status, if there is one that can be read."""
    for type_url, value in error.details:
        if type_url == TYPE_URL:
            try:
                return pb.ErrorDetail.FromString(value)
            except DecodeError:
                return None
    return None
