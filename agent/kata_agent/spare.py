"""Keeps out of an idle agent what libraries import and nothing here uses. Before asyncio is imported.

Owns: which modules, and what stands for them. Only for the agent's own process: tests and tools import as usual.
Measured with Python 3.11, `-I -S -OO`: `ssl` 4.5 MB and 20 ms, `inspect` 0.95 MB and 6 ms, `subprocess` 0.3 MB and
2 ms. See decision 0005.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

_CO_COROUTINE = 0x80


class Deferred(ModuleType):
    """Stands for a module until an attribute is asked for that it was not given; then the module is imported."""

    def __init__(self, name: str, **attributes: Any) -> None:
        super().__init__(name)
        self.__dict__.update(attributes)

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)  # the import system asks for `__spec__` and the like
        return getattr(load(self.__name__), attribute)


def load(name: str) -> ModuleType:
    """The module itself, imported in place of what stands for it."""
    if isinstance(sys.modules.get(name), Deferred):
        del sys.modules[name]
    return import_module(name)


def is_coroutine_function(function: Any) -> bool:
    """As in `inspect`, which is asked about everything but plain functions and methods.

    asyncio asks this of every signal handler: the one use that an idle agent has for `inspect`.
    """
    code = getattr(function, "__code__", None)
    if code is None or hasattr(function, "_is_coroutine_mark"):
        return bool(load("inspect").iscoroutinefunction(function))
    return bool(code.co_flags & _CO_COROUTINE)


def spare_imports() -> None:
    """Put the stand-ins in place, each only where the module has not been imported yet."""
    stand_ins: dict[str, ModuleType | None] = {
        # To asyncio a module that is None is one that is not installed; the guest has no OpenSSL.
        "ssl": None,
        "inspect": Deferred("inspect", iscoroutinefunction=is_coroutine_function),
        # asyncio has these as default arguments.
        "subprocess": Deferred("subprocess", PIPE=-1, STDOUT=-2, DEVNULL=-3),
    }
    for name, stand_in in stand_ins.items():
        sys.modules.setdefault(name, stand_in)  # type: ignore[arg-type]  # None is documented for this
