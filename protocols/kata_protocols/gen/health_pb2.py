"""Messages of kata_protocols/proto/health.proto. Written by kata_protocols.generate: do not edit."""

from kata_protocols.messages import load

DESCRIPTOR = load(__name__, b'\n!kata_protocols/proto/health.proto\x12\x04grpc"(\n\x0cCheckRequest\x12\x18\n\x07service\x18\x01 \x01(\tR\x07service"\x92\x01\n\x13HealthCheckResponse\x12?\n\x06status\x18\x01 \x01(\x0e2\'.grpc.HealthCheckResponse.ServingStatusR\x06status":\n\rServingStatus\x12\x0b\n\x07UNKNOWN\x10\x00\x12\x0b\n\x07SERVING\x10\x01\x12\x0f\n\x0bNOT_SERVING\x10\x02"^\n\x14VersionCheckResponse\x12!\n\x0cgrpc_version\x18\x01 \x01(\tR\x0bgrpcVersion\x12#\n\ragent_version\x18\x02 \x01(\tR\x0cagentVersion2{\n\x06Health\x126\n\x05Check\x12\x12.grpc.CheckRequest\x1a\x19.grpc.HealthCheckResponse\x129\n\x07Version\x12\x12.grpc.CheckRequest\x1a\x1a.grpc.VersionCheckResponseb\x06proto3', globals())
