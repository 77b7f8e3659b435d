"""The data plane's frame codec, held equal to its Python twin."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway._native.frame import FrameScanner, parse_ids
from gateway.model.errors import FrameTooLarge, MalformedFrame
from gateway.model.frames import FrameReader, build_frame
from gateway.model.frames import parse_ids as parse_ids_twin

FRAMES = st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=300)), max_size=20)


def raw(kind: int, body: bytes) -> bytes:
    return build_frame(kind, msgspec.Raw(body)) if body else build_frame(kind)


def outcome(reader: FrameScanner | FrameReader, pieces: list[bytes]) -> tuple[list[tuple[int, bytes]], str]:
    frames: list[tuple[int, bytes]] = []
    try:
        for piece in pieces:
            frames += reader.feed(piece)
    except (ValueError, MalformedFrame, FrameTooLarge) as exc:
        large = isinstance(exc, FrameTooLarge) or "too large" in str(exc)
        return frames, "too large" if large else "malformed"
    return frames, ""


@given(FRAMES)
def test_a_whole_buffer_and_single_bytes_parse_alike(frames: list[tuple[int, bytes]]) -> None:
    stream = b"".join(raw(kind, body) for kind, body in frames)
    assert outcome(FrameScanner(), [stream]) == (frames, "")
    assert outcome(FrameScanner(), [bytes((b,)) for b in stream]) == (frames, "")


@given(st.binary(max_size=400), st.integers(0, 3000))
def test_it_agrees_with_its_twin_on_any_bytes(data: bytes, limit: int) -> None:
    """Fed byte by byte, because a whole buffer with a bad tail may report the good frames differently."""
    pieces = [bytes((b,)) for b in data]
    assert outcome(FrameScanner(limit), pieces) == outcome(FrameReader(limit), pieces)


@given(st.lists(st.integers(0, 2**64 - 1), max_size=1024))
def test_ids_survive_the_trip(ids: list[int]) -> None:
    assert parse_ids(msgspec.msgpack.encode(ids)) == ids


@given(st.binary(max_size=64))
def test_ids_of_any_bytes_agree_with_msgspec_or_are_refused(body: bytes) -> None:
    try:
        expected: list[int] | None = parse_ids_twin(body)
    except Exception:
        expected = None
    if expected is not None and (min(expected, default=0) < 0 or len(expected) > 1024):
        expected = None
    try:
        got: list[int] | None = parse_ids(body)
    except ValueError:
        got = None
    if got is None and expected is not None:
        # msgspec takes other integer-like encodings (an integral float, an extension); the wire format does not.
        assert any(tag in body for tag in (0xCA, 0xCB)) or expected == []
    else:
        assert got == expected


def test_signed_encodings_of_positive_ids_are_taken() -> None:
    assert parse_ids(b"\x94\xd0\x05\xd1\x00\x06\xd2\x00\x00\x00\x07\xd3\x00\x00\x00\x00\x00\x00\x00\x08") == [
        5,
        6,
        7,
        8,
    ]


@pytest.mark.parametrize("body", [b"", b"\xc0", b"\x91", b"\x91\xff", b"\x91\xd0\x80", b"\x91\x01\x02", b"\xdc\x00"])
def test_what_is_no_array_of_ids_is_malformed(body: bytes) -> None:
    with pytest.raises(ValueError, match="malformed"):
        parse_ids(body)


def test_more_ids_than_allowed_are_malformed() -> None:
    with pytest.raises(ValueError, match="malformed"):
        parse_ids(msgspec.msgpack.encode(list(range(1025))))
