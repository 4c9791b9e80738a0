"""Frames: golden bytes, cuts at every place, the limit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kata_protocols.ttrpc import frame
from kata_protocols.ttrpc.frame import Frame, FrameReader, Oversized, encode_frame

LIMIT = 64
frames = st.builds(
    Frame,
    stream_id=st.integers(0, 0xFFFFFFFF),
    kind=st.integers(0, 255),
    flags=st.integers(0, 255),
    data=st.binary(max_size=LIMIT),
)


def encode(item: Frame) -> bytes:
    return encode_frame(item.stream_id, item.kind, item.flags, item.data)


def drain(reader: FrameReader) -> list[Frame | Oversized]:
    found = []
    while (item := reader.next_frame()) is not None:
        found.append(item)
    return found


def test_a_frame_is_length_stream_type_flags_data() -> None:
    assert encode_frame(0x01020305, frame.REQUEST, frame.REMOTE_CLOSED, b"abc") == bytes.fromhex(
        "00000003 01020305 01 01 616263"
    )


def test_trailing_bytes_stay_for_the_next_frame() -> None:
    reader = FrameReader()
    reader.receive(encode_frame(1, 1, 0, b"one") + b"\x00\x00")
    assert drain(reader) == [Frame(1, 1, 0, b"one")]
    assert reader.pending_bytes == 2
    assert reader.inside_frame
    reader.receive(encode_frame(3, 2, 0, b"two")[2:])
    assert drain(reader) == [Frame(3, 2, 0, b"two")]
    assert not reader.inside_frame


@given(st.lists(frames, max_size=8), st.lists(st.integers(1, 40), max_size=40))
def test_frames_come_out_whole_however_the_bytes_are_cut(items: list[Frame], cuts: list[int]) -> None:
    data = b"".join(map(encode, items))
    reader, found = FrameReader(LIMIT), []
    for size in [*cuts, len(data) + 1]:
        piece, data = data[:size], data[size:]
        reader.receive(memoryview(piece))
        found += drain(reader)
    assert found == items
    assert not reader.inside_frame


@given(frames, st.integers(LIMIT + 1, 500), st.booleans())
def test_an_oversized_frame_is_skipped_to_its_last_byte(after: Frame, length: int, whole: bool) -> None:
    data = frame.HEADER.pack(length, 7, 1, 0) + b"\xff" * length + encode(after)
    reader, found = FrameReader(LIMIT), []
    for piece in [data] if whole else [bytes([byte]) for byte in data]:
        reader.receive(piece)
        found += drain(reader)
        assert reader.pending_bytes <= frame.HEADER_BYTES + LIMIT
    assert found == [Oversized(7, 1, length), after]


def test_a_frame_of_exactly_the_limit_passes() -> None:
    reader = FrameReader(LIMIT)
    reader.receive(encode_frame(1, 1, 0, b"x" * LIMIT))
    assert drain(reader) == [Frame(1, 1, 0, b"x" * LIMIT)]


def test_an_oversized_frame_is_reported_only_after_its_last_byte() -> None:
    reader = FrameReader(LIMIT)
    reader.receive(frame.HEADER.pack(LIMIT + 1, 7, 1, 0) + b"x" * LIMIT)
    assert drain(reader) == []
    assert reader.inside_frame
    reader.receive(b"x")
    assert drain(reader) == [Oversized(7, 1, LIMIT + 1)]


def test_an_idle_reader_keeps_nothing_of_a_large_frame() -> None:
    reader = FrameReader(1 << 20)
    data = encode_frame(1, 1, 0, b"x" * (1 << 20))
    reader.receive(data[:5000])
    assert drain(reader) == []
    reader.receive(data[5000:])
    assert len(drain(reader)) == 1
    assert len(reader._buffer) == 0
