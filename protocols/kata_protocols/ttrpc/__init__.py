"""ttRPC without IO: bytes in, events out; messages in, bytes out."""
