"""CAT_TP PDUs as bytes (TS 102 127 §5)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ota.cattp_pdu import (
    ACK,
    EACK,
    HEAD_BYTES,
    MOST_EACKS,
    NUL,
    RST,
    SEG,
    SYN,
    Opening,
    Pdu,
    Reason,
    build_pdu,
    build_refusal,
    parse_pdu,
    sum_words,
)
from gateway.ota.malformed import Malformed
from gateway.ota.sequence import distance, following, is_before

WORD = st.integers(0, 0xFFFF)
OPENINGS = st.builds(Opening, WORD, WORD, st.binary(max_size=232))
PDUS = st.one_of(
    st.builds(Pdu, st.sampled_from([SYN, SYN | ACK]), WORD, WORD, WORD, WORD, WORD, opening=OPENINGS),
    st.builds(Pdu, st.just(ACK), WORD, WORD, WORD, WORD, WORD, st.binary(max_size=300)),
    st.builds(Pdu, st.just(ACK | SEG), WORD, WORD, WORD, WORD, WORD, st.binary(min_size=1, max_size=300)),
    st.builds(
        Pdu,
        st.just(ACK | EACK),
        WORD,
        WORD,
        WORD,
        WORD,
        WORD,
        eacks=st.lists(WORD, min_size=1, max_size=MOST_EACKS).map(tuple),
    ),
    st.builds(Pdu, st.sampled_from([RST, RST | ACK]), WORD, WORD, WORD, WORD, WORD, reason=st.integers(0, 255)),
    st.builds(Pdu, st.just(ACK | NUL), WORD, WORD, WORD, WORD, WORD),
)


def fixed(data: bytes) -> bytes:
    """With the checksum made right."""
    data = data[:16] + b"\0\0" + data[18:]
    return data[:16] + (~sum_words(data) & 0xFFFF).to_bytes(2, "big") + data[18:]


@given(PDUS)
def test_round_trip(pdu: Pdu) -> None:
    assert parse_pdu(build_pdu(pdu)) == pdu


@given(PDUS, st.data())
def test_cut_anywhere_even_with_a_right_checksum(pdu: Pdu, data: st.DataObject) -> None:
    whole = build_pdu(pdu)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(Malformed):
        parse_pdu(whole[:cut])
    if cut >= HEAD_BYTES:
        with pytest.raises(Malformed):
            parse_pdu(fixed(whole[:cut]))


@given(st.binary(max_size=120), st.booleans())
def test_any_bytes(data: bytes, right: bool) -> None:
    if right and len(data) >= HEAD_BYTES:
        data = data[:3] + bytes((HEAD_BYTES,)) + data[4:8] + (len(data) - HEAD_BYTES).to_bytes(2, "big") + data[10:]
        data = fixed(data)
    try:
        pdu = parse_pdu(data)
    except Malformed:
        return
    if not pdu.version:
        assert parse_pdu(build_pdu(pdu)) == pdu


@pytest.mark.parametrize(
    "data",
    [
        "80000021000123280000010000000004f6e8040002000a98443000000000000010",
        "c000001723280001000002000100000413bb0400020000",
        "4000001200012328000001010200000499bf",
    ],
)
def test_the_worked_exchange(data: str) -> None:
    assert build_pdu(parse_pdu(bytes.fromhex(data))).hex() == data


def test_every_flipped_bit_is_found() -> None:
    whole = build_pdu(Pdu(ACK, 1, 2, 3, 4, 5, b"odd"))
    for place in range(len(whole) * 8):
        broken = bytearray(whole)
        broken[place // 8] ^= 1 << place % 8
        with pytest.raises(Malformed):
            parse_pdu(bytes(broken))


@pytest.mark.parametrize(
    ("flags", "rest"),
    [
        (SYN | RST, b"\0"),
        (SYN | NUL, b""),
        (ACK | NUL | EACK, b"\0\1"),
        (0, b""),
        (SEG, b""),
        (ACK | SEG, b""),
        (NUL, b""),
        (ACK | EACK, b""),
        (ACK | EACK, b"\0"),
        (RST, b""),
        (RST, b"\0\0"),
        (ACK, b"\0"),
        (SYN, b"\4\0\2\0"),
        (SYN, b"\4\0\2\0\1"),
        (SYN, b"\4\0\2\0\1ab"),
    ],
)
def test_headers_that_make_no_sense(flags: int, rest: bytes) -> None:
    data = bytes((flags, 0, 0, HEAD_BYTES + len(rest))) + bytes(14) + rest
    with pytest.raises(Malformed):
        parse_pdu(fixed(data))


@pytest.mark.parametrize("flags", [SYN, RST | ACK, NUL | ACK])
def test_data_where_none_may_be(flags: int) -> None:
    pdu = Pdu(flags, 1, 2, 3, 4, 5, b"data", Opening(100, 100), reason=1)
    with pytest.raises(Malformed):
        parse_pdu(build_pdu(pdu))


def test_another_version_is_told_apart_and_not_read_further() -> None:
    pdu = parse_pdu(build_pdu(Pdu(SYN, 1, 2, 3, opening=Opening(1, 1), version=2)))
    assert pdu.version == 2
    assert pdu.opening is None


@given(PDUS)
def test_a_refusal_is_never_longer_than_a_syn_and_never_answers_a_rst(pdu: Pdu) -> None:
    refusal = build_refusal(pdu, Reason.PORT)
    if pdu.flags & RST:
        assert refusal is None
        return
    assert refusal is not None
    assert len(refusal) < HEAD_BYTES + 5
    answer = parse_pdu(refusal)
    assert (answer.source, answer.destination, answer.reason) == (pdu.destination, pdu.source, Reason.PORT)


@pytest.mark.parametrize(
    "pdu",
    [
        Pdu(SYN, 1, 2, 3),
        Pdu(SYN, 1, 2, 3, opening=Opening(1, 1, bytes(233))),
        Pdu(ACK | EACK, 1, 2, 3, eacks=(1,) * (MOST_EACKS + 1)),
        Pdu(ACK, 1, 2, 0x10000),
        Pdu(ACK, 1, 2, 3, data=bytes(65_508)),
    ],
)
def test_what_does_not_fit(pdu: Pdu) -> None:
    with pytest.raises(ValueError, match=r"."):
        build_pdu(pdu)


@given(WORD, st.integers(0, 0x7FFF))
def test_numbers_are_compared_round_the_wrap(number: int, steps: int) -> None:
    later = (number + steps) & 0xFFFF
    assert distance(number, later) == steps
    assert is_before(number, later) == (steps > 0)
    assert not is_before(later, number)
    assert is_before(number, following(number))
