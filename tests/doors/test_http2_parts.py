"""What HTTP/2 is made of here, without a connection: frames counted as they pass, scopes built, buckets."""

from __future__ import annotations

import pytest
from h2.config import H2Configuration
from h2.stream import H2Stream
from h2.utilities import HeaderValidationFlags, validate_headers
from hypothesis import event, given, settings
from hypothesis import strategies as st

from gateway.api.http2_frames import PREFACE, Bucket, FrameScan
from gateway.api.http2_scope import build_scope, check_trailers
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
        scope, _ = build_scope(fields)
    except BadRequest:
        return
    assert scope["path"].startswith("/")
    assert [name for name, _ in scope["headers"]].count(b"host") == 1
    assert not any(name.startswith(b":") for name, _ in scope["headers"])


NAMES = b":method :scheme :authority :path :status :protocol te host Host cookie content-length connection keep-alive"
MORE_NAMES = b"upgrade transfer-encoding proxy-connection x:y ttl"
VALUES = [b"GET", b"CONNECT", b"/", b"https", b"door", b"trailers", b"5", b"+5", b"0", b"", b"a ", b"\tb", b"a b"]
HONEST = [(b"ttl", b"5"), (b"content-length", b"5"), (b"te", b"trailers"), (b"cookie", b"a"), (b"host", b"door")]
FIELDS = st.lists(
    st.sampled_from(HONEST)
    | st.tuples(
        st.sampled_from((NAMES + b" " + MORE_NAMES).split()) | st.binary(max_size=2),
        st.sampled_from(VALUES) | st.binary(max_size=3),
    ),
    max_size=3,
)
GOOD = [(b":method", b"POST"), (b":scheme", b"https"), (b":authority", b"door"), (b":path", b"/push/a")]


@given(st.permutations(GOOD), st.sampled_from([4, 4, 4, 3]), FIELDS, st.integers(0, 20), st.booleans())
@settings(max_examples=1_000)
def test_no_request_passes_that_the_codec_itself_would_refuse(head, kept, fields, at, is_whole):
    """Its checks are off, for it would end the connection: ours must be no laxer."""
    head = head[:kept]
    fields = [*head[:at], *fields, *head[at:]]
    try:
        _, length = build_scope(fields, is_whole=is_whole)
    except BadRequest:
        return
    event(f"passes with {len(fields)}")
    list(validate_headers(fields, HeaderValidationFlags(False, False, False, False)))
    stream = H2Stream(1, H2Configuration(client_side=False), 0, 0)
    stream._initialize_content_length(fields)
    assert stream._expected_content_length == length
    if is_whole:
        stream._track_content_length(0, end_stream=True)


@given(FIELDS)
def test_no_trailers_pass_that_the_codec_itself_would_refuse(fields):
    try:
        check_trailers(fields)
    except BadRequest:
        return
    list(validate_headers(fields, HeaderValidationFlags(False, True, False, False)))


@pytest.mark.parametrize(
    "field",
    [
        (b"X", b"y"),
        (b"x(", b"y"),
        (b"x", b"y "),
        (b"x", b"\ty"),
        (b"x", b"a\x01"),
        (b"x", b"a\x7f"),
        (b"te", b"gzip"),
        (b"content-length", b"+3"),
        (b"content-length", b""),
        (b"content-length", b"9" * 19),
        (b":protocol", b"x"),
    ],
)
def test_a_field_that_is_none_is_a_bad_request(field):
    build_scope([*GOOD, (b"x-plain", b"a b\tc \xc3\xa4"), (b"te", b"Trailers"), (b"content-length", b"03")])
    with pytest.raises(BadRequest):
        build_scope([*GOOD, field])


def test_crumbs_of_cookies_are_one_field():
    fields = [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":path", b"/a%20b?c"),
        (b":authority", b"h"),
        (b"cookie", b"a=1"),
        (b"cookie", b"b"),
    ]
    scope, _ = build_scope(fields)
    assert scope["headers"] == [(b"host", b"h"), (b"cookie", b"a=1; b")]
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/a b", b"/a%20b", b"c")


def test_a_bucket_fills_again():
    now = [0.0]
    bucket = Bucket(2, 1, lambda: now[0])
    assert bucket.take(2)
    assert not bucket.take(1)
    now[0] = 3
    assert bucket.take(2)
