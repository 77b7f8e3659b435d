"""Netstrings, messages and push parameters of a Contact: they come back, and any bytes lead to the declared error."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.paging.ims.contact import BadParams, PushParams, build_push_params, parse_push_params
from gateway.paging.ims.messages import (
    BadMessage,
    End,
    Hello,
    Page,
    Paged,
    Ping,
    Pong,
    Refused,
    build,
    parse_said,
    parse_told,
)
from gateway.paging.ims.netstrings import BadFrame, Netstrings, build_netstring

ID = "12:3400000000"
TOLD = [Page(ID, "INVITE", "sip:bob@example.com", "pn-provider=heliograph", 9), End(ID, "released"), Pong()]
SAID = [Hello(), Ping(), Paged(ID), Refused(ID, "unpageable")]


# --- netstrings


@given(st.lists(st.binary(max_size=300), max_size=8), st.integers(1, 50))
def test_netstrings_come_back_whatever_pieces_they_arrive_in(frames: list[bytes], size: int) -> None:
    wire = b"".join(map(build_netstring, frames))
    reader, found = Netstrings(300), list[bytes]()
    for at in range(0, len(wire), size):
        found += reader.feed(wire[at : at + size])
    assert found == frames


@given(st.binary(max_size=200), st.integers(1, 30))
def test_any_bytes_are_frames_or_bad_and_never_held_past_the_bound(data: bytes, size: int) -> None:
    reader = Netstrings(50)
    try:
        for at in range(0, len(data), size):
            reader.feed(data[at : at + size])
            assert len(reader._buffer) <= 50 + 9
    except BadFrame:
        pass


@pytest.mark.parametrize(
    "wire", [b"51:", b"-1:a,", b"05:aaaaa,", b":,", b"1:aa", b"x", b"1234567", b"999999:", b"+1:a,", b" 1:a,"]
)
def test_what_is_no_netstring_ends_it(wire: bytes) -> None:
    reader = Netstrings(50)
    with pytest.raises(BadFrame):
        reader.feed(wire + b"0" * 8)


# --- messages


@pytest.mark.parametrize("message", TOLD)
def test_what_a_server_says_comes_back(message: Page | End | Pong) -> None:
    assert parse_told(build(message)) == message


@pytest.mark.parametrize("message", SAID)
def test_what_a_gateway_says_comes_back(message: Hello | Ping | Paged | Refused) -> None:
    assert parse_said(build(message)) == message


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_any_bytes_are_a_message_or_bad(data: bytes) -> None:
    for parse in (parse_told, parse_said):
        with contextlib.suppress(BadMessage):
            parse(data)


def test_an_error_holds_nothing_of_what_was_given() -> None:
    for parse in (parse_told, parse_said, lambda data: parse_push_params(data.decode())):
        with pytest.raises((BadMessage, BadParams)) as caught:
            parse(b"pn-prid=%ff;pn-provider=secret")
        assert caught.value.__context__ is None
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        '{"event":"page","id":"1:2","method":"INVITE","impu":"sip:a@b","left_s":0}',
        '{"event":"page","id":"1:2","method":"INVITE","impu":"sip:a@b","left_s":3601}',
        '{"event":"page","id":"1:2","method":"INVITE","impu":7,"left_s":1}',
        '{"event":"page","id":"1;2","method":"INVITE","impu":"sip:a@b","left_s":1}',
        '{"event":"page","id":"1:2","method":"invite\\n","impu":"sip:a@b","left_s":1}',
        '{"event":"page","method":"INVITE","impu":"sip:a@b","left_s":1}',
        '{"event":"end","id":"1:2","why":"bored"}',
        '{"event":"hello"}',
        "[" * 5_000,
        "",
        "null",
    ],
)
def test_a_message_that_breaks_the_rules_is_bad(text: str) -> None:
    with pytest.raises(BadMessage):
        parse_told(text.encode())


def test_fields_of_a_newer_server_are_passed_over() -> None:
    told = parse_told(b'{"event":"end","id":"1:2","why":"timeout","since":3}')
    assert told == End("1:2", "timeout")


def test_a_page_is_printed_without_who_is_called() -> None:
    assert repr(TOLD[0]) == f"Page({ID}, INVITE)"


# --- RFC 8599

written = st.text(st.characters(codec="utf-8"), max_size=30).filter(str.isprintable)
values = st.none() | written.filter(bool)


@given(st.builds(PushParams, provider=written, param=values, prid=values, purr=values))
def test_push_parameters_come_back(params: PushParams) -> None:
    assert parse_push_params(build_push_params(params)) == params


@pytest.mark.parametrize(
    "params", [PushParams(prid="a"), PushParams("a", prid=""), PushParams("a\n"), PushParams("\ud800")]
)
def test_what_could_not_be_read_again_is_not_built(params: PushParams) -> None:
    with pytest.raises(BadParams):
        build_push_params(params)


@given(st.text(max_size=200) | st.from_regex(r"(;pn-(provider|param|prid|purr)(=[a-z%@0-9;]{0,9})?){0,5}"))
def test_any_text_is_push_parameters_or_bad(text: str) -> None:
    try:
        params = parse_push_params(text)
    except BadParams:
        return
    if params.provider is not None or params.purr is not None:
        assert parse_push_params(build_push_params(params)) == params


def test_push_parameters_stand_beside_others_and_an_id_is_escaped() -> None:
    built = build_push_params(PushParams("heliograph", "ims", "k3v7@push.example.com", "p1"))
    assert built == ";pn-provider=heliograph;pn-param=ims;pn-prid=k3v7%40push.example.com;pn-purr=p1"
    parsed = parse_push_params("transport=udp" + built + ";ob")
    assert parsed == ("heliograph", "ims", "k3v7@push.example.com", "p1")
    assert parse_push_params("lr;PN-Provider") == PushParams(provider="")
    assert parse_push_params("") == PushParams()
    assert repr(parsed) == "PushParams(pn-provider, pn-param, pn-prid, pn-purr)"


@pytest.mark.parametrize(
    "text",
    [
        "pn-prid=a",  # without a provider
        "pn-provider=a;pn-provider=b",
        "pn-provider=",
        "pn-provider=a;pn-prid",
        "pn-provider=a;pn-prid=a@b",  # @ has to be escaped
        "pn-provider=a;pn-prid=%4",
        "pn-provider=a;pn-prid=%00",
        "pn-provider=a;pn-prid=%ff",
        "pn-provider=a;pn-prid=a b",
        "pn-provider=a;pn-prid=" + "a" * 3_000,
    ],
)
def test_push_parameters_that_break_the_rules_are_bad(text: str) -> None:
    with pytest.raises(BadParams):
        parse_push_params(text)


def test_a_message_that_is_no_utf_8_is_none() -> None:
    with pytest.raises(BadMessage):
        parse_told(b'{"event":"page","id":"1:1","method":"INVITE","impu":"sip:\xff@x","left_s":3}')
