"""Tells gRPC from ttRPC by a connection's first bytes, however they are cut.

No ttRPC frame that a peer means begins like HTTP/2's preface: its first four bytes would announce 1.3 GB.
"""

from __future__ import annotations

HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def is_http2(first: bytes) -> bool | None:
    """Say whether these first bytes of a connection open HTTP/2; None: more of them are needed."""
    if first.startswith(HTTP2_PREFACE):
        return True
    if HTTP2_PREFACE.startswith(first):
        return None
    return False
