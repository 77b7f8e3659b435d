"""Messages of XMPP as they come → events, whatever XML a peer makes up."""

from __future__ import annotations

import contextlib
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.im.connectors.xmpp import words
from gateway.im.connectors.xmpp.contacts import parse_item, parse_presence
from gateway.im.connectors.xmpp.errors import parse_stanza_error, stream_failure
from gateway.im.connectors.xmpp.files import parse_service, parse_slot
from gateway.im.connectors.xmpp.incoming import Reader, cut, is_own, message_id, parse_message
from gateway.model.im import Event, Kind, Message, ReadUpTo, Rejected, TypingChanged

ME, BOB, ROOM = "alice@x.example", "bob@y.example", "tea@rooms.x.example"
READER = Reader(ME, {ROOM: "alice"}, 32_768)
NOW_MS = 1_800_000_000_000


def parse(
    inner: str, attributes: str = "type='chat' id='message-0000001'", sender: str = f"{BOB}/phone"
) -> list[Event]:
    xml = ElementTree.fromstring(
        f"<message xmlns='jabber:client' from='{sender}' to='{ME}' {attributes}>{inner}</message>"
    )
    return parse_message(xml, READER, now_ms=NOW_MS)


def envelope(inner: str, **more: str):  # type: ignore[no-untyped-def]
    [event] = parse(inner, **more)
    assert isinstance(event, Message)
    return event.envelope


def test_a_text_has_who_said_it_and_the_name_its_sender_gave() -> None:
    said = envelope("<body>hello</body>")
    assert (said.text, said.sender.remote_id, said.conversation.remote_id) == ("hello", BOB, BOB)
    assert (said.remote_id, said.kind, said.at_remote_ms) == ("message-0000001", Kind.TEXT, NOW_MS)


def test_a_short_name_may_come_twice_and_gets_the_archives_beside_it() -> None:
    given_id = f"<stanza-id xmlns='urn:xmpp:sid:0' by='{ME}' id='arch-17'/>"
    said = envelope("<body>hello</body>" + given_id, attributes="type='chat' id='7'")
    assert said.remote_id == "7 arch-17"
    assert message_id(said.remote_id) == "7"
    forged = f"<stanza-id xmlns='urn:xmpp:sid:0' by='{BOB}' id='forged'/>"
    assert "forged" not in envelope("<body>hello</body>" + forged, attributes="type='chat' id='7'").remote_id


def test_messages_without_any_name_are_told_apart() -> None:
    one, other = (envelope(f"<body>{text}</body>", attributes="type='chat'").remote_id for text in ("a", "b"))
    assert one != other
    assert message_id(one) == message_id(other) == ""


def test_what_a_room_says_is_known_by_the_rooms_name_for_it() -> None:
    given_id = f"<stanza-id xmlns='urn:xmpp:sid:0' by='{ROOM}' id='r-1'/>"
    said = envelope(f"<body>hi</body>{given_id}", attributes="type='groupchat' id='x'", sender=f"{ROOM}/bob")
    assert (said.remote_id, said.sender.display, said.sender.remote_id) == ("r-1", "bob", f"{ROOM}/bob")
    assert parse("<body>hi</body>", "type='groupchat'", f"{ROOM}/alice")[0].envelope.sender.is_self  # type: ignore[union-attr]
    assert parse("<body>hi</body>", "type='groupchat'", "other@rooms.x.example/bob") == []
    assert parse("<subject>new subject</subject>", "type='groupchat'", f"{ROOM}/bob") == []


def test_one_of_a_room_who_says_something_to_us_alone_is_a_conversation_of_its_own() -> None:
    assert envelope("<body>psst</body>", sender=f"{ROOM}/bob").conversation.remote_id == f"{ROOM}/bob"


def test_a_link_beside_a_message_is_a_file() -> None:
    link = "https://files.example/a/photo%20one.png"
    said = envelope(f"<body>{link}</body><x xmlns='jabber:x:oob'><url>{link}</url></x>")
    assert (said.kind, said.text) == (Kind.MEDIA, "")
    assert (said.media[0].ref, said.media[0].mime, said.media[0].name) == (link, "image/png", "photo one.png")


@pytest.mark.parametrize(
    "inner",
    [
        "<geoloc xmlns='http://jabber.org/protocol/geoloc'><lat>48.5</lat><lon>16.25</lon></geoloc>",
        "<body>geo:48.5,16.25</body>",
        "<body>geo:48.5,16.25</body><geoloc xmlns='http://jabber.org/protocol/geoloc'><lat>48.5</lat><lon>16.25</lon>"
        "<accuracy></accuracy></geoloc>",
    ],
)
def test_places(inner: str) -> None:
    said = envelope(inner)
    assert said.geo is not None
    assert (said.kind, said.text, said.geo.latitude, said.geo.longitude) == (Kind.LOCATION, "", 48.5, 16.25)


@pytest.mark.parametrize("latitude", ["", "nan", "inf", "91", "1e999", "x", "9" * 400])
def test_places_outside_the_globe_are_none(latitude: str) -> None:
    place = f"<lat>{latitude}</lat><lon>0</lon>"
    assert parse(f"<geoloc xmlns='http://jabber.org/protocol/geoloc'>{place}</geoloc>") == []


def test_a_reply_is_told_without_its_quotation() -> None:
    said = envelope(
        "<body>&gt; before\nyes</body><reply xmlns='urn:xmpp:reply:0' id='q1' to='x'/>"
        "<fallback xmlns='urn:xmpp:fallback:0' for='urn:xmpp:reply:0'><body start='0' end='9'/></fallback>"
    )
    assert (said.text, said.reply_to) == ("yes", "q1")


def test_marks_and_typing() -> None:
    [mark] = parse("<displayed xmlns='urn:xmpp:chat-markers:0' id='m-1'/>")
    assert isinstance(mark, ReadUpTo)
    assert (mark.remote_id, mark.by.remote_id) == ("m-1", BOB)
    [typing] = parse("<composing xmlns='http://jabber.org/protocol/chatstates'/>")
    assert isinstance(typing, TypingChanged)
    assert typing.is_typing
    past = ElementTree.fromstring(
        f"<message xmlns='jabber:client' from='{BOB}'><composing xmlns='http://jabber.org/protocol/chatstates'/></message>"
    )
    assert parse_message(past, READER, now_ms=NOW_MS, is_past=True) == []


def test_a_stamp_in_the_future_is_now() -> None:
    for stamp, at_ms in {"2099-01-01T00:00:00Z": NOW_MS, "2001-09-09T01:46:40Z": 10**12, "0001-01-01": NOW_MS}.items():
        said = envelope(f"<body>x</body><delay xmlns='urn:xmpp:delay' stamp='{stamp}'/>")
        assert said.at_remote_ms == at_ms


def test_nobody_else_can_pass_for_this_gateway() -> None:
    xml = ElementTree.fromstring(f"<message xmlns='jabber:client' from='{BOB}' id='hg-1'/>")
    assert not is_own(xml, READER)
    xml.set("from", f"{ME}/phone")
    assert is_own(xml, READER)


def test_nothing_is_shown_by_being_printed() -> None:
    assert "secret" not in repr(parse("<body>secret</body>"))
    assert BOB not in repr(parse("<body>secret</body>"))


TAGS = [
    *("body", "subject", "error"),
    *(f"{words.OOB}x", f"{words.OOB}url", f"{words.GEOLOC}geoloc", f"{words.GEOLOC}lat", f"{words.GEOLOC}lon"),
    *(f"{words.REPLY}reply", f"{words.FALLBACK}fallback", f"{words.FALLBACK}body", f"{words.CORRECT}replace"),
    *(f"{words.RETRACT}retract", f"{words.MARKERS}displayed", f"{words.STATES}composing", f"{words.DELAY}delay"),
    *(f"{words.STANZA_IDS}stanza-id", f"{words.UPLOAD}slot", f"{words.UPLOAD}put", f"{words.UPLOAD}get"),
    *(f"{words.DISCO_INFO}query", f"{words.FORM}x", f"{words.FORM}field", f"{words.FORM}value", f"{words.ROSTER}item"),
]
NAMES = ["id", "by", "from", "to", "type", "stamp", "start", "end", "for", "jid", "name", "subscription", "url", "var"]
TEXTS = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        [ME, BOB, ROOM, f"{ROOM}/bob", "groupchat", "error", "geo:1,2", "http://[", "9" * 20, "-1", "remove"]
    ),
)


PARTS = st.tuples(
    st.sampled_from(TAGS),
    st.dictionaries(st.sampled_from(NAMES), TEXTS, max_size=3),
    st.none() | TEXTS,
    st.integers(0, 2),
)


def build(tag: str, attributes: dict[str, str], parts: list[tuple[str, dict[str, str], str | None, int]]) -> Element:
    """Each part goes so deep below the one before."""
    made = ElementTree.Element(tag, attributes)
    way = [made]
    for name, more, text, depth in parts:
        child = ElementTree.SubElement(
            way[min(depth, len(way) - 1)], name if name.startswith("{") else words.CLIENT + name, more
        )
        child.text = text
        way = [*way[: depth + 1], child]
    return made


@given(st.lists(PARTS, max_size=8), st.dictionaries(st.sampled_from(NAMES), TEXTS, max_size=4), st.integers(1, 64))
def test_whatever_a_peer_sends_is_an_event_or_nothing(
    parts: list[tuple[str, dict[str, str], str | None, int]], attributes: dict[str, str], text_bytes: int
) -> None:
    message = build(f"{words.CLIENT}message", attributes, parts)
    reader = READER._replace(text_bytes=text_bytes)
    for event in parse_message(message, reader, now_ms=NOW_MS):
        if isinstance(event, Message):
            assert len(event.envelope.text.encode(errors="replace")) <= text_bytes
            assert event.envelope.remote_id
            assert len(event.envelope.media) <= 16
            assert 0 <= event.envelope.at_remote_ms <= NOW_MS
    is_own(message, reader)
    parse_item(message)
    parse_presence(message)
    assert len(parse_stanza_error(message).condition) < 40
    assert isinstance(stream_failure(message), Exception)
    parse_service(message)
    with contextlib.suppress(Rejected):
        parse_slot(message)


@given(st.text(), st.integers(0, 40))
def test_a_text_is_cut_between_characters(text: str, most: int) -> None:
    kept = cut(text, most)
    assert text.encode(errors="replace").startswith(kept.encode(errors="replace"))
    assert len(kept.encode(errors="replace")) <= most or (kept == text and len(text) * 4 <= most)
