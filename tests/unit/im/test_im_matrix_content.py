"""A message as Matrix has it, and as an envelope."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.im.connectors.matrix.content import ENCRYPTED_TEXT, build_contents, parse_event
from gateway.model.im import Conversation, ConversationKind, Envelope, Geo, Kind, Media, Person, Rejected

ROOM = Conversation(ConversationKind.ROOM, "!room:example.org")
ANNA = Person("@anna:example.org", "Anna")

_leaf = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
json = st.recursive(
    _leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)


def event(content: Any, kind: str = "m.room.message", **more: Any) -> dict[str, Any]:
    return {"type": kind, "event_id": "$1", "sender": ANNA.remote_id, "content": content} | more


def parse(content: Any, kind: str = "m.room.message", text_bytes: int = 1_000, **more: Any) -> Envelope | None:
    return parse_event(event(content, kind, **more), ROOM, ANNA, text_bytes=text_bytes)


def parse_there(content: Any, kind: str = "m.room.message", **more: Any) -> Envelope:
    envelope = parse(content, kind, **more)
    assert envelope is not None
    return envelope


def outgoing(**more: Any) -> Envelope:
    return Envelope(network="matrix", conversation=ROOM, sender=Person("", is_self=True), **more)


def test_a_text() -> None:
    heard = parse_there({"msgtype": "m.text", "body": "grüß dich"}, origin_server_ts=1_700_000_000_000)
    assert (heard.text, heard.remote_id, heard.at_remote_ms) == ("grüß dich", "$1", 1_700_000_000_000)


def test_a_long_text_is_cut_between_characters() -> None:
    assert parse_there({"msgtype": "m.text", "body": "ä" * 10}, text_bytes=5).text == "ää"


def test_a_reply_loses_its_quote() -> None:
    relation = {"m.in_reply_to": {"event_id": "$0"}}
    heard = parse_there({"msgtype": "m.text", "body": "> <@b:x> what?\n> more\n\nthat", "m.relates_to": relation})
    assert (heard.text, heard.reply_to) == ("that", "$0")
    plain = parse_there({"msgtype": "m.text", "body": "> a quote of mine\n\nthat"})
    assert plain.text.startswith("> a quote")


def test_an_edit() -> None:
    content = {
        "msgtype": "m.text",
        "body": "* new",
        "m.new_content": {"msgtype": "m.text", "body": "new"},
        "m.relates_to": {"rel_type": "m.replace", "event_id": "$0"},
    }
    heard = parse_there(content)
    assert (heard.kind, heard.replaces, heard.text) == (Kind.EDIT, "$0", "new")


@pytest.mark.parametrize("where", ["content", "event"])
def test_a_redaction_of_old_and_new_rooms(where: str) -> None:
    content, more = ({"redacts": "$0"}, {}) if where == "content" else ({}, {"redacts": "$0"})
    heard = parse_there(content, "m.room.redaction", **more)
    assert (heard.kind, heard.replaces) == (Kind.REDACTION, "$0")


def test_a_message_that_was_taken_back_is_none() -> None:
    assert parse({}) is None


def test_what_is_encrypted_is_said() -> None:
    assert parse_there({"ciphertext": "…"}, "m.room.encrypted").text == ENCRYPTED_TEXT


def test_a_picture_with_a_caption() -> None:
    content = {
        "msgtype": "m.image",
        "body": "look",
        "filename": "../../etc/dot.png",
        "url": "mxc://example.org/AbC",
        "info": {"mimetype": "image/png", "size": 69, "w": 1, "h": 1},
    }
    heard = parse_there(content)
    assert heard.media == (Media("mxc://example.org/AbC", "image/png", 69, "dot.png", width=1, height=1),)
    assert (heard.kind, heard.text) == (Kind.MEDIA, "look")


@pytest.mark.parametrize(
    "address", ["http://10.0.0.1/x", "mxc://a/../../x", "mxc://a", "mxc://a/b/c", "mxc://a/b?x", ""]
)
def test_media_elsewhere_is_only_its_text(address: str) -> None:
    heard = parse_there({"msgtype": "m.image", "body": "dot.png", "url": address})
    assert (heard.media, heard.text) == ((), "dot.png")


def test_a_place_old_and_new() -> None:
    for content in (
        {"geo_uri": "geo:48.2,16.37;u=10"},
        {"org.matrix.msc3488.location": {"uri": "geo:48.2,16.37;u=10"}},
    ):
        heard = parse_there({"msgtype": "m.location", "body": "here", **content})
        assert heard.geo == Geo(48.2, 16.37, 10.0)
    nowhere = parse_there({"msgtype": "m.location", "body": "here", "geo_uri": "geo:91,0"})
    assert (nowhere.kind, nowhere.geo, nowhere.text) == (Kind.TEXT, None, "here")


def test_state_is_no_message() -> None:
    assert parse({"msgtype": "m.text", "body": "x"}, state_key="") is None


# --- out ---


def test_a_caption_goes_with_the_first_of_two_files() -> None:
    media = (Media("1", "image/png", 5, "a.png", width=2, height=3), Media("2", "application/pdf", 6, "b.pdf"))
    first, second = build_contents(outgoing(kind=Kind.MEDIA, text="look", media=media), ["mxc://x/1", "mxc://x/2"])
    assert (first["msgtype"], first["body"], first["filename"]) == ("m.image", "look", "a.png")
    assert first["info"] == {"mimetype": "image/png", "size": 5, "w": 2, "h": 3}
    assert (second["msgtype"], second["body"], second["url"]) == ("m.file", "b.pdf", "mxc://x/2")


@pytest.mark.parametrize(
    ("field", "envelope"),
    [
        ("text", outgoing(text="")),
        ("text", outgoing(text="x" * 100_000)),
        ("replaces", outgoing(kind=Kind.EDIT, text="x")),
    ],
)
def test_what_can_not_be_sent_is_rejected(field: str, envelope: Envelope) -> None:
    with pytest.raises(Rejected, match=f"^{field}:"):
        build_contents(envelope, [])


@given(
    st.text(min_size=1, max_size=50).filter(lambda text: not text.startswith("> ")),
    st.sampled_from(["", "$before"]),
    st.sampled_from(["", "$older"]),
)
def test_what_goes_out_comes_back(text: str, reply_to: str, replaces: str) -> None:
    kind = Kind.EDIT if replaces else Kind.TEXT
    sent = outgoing(text=text, kind=kind, reply_to="" if replaces else reply_to, replaces=replaces)
    heard = parse_there(build_contents(sent, [])[0])
    assert (heard.text, heard.kind, heard.reply_to, heard.replaces) == (text, kind, sent.reply_to, replaces)


@given(st.floats(-89, 89), st.floats(-179, 179))
def test_places_come_back(latitude: float, longitude: float) -> None:
    sent = outgoing(kind=Kind.LOCATION, geo=Geo(latitude, longitude))
    heard = parse_there(build_contents(sent, [])[0])
    assert heard.geo is not None
    assert abs(heard.geo.latitude - latitude) < 1e-8
    assert abs(heard.geo.longitude - longitude) < 1e-8


_texts = st.sampled_from(["m.text", "m.image", "m.location", "m.emote", "m.video"])
_content = st.fixed_dictionaries(
    {},
    optional={
        "msgtype": _texts | json,
        "body": json | st.text(),
        "url": json | st.just("mxc://a/b"),
        "info": json | st.fixed_dictionaries({}, optional={"mimetype": json, "size": json, "w": json, "h": json}),
        "geo_uri": json | st.just("geo:1,2"),
        "filename": json,
        "redacts": json,
        "m.relates_to": json
        | st.fixed_dictionaries(
            {}, optional={"rel_type": json | st.just("m.replace"), "event_id": json, "m.in_reply_to": json}
        ),
        "m.new_content": json,
    },
)


@given(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["m.room.message", "m.sticker", "m.room.redaction", "m.room.encrypted"]) | json},
        optional={
            "event_id": json | st.just("$1"),
            "content": json | _content,
            "origin_server_ts": json,
            "unsigned": json,
            "state_key": json,
            "redacts": json,
        },
    ),
    st.integers(1, 40),
)
def test_whatever_a_stranger_sends_is_an_envelope_or_nothing(raw: dict[str, Any], text_bytes: int) -> None:
    heard = parse_event(raw, ROOM, ANNA, text_bytes=text_bytes)
    if heard is not None:
        assert heard.remote_id
        assert heard.at_remote_ms >= 0
        assert heard.text == ENCRYPTED_TEXT or len(heard.text.encode()) <= text_bytes
        assert all(media.ref.startswith("mxc://") and "/" not in media.name for media in heard.media)
