"""gRPC on the same port: grpclib's HTTP/2 in front of the handlers that ttRPC calls."""
