"""What a card says when it is in another terminal (E1): bytes, who may say it, what can not be read."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ota.check_request import (
    REQUEST_BYTES,
    build_check_request,
    build_iccid,
    parse_check_request,
    parse_iccid,
)
from gateway.ota.malformed import Malformed
from gateway.ota.packet_security import Algorithm, Keys

ICCID = "8944000000000000001"
AES = Keys(2, Algorithm.AES, bytes(range(16)), bytes(range(16, 32)))
DES = Keys(3, Algorithm.DES3_TWO_KEYS, bytes(range(16)), bytes(range(16, 32)))
TRIPLE = Keys(4, Algorithm.DES3_THREE_KEYS, bytes(range(24)), bytes(range(24, 48)))

digits = st.text("0123456789", min_size=18, max_size=20)


def test_an_iccid_as_the_card_holds_it() -> None:
    assert build_iccid(ICCID).hex() == "984400000000000000f1"
    assert build_iccid(ICCID + "7").hex() == "98440000000000000071"
    assert build_iccid(ICCID[:-1]).hex() == "984400000000000000ff"


@pytest.mark.parametrize("keys", [AES, DES, TRIPLE], ids=["aes", "3des2", "3des3"])
def test_only_who_has_the_key_can_say_it(keys: Keys) -> None:
    request = parse_check_request(build_check_request(ICCID, keys))
    assert request.iccid == ICCID
    assert request.is_genuine(keys)
    other = dataclasses.replace(keys, kid=bytes(len(keys.kid)))
    assert not request.is_genuine(other)
    assert not request._replace(iccid=ICCID[:-1] + "2").is_genuine(keys)


def test_bytes_that_do_not_change() -> None:
    """A card in the field has them burnt in; the MAC is that of RFC 4493 over the 13 bytes before it."""
    assert build_check_request(ICCID, AES).hex() == "484701984400000000000000f1" + "7510d759c4076fd7"
    assert build_check_request(ICCID, DES).hex() == "484701984400000000000000f1" + "d424e6572b830a7e"


@given(digits)
def test_what_is_built_is_read(iccid: str) -> None:
    assert parse_iccid(build_iccid(iccid)) == iccid
    request = parse_check_request(build_check_request(iccid, AES))
    assert (request.iccid, request.is_genuine(AES)) == (iccid, True)


@given(st.binary(max_size=40) | st.binary(min_size=18, max_size=18).map(lambda rest: b"\x48\x47\x01" + rest))
def test_no_bytes_but_malformed(data: bytes) -> None:
    try:
        request = parse_check_request(data)
    except Malformed:
        return
    assert build_iccid(request.iccid) == data[3:13]
    assert not request.is_genuine(AES)


@given(st.integers(0, REQUEST_BYTES * 8 - 1))
def test_a_flipped_bit_is_not_believed(bit: int) -> None:
    data = bytearray(build_check_request(ICCID, AES))
    data[bit // 8] ^= 1 << bit % 8
    try:
        request = parse_check_request(bytes(data))
    except Malformed:
        return
    assert not request.is_genuine(AES)


@pytest.mark.parametrize("at", range(REQUEST_BYTES))
def test_cut_at_every_byte(at: int) -> None:
    with pytest.raises(Malformed):
        parse_check_request(build_check_request(ICCID, AES)[:at])


@pytest.mark.parametrize("text", ["", "1" * 17, "1" * 21, "8944000000000000a01", "８" * 19])
def test_what_is_no_iccid(text: str) -> None:
    with pytest.raises(ValueError, match="18 to 20 digits"):
        build_iccid(text)


@pytest.mark.parametrize("text", ["98440000000000000f1f", "9844000000000000f011", "98440000000000ffffff", "9844"])
def test_bytes_that_are_no_iccid(text: str) -> None:
    with pytest.raises(Malformed):
        parse_iccid(bytes.fromhex(text))


def test_it_shows_nobody() -> None:
    request = parse_check_request(build_check_request(ICCID, AES))
    assert repr(request) == "CheckRequest(hidden)"
