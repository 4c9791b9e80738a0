"""Mounting step by step, with the kernel's own words when it refuses: fsopen(2), fsconfig(2), fsmount(2), fspick(2).

Owns: the calls and the context's log, which an error carries in its operation. Must not know: which options make
sense. Linux 5.2. A value has at most 255 bytes here (mount(2) takes a page of them): `fits` tells.
Errors to expect: ENODEV (the kernel has no such file system), EINVAL (an option it does not take; the words say which).
"""

from __future__ import annotations

import os

from kata_linux._libc import system_call
from kata_linux.mount import attach_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    # A key, and its value unless it is a flag.
    Parameter = tuple[str, str | None]

VALUE_LIMIT_BYTES = 255

_SYS_FSOPEN = 430  # one number on every architecture
_SYS_FSCONFIG = 431
_SYS_FSMOUNT = 432
_SYS_FSPICK = 433
_CLOEXEC = 1  # of fsopen, fsmount and fspick alike
_FSPICK_EMPTY_PATH = 8
_SET_FLAG = 0
_SET_STRING = 1
_CMD_CREATE = 6
_CMD_RECONFIGURE = 7
_MESSAGE_BYTES = 1024
_MESSAGES = 16  # the kernel keeps no more than the last eight


def fits(parameters: Sequence[Parameter]) -> bool:
    """Whether every key and value is short enough."""
    return all(
        len(os.fsencode(text)) <= VALUE_LIMIT_BYTES
        for pair in parameters
        for text in pair
        if text is not None
    )


def mount(
    fstype: str, source: str, parameters: Sequence[Parameter], attributes: int, place_fd: int, path: str
) -> None:
    """Mount a new file system with MOUNT_ATTR_* bits on what `place_fd` is; `path` is what errors name."""
    operation = f"mount {fstype}"
    context = system_call(_SYS_FSOPEN, fstype, _CLOEXEC, operation=operation, path=path)
    try:
        _configure(context, [("source", source), *parameters], _CMD_CREATE, operation, path)
        try:
            tree = system_call(_SYS_FSMOUNT, context, _CLOEXEC, attributes, operation=operation, path=path)
        except OSError as error:
            raise _with_words(error, context, operation, path) from None
    finally:
        os.close(context)
    try:
        attach_tree(tree, "", dir_fd=place_fd)
    finally:
        os.close(tree)


def reconfigure(parameters: Sequence[Parameter], place_fd: int, path: str) -> None:
    """Change only these options of the file system mounted at `place_fd`; EINVAL where no mount begins."""
    context = system_call(
        _SYS_FSPICK, place_fd, "", _CLOEXEC | _FSPICK_EMPTY_PATH, operation="remount", path=path
    )
    try:
        _configure(context, parameters, _CMD_RECONFIGURE, "remount", path)
    finally:
        os.close(context)


def _configure(
    context: int, parameters: Sequence[Parameter], command: int, operation: str, path: str
) -> None:
    try:
        for key, value in parameters:
            if value is None:
                _call(context, _SET_FLAG, key, None)
            else:
                _call(context, _SET_STRING, key, value)
        _call(context, command, None, None)
    except OSError as error:
        raise _with_words(error, context, operation, path) from None


def _call(context: int, command: int, key: str | None, value: str | None) -> None:
    system_call(_SYS_FSCONFIG, context, command, key, value, 0, operation="fsconfig")


def _with_words(error: OSError, context: int, operation: str, path: str) -> OSError:
    """The same error, with what the kernel said about it."""
    number = error.errno or 0
    said = "; ".join(_read_words(context))
    told = f"{operation}: {said}" if said else operation
    return OSError(number, f"{told}: {os.strerror(number)}", path)


def _read_words(context: int) -> list[str]:
    """The messages in the context's log, without the letter of their severity; ENODATA is its end."""
    words = []
    for _ in range(_MESSAGES):
        try:
            message = os.read(context, _MESSAGE_BYTES)
        except OSError:
            break  # ENODATA; whatever else it is, the error that is being told matters more
        words.append(message.decode(errors="replace").strip()[2:])
    return words
