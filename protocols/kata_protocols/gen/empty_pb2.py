"""Messages of google/protobuf/empty.proto. Written by kata_protocols.generate: do not edit."""

from kata_protocols.messages import load

DESCRIPTOR = load(__name__, b'\n\x1bgoogle/protobuf/empty.proto\x12\x0fgoogle.protobuf"\x07\n\x05EmptyB}\n\x13com.google.protobufB\nEmptyProtoP\x01Z.google.golang.org/protobuf/types/known/emptypb\xf8\x01\x01\xa2\x02\x03GPB\xaa\x02\x1eGoogle.Protobuf.WellKnownTypesb\x06proto3', globals())
