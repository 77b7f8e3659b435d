"""Diameter's bytes: AVPs, messages, numbers and Sh's XML, from us, from others, and from nobody who means well."""

from __future__ import annotations

import diameter.message.constants as theirs
import pytest
from diameter.message import Avp as TheirAvp
from diameter.message import Message as TheirMessage
from hypothesis import given
from hypothesis import strategies as st

from gateway.diameter import codes
from gateway.diameter.avps import (
    MOST_AVPS,
    Kind,
    Malformed,
    build_address,
    build_group,
    build_octets,
    build_text,
    build_u32,
    parse_avps,
)
from gateway.diameter.messages import Frames, Header, build_message, parse_header, parse_message
from gateway.diameter.node import parse_result
from gateway.diameter.s6m import parse_answer
from gateway.diameter.sh import build_request, build_request_by_msisdn, parse_user_data
from gateway.diameter.tbcd import build_tbcd, parse_tbcd
from gateway.model.subscribers import Numbers

U32 = st.integers(0, 0xFFFFFFFF)
KINDS = st.builds(Kind, U32, st.one_of(st.just(0), st.integers(1, 0xFFFFFFFF)), st.booleans())
HEADERS = st.builds(
    Header, st.sampled_from([0x00, 0x40, 0x80, 0xC0, 0x20, 0x60, 0x90]), st.integers(0, 0xFFFFFF), U32, U32, U32
)
SH = b"<Sh-Data><PublicIdentifiers>%s</PublicIdentifiers></Sh-Data>"


@given(st.lists(st.tuples(KINDS, st.binary(max_size=40)), max_size=10))
def test_avps_come_back_as_they_went(pairs: list[tuple[Kind, bytes]]) -> None:
    parsed = parse_avps(b"".join(build_octets(kind, data) for kind, data in pairs))
    assert [(avp.code, avp.vendor, avp.is_mandatory, avp.data) for avp in parsed] == [
        (kind.code, kind.vendor, kind.is_mandatory, data) for kind, data in pairs
    ]


@given(HEADERS, st.lists(st.tuples(KINDS, st.binary(max_size=20)), max_size=4))
def test_messages_come_back_as_they_went(header: Header, pairs: list[tuple[Kind, bytes]]) -> None:
    frame = build_message(header, b"".join(build_octets(kind, data) for kind, data in pairs))
    message = parse_message(frame)
    assert message.header == header
    assert len(message.avps) == len(pairs)


@given(st.binary(max_size=200))
def test_any_bytes_are_avps_or_malformed(data: bytes) -> None:
    try:
        parsed = parse_avps(data)
    except Malformed:
        return
    for read in (parsed.u32, parsed.text, parsed.group):
        for avp in parsed:
            try:
                read(Kind(avp.code, avp.vendor))
            except Malformed:
                continue


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_any_stream_is_messages_or_malformed(chunks: list[bytes]) -> None:
    frames = Frames(1_024)
    try:
        for chunk in chunks:
            for frame in frames.feed(chunk):
                parse_header(frame)
                parse_message(frame)
    except Malformed:
        return


@given(st.lists(HEADERS, min_size=1, max_size=4), st.integers(1, 50))
def test_a_stream_cut_anywhere_is_the_same_messages(headers: list[Header], size: int) -> None:
    whole = [build_message(header, build_u32(codes.RESULT_CODE, 2001)) for header in headers]
    data = b"".join(whole)
    frames, found = Frames(1_024), []
    for at in range(0, len(data), size):
        found += frames.feed(data[at : at + size])
    assert found == whole
    assert Frames(1_024).feed(data) == whole


@pytest.mark.parametrize(
    ("data", "result"),
    [
        (b"\x02\0\0\x14" + bytes(16), 5011),
        (b"\x01\0\0\x10", 5015),
        (b"\x01\0\0\x15", 5015),
        (b"\x01\xff\xff\xfc", 5015),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", 5011),
    ],
)
def test_what_is_no_frame_is_refused_at_once(data: bytes, result: int) -> None:
    with pytest.raises(Malformed) as caught:
        Frames(65_536).feed(data)
    assert caught.value.result == result


@pytest.mark.parametrize("flags", [0x01, 0x08, 0xA0])
def test_header_flags_that_can_not_be(flags: int) -> None:
    with pytest.raises(Malformed) as caught:
        parse_message(build_message(Header(flags, 1, 1), b""))
    assert caught.value.result == 3008


@pytest.mark.parametrize(
    ("data", "result"),
    [
        (b"\0\0\1\7", 5014),
        (b"\0\0\1\7\x40\0\0\7", 5014),
        (b"\0\0\1\7\x40\0\0\x0d....", 5014),
        (b"\0\0\1\7\xc0\0\0\x0b....", 5014),
        (b"\0\0\1\7\x41\0\0\x08", 3009),
        (build_octets(Kind(1), b"") * (MOST_AVPS + 1), 5012),
    ],
)
def test_what_is_no_avp_says_which_rule_it_breaks(data: bytes, result: int) -> None:
    with pytest.raises(Malformed) as caught:
        parse_avps(data)
    assert caught.value.result == result


def test_the_last_avp_may_come_without_its_padding() -> None:
    assert parse_avps(build_text(codes.USER_NAME, "abc")[:-1]).text(codes.USER_NAME) == "abc"


def test_values_of_another_type_are_malformed_and_not_repeated() -> None:
    avps = parse_avps(build_octets(codes.RESULT_CODE, b"12345") + build_octets(codes.USER_NAME, b"\xff\xfe4917"))
    for read in (lambda: avps.u32(codes.RESULT_CODE), lambda: avps.text(codes.USER_NAME)):
        with pytest.raises(Malformed) as caught:
            read()
        assert caught.value.__context__ is None
        assert "4917" not in str(caught.value)


def test_nothing_is_shown_by_being_printed() -> None:
    avps = parse_avps(build_text(codes.USER_NAME, "001010000000001"))
    assert "00101" not in repr(avps) + repr(list(avps)) + str(avps)


def test_addresses_have_their_family() -> None:
    four = parse_avps(build_address(codes.HOST_IP_ADDRESS, "127.0.0.1")).first(codes.HOST_IP_ADDRESS)
    six = parse_avps(build_address(codes.HOST_IP_ADDRESS, "::1")).first(codes.HOST_IP_ADDRESS)
    assert (four, six) == (b"\0\1\x7f\0\0\1", b"\0\2" + bytes(15) + b"\1")


# --- what others make of it


@given(st.sampled_from([codes.SESSION_ID, codes.EXTERNAL_IDENTIFIER, codes.PUBLIC_IDENTITY]), st.text(max_size=30))
def test_another_library_reads_our_texts_and_we_read_its(kind: Kind, text: str) -> None:
    theirs_read = TheirAvp.from_bytes(build_text(kind, text))
    assert (theirs_read.code, theirs_read.vendor_id, theirs_read.value) == (kind.code, kind.vendor, text)
    avp = TheirAvp.new(kind.code, kind.vendor, value=text)
    assert parse_avps(avp.as_bytes()).text(kind) == text


OURS_AND_THEIRS = [
    (codes.APPLICATION_PORT_IDENTIFIER, theirs.AVP_TGPP_APPLICATION_PORT_IDENTIFIER),
    (codes.ACTION_TYPE, theirs.AVP_TGPP_ACTION_TYPE),
    (codes.DATA_REFERENCE, theirs.AVP_TGPP_DATA_REFERENCE),
    (codes.DELIVERY_OUTCOME, theirs.AVP_TGPP_DELIVERY_OUTCOME),
    (codes.DEVICE_ACTION, theirs.AVP_TGPP_DEVICE_ACTION),
    (codes.DEVICE_NOTIFICATION, theirs.AVP_TGPP_DEVICE_NOTIFICATION),
    (codes.EXTERNAL_IDENTIFIER, theirs.AVP_TGPP_EXTERNAL_IDENTIFIER),
    (codes.MSISDN, theirs.AVP_TGPP_MSISDN),
    (codes.OLD_REFERENCE_NUMBER, theirs.AVP_TGPP_OLD_REFERENCE_NUMBER),
    (codes.PAYLOAD, theirs.AVP_TGPP_PAYLOAD),
    (codes.PRIORITY_INDICATION, theirs.AVP_TGPP_PRIORITY_INDICATION),
    (codes.PUBLIC_IDENTITY, theirs.AVP_TGPP_PUBLIC_IDENTITY),
    (codes.REFERENCE_NUMBER, theirs.AVP_TGPP_REFERENCE_NUMBER),
    (codes.REQUEST_STATUS, theirs.AVP_TGPP_REQUEST_STATUS),
    (codes.SCS_IDENTITY, theirs.AVP_TGPP_SCS_IDENTITY),
    (codes.SERVICE_ID, theirs.AVP_TGPP_S6_SERVICE_ID),
    (codes.SIR_FLAGS, theirs.AVP_TGPP_SIR_FLAGS),
    (codes.TRIGGER_DATA, theirs.AVP_TGPP_TRIGGER_DATA),
    (codes.USER_DATA, theirs.AVP_TGPP_SH_USER_DATA),
    (codes.USER_IDENTIFIER, theirs.AVP_TGPP_USER_IDENTIFIER),
    (codes.USER_IDENTITY, theirs.AVP_TGPP_USER_IDENTITY),
    (codes.VALIDITY_TIME, theirs.AVP_VALIDITY_TIME),
    (codes.PROXY_INFO, theirs.AVP_PROXY_INFO),
    (codes.FAILED_AVP, theirs.AVP_FAILED_AVP),
    (codes.HOST_IP_ADDRESS, theirs.AVP_HOST_IP_ADDRESS),
    (codes.ORIGIN_STATE_ID, theirs.AVP_ORIGIN_STATE_ID),
    (codes.DISCONNECT_CAUSE, theirs.AVP_DISCONNECT_CAUSE),
    (codes.EXPERIMENTAL_RESULT_CODE, theirs.AVP_EXPERIMENTAL_RESULT_CODE),
    (codes.Application.SH, theirs.APP_3GPP_SH),
    (codes.Application.S6M, theirs.APP_3GPP_S6M),
    (codes.Application.TSP, theirs.APP_3GPP_TSP),
    (codes.Application.S6C, theirs.APP_3GPP_S6C),
    (codes.SC_ADDRESS, theirs.AVP_TGPP_SC_ADDRESS),
    (codes.SM_DELIVERY_NOT_INTENDED, theirs.AVP_TGPP_SM_DELIVERY_NOT_INTENDED),
    (codes.Command.SEND_ROUTING_INFO_FOR_SM, theirs.CMD_SEND_ROUTING_INFO_FOR_SM),
    (codes.Command.USER_DATA, theirs.CMD_TGPP_USER_DATA),
    (codes.Command.DEVICE_ACTION, theirs.CMD_3GPP_DEVICE_ACTION),
    (codes.Command.DEVICE_NOTIFICATION, theirs.CMD_3GPP_DEVICE_NOTIFICATION),
    (codes.Command.SUBSCRIBER_INFORMATION, theirs.CMD_3GPP_SUBSCRIBER_INFORMATION),
]


@pytest.mark.parametrize(("ours", "their"), OURS_AND_THEIRS, ids=lambda each: str(each))
def test_numbers_are_those_of_another_dictionary(ours: Kind | int, their: int) -> None:
    assert (ours.code if isinstance(ours, Kind) else int(ours)) == their


def test_another_library_reads_our_message() -> None:
    request = build_request("sip:a@example.net", (17, 32))
    read = TheirMessage.from_bytes(build_message(Header(0xC0, 306, codes.Application.SH, 1, 2), request))
    assert read.user_identity.public_identity == "sip:a@example.net"
    assert read.as_bytes()[:20] == build_message(Header(0xC0, 306, codes.Application.SH, 1, 2), request)[:20]


# --- numbers


@given(st.from_regex(r"[0-9]{0,15}", fullmatch=True))
def test_msisdns_come_back_as_they_went(digits: str) -> None:
    if digits:
        assert parse_tbcd(build_tbcd(digits)) == digits


def test_a_msisdn_has_its_first_digit_in_the_low_half() -> None:
    assert build_tbcd("49170") == bytes.fromhex("9471f0")


@given(st.binary(max_size=20))
def test_any_bytes_are_a_number_or_malformed(data: bytes) -> None:
    try:
        digits = parse_tbcd(data)
    except Malformed:
        return
    assert digits.isdecimal()
    assert 1 <= len(digits) <= 15
    assert build_tbcd(digits) == data


@pytest.mark.parametrize("digits", ["", "+49", "49a", "1" * 16, "٤٩"])
def test_what_is_no_number_is_not_built(digits: str) -> None:
    with pytest.raises(ValueError, match="no number"):
        build_tbcd(digits)


# --- Sh-Data


@given(st.binary(max_size=300))
def test_any_bytes_are_sh_data_or_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        parse_user_data(data)


@given(st.text(alphabet="<>/&;! SMISDNh-Data'\"=[]0149", max_size=80))
def test_anything_inside_sh_data_is_read_or_malformed(inner: str) -> None:
    try:
        found = parse_user_data(SH % inner.encode())
    except Malformed:
        return
    assert not found.msisdn or found.msisdn.isdecimal()


def test_numbers_are_found_wherever_they_stand() -> None:
    data = (
        b'<?xml version="1.0" encoding="UTF-8"?><x:Sh-Data xmlns:x="urn:x"><x:PublicIdentifiers><x:MSISDN> 491701234567'
        b"</x:MSISDN><x:MSISDN>4917</x:MSISDN></x:PublicIdentifiers><Extension><Extension><IMSI>00101000<!-- -->0000001"
        b"</IMSI></Extension></Extension></x:Sh-Data>"
    )
    assert parse_user_data(data) == Numbers("491701234567", "001010000000001")
    assert parse_user_data(b"<Sh-Data/>") == Numbers()


BOMB = b'<!DOCTYPE x [<!ENTITY a "1">%s]>' % b"".join(b'<!ENTITY a%d "&a;&a;&a;">' % n for n in range(9))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        BOMB + SH % b"<MSISDN>&a8;</MSISDN>",
        b'<!DOCTYPE Sh-Data SYSTEM "file:///etc/hostname">' + SH % b"",
        b'<!DOCTYPE Sh-Data [<!ENTITY e SYSTEM "file:///etc/hostname">]>' + SH % b"<MSISDN>&e;</MSISDN>",
        b"<Sh-Data>" + b"<a>" * 40 + b"</a>" * 40 + b"</Sh-Data>",
        SH % b"<MSISDN>none of your business</MSISDN>",
        SH % b"<MSISDN>1234567890123456</MSISDN>",
        SH % b"<IMSI>12345</IMSI>",
        b"<Html/>",
        SH % b"" + b"<more/>",
        b'<?xml version="1.0" encoding="no-such"?><Sh-Data/>',
        b'<?xml version="1.0" encoding="utf-7"?><Sh-Data/>',
    ],
)
def test_user_data_that_is_no_sh_data_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed) as caught:
        parse_user_data(data)
    assert caught.value.__context__ is None
    assert "business" not in str(caught.value)


def test_a_request_by_number_is_for_that_number() -> None:
    group = parse_avps(build_request_by_msisdn("+491701234567", (32,))).group(codes.USER_IDENTITY)
    assert group is not None
    assert parse_tbcd(group.first(codes.MSISDN) or b"") == "491701234567"


@pytest.mark.parametrize("impu", ["", "mailto:a@b", "sip:", "a", "sip:" + "a" * 600])
def test_what_is_no_public_identity_is_not_asked_for(impu: str) -> None:
    with pytest.raises(ValueError, match="no public identity"):
        build_request(impu, (17,))


# --- results and S6m


def test_results_of_the_base_protocol_and_of_3gpp_are_told_apart() -> None:
    experimental = build_group(codes.EXPERIMENTAL_RESULT, build_u32(codes.EXPERIMENTAL_RESULT_CODE, 5001))
    assert parse_result(parse_avps(build_u32(codes.RESULT_CODE, 5001))) == (5001, False)
    assert parse_result(parse_avps(experimental)) == (5001, True)
    for nothing in (b"", build_group(codes.EXPERIMENTAL_RESULT)):
        with pytest.raises(Malformed):
            parse_result(parse_avps(nothing))


@given(st.lists(st.binary(max_size=30), max_size=3))
def test_any_user_identifier_is_read_or_malformed(groups: list[bytes]) -> None:
    avps = parse_avps(b"".join(build_octets(codes.USER_IDENTIFIER, group) for group in groups))
    with pytest.raises(Malformed):
        parse_answer(avps)


def test_an_answer_may_name_its_subscriber_in_several_groups() -> None:
    imsi = build_group(codes.USER_IDENTIFIER, build_text(codes.USER_NAME, "001010000000001"))
    msisdn = build_group(codes.USER_IDENTIFIER, build_octets(codes.MSISDN, build_tbcd("49170")))
    assert parse_answer(parse_avps(imsi + msisdn)) == Numbers("49170", "001010000000001")
    wrong = build_group(codes.USER_IDENTIFIER, build_text(codes.USER_NAME, "ann@example.com"))
    with pytest.raises(Malformed):
        parse_answer(parse_avps(wrong))
