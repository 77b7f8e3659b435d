"""What goes out to XMPP: always XML, always the same name for the same try."""

from __future__ import annotations

import contextlib
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slixmpp.xmlstream import tostring

from gateway.im.connectors.xmpp.archive import build_cursor, parse_cursor
from gateway.im.connectors.xmpp.form import parse_login
from gateway.im.connectors.xmpp.incoming import Reader, parse_message
from gateway.im.connectors.xmpp.outgoing import build_mark, build_messages, build_presence, build_typing
from gateway.model.im import (
    Conversation,
    ConversationKind,
    Credentials,
    CursorForgotten,
    Envelope,
    Geo,
    Kind,
    Message,
    Person,
    Rejected,
)

ME, BOB = "alice@x.example", "bob@y.example"
DM = Conversation(ConversationKind.DM, BOB)


def outgoing(text: str, **more: object) -> Envelope:
    return Envelope("xmpp", DM, Person("", is_self=True), text=text, txn_id="t1", **more)  # type: ignore[arg-type]


def read_back(message: ElementTree.Element) -> Envelope:
    """As the other side has it."""
    xml = ElementTree.fromstring(tostring(message, top_level=True))
    xml.set("from", f"{ME}/here")
    [event] = parse_message(xml, Reader(BOB, {}, 1 << 20), now_ms=1)
    assert isinstance(event, Message)
    return event.envelope


@given(st.text(st.characters(), min_size=1, max_size=200))
def test_any_text_is_xml_and_comes_back(text: str) -> None:
    with contextlib.suppress(Rejected):
        [message] = build_messages(outgoing(text), ME, [])
        if text.strip() and not text.strip().lower().startswith("geo:"):
            assert len(read_back(message).text) >= len(text.replace("\r\n", "\n")) - text.count("\r")


@given(st.floats(-90, 90), st.floats(-180, 180))
def test_a_place_comes_back(latitude: float, longitude: float) -> None:
    [message] = build_messages(outgoing("", kind=Kind.LOCATION, geo=Geo(latitude, longitude)), ME, [])
    geo = read_back(message).geo
    assert geo is not None
    assert abs(geo.latitude - latitude) < 1e-8


def test_each_try_has_the_same_name_and_each_message_another() -> None:
    links = ["https://files.example/1.png", "https://files.example/2.png"]
    names = [message.get("id") for message in build_messages(outgoing("look"), ME, links)]
    assert names == [message.get("id") for message in build_messages(outgoing("look"), ME, links)]
    assert len(set(names)) == 3


@given(st.text(), st.text(max_size=30), st.sampled_from(list(ConversationKind)))
def test_whatever_a_user_names_is_xml_or_rejected(remote_id: str, address: str, kind: ConversationKind) -> None:
    conversation = Conversation(kind, address)
    with contextlib.suppress(Rejected):
        ElementTree.fromstring(tostring(build_typing(conversation, is_typing=True), top_level=True))
        ElementTree.fromstring(tostring(build_mark(conversation, remote_id), top_level=True))
    ElementTree.fromstring(tostring(build_presence("subscribe", BOB, remote_id), top_level=True))


def test_a_message_without_a_name_can_not_be_marked() -> None:
    with pytest.raises(Rejected, match="remote_id"):
        build_mark(DM, " archive-id")


@given(st.text(max_size=30), st.dictionaries(st.text(max_size=10), st.text(max_size=10), max_size=5))
def test_a_cursor_comes_back(last: str, rooms: dict[str, str]) -> None:
    with contextlib.suppress(UnicodeEncodeError):
        assert parse_cursor(build_cursor(last, rooms)) == (last, rooms)


@given(st.binary(max_size=60))
def test_any_other_cursor_is_forgotten(cursor: bytes) -> None:
    with contextlib.suppress(CursorForgotten):
        last, rooms = parse_cursor(cursor)
        assert isinstance(last, str)
        assert isinstance(rooms, dict)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("jid", "alice"),
        ("jid", ""),
        ("jid", "@x"),
        ("password", ""),
        ("port", "0"),
        ("port", "70000"),
        ("tls", "maybe"),
    ],
)
def test_a_wrong_form_names_the_field(field: str, value: str) -> None:
    values = {"jid": "Alice@X.example", "password": "s3cret"}
    assert parse_login(Credentials(values)).jid == "alice@x.example"
    with pytest.raises(Rejected, match=field) as caught:
        parse_login(Credentials({**values, field: value}))
    assert "s3cret" not in str(caught.value)


@given(st.dictionaries(st.sampled_from(["jid", "password", "host", "port", "tls"]), st.text(max_size=40)))
def test_any_form_is_a_login_or_rejected(values: dict[str, str]) -> None:
    with contextlib.suppress(Rejected):
        login = parse_login(Credentials(values))
        assert values["password"] not in repr(login) or len(values["password"]) < 15
