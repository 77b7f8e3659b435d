"""Messages of IRC as envelopes and back: rooms, direct messages, places, ids, what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.im.connectors.irc.lines import Line, build_line, parse_line
from gateway.im.connectors.irc.messages import Ids, build_pieces, parse_message
from gateway.model.im import (
    Conversation,
    ConversationKind,
    Envelope,
    Geo,
    Kind,
    Media,
    MediaFile,
    Person,
    Rejected,
)


def parsed(line: Line, ids: Ids | None = None, text_bytes: int = 1_000) -> Envelope | None:
    return parse_message(
        line,
        me="Me",
        casemapping="rfc1459",
        chantypes="#&",
        text_bytes=text_bytes,
        now_ms=7,
        ids=ids or Ids(),
    )


def envelope(text: str, target: str = "you", **more: object) -> Envelope:
    return Envelope("irc", Conversation(ConversationKind.DM, target), Person("me"), text=text, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("raw", "kind", "conversation", "is_self"),
    [
        (b":You!u@h PRIVMSG me :hi", ConversationKind.DM, "you", False),
        (b":You!u@h PRIVMSG #Room :hi", ConversationKind.ROOM, "#room", False),
        (b":You!u@h PRIVMSG @#Room :hi", ConversationKind.ROOM, "#room", False),
        (b":me!u@h PRIVMSG You[] :hi", ConversationKind.DM, "you{}", True),
        (b":You!u@h NOTICE me :hi", ConversationKind.DM, "you", False),
    ],
)
def test_whose_a_message_is(raw: bytes, kind: ConversationKind, conversation: str, is_self: bool) -> None:
    got = parsed(parse_line(raw))
    assert got is not None
    assert got.conversation == Conversation(kind, conversation)
    assert got.sender.is_self is is_self
    assert got.text == "hi"


@pytest.mark.parametrize(
    "raw",
    [
        b":irc.example NOTICE me :welcome",
        b"NOTICE AUTH :x",
        b":y!u@h PRIVMSG me :\x01DCC SEND x\x01",
        b":y!u@h PRIVMSG me",
    ],
)
def test_what_is_nobodys_message(raw: bytes) -> None:
    assert parsed(parse_line(raw)) is None


def test_places_and_times() -> None:
    got = parsed(parse_line(b"@time=2026-01-02T03:04:05.678Z :y!u@h PRIVMSG me :geo:48.2,16.4"))
    assert got is not None
    assert (got.kind, got.geo, got.at_remote_ms) == (Kind.LOCATION, Geo(48.2, 16.4), 1_767_323_045_678)
    with_words = parsed(parse_line(b":y!u@h PRIVMSG me :meet at geo:48.2,16.4 then"))
    assert with_words is not None
    assert (with_words.kind, with_words.geo) == (Kind.TEXT, Geo(48.2, 16.4))


def test_ids_are_the_servers_or_the_same_each_time_or_of_their_own() -> None:
    ids, again = Ids(), Ids()
    assert ids.of(parse_line(b"@msgid=abc :y!u@h PRIVMSG me :x")) == "abc"
    line = parse_line(b"@time=2026-01-02T03:04:05Z :y!u@h PRIVMSG me :x")
    twice = [ids.of(line), ids.of(line)]
    assert len(set(twice)) == 2
    assert twice == [again.of(line), again.of(line)]
    bare = parse_line(b":y!u@h PRIVMSG me :x")
    assert len({each.of(bare) for each in (ids, again) for _ in range(10)}) == 20


def test_files_and_places_are_words() -> None:
    file = MediaFile(Media("m", name="a.png"), "/nowhere", "https://push.example/m/1")
    pieces = build_pieces(envelope("see", geo=Geo(1.5, 2.0), media=(file.media,)), [file], nick="me")
    assert pieces == ["see", "geo:1.5,2", "a.png https://push.example/m/1"]


@pytest.mark.parametrize(
    ("target", "text", "field"),
    [
        ("a,b", "x", "conversation"),
        ("a b", "x", "conversation"),
        ("", "x", "conversation"),
        ("a\nQUIT", "x", "conversation"),
        ("you", "", "text"),
        ("you", "\n" * 9, "text"),
        ("you", "x\n" * 17, "text"),
        ("y" * 200, "x" * 5_000, "text"),
    ],
)
def test_what_can_not_be_said_is_refused_by_its_field(target: str, text: str, field: str) -> None:
    with pytest.raises(Rejected, match=f"^{field}: "):
        build_pieces(envelope(text, target), [], nick="me")


@given(st.text(max_size=1_500), st.text(min_size=1, max_size=60))
def test_what_is_said_is_whole_lines(text: str, target: str) -> None:
    try:
        pieces = build_pieces(envelope(text, target), [], nick="me")
    except Rejected:
        return
    for piece in pieces:
        relayed = b":me!~user@" + b"h" * 63 + b" " + build_line("PRIVMSG", target, piece)
        assert len(relayed) <= 512
        assert relayed.count(b"\n") == 1


@given(st.binary(max_size=300), st.integers(1, 100))
def test_texts_from_servers_are_bounded(text: bytes, most: int) -> None:
    got = parsed(parse_line(b":y!u@h PRIVMSG me :" + text.replace(b"\n", b" ")), text_bytes=most)
    if got is not None:
        assert len(got.text.encode()) <= most
