"""Names of devices in the Container Device Interface, and the annotations that ask for them. Pure.

Owns what a vendor, a class and a device may be called. Must not know: files. Follows: CDI 1.1, "Kind", "CDI Devices",
and the annotations `cdi.k8s.io/...`: each value is a list of `vendor/class=device`, separated by commas.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kata_agent.errors import InvalidRequest
from kata_linux.record import Record

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "cdi.k8s.io/"
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_DIGITS = frozenset("0123456789")
_ENDS = _LETTERS | _DIGITS
_KIND_MIDDLE = _ENDS | frozenset("_-.")
_DEVICE_MIDDLE = _KIND_MIDDLE | frozenset(":")


class Name(Record):
    """A qualified name: which device of which kind."""

    kind: str
    device: str

    def __str__(self) -> str:
        return f"{self.kind}={self.device}"


def read_annotations(annotations: Mapping[str, str]) -> tuple[Name, ...]:
    """The devices that a container asks for, each once, in the order of the annotations' keys.

    InvalidRequest names the annotation and the name that is none.
    """
    found: dict[Name, None] = {}
    for key in sorted(annotations):
        if not key.startswith(PREFIX):
            continue
        for text in annotations[key].split(","):
            found[_parse_annotated(key, text)] = None
    return tuple(found)


def parse_name(text: str) -> Name:
    """`vendor/class=device`. ValueError says what is wrong with it."""
    kind, equals, device = text.partition("=")
    if not equals:
        raise ValueError("there is no `=`: a name is vendor/class=device")
    check_kind(kind)
    check_device(device)
    return Name(kind, device)


def check_kind(text: str) -> None:
    """`vendor/class`. ValueError says what is wrong with it."""
    vendor, slash, class_ = text.partition("/")
    if not slash:
        raise ValueError(f"{text!r} is not vendor/class")
    for what, part in (("vendor", vendor), ("class", class_)):
        _check(what, part, _LETTERS, _KIND_MIDDLE)


def check_device(text: str) -> None:
    """What a device is called within its kind. ValueError says what is wrong with it."""
    _check("device", text, _ENDS, _DEVICE_MIDDLE)


def _parse_annotated(key: str, text: str) -> Name:
    try:
        return parse_name(text)
    except ValueError as error:
        raise InvalidRequest(f"annotation {key}: invalid CDI device name {text!r}: {error}") from None


def _check(what: str, text: str, first: frozenset[str], middle: frozenset[str]) -> None:
    if not text:
        raise ValueError(f"the {what} is empty")
    if text[0] not in first:
        kinds = "a letter or a digit" if first is _ENDS else "a letter"
        raise ValueError(f"{what} {text!r} does not begin with {kinds}")
    if text[-1] not in _ENDS:
        raise ValueError(f"{what} {text!r} does not end with a letter or a digit")
    for character in text:
        if character not in middle:
            raise ValueError(f"{what} {text!r} has {character!r} in it")
