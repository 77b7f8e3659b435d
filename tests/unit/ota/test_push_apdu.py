"""PUSH to a card and what it answers (TS 102 226 §9.2; E2, E6)."""

from __future__ import annotations

import contextlib
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ota.channel import Channel, TransportType, build_access_name, parse_access_name
from gateway.ota.malformed import Malformed
from gateway.ota.packet_security import Algorithm, Keys, Spi
from gateway.ota.push import (
    OpenLink,
    PushAnswer,
    build_push,
    build_push_answer,
    parse_push,
    parse_push_answer,
)
from gateway.ota.result import Meaning, Result, parse_result
from gateway.ota.secured_packet import Command, build_command
from gateway.ota.sms_pp import segment

hex_ = bytes.fromhex
CHANNEL = "80ec01011e35010339020578470908696e7465726e65743c030129043e05210a000001"
LINK = "80ec0102153c0300232839020200360a98443000000000000010"

NAMES = st.lists(st.from_regex(r"[a-z0-9-]{1,12}", fullmatch=True), max_size=4).map(".".join)
CHANNELS = st.builds(
    Channel,
    st.sampled_from(TransportType),
    st.integers(1, 0xFFFF),
    st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)),
    NAMES,
    st.integers(1, 0xFFFF),
    st.binary(min_size=1, max_size=8),
)
LOGINS = st.tuples(st.binary(max_size=12), st.binary(max_size=12))
LINKS = st.builds(
    OpenLink,
    st.integers(0, 0xFFFF),
    st.none() | st.integers(1, 0xFFFF),
    st.none() | st.binary(min_size=1, max_size=200),
)


def test_the_published_requests() -> None:
    channel = Channel(TransportType.UDP, 10_500, ipaddress.ip_address("10.0.0.1"), "internet")
    link = OpenLink(9_000, 512, hex_("98443000000000000010"))
    assert build_push(channel).hex() == CHANNEL
    assert build_push(link).hex() == LINK
    assert parse_push(hex_(CHANNEL)) == channel
    assert parse_push(hex_(LINK)) == link


def test_both_fit_one_short_message_with_a_cipher_and_a_check() -> None:
    keys = Keys(2, Algorithm.AES, bytes(16), bytes(16))
    for apdu in (CHANNEL, LINK):
        packet = build_command(Command(Spi(), hex_("b00011"), 1, hex_(apdu)), keys)
        assert len(packet) <= 90
        assert len(segment(packet, 1)) == 1


@given(st.one_of(CHANNELS, LINKS))
def test_requests_come_back(what: Channel | OpenLink) -> None:
    apdu = build_push(what)
    assert parse_push(apdu) == what
    for cut in range(len(apdu)):
        with pytest.raises(Malformed):
            parse_push(apdu[:cut])
        if cut > 5:  # cut, but as long as it says
            with contextlib.suppress(Malformed):
                assert parse_push(apdu[:4] + bytes((cut - 5,)) + apdu[5:cut]) != what


@given(CHANNELS, LOGINS)
def test_a_login_comes_back_and_does_not_show(channel: Channel, login: tuple[bytes, bytes]) -> None:
    whole = Channel(TransportType.UDP, 1, channel.address, login=b"u!" + login[0], password=b"p!" + login[1])
    assert parse_push(build_push(whole)) == whole
    assert "u!" not in repr(whole)
    assert "p!" not in repr(whole)
    assert str(channel.address) not in repr(whole)


def test_a_login_without_a_password_is_no_request() -> None:
    with pytest.raises(ValueError, match="both, or neither"):
        Channel(TransportType.UDP, 1, ipaddress.ip_address("10.0.0.1"), login=b"x")
    alone = hex_("80ec010100") + hex_("350103" + "39020578" + "0d020461" + "3c030129043e05210a000001")
    with pytest.raises(Malformed):
        parse_push(alone[:4] + bytes((len(alone) - 5,)) + alone[5:])


@pytest.mark.parametrize(
    "data",
    [
        "3e05210a000001" + "350103" + "39020578" + "3c03012904" + "3e05210a000001",  # a local address
        "350103" + "39020578" + "3c03012904",  # no address
        "350103" + "39020578" + "3c03012904" + "3e05570a000001",  # of no kind
        "350103" + "39020578" + "3c03092904" + "3e05210a000001",  # no such transport
        "350103" + "39020578" + "3c03010000" + "3e05210a000001",  # port 0
        "3500" + "39020578" + "3c03012904" + "3e05210a000001",
        "350103" + "390105" + "3c03012904" + "3e05210a000001",
        "350103" + "39020578" + "47020561" + "3c03012904" + "3e05210a000001",
        "350103" + "39020578" + "0d00" + "0d00" + "3c03012904" + "3e05210a000001",
    ],
)
def test_what_a_card_answers_6a80(data: str) -> None:
    body = hex_(data)
    with pytest.raises(Malformed):
        parse_push(hex_("80ec0101") + bytes((len(body),)) + body)


@given(st.binary(max_size=80), st.integers(0, 4))
def test_any_bytes(data: bytes, kind: int) -> None:
    for whole in (data, hex_("80ec01") + bytes((kind, len(data))) + data):
        with contextlib.suppress(Malformed):
            parse_push(whole)
    with contextlib.suppress(Malformed):
        parse_push_answer(data)
    with contextlib.suppress(Malformed):
        parse_access_name(data)


def test_a_request_that_is_too_long() -> None:
    with pytest.raises(ValueError, match="255 bytes"):
        build_push(Channel(TransportType.UDP, 1, ipaddress.ip_address("::1"), login=bytes(120), password=bytes(120)))


@pytest.mark.parametrize("name", ["a..b", "x" * 64, ".".join(["x" * 20] * 5), "\xe9"])
def test_access_names_that_are_none(name: str) -> None:
    with pytest.raises(ValueError, match="access point name"):
        build_access_name(name)


def test_answers() -> None:
    done = PushAnswer(1, 0x9000)
    assert build_push_answer(done).hex() == "019000"
    assert parse_push_answer(hex_("019000")) == done
    assert done.is_done
    failed = parse_push_answer(hex_("016f0083023a01"))
    assert failed == PushAnswer(1, 0x6F00, Result(0x3A, b"\1"))
    assert not failed.is_done
    assert build_push_answer(failed).hex() == "016f0083023a01"
    for refused in ("016a80", "016132"):
        assert not parse_push_answer(hex_(refused)).is_done
    # an error that does not say why is an error all the same
    assert parse_push_answer(hex_("016f00")).result is None


@pytest.mark.parametrize("data", ["", "01", "0190", "016f008302", "016f008300"])
def test_answers_that_are_none(data: str) -> None:
    with pytest.raises(Malformed):
        parse_push_answer(hex_(data))


@pytest.mark.parametrize(
    ("value", "meaning"),
    [
        *((f"{general:02x}", Meaning.DONE) for general in range(0x0A)),
        ("20", Meaning.RETRY),
        ("21", Meaning.RETRY),
        ("2000", Meaning.RETRY),
        ("10", Meaning.RETRY),
        ("12", Meaning.RETRY),
        ("30", Meaning.NOT_CAPABLE),
        ("31", Meaning.NOT_CAPABLE),
        ("32", Meaning.NOT_CAPABLE),
        ("3a", Meaning.RETRY),
        ("3a00", Meaning.RETRY),
        ("3a01", Meaning.RETRY),
        ("3a02", Meaning.RETRY),
        ("3a04", Meaning.RETRY),
        ("3a07", Meaning.RETRY),
        ("3a10", Meaning.RETRY),
        ("3a05", Meaning.PARAMETERS),
        ("3a06", Meaning.PARAMETERS),
        ("36", Meaning.PARAMETERS),
    ],
)
def test_what_a_result_means_for_the_card(value: str, meaning: Meaning) -> None:
    assert parse_result(hex_(value)).meaning is meaning
