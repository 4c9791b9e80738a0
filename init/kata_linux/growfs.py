"""Growing a mounted file system: EXT4_IOC_RESIZE_FS, XFS_IOC_FSGROWFSDATA, and what they need to know.

Owns: the ioctls and their structures (include/uapi/linux/ext4.h, xfs/libxfs/xfs_fs.h). Must not know: who wants which
size. Each takes a descriptor of any folder of the file system. Errors to expect: EINVAL (smaller than now), EROFS,
EBUSY (another resize goes on), EPERM (ext4 asks for CAP_SYS_RESOURCE).
"""

from __future__ import annotations

import fcntl
import struct

from kata_linux._libc import fail
from kata_linux.record import Record

# <linux/fs.h>'s _IOW and _IOR of these types; the same on every architecture that Kata knows but powerpc.
_EXT4_RESIZE = 0x4008_6610  # _IOW('f', 16, __u64)
_XFS_GEOMETRY = 0x8070_5864  # _IOR('X', 100, struct xfs_fsop_geom_v1)
_XFS_GROW = 0x4010_586E  # _IOW('X', 110, struct xfs_growfs_data)

_GEOMETRY = struct.Struct("=8I4Q16s7I4x")
_GROW = struct.Struct("=QI4x")


class XfsGeometry(Record):
    """What growing an xfs needs: the bytes of a block, how many there are, and the share that inodes may take."""

    block_bytes: int
    blocks: int
    inodes_percent: int


def grow_ext4(fd: int, blocks: int, path: str) -> None:
    """Grow to so many blocks of the file system's own size."""
    _ioctl(fd, _EXT4_RESIZE, struct.pack("=Q", blocks), "grow ext4", path)


def read_xfs(fd: int, path: str) -> XfsGeometry:
    """The geometry as it is now."""
    fields = _GEOMETRY.unpack(_ioctl(fd, _XFS_GEOMETRY, bytes(_GEOMETRY.size), "read xfs geometry", path))
    return XfsGeometry(block_bytes=fields[0], blocks=fields[8], inodes_percent=fields[7])


def grow_xfs(fd: int, blocks: int, inodes_percent: int, path: str) -> None:
    """Grow the data section to so many blocks."""
    _ioctl(fd, _XFS_GROW, _GROW.pack(blocks, inodes_percent), "grow xfs", path)


def read_disk_size(device: str, *, sys: str = "/sys") -> int:
    """Bytes of a block device by its `MAJOR:MINOR`; FileNotFoundError when a file system has none."""
    with open(f"{sys}/dev/block/{device}/size", encoding="ascii") as file:
        return int(file.read()) * 512


def _ioctl(fd: int, request: int, argument: bytes, operation: str, path: str) -> bytes:
    try:
        return fcntl.ioctl(fd, request, argument)
    except OSError as error:
        fail(error.errno or 0, operation, path)
