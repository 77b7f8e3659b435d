"""CoAP as bytes: examples of RFC 7252, and any bytes at all (C11)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.coap import (
    CHANGED,
    CONTENT_FORMAT,
    POST,
    URI_PATH,
    BadCoap,
    Coap,
    CoapType,
    build_coap,
    build_empty,
    parse_coap,
)

OPTIONS = st.lists(st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=300)), max_size=6).map(
    lambda options: tuple(sorted(options, key=lambda option: option[0]))
)


def test_the_examples_of_the_standard() -> None:
    # figure 16: GET /temperature, 0x7d34, and its answer
    get = parse_coap(b"\x40\x01\x7d\x34\xbbtemperature")
    assert (get.kind, get.code, get.message_id, get.path) == (CoapType.CON, 1, 0x7D34, (b"temperature",))
    answer = parse_coap(b'\x60\x45\x7d\x34\xff"22.3 C"'.replace(b'"', b""))
    assert (answer.kind, answer.code, answer.payload) == (CoapType.ACK, 0x45, b"22.3 C")
    assert build_empty(CoapType.ACK, 0x7D34) == b"\x60\x00\x7d\x34"
    assert build_empty(CoapType.RST, 0x7D34) == b"\x70\x00\x7d\x34"


def test_what_the_pager_sends() -> None:
    data = build_coap(
        Coap(CoapType.CON, POST, 1, b"12345678", ((CONTENT_FORMAT, b"\x2a"), (URI_PATH, b"push")), b"payload")
    )
    assert data == b"\x48\x02\x00\x0112345678" + b"\xb4push" + b"\x11\x2a" + b"\xffpayload"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x40\x01\x7d",
        b"\x80\x01\x7d\x34",  # version 2
        b"\x49\x01\x7d\x34" + bytes(9),  # a token of 9 bytes
        b"\x44\x01\x7d\x34ab",
        b"\x40\x01\x7d\x34\xff",  # a marker, and nothing behind it
        b"\x40\x01\x7d\x34\xf1x",  # option 15
        b"\x40\x01\x7d\x34\x1fx",
        b"\x40\x01\x7d\x34\xd0",
        b"\x40\x01\x7d\x34\xe0\0",
        b"\x40\x01\x7d\x34\x05abc",
        b"\x40\x01\x7d\x34" + b"\xe0\xff\xff" * 2,  # a number past 65535
        b"\x40\x00\x7d\x34\x00",  # empty, with something in it
        b"\x50\x00\x7d\x34",
        b"\x70\x45\x7d\x34",
        b"\x60\x01\x7d\x34",
        b"\x40\xe1\x7d\x34",
    ],
)
def test_what_breaks_the_standard(data: bytes) -> None:
    with pytest.raises(BadCoap):
        parse_coap(data)


@given(
    st.sampled_from([CoapType.CON, CoapType.NON, CoapType.ACK]),
    st.sampled_from([CHANGED, 0x45, 0x84, 0xA3]),
    st.integers(0, 0xFFFF),
    st.binary(max_size=8),
    OPTIONS,
    st.binary(max_size=100),
)
def test_what_is_built_is_what_is_read(
    kind: CoapType, code: int, message_id: int, token: bytes, options: tuple[tuple[int, bytes], ...], payload: bytes
) -> None:
    message = Coap(kind, code, message_id, token, options, payload)
    assert parse_coap(build_coap(message)) == message


@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for whole in (data, b"\x40\x02\0\1" + data, b"\x48\x44\0\1" + data):
        try:
            message = parse_coap(whole)
        except BadCoap:
            continue
        assert parse_coap(build_coap(message)) == message
