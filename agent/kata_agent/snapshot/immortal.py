"""Reference counts of what is never freed, stopped: a count that is only raised and lowered is a page that is written.

A call raises the counts of its function and of its code, a name that is looked up the count of what it stands for. From
CPython 3.12 on an object whose count has reached its limit is immortal (PEP 683): nobody writes there any more. The
interpreter does so with its own constants; here it is done with the program: modules, classes, functions, code, and the
constants that these reach. Instances, lists and dictionaries are left alone, for they come and go.

Must not know: why now, what the program is.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterable, Iterator
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MappingProxyType,
    MemberDescriptorType,
    MethodDescriptorType,
    ModuleType,
    WrapperDescriptorType,
)

COUNT = 0xFFFF_FFFF
"""`_Py_IMMORTAL_REFCNT` of CPython 3.12 and 3.13 with 64 bits; the count is an object's first field."""
VERSIONS = ((3, 12), (3, 13))
_KINDS = (
    *(
        ModuleType,
        type,
        FunctionType,
        CodeType,
        BuiltinFunctionType,
        GetSetDescriptorType,
        MemberDescriptorType,
    ),
    *(MethodDescriptorType, WrapperDescriptorType, property, classmethod, staticmethod),
    *(str, bytes, int, float, tuple, frozenset),
)
_PASSAGES = (dict, MappingProxyType)


def is_known() -> bool:
    """Whether this interpreter counts as `COUNT` says: by its version, and by a look at what it has made immortal."""
    return (
        sys.implementation.name == "cpython"
        and sys.version_info[:2] in VERSIONS
        and ctypes.c_uint32.from_address(id(None)).value == COUNT
    )


def make_immortal() -> int:
    """Stop the counts of the whole program; gives how many objects that are. 0: not with this interpreter."""
    if not is_known():
        return 0
    count = ctypes.c_uint32.from_address
    made = 0
    for made, thing in enumerate(find_program(sys.modules.values()), 1):  # noqa: B007 - the last is how many
        count(id(thing)).value = COUNT
    return made


def find_program(roots: Iterable[object]) -> Iterator[object]:
    """What modules and the like reach without passing through an instance or a list. Pure."""
    known: set[int] = set()
    waiting = list(roots)
    while waiting:
        thing = waiting.pop()
        if id(thing) in known:
            continue
        known.add(id(thing))
        kind = type(thing)  # not `isinstance`, which asks the thing itself
        if issubclass(kind, _KINDS):
            yield thing
        elif not issubclass(kind, _PASSAGES):
            continue
        waiting += gc.get_referents(thing)
        if isinstance(thing, CodeType):  # which the collector knows nothing of
            waiting += (thing.co_consts, thing.co_names, thing.co_qualname, thing.co_filename)
