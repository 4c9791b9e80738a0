from google.protobuf.descriptor import FileDescriptor
from google.protobuf.empty_pb2 import Empty as Empty

DESCRIPTOR: FileDescriptor
