"""Looks at every mount of the host's share, upon which the host's file server forgets those whose source is gone.

Owns: which mounts and what is told. Must not know: the wire. Follows: Kata's agent 3.21,
RemoveStaleVirtiofsShareMounts, where the results are only logged. A file server that does not answer hangs the look,
so it has a deadline.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kata_agent.errors import TimedOut, describe
from kata_linux import mountinfo

if TYPE_CHECKING:
    from collections.abc import Callable

    from kata_agent.log import Log
    from kata_agent.worker import Doubtful

SHARE = "/run/kata-containers/shared/containers/"


async def touch_share_mounts(
    doubtful: Doubtful, log: Log, look: Callable[[str], object] = os.stat, share: str = SHARE
) -> None:
    """Look at each mount point below the share once."""
    paths = [entry.mount_point for entry in mountinfo.read_mounts() if entry.mount_point.startswith(share)]
    looked: list[str] = []

    def look_at_all() -> list[str]:
        gone = []
        for path in paths:
            try:
                look(path)
            except OSError as error:
                gone.append(describe(error))
            looked.append(path)
        return gone

    try:
        gone = await doubtful.run("look at the share's mounts", look_at_all)
    except TimedOut as error:
        at = paths[len(looked)] if len(looked) < len(paths) else ""
        log.warning("storage", "share does not answer", mount_point=at, error=describe(error))
        return
    for text in gone:
        log.info("storage", "stale mount of the share", error=text)
