"""Byte code made by the guest's own interpreter, run in the unpacked guest root.

`-OO`: no docstrings and no asserts, 0.9 MB less anonymous memory in the guest. Without sources the `.pyc` takes the
module's place (`X.pyc` beside nothing); with them it goes to `__pycache__`, never checked against the source.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from kata_images.buildroot import run_in

COMPILE_DEADLINE_S = 600.0

# Sorted and in one process: what is interned first decides the marshalled bytes.
PROGRAM = """
import importlib.util, py_compile, sys
mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
for path in sys.stdin.read().split("\\n"):
    beside = path + "c" if sys.argv[1] == "replace" else importlib.util.cache_from_source(path, optimization="2")
    py_compile.compile(path, beside, path, doraise=True, optimize=2, invalidation_mode=mode)
"""


def compile_sources(root: Path, interpreter: str, paths: Iterable[str], *, keep_sources: bool) -> None:
    """Compile the `.py` files (paths below the root) in place and remove them unless they are to stay."""
    names = sorted(path for path in paths if path.endswith(".py"))
    mode = "keep" if keep_sources else "replace"
    argv = [f"/{interpreter}", "-I", "-S", "-B", "-c", PROGRAM, mode]
    run_in(root, argv, deadline_s=COMPILE_DEADLINE_S, stdin="\n".join(f"/{name}" for name in names).encode())
    if not keep_sources:
        for name in names:
            (root / name).unlink()
