"""What HTTP/2 is made of here, without a connection: frames counted as they pass, scopes built, buckets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.api.http2_frames import PREFACE, Bucket, FrameScan
from gateway.api.http2_scope import build_scope
from gateway.model.errors import BadRequest


def frame(size: int, kind: int, flags: int, stream: int) -> bytes:
    return size.to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + b"x" * size


FRAMES = st.tuples(st.integers(0, 300), st.integers(0, 12), st.integers(0, 255), st.integers(0, 1))


@given(st.lists(FRAMES, max_size=20), st.data())
def test_frames_are_counted_the_same_in_any_pieces(frames, data):
    raw = PREFACE + b"".join(frame(*fields) for fields in frames)
    whole = FrameScan()
    cheap = resets = at = goaways = 0
    passed = b""
    while at < len(raw):
        seen = whole.feed(raw[at:])
        cheap, resets, at, passed = cheap + seen.cheap, resets + seen.resets, at + seen.end, passed + seen.data
        goaways += seen.goaway
    pieces = FrameScan()
    again = [0, 0, 0, b""]
    at = 0
    while at < len(raw):
        step = data.draw(st.integers(1, 50))
        part = pieces.feed(raw[at : at + step])
        assert part.end > 0
        again = [again[0] + part.cheap, again[1] + part.resets, again[2] + part.goaway, again[3] + part.data]
        at += part.end
    assert again == [cheap, resets, goaways, passed]
    assert (pieces.in_headers, pieces.header_bytes) == (whole.in_headers, whole.header_bytes)
    assert resets == sum(kind == 3 for _, kind, _, _ in frames)
    if not any(kind in (1, 9) for _, kind, _, _ in frames):
        ours = [fields for fields in frames if fields[1] == 7 and fields[0] >= 8 and fields[3] == 0]
        assert goaways == len(ours)
        assert passed == PREFACE + b"".join(frame(*fields) for fields in frames if fields not in ours)


@given(st.integers(16_385, 2**24 - 1), st.integers(0, 255), st.integers(1, 40))
def test_a_frame_that_is_too_large_is_known_by_its_header(size, kind, step):
    raw = PREFACE + frame(3, 0, 0, 1) + size.to_bytes(3, "big") + bytes((kind, 0)) + b"\0\0\0\1"
    scan = FrameScan()
    at = 0
    passed = b""
    seen = None
    while at < len(raw):
        seen = scan.feed(raw[at : at + step])
        at, passed = at + seen.end, passed + seen.data
        assert seen.oversized == (at == len(raw))
    assert passed == PREFACE + frame(3, 0, 0, 1)  # so nothing holds what would come of it


def test_many_small_frames_are_taken_in_pieces():
    tiny = b"\0\0\1\0\0\0\0\0\1x"
    raw = PREFACE + tiny * 1_000
    scan = FrameScan()
    pieces = []
    while raw:
        seen = scan.feed(raw)
        pieces.append((seen.end, seen.cheap))
        raw = raw[seen.end :]
    assert len(pieces) == 16
    assert all(cheap <= 64 for _, cheap in pieces)
    assert sum(cheap for _, cheap in pieces) == 1_000


@given(st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=40)), max_size=10))
def test_any_fields_make_a_scope_or_a_bad_request(fields):
    try:
        scope = build_scope(fields)
    except BadRequest:
        return
    assert scope["path"].startswith("/")
    assert [name for name, _ in scope["headers"]].count(b"host") == 1
    assert not any(name.startswith(b":") for name, _ in scope["headers"])


def test_crumbs_of_cookies_are_one_field():
    fields = [
        (b":method", b"GET"),
        (b":path", b"/a%20b?c"),
        (b":authority", b"h"),
        (b"cookie", b"a=1"),
        (b"cookie", b"b"),
    ]
    scope = build_scope(fields)
    assert scope["headers"] == [(b"host", b"h"), (b"cookie", b"a=1; b")]
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/a b", b"/a%20b", b"c")


def test_a_bucket_fills_again():
    now = [0.0]
    bucket = Bucket(2, 1, lambda: now[0])
    assert bucket.take(2)
    assert not bucket.take(1)
    now[0] = 3
    assert bucket.take(2)
