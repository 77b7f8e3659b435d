"""Posts of Mastodon as envelopes and back; HTML as text; whatever servers send."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.im.connectors.mastodon.form import parse_login
from gateway.im.connectors.mastodon.session import parse_cursor
from gateway.im.connectors.mastodon.statuses import HOME, build_draft, parse_status
from gateway.im.connectors.mastodon.text import parse_html, strip_mentions
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

STATUS = {
    "id": "110",
    "created_at": "2026-01-02T03:04:05.678Z",
    "account": {"id": "7", "acct": "You@Elsewhere.example", "display_name": "You"},
    "content": "<p>see <a href='x'>this</a><br>and that</p><p>geo:1.5,2</p>",
    "visibility": "public",
    "media_attachments": [
        {"type": "image", "url": "https://files.example/a.png?x", "meta": {"original": {"width": 3, "height": 4}}},
        {"type": "video", "url": "https://files.example/b"},
        {"type": "image", "url": "file:///etc/passwd"},
    ],
    "in_reply_to_id": "109",
}


def parsed(status: object, text_bytes: int = 1_000) -> Envelope | None:
    return parse_status(status, me="1", text_bytes=text_bytes, now_ms=7)


def test_a_post() -> None:
    got = parsed(STATUS)
    assert got is not None
    assert (got.conversation, got.kind, got.remote_id, got.reply_to) == (HOME, Kind.POST, "110", "109")
    assert got.text == "see this\nand that\n\ngeo:1.5,2"
    assert (got.geo, got.at_remote_ms) == (Geo(1.5, 2.0), 1_767_323_045_678)
    assert (got.sender.remote_id, got.sender.display) == ("you@elsewhere.example", "You")
    assert [media.mime for media in got.media] == ["image/png", "video/mp4"]
    assert (got.media[0].width, got.media[0].height) == (3, 4)


def test_direct_messages_from_and_to_one_person() -> None:
    direct = {**STATUS, "visibility": "direct", "content": "<p>@me@here hello</p>", "media_attachments": []}
    got = parsed(direct)
    assert got is not None
    assert got.conversation == Conversation(ConversationKind.DM, "you@elsewhere.example")
    assert (got.text, got.kind) == ("hello", Kind.TEXT)
    ours = parsed({**direct, "account": {"id": 1, "acct": "me"}, "mentions": [{"id": "9", "acct": "them"}]})
    assert ours is not None
    assert (ours.sender.is_self, ours.conversation.remote_id) == (True, "them")
    assert parsed({**direct, "account": {"id": 1, "acct": "me"}, "mentions": []}) is None


def test_a_boost_says_whose_it_is() -> None:
    got = parsed({**STATUS, "content": "", "reblog": {"content": "<p>wise</p>", "account": {"acct": "third"}}})
    assert got is not None
    assert got.text == "RT @third: wise"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from([*sorted(STATUS), "reblog", "mentions", "spoiler_text"]), JSON), JSON)
def test_whatever_a_server_sends_is_a_post_or_none(odd: dict[str, object], other: object) -> None:
    got = parsed({**STATUS, **odd}, text_bytes=40)
    if got is not None:
        assert len(got.text.encode()) <= 40
    parsed(other)


@given(st.text(max_size=300) | st.from_regex(r"(<[a-z!?/]{1,4}[^>]{0,9}>?|&#?x?[a-z0-9]{0,5};?|[a-z ]){0,40}"))
def test_any_html_is_a_text(html: str) -> None:
    strip_mentions(parse_html(html))


def test_scripts_are_no_text() -> None:
    assert parse_html("<p>a</p><script>b</script><style>c</style><ul><li>d</li></ul>") == "a\n\n\n- d".replace(
        "\n\n\n", "\n\n"
    )


def draft(text: str, conversation: Conversation = HOME, **more: object) -> Envelope:
    return Envelope("mastodon", conversation, Person("me"), text=text, **more)  # type: ignore[arg-type]


def test_what_goes_out() -> None:
    file = MediaFile(Media("c", "application/pdf"), "/nowhere", "https://push.example/m/1")
    made = build_draft(draft("see", geo=Geo(1.5, 2.0), subject="careful", reply_to="9"), [file], False)
    assert made == ("see\ngeo:1.5,2\nhttps://push.example/m/1", None, "careful", "9")
    direct = build_draft(draft("hi", Conversation(ConversationKind.DM, "you@there.example")), [], False)
    assert (direct.text, direct.visibility) == ("@you@there.example hi", "direct")


@pytest.mark.parametrize(
    ("made", "field"),
    [
        (draft(""), "text"),
        (draft("x", kind=Kind.REDACTION), "kind"),
        (draft("x", Conversation(ConversationKind.DM, "a b")), "conversation"),
        (draft("x", Conversation(ConversationKind.ROOM, "room")), "conversation"),
        (draft("x", reply_to="../x"), "reply_to"),
    ],
)
def test_what_can_not_be_posted(made: Envelope, field: str) -> None:
    with pytest.raises(Rejected, match=f"^{field}: "):
        build_draft(made, [], False)


@given(st.binary(max_size=40))
def test_a_cursor_of_somebody_else_is_forgotten(cursor: bytes) -> None:
    with pytest.raises(CursorForgotten):
        parse_cursor(cursor)


@pytest.mark.parametrize(
    ("values", "field"),
    [({"server": "a/b"}, "server"), ({"server": ""}, "server"), ({"tls": "no"}, "tls"), ({"token": "a b"}, "token")],
)
def test_a_wrong_form_is_rejected_by_its_field(values: dict[str, str], field: str) -> None:
    with pytest.raises(Rejected, match=f"^{field}: "):
        parse_login(Credentials({"server": "mastodon.example", "token": "secret", **values}))
