"""What needs the network is tried again, later and later, and told each time: mirrors and registries fail at times."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from kata_images.errors import ImageError

PAUSES_S = (5.0, 15.0, 30.0, 60.0)

Result = TypeVar("Result")


def persist(
    what: str,
    attempt: Callable[[], Result],
    tell: Callable[[str], None],
    *,
    sleep: Callable[[float], None] = time.sleep,  # noqa: TID251 - nothing tells that a mirror is well again
) -> Result:
    """The result of `attempt`, made again after each pause while it raises ImageError; the last one's is raised."""
    for pause_s in PAUSES_S:
        try:
            return attempt()
        except ImageError as error:
            tell(f"{what} failed, trying again in {pause_s:.0f} s: {error}")
        sleep(pause_s)
    return attempt()
