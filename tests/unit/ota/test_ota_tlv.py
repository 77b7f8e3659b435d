"""TLVs as bytes: round trips, and whatever is cut or could be shorter is refused (TS 101 220 §7.1)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ota.malformed import Malformed
from gateway.ota.tlv import (
    MOST_ITEMS,
    Tlv,
    build_ber,
    build_length,
    build_tlv,
    build_tlvs,
    find,
    need,
    parse_ber,
    parse_length,
    parse_tlvs,
)

TLVS = st.builds(
    Tlv,
    st.one_of(st.integers(1, 0x7E), st.integers(0x7F, 0x7FFF)),
    st.one_of(st.binary(max_size=20), st.binary(min_size=120, max_size=300)),
    st.booleans(),
)


@given(st.lists(TLVS, max_size=8))
def test_round_trip(tlvs: list[Tlv]) -> None:
    assert parse_tlvs(build_tlvs(tlvs)) == tlvs


@given(TLVS, st.data())
def test_cut_anywhere(tlv: Tlv, data: st.DataObject) -> None:
    whole = build_tlv(tlv)
    cut = data.draw(st.integers(1, len(whole) - 1))
    with pytest.raises(Malformed):
        parse_tlvs(whole[:cut])


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    try:
        tlvs = parse_tlvs(data)
    except Malformed:
        pass
    else:
        assert build_tlvs(tlvs) == data  # there is one way to write it
    try:
        tag, value, rest = parse_ber(data, whole=False)
    except Malformed:
        pass
    else:
        assert build_ber(tag, value) + rest == data


@pytest.mark.parametrize("length", [0, 1, 0x7F, 0x80, 0xFF, 0x100, 0xFFFF, 0x10000, 0xFFFFFF])
def test_lengths_at_their_bounds(length: int) -> None:
    built = build_length(length)
    assert parse_length(built, 0) == (length, len(built))
    for cut in range(len(built)):
        with pytest.raises(Malformed):
            parse_length(built[:cut], 0)


def test_a_length_that_is_too_long() -> None:
    with pytest.raises(ValueError, match="three bytes"):
        build_length(0x1000000)


@pytest.mark.parametrize("data", ["8105", "81017f", "820080", "8200ff", "8300ffff", "80", "84", "8400000001", "ff"])
def test_lengths_that_are_none(data: str) -> None:
    with pytest.raises(Malformed):
        parse_length(bytes.fromhex(data), 0)


@pytest.mark.parametrize("data", ["0000", "8000", "ff00", "7f", "7f00", "7f000100", "7f000500", "7f807e00"])
def test_tags_that_are_none(data: str) -> None:
    with pytest.raises(Malformed):
        parse_tlvs(bytes.fromhex(data))


def test_more_than_a_command_has() -> None:
    data = build_tlvs([Tlv(1, b"")] * MOST_ITEMS)
    assert len(parse_tlvs(data)) == MOST_ITEMS
    with pytest.raises(Malformed):
        parse_tlvs(data + build_tlv(Tlv(1, b"")))


def test_what_is_behind_a_ber_object() -> None:
    data = build_ber(0xD0, b"abc") + b"x"
    assert parse_ber(data, whole=False) == (0xD0, b"abc", b"x")
    with pytest.raises(Malformed):
        parse_ber(data)


def test_need_names_what_is_missing_and_never_shows_a_value() -> None:
    tlvs = [Tlv(0x35, b"\x03")]
    assert find(tlvs, 0x39) is None
    with pytest.raises(Malformed, match="0x39 is missing"):
        need(tlvs, 0x39)
    with pytest.raises(Malformed, match="0x35 has a wrong length"):
        need(tlvs, 0x35, 2)
    assert "secret" not in repr(Tlv(1, b"secret"))
