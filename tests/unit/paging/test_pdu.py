"""SMPP PDUs, receipts, the HLR's frames: vectors, any cut of a stream, any bytes (C8)."""

import contextlib
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.paging.sms.hlr import build_frame, parse_frame, parse_info
from gateway.paging.sms.pdu import (
    Address,
    Bind,
    Command,
    Frames,
    Malformed,
    Pdu,
    ShortMessage,
    Tag,
    build_alert,
    build_bind,
    build_message,
    build_pdu,
    build_text,
    build_validity,
    parse_alert,
    parse_bind,
    parse_message,
    parse_message_id,
)
from gateway.paging.sms.receipt import MessageState, parse_receipt, spellings

SOURCE, DESTINATION = Address(5, 0, "PUSHGW"), Address(1, 1, "491701234567")
BYTES = st.binary(max_size=300)


def message(**changes: object) -> ShortMessage:
    return ShortMessage(**{"source": SOURCE, "destination": DESTINATION, "message": b"hi", **changes})  # type: ignore[arg-type]


def test_submit_sm_as_bytes() -> None:
    sm = message(
        message=bytes.fromhex("0605043e820000") + b"\x01",
        esm_class=0x40,
        data_coding=4,
        validity="000000000500000R",
        registered_delivery=1,
        tlvs={Tag.USER_MESSAGE_REFERENCE: b"\x12\x34"},
    )
    built = build_pdu(Command.SUBMIT_SM, 7, build_message(sm))
    assert built.hex() == (
        "0000005100000004000000000000000700050050555348475700010134393137303132333435363700400000003030303030"
        "303030303530303030305200010004000806050" + "43e82000001" + "020400021234"
    )
    (pdu,) = Frames().feed(built)
    assert pdu == Pdu(Command.SUBMIT_SM, 0, 7, built[16:])
    assert parse_message(pdu.body) == sm


def test_bind_and_alert_come_back() -> None:
    bind = Bind("pushgw", "secret", "VMA")
    assert parse_bind(build_bind(bind)) == bind
    assert parse_alert(build_alert(DESTINATION, SOURCE, None)) == (DESTINATION, True)
    assert parse_alert(build_alert(DESTINATION, SOURCE, 2)) == (DESTINATION, False)


def test_a_field_that_is_too_long_is_refused() -> None:
    for wrong in (message(message=bytes(255)), message(source=Address(0, 0, "1" * 21)), message(service_type="123456")):
        with pytest.raises(ValueError, match="at most"):
            build_message(wrong)
    with pytest.raises(ValueError, match="at most 8"):
        build_bind(Bind("x", "123456789"))
    with pytest.raises(ValueError, match="NUL"):
        build_bind(Bind("a\0b", "x"))


TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
MESSAGES = st.builds(
    ShortMessage,
    source=st.builds(Address, st.integers(0, 255), st.integers(0, 255), TEXT),
    destination=st.builds(Address, st.integers(0, 255), st.integers(0, 255), TEXT),
    message=st.binary(min_size=1, max_size=254),
    esm_class=st.integers(0, 255),
    data_coding=st.integers(0, 255),
    validity=st.sampled_from(["", "000000000500000R"]),
    tlvs=st.dictionaries(st.integers(0, 0xFFFF), st.binary(max_size=20), max_size=4),
)


@given(MESSAGES)
def test_any_message_comes_back(sm: ShortMessage) -> None:
    assert parse_message(build_message(sm)) == sm


@given(
    st.lists(st.builds(Pdu, st.integers(0, 2**32 - 1), st.integers(0, 9), st.integers(0, 9), BYTES), max_size=6),
    st.data(),
)
def test_any_cut_of_a_stream_gives_the_same(pdus: list[Pdu], data: st.DataObject) -> None:
    stream = b"".join(build_pdu(pdu.command, pdu.sequence, pdu.body, pdu.status) for pdu in pdus)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    frames, found = Frames(), []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += frames.feed(stream[begin:end])
    assert found == pdus


@given(st.lists(BYTES, max_size=5))
def test_any_stream_is_pdus_or_malformed(chunks: list[bytes]) -> None:
    frames = Frames()
    with contextlib.suppress(Malformed):
        for chunk in chunks:
            frames.feed(chunk)


@pytest.mark.parametrize("length", [0, 15, 66_561, 0xFFFFFFFF])
def test_a_length_that_can_not_be_ends_it_at_once(length: int) -> None:
    with pytest.raises(Malformed):
        Frames().feed(length.to_bytes(4, "big"))


@given(BYTES)
def test_any_body_is_what_it_should_be_or_malformed(body: bytes) -> None:
    for parse in (parse_message, parse_bind, parse_alert, parse_message_id):
        with contextlib.suppress(Malformed):
            parse(body)


@given(MESSAGES, st.data())
def test_a_body_that_is_cut_is_malformed_or_shorter(sm: ShortMessage, data: st.DataObject) -> None:
    body = build_message(sm)
    cut = body[: data.draw(st.integers(0, len(body) - 1))]
    with contextlib.suppress(Malformed):
        assert parse_message(cut) != sm


def test_a_message_may_come_as_payload() -> None:
    sm = message(message=b"", tlvs={Tag.MESSAGE_PAYLOAD: b"long"})
    assert parse_message(build_message(sm)).message == b"long"


def test_printing_shows_nothing() -> None:
    shown = f"{message(message=b'secret text')!r} {DESTINATION!r} {Bind('a', 'secret')!r} {Pdu(4, 0, 1, b'secret')!r}"
    assert "secret" not in shown
    assert "4917" not in shown


@pytest.mark.parametrize(
    ("left_s", "text"),
    [
        (300, "000000000500000R"),
        (-5, "000000000001000R"),
        (90_061, "000001010101000R"),
        (10**9, "000030000000000R"),
    ],
)
def test_validity(left_s: int, text: str) -> None:
    assert build_validity(left_s) == text


@given(st.integers(1, 30 * 86_400))
def test_validity_says_the_same_time(left_s: int) -> None:
    text = build_validity(left_s)
    days, hours, minutes, seconds = (int(text[at : at + 2]) for at in (4, 6, 8, 10))
    assert timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds).total_seconds() == left_s


# --- receipts

DATES = "submit date:2611222300 done date:2611222301"


def receipt(text: str = "", **tlvs: bytes) -> ShortMessage:
    return message(message=text.encode(), esm_class=4, tlvs={Tag[name]: value for name, value in tlvs.items()})


@pytest.mark.parametrize("dates", [DATES, "submit date:000000 done date:never", "submit date: done date:", ""])
def test_a_receipt_by_text_whatever_its_dates_are(dates: str) -> None:
    found = parse_receipt(receipt(f"id:m7 sub:001 dlvrd:001 {dates} stat:DELIVRD err:000 text:stat:UNDELIV"))
    assert found is not None
    assert (found.message_id, found.state, found.error) == ("m7", MessageState.DELIVERED, "")
    assert found.is_final
    assert found.is_delivered


def test_a_receipt_by_tlv_wins_over_its_text() -> None:
    found = parse_receipt(
        receipt(
            f"id:other sub:001 {DATES} stat:DELIVRD err:04B",
            RECEIPTED_MESSAGE_ID=b"m8\0",
            MESSAGE_STATE=b"\x05",
            USER_MESSAGE_REFERENCE=b"\x00\x34",
        )
    )
    assert found is not None
    assert found == ("m8", 0x34, MessageState.UNDELIVERABLE, "04B")


def test_a_receipt_that_is_not_the_end() -> None:
    for word in ("ENROUTE", "ACCEPTD"):
        found = parse_receipt(receipt(f"id:m7 {DATES} stat:{word} err:000"))
        assert found is not None
        assert not found.is_final


def test_a_word_of_its_own_is_an_unknown_end() -> None:
    found = parse_receipt(receipt(f"id:m7 {DATES} stat:BROKEN err:000"))
    assert found is not None
    assert found.state is MessageState.UNKNOWN


@pytest.mark.parametrize("text", ["", "hello", "stat:DELIVRD", " stat:DELIVRD", "id:7", "text: id:7 stat:DELIVRD"])
def test_what_says_neither_which_nor_what_is_no_receipt(text: str) -> None:
    assert parse_receipt(receipt(text)) is None


@given(BYTES, st.dictionaries(st.sampled_from(list(Tag)), st.binary(max_size=9)), st.integers(0, 255))
def test_any_bytes_are_a_receipt_or_none(text: bytes, tlvs: dict[int, bytes], esm_class: int) -> None:
    found = parse_receipt(message(message=text, esm_class=esm_class, tlvs=tlvs))
    if found is not None:
        assert len(found.message_id) <= 64
        assert found.error == "" or found.error.isalnum()


def test_an_id_in_two_spellings() -> None:
    assert "589824" in spellings("90000")  # 0x90000
    assert "90000" in spellings("589824")
    assert "1f" in spellings("0000001F")
    assert spellings("m7") == ["m7"]


@given(st.text(max_size=70))
def test_any_id_has_spellings(message_id: str) -> None:
    assert spellings(message_id)[0] == message_id


@given(BYTES)
def test_an_id_is_latin_1_at_most(body: bytes) -> None:
    with contextlib.suppress(Malformed):
        assert len(parse_message_id(body)) <= 64
    assert build_text("m1", 65) == b"m1\0"


# --- the HLR's control interface


def test_control_frames() -> None:
    frame = build_frame("GET 1 subscriber.by-msisdn-49.info")
    assert frame[:4].hex() == f"{len(frame) - 3:04x}ee00"
    answer = parse_frame(0xEE, b"\0GET_REPLY 1 subscriber.by-msisdn-49.info id\t1\nimsi\t001010000000001\nmsisdn\t49\n")
    assert answer is not None
    assert answer.kind == "GET_REPLY"
    assert parse_info(answer.text) == {"id": "1", "imsi": "001010000000001", "msisdn": "49"}
    assert "0010" not in repr(answer)
    assert parse_frame(0xFE, b"\x00") is None
    assert parse_frame(0xEE, b"\0TRAP 0 x y") is None
    with pytest.raises(ValueError, match="no answer"):
        parse_frame(0xEE, b"\0hello")


@given(st.integers(0, 255), BYTES)
def test_any_control_frame(proto: int, data: bytes) -> None:
    with contextlib.suppress(ValueError):
        answer = parse_frame(proto, data)
        if answer is not None:
            parse_info(answer.text)
