"""Posts of Bluesky as envelopes and back, record keys that are times, cursors, pages that anybody wrote."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.im.connectors.bluesky.cursor import build_cursor, parse_cursor
from gateway.im.connectors.bluesky.form import parse_login
from gateway.im.connectors.bluesky.posts import (
    HOME,
    build_post,
    build_text,
    parse_post,
    parse_ref,
    parse_uri,
)
from gateway.im.connectors.bluesky.tid import build_tid, choose_tid, parse_tid
from gateway.model.im import (
    Conversation,
    ConversationKind,
    Credentials,
    CursorForgotten,
    Envelope,
    Geo,
    Kind,
    Media,
    MediaFile,
    Person,
    Rejected,
)

DID = "did:plc:abcdefghijklmnopqrstuvwx"
URI = f"at://{DID}/app.bsky.feed.post/3l2aaaaaaaa2b"
CID = "bafkreiabc"


def parsed(value: object, uri: object = URI, text_bytes: int = 1_000) -> Envelope | None:
    record = {"uri": uri, "cid": CID, "value": value}
    return parse_post(record, me="did:plc:me", names={DID: "you.test"}, text_bytes=text_bytes, now_ms=7)


def envelope(text: str = "", **more: object) -> Envelope:
    return Envelope("bluesky", HOME, Person("me"), text=text, **more)  # type: ignore[arg-type]


def test_a_post_with_pictures_in_answer_to_another() -> None:
    got = parsed(
        {
            "text": "look geo:1.5,2",
            "createdAt": "2026-01-02T03:04:05.678Z",
            "reply": {"parent": {"uri": URI}, "root": {"uri": URI}},
            "embed": {
                "$type": "app.bsky.embed.images",
                "images": [
                    {"image": {"ref": {"$link": CID}, "mimeType": "image/png", "size": 70}, "aspectRatio": {"width": 3}}
                ],
            },
        }
    )
    assert got is not None
    assert (got.kind, got.conversation, got.remote_id, got.reply_to) == (Kind.POST, HOME, URI, URI)
    assert (got.at_remote_ms, got.geo, got.sender.display) == (1_767_323_045_678, Geo(1.5, 2.0), "you.test")
    assert got.media == (Media(f"{DID}/{CID}", "image/png", 70, width=3),)
    assert parse_ref(got.media[0].ref) == (DID, CID)


def test_what_a_post_shows_beside_its_text() -> None:
    page = parsed({"text": "see", "embed": {"external": {"uri": "https://example.org/a"}}})
    quoted = parsed({"text": "", "embed": {"record": {"uri": URI}}})
    clip = parsed({"text": "", "embed": {"media": {"video": {"ref": {"$link": CID}, "mimeType": "video/mp4"}}}})
    assert page is not None
    assert page.text == "see\nhttps://example.org/a"
    assert quoted is not None
    assert quoted.text == f"https://bsky.app/profile/{DID}/post/3l2aaaaaaaa2b"
    assert clip is not None
    assert clip.media[0].mime == "video/mp4"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
KEYS = st.sampled_from(["text", "createdAt", "reply", "embed"])


@given(st.dictionaries(KEYS, JSON), st.sampled_from(["images", "media", "record", "external", "video", "parent"]), JSON)
def test_whatever_a_record_holds_is_a_post_or_none(value: dict[str, object], name: str, inner: object) -> None:
    value = {"text": "x", **value}
    for key in ("embed", "reply"):
        if key in value:
            value[key] = {name: inner}
    got = parsed(value, text_bytes=50)
    if got is not None:
        assert len(got.text.encode()) <= 50
        assert got.at_remote_ms >= 0


@given(JSON)
def test_whatever_is_no_record(record: object) -> None:
    assert parse_post(record, me="", names={}, text_bytes=10, now_ms=1) is None
    parse_uri(record)


@pytest.mark.parametrize(
    "uri",
    [None, "", "at://x", "https://x/y/z", f"at://{DID}/app.bsky.feed.like/3l2", f"{URI}/more", f"at://{DID}/../x"],
)
def test_what_is_no_post(uri: object) -> None:
    assert parsed({"text": "x"}, uri) is None


def test_links_are_marked_by_their_bytes() -> None:
    text = "grüß https://example.org/x 世界"
    record = build_post(text, 1_767_323_045_678_000)
    index = record["facets"][0]["index"]
    assert text.encode()[index["byteStart"] : index["byteEnd"]] == b"https://example.org/x"
    assert record["createdAt"] == "2026-01-02T03:04:05.678Z"
    json.dumps(record)


def test_pictures_are_shown_and_other_files_are_links() -> None:
    media = Media("m", "image/png", 70, width=1, height=2)
    record = build_post("", 1, images=[({"ref": 1}, media)])
    assert record["embed"]["images"][0]["aspectRatio"] == {"width": 1, "height": 2}
    file = MediaFile(Media("c", "video/mp4"), "/nowhere", "https://push.example/m/1")
    assert build_text(envelope("see", geo=Geo(1.5, 2.0)), [file]) == "see\ngeo:1.5,2\nhttps://push.example/m/1"


@pytest.mark.parametrize(
    ("made", "field"),
    [
        (envelope("x" * 3_001), "text"),
        (envelope("x", kind=Kind.EDIT), "kind"),
        (Envelope("bluesky", Conversation(ConversationKind.DM, "you"), Person("me"), text="x"), "conversation"),
    ],
)
def test_what_can_not_be_posted(made: Envelope, field: str) -> None:
    with pytest.raises(Rejected, match=f"^{field}: "):
        build_text(made, [])


@given(st.integers(0, (1 << 53) - 1), st.integers(0, 1_023))
def test_keys_are_in_the_order_of_time(micros: int, clock: int) -> None:
    tid = build_tid(micros, clock)
    assert parse_tid(tid) == micros
    if micros:
        assert build_tid(micros - 1, 1_023) < tid


@given(st.integers(1, 1 << 42), st.text(max_size=30))
def test_a_transaction_has_one_key(at_ms: int, txn_id: str) -> None:
    tid = choose_tid(at_ms, txn_id)
    assert tid == choose_tid(at_ms, txn_id)
    micros = parse_tid(tid)
    assert micros is not None
    assert micros // 1_000 == at_ms


def test_cursors() -> None:
    seen = {DID: "3l2aaaaaaaa2b", "did:web:example.org": ""}
    assert parse_cursor(build_cursor(seen)) == seen


@given(st.binary(max_size=60))
def test_a_cursor_of_somebody_else_is_forgotten(cursor: bytes) -> None:
    with pytest.raises(CursorForgotten):
        parse_cursor(cursor)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"handle": ""}, "handle"),
        ({"handle": "a b"}, "handle"),
        ({"password": ""}, "password"),
        ({"password": "x" * 401}, "password"),
        ({"server": "a/b"}, "server"),
        ({"server": "a:70000"}, "server"),
        ({"tls": "no"}, "tls"),
    ],
)
def test_a_wrong_form_is_rejected_by_its_field(values: dict[str, str], field: str) -> None:
    with pytest.raises(Rejected, match=f"^{field}: "):
        parse_login(Credentials({"handle": "me.test", "password": "secret", **values}))
