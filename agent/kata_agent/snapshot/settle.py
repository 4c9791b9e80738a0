"""The interpreter's memory, brought to where little of it is written to again. Kernel and C library: malloc_trim(3).

Owns: how. Must not know: why now. What lives now is taken for what lives for ever.
"""

from __future__ import annotations

import gc

from kata_agent.snapshot.immortal import make_immortal
from kata_linux import _libc


def settle() -> str:
    """Collect, have the collector never look at what is left, and give free memory back; says what it did."""
    found = gc.collect()
    immortal = make_immortal()
    gc.freeze()
    _libc.call("malloc_trim", 0, operation="malloc_trim")
    return f"{found} collected, {gc.get_freeze_count()} objects stay, {immortal} immortal"
