"""Messages of kata_protocols/proto/csi.proto. Written by kata_protocols.generate: do not edit."""

from kata_protocols.messages import load

DESCRIPTOR = load(__name__, b'\n\x1ekata_protocols/proto/csi.proto\x12\x04grpc"\x80\x01\n\x13VolumeStatsResponse\x12\'\n\x05usage\x18\x01 \x03(\x0b2\x11.grpc.VolumeUsageR\x05usage\x12@\n\x10volume_condition\x18\x02 \x01(\x0b2\x15.grpc.VolumeConditionR\x0fvolumeCondition"\xad\x01\n\x0bVolumeUsage\x12\x1c\n\tavailable\x18\x01 \x01(\x04R\tavailable\x12\x14\n\x05total\x18\x02 \x01(\x04R\x05total\x12\x12\n\x04used\x18\x03 \x01(\x04R\x04used\x12*\n\x04unit\x18\x04 \x01(\x0e2\x16.grpc.VolumeUsage.UnitR\x04unit"*\n\x04Unit\x12\x0b\n\x07UNKNOWN\x10\x00\x12\t\n\x05BYTES\x10\x01\x12\n\n\x06INODES\x10\x02"G\n\x0fVolumeCondition\x12\x1a\n\x08abnormal\x18\x01 \x01(\x08R\x08abnormal\x12\x18\n\x07message\x18\x02 \x01(\tR\x07messageb\x06proto3', globals())
