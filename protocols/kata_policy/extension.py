"""Where the engine's extension is. Alone in its module: an agent that only says whether it could have a policy looks
for it without importing what would ask it.
"""

from __future__ import annotations

import os
from importlib.machinery import PathFinder

EXTENSION = "kata_policy_engine"


def find_extension() -> str | None:
    """The folder that the engine is imported from, None when it is not installed."""
    spec = PathFinder.find_spec(EXTENSION)
    if spec is None or spec.origin is None:
        return None
    folder = os.path.dirname(spec.origin)
    return os.path.dirname(folder) if spec.submodule_search_locations else folder
