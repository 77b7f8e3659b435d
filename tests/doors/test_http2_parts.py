"""What HTTP/2 is made of here, without a connection: frames counted as they pass, scopes built, buckets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.api.http2_frames import PREFACE, Bucket, FrameScan
from gateway.api.http2_scope import build_scope
from gateway.model.errors import BadRequest


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 12), st.integers(0, 255)), max_size=20), st.data())
def test_frames_are_counted_the_same_in_any_pieces(frames, data):
    raw = PREFACE + b"".join(
        size.to_bytes(3, "big") + bytes((kind, flags)) + b"\0\0\0\1" + b"x" * size for size, kind, flags in frames
    )
    whole = FrameScan()
    seen = whole.feed(raw)
    assert seen.end == len(raw)
    pieces = FrameScan()
    cheap = resets = at = 0
    while at < len(raw):
        step = data.draw(st.integers(1, 50))
        part = pieces.feed(raw[at : at + step])
        cheap, resets, at = cheap + part.cheap, resets + part.resets, at + step
    assert (cheap, resets) == (seen.cheap, seen.resets)
    assert (pieces.in_headers, pieces.header_bytes) == (whole.in_headers, whole.header_bytes)
    assert resets == sum(kind == 3 for _, kind, _ in frames)


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
