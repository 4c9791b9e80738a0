"""The words by which volumes of the pod get a group and a mode: `fsgid=` and `mode=`. Pure."""

from __future__ import annotations

from kata_agent.errors import InvalidRequest
from kata_agent.mounts import option

# One less would be (gid_t)-1, which means "as it is".
_GID_LIMIT = 2**32 - 1
_MODE_LIMIT = 0o7777


def parse_gid(options: tuple[str, ...]) -> int | None:
    """The group of the last `fsgid=DECIMAL`. Raises `InvalidRequest`."""
    values = option.find_values(options, "fsgid")
    if not values:
        return None
    if not (values[-1].isascii() and values[-1].isdecimal()) or int(values[-1]) >= _GID_LIMIT:
        raise InvalidRequest(f"fsgid={values[-1]}: a group's number is needed")
    return int(values[-1])


def parse_mode(options: tuple[str, ...]) -> int | None:
    """The mode of the last `mode=OCTAL`. Raises `InvalidRequest`."""
    values = option.find_values(options, "mode")
    if not values:
        return None
    if not values[-1] or set(values[-1]) - set("01234567") or int(values[-1], 8) > _MODE_LIMIT:
        raise InvalidRequest(f"mode={values[-1]}: an octal mode is needed")
    return int(values[-1], 8)
