"""The host's clock by a PTP device (`/dev/ptpN`): a dynamic POSIX clock (clock_gettime(2), "Dynamic clocks").

Owns: how such a clock is read. A virtual machine has one that is the host's CLOCK_REALTIME when KVM or Hyper-V provides
it (`ptp_kvm`). ENODEV, ENOENT: there is none.
"""

from __future__ import annotations

import os
import time

DEVICE = "/dev/ptp0"
_CLOCK_FD = 3  # the kind of a dynamic clock, in the low three bits of its id


def read_time_ns(path: str = DEVICE) -> int:
    """The time of that clock, in nanoseconds since the epoch."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return time.clock_gettime_ns(~fd << 3 | _CLOCK_FD)
    finally:
        os.close(fd)
