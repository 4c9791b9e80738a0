"""What is typed into a debug console arrives as it was typed, with or without window sizes, however it is cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kata_protocols.console import ConsoleInput, Size, encode_size, escape

ITEMS = st.lists(
    st.binary(min_size=1, max_size=20) | st.builds(Size, st.integers(0, 65535), st.integers(0, 65535))
)


def join(found: list[bytes | Size]) -> list[bytes | Size]:
    """Neighbouring bytes as one."""
    joined: list[bytes | Size] = []
    for item in found:
        if isinstance(item, bytes) and joined and isinstance(joined[-1], bytes):
            joined[-1] += item
        else:
            joined.append(item)
    return joined


@given(ITEMS, st.lists(st.integers(1, 30)))
def test_sizes_and_bytes_arrive_in_order_however_they_are_cut(
    items: list[bytes | Size], cuts: list[int]
) -> None:
    sent = encode_size(24, 80) + b"".join(
        encode_size(*item) if isinstance(item, Size) else escape(item) for item in items
    )
    console, found = ConsoleInput(), list[bytes | Size]()
    for cut in (*cuts, len(sent)):
        found += console.feed(sent[:cut])
        sent = sent[cut:]
    assert join(found) == [Size(24, 80), *join(items)]


@given(st.binary(min_size=1))
def test_host_that_does_not_begin_with_a_nul_is_taken_literally(data: bytes) -> None:
    console = ConsoleInput()
    assert console.feed(b"x") == [b"x"]
    assert console.feed(data) == [data]
    assert console.feed(b"") == []


def test_control_line_that_is_none_is_left_out() -> None:
    for wrong in (b"\0w24\n", b"\0x1 2\n", b"\0w-1 2\n", b"\0w 1 2\n", b"\0" + b"y" * 40 + b"\n"):
        found = ConsoleInput().feed(b"\0w1 2\n" + wrong + b"after")
        assert join(found)[0] == Size(1, 2)
        assert b"".join(item for item in found if isinstance(item, bytes)).endswith(b"after")
    assert ConsoleInput().feed(b"\0w99999 1\n") == [Size(65535, 1)]


@given(st.lists(st.binary(max_size=50), max_size=5))
def test_nothing_that_is_sent_raises_or_is_kept_without_bound(pieces: list[bytes]) -> None:
    console = ConsoleInput()
    for piece in (b"\0", *pieces):
        console.feed(piece)
        assert len(console._left) <= 34
