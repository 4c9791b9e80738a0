"""Envelopes: the `Request` and `Response` messages that frames carry, to bytes and back.

Successful responses are the hot path and are put together by hand: status code OK present and empty (hosts'
servers send it so), then the payload field. Everything else goes through the generated messages.
"""

from __future__ import annotations

from kata_protocols.gen import ttrpc_pb2
from kata_protocols.status import Code
from kata_protocols.ttrpc.events import Details, Metadata

# Response.status = {} (field 1, length 0), then the tag of Response.payload (field 2, length-delimited).
OK_STATUS = b"\n\x00"
PAYLOAD_TAG = b"\x12"


def encode_varint(number: int) -> bytes:
    """Encode a length as protobuf does."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


_SHORT_HEADS = tuple(OK_STATUS + PAYLOAD_TAG + bytes((size,)) if size else OK_STATUS for size in range(128))


def success_head(payload_bytes: int) -> bytes:
    """Everything of a successful response's envelope that comes before a payload of this size."""
    if payload_bytes < 128:
        return _SHORT_HEADS[payload_bytes]
    return OK_STATUS + PAYLOAD_TAG + encode_varint(payload_bytes)


def clean_text(text: str) -> str:
    """Make text encodable: names from the kernel may hold lone surrogates, which protobuf refuses."""
    return text.encode("utf-8", "backslashreplace").decode()


def make_status(code: int, message: str, details: Details) -> ttrpc_pb2.Status:
    """Return a `Status`; google.rpc.Status is the same on the wire."""
    status = ttrpc_pb2.Status(code=code, message=clean_text(message))  # type: ignore[arg-type]  # open enum
    for type_url, value in details:
        status.details.add(type_url=type_url, value=value)
    return status


def encode_failure(code: Code, message: str, details: Details) -> bytes:
    """Return a `Response` with a status that is not OK."""
    return ttrpc_pb2.Response(status=make_status(int(code), message, details)).SerializeToString()


def encode_request(service: str, method: str, payload: bytes, timeout_nano: int, metadata: Metadata) -> bytes:
    """Return a `Request`."""
    request = ttrpc_pb2.Request(service=service, method=method, payload=payload, timeout_nano=timeout_nano)
    for key, value in metadata:
        request.metadata.add(key=key, value=value)
    return request.SerializeToString()
