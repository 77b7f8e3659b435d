"""Alphabets, user data headers, segments, the payload for an app: byte vectors and any input (C8)."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.paging.app_payload import HEAD_BYTES, AppPayload, BadPayload, build_payload, parse_payload
from gateway.paging.gsm7 import ALPHABET, ESCAPE, EXTENSION, build_septets, pack, parse_septets, split_septets, unpack
from gateway.paging.segments import BINARY, GSM7, UCS2, Segment, TooManyParts, segment_binary, segment_text
from gateway.paging.ucs2 import build_units, parse_units, split_units
from gateway.paging.udh import BadHeader, Concat, Header, Ports, build_header, parse_header

CHARACTERS = [char for code, char in enumerate(ALPHABET) if code != ESCAPE] + list(EXTENSION.values())
TEXTS = st.text(st.sampled_from(CHARACTERS), max_size=700)
PORTS = Ports(16_002, 16_002)

# --- GSM 7-bit


def test_the_alphabet_has_128_places_and_no_character_twice() -> None:
    assert len(ALPHABET) == 128
    assert len(set(CHARACTERS)) == 127 + 10


@pytest.mark.parametrize(
    ("text", "packed"),
    [
        # the example that everybody has: 3GPP TS 23.038 §6.1.2.1.1's scheme applied to "hellohello"
        ("hellohello", "e8329bfd4697d9ec37"),
        ("1234567", "31d98c56b3dd00"),
        ("12345678", "31d98c56b3dd70"),
        ("@", "00"),
        ("€", "9b32"),
    ],
)
def test_septets_are_packed_from_the_low_bit_on(text: str, packed: str) -> None:
    septets = build_septets(text)
    assert septets is not None
    assert pack(septets).hex() == packed
    assert unpack(bytes.fromhex(packed), len(septets)) == septets


def test_fill_bits_bring_text_behind_a_header_to_a_septet_boundary() -> None:
    # 6 bytes of header are 48 bits: one fill bit (TS 23.040 §9.2.3.24)
    assert pack(b"\x41", 6).hex() == "82"
    assert pack(b"\x41", 7) == b"\x41"
    assert unpack(b"\x82", 1, 6) == b"\x41"


@given(TEXTS, st.integers(0, 139))
def test_any_text_of_the_alphabet_comes_back(text: str, header_bytes: int) -> None:
    septets = build_septets(text)
    assert septets is not None
    assert parse_septets(septets) == text
    assert unpack(pack(septets, header_bytes), len(septets), header_bytes) == septets


@given(st.text())
def test_a_text_that_can_not_be_said_is_not_said(text: str) -> None:
    septets = build_septets(text)
    assert (septets is None) == any(char not in CHARACTERS for char in text)


@given(st.binary())
def test_any_bytes_are_some_text(data: bytes) -> None:
    assert len(parse_septets(data)) <= len(data)


def test_an_unknown_escape_shows_the_character_of_the_main_table() -> None:
    assert parse_septets(b"\x1bA\x1b\x1bB") == "A B"


@given(st.binary(max_size=40), st.integers(0, 60), st.integers(0, 20))
def test_unpacking_reads_no_further_than_there_is(data: bytes, count: int, header_bytes: int) -> None:
    try:
        septets = unpack(data, count, header_bytes)
    except ValueError:
        assert (-header_bytes * 8 % 7) + 7 * count > 8 * len(data)
    else:
        assert len(septets) == count


@given(TEXTS, st.integers(2, 160))
def test_a_split_loses_nothing_and_leaves_pairs_whole(text: str, size: int) -> None:
    septets = build_septets(text)
    assert septets is not None
    pieces = split_septets(septets, size)
    assert b"".join(pieces) == septets
    assert all(0 < len(piece) <= size and piece[-1] != ESCAPE for piece in pieces)
    assert "".join(map(parse_septets, pieces)) == text


def test_a_pair_that_would_be_cut_goes_into_the_next_piece() -> None:
    assert split_septets(b"a" * 152 + b"\x1b\x65b", 153) == [b"a" * 152, b"\x1b\x65b"]


# --- UCS-2


@given(st.text(), st.integers(4, 140))
def test_units_come_back_whole(text: str, size: int) -> None:
    units = build_units(text)
    pieces = split_units(units, size)
    assert b"".join(pieces) == units
    assert all(0 < len(piece) <= size for piece in pieces)
    assert "".join(map(parse_units, pieces)) == parse_units(units)


def test_a_surrogate_pair_that_would_be_cut_goes_into_the_next_piece() -> None:
    units = build_units("a" * 66 + "😀")
    assert [len(piece) for piece in split_units(units, 134)] == [132, 4]


@given(st.binary())
def test_any_bytes_are_some_units(data: bytes) -> None:
    parse_units(data)


# --- user data header


@pytest.mark.parametrize(
    ("header", "data"),
    [
        (Header(Ports(16_002, 0)), "0605043e820000"),
        (Header(Ports(2_948, 9_200)), "0605040b8423f0"),
        (Header(None, Concat(0xAB, 3, 2)), "050003ab0302"),
        (Header(None, Concat(0xABCD, 3, 2, wide=True)), "060804abcd0302"),
        (Header(Ports(16_000, 16_001), Concat(7, 2, 1)), "0b05043e803e810003070201"),
        (Header(), ""),
    ],
)
def test_headers_as_bytes(header: Header, data: str) -> None:
    assert build_header(header).hex() == data
    if data:
        assert parse_header(bytes.fromhex(data) + b"rest") == (header, b"rest")


@pytest.mark.parametrize("data", ["", "05", "0500", "0205", "020502", "0605043e8200"])
def test_a_header_that_is_cut_is_none(data: str) -> None:
    with pytest.raises(BadHeader):
        parse_header(bytes.fromhex(data))


def test_elements_that_make_no_sense_are_passed_over() -> None:
    assert parse_header(bytes.fromhex("050003010304"))[0] == Header()  # part 4 of 3
    assert parse_header(bytes.fromhex("050003010300"))[0] == Header()  # part 0
    assert parse_header(bytes.fromhex("0370017f"))[0] == Header()  # of a kind nobody knows


@given(st.binary(max_size=300))
def test_any_bytes_are_a_header_or_none(data: bytes) -> None:
    try:
        _, rest = parse_header(data)
    except BadHeader:
        return
    assert data.endswith(rest)
    assert len(rest) < len(data)


# --- segments


@pytest.mark.parametrize(("size", "sizes"), [(0, [0]), (133, [133]), (134, [128, 6]), (257, [128, 128, 1])])
def test_binary_to_a_port(size: int, sizes: list[int]) -> None:
    segments = segment_binary(bytes(size), PORTS, reference=9)
    assert [len(each.body) for each in segments] == sizes
    assert {each.coding for each in segments} == {BINARY}
    assert all(len(each.user_data) <= 140 for each in segments)


@pytest.mark.parametrize(
    ("text", "sizes", "coding"),
    [
        ("a" * 160, [160], GSM7),
        ("a" * 161, [153, 8], GSM7),
        ("€" * 80, [160], GSM7),
        ("€" * 81, [152, 10], GSM7),
        ("я" * 70, [140], UCS2),
        ("я" * 71, [134, 8], UCS2),
        ("я" * 66 + "😀" * 3, [132, 12], UCS2),
        ("", [0], GSM7),
    ],
)
def test_text(text: str, sizes: list[int], coding: int) -> None:
    segments = segment_text(text)
    assert [len(each.body) for each in segments] == sizes
    assert {each.coding for each in segments} == {coding}


def test_a_wide_reference_takes_one_more() -> None:
    assert [len(each.body) for each in segment_binary(bytes(200), PORTS, wide=True)] == [127, 73]
    assert [len(each.body) for each in segment_text("a" * 200, wide=True)] == [152, 48]


def together(segments: list[Segment]) -> bytes:
    """As a phone does it."""
    parts: dict[int, bytes] = {}
    concats: set[tuple[int, int]] = set()
    for segment in segments:
        header, body = parse_header(segment.user_data) if segment.header else (Header(), segment.body)
        concat = header.concat or Concat(0, 1, 1)
        concats.add((concat.reference, concat.parts))
        parts[concat.part] = body
    assert len(concats) == 1
    assert sorted(parts) == list(range(1, next(iter(concats))[1] + 1))
    return b"".join(body for _, body in sorted(parts.items()))


@given(st.binary(max_size=2_000), st.integers(0, 0xFFFF), st.booleans())
def test_any_bytes_come_together_again(data: bytes, reference: int, wide: bool) -> None:
    assert together(segment_binary(data, PORTS, reference=reference, wide=wide)) == data


@given(st.text(max_size=700))
def test_any_text_comes_together_again(text: str) -> None:
    segments = segment_text(text, reference=3)
    whole = together(segments)
    if segments[0].coding == GSM7:
        assert parse_septets(whole) == text
    else:
        assert whole == build_units(text)


def test_more_parts_than_allowed_are_refused() -> None:
    with pytest.raises(TooManyParts):
        segment_text("a" * 307, most=2)
    with pytest.raises(TooManyParts):
        segment_binary(bytes(128 * 256), PORTS)


# --- payload


def payload(**changes: object) -> AppPayload:
    return AppPayload(**{"push_id": b"p" * 16, "token": b"t" * 16, "expires_s": 0x01020304, **changes})  # type: ignore[arg-type]


def test_the_payload_as_bytes() -> None:
    built = build_payload(payload(title="Hi", text="there"), 133)
    assert built.hex() == "0102" + "70" * 16 + "74" * 16 + "01020304" + "02" + b"Hithere".hex()
    assert parse_payload(built) == payload(title="Hi", text="there")


@given(st.text(max_size=300), st.text(max_size=300), st.integers(HEAD_BYTES, 400), st.integers(0, 3))
def test_as_much_as_fits_and_never_half_a_character(title: str, text: str, most: int, urgency: int) -> None:
    built = build_payload(payload(title=title, text=text, urgency=urgency), most)
    assert len(built) <= most
    found = parse_payload(built)
    assert found.urgency == urgency
    said, meant = found.title + found.text, title.encode("utf-8", "replace").decode() + text
    assert found.is_cut or said == meant.encode("utf-8", "replace").decode()


@given(st.binary(max_size=200))
def test_any_bytes_are_a_payload_or_none(data: bytes) -> None:
    try:
        parse_payload(data)
    except BadPayload:
        return
    assert data[0] == 1


def test_nothing_is_shown_by_printing() -> None:
    assert re.fullmatch(r"AppPayload\(…\)", repr(payload(title="secret")))
    assert "secret" not in repr(Segment(b"", b"secret", GSM7))
