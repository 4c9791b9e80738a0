"""The guest's clock: clock_settime(2). EPERM without CAP_SYS_TIME, EINVAL for a time before 1970."""

from __future__ import annotations

import errno
import time

from kata_agent.errors import InvalidRequest
from kata_linux._libc import fail


def set_time(seconds: int, microseconds: int) -> None:
    """Set the wall clock."""
    if not 0 <= microseconds < 1_000_000:
        raise InvalidRequest(f"time: {microseconds} is no number of microseconds in a second")
    try:
        time.clock_settime_ns(time.CLOCK_REALTIME, seconds * 1_000_000_000 + microseconds * 1000)
    except OverflowError:
        fail(errno.EINVAL, "clock_settime")
    except OSError as error:
        fail(error.errno or 0, "clock_settime")
