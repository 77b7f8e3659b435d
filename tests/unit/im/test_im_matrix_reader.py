"""An answer to /sync, read as events."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.im.connectors.matrix.answer import is_membership, parse_answer
from gateway.im.connectors.matrix.direct import parse_direct, with_room
from gateway.im.connectors.matrix.reader import MAX_KNOWN, MAX_TYPING, Reader
from gateway.im.connectors.matrix.session import _since_we_came
from gateway.model.im import Conversation, ConversationKind, Event, Person, PresenceChanged, ReadUpTo, TypingChanged

ME, ANNA, BERT = "@me:x", "@anna:x", "@bert:x"
ROOM = "!room:x"

_leaf = st.none() | st.booleans() | st.integers() | st.text(max_size=12)
json = st.recursive(
    _leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)


def build_reader() -> Reader:
    reader = Reader(ME, 1_000)
    reader.take_direct({ANNA: [ROOM]})
    return reader


def member(user: str, membership: str, before: str = "", **content: Any) -> dict[str, Any]:
    unsigned = {"prev_content": {"membership": before}} if before else {}
    return {
        "type": "m.room.member",
        "event_id": "$m",
        "sender": user,
        "state_key": user,
        "content": {"membership": membership, **content},
        "unsigned": unsigned,
    }


def test_a_direct_room_is_a_dm_and_another_is_not() -> None:
    reader = build_reader()
    assert reader.conversation(ROOM) == Conversation(ConversationKind.DM, ANNA)
    assert reader.conversation("!other:x") == Conversation(ConversationKind.ROOM, "!other:x")
    reader.expect_direct("!other:x", BERT)
    assert reader.conversation("!other:x") == Conversation(ConversationKind.DM, BERT)


def test_what_is_direct_with_several_is_a_room() -> None:
    """Or what is for one would go to all of them."""
    reader = build_reader()
    reader.take_direct({ANNA: [ROOM, "!three:x"], BERT: ["!three:x"]})
    assert reader.conversation("!three:x").kind is ConversationKind.ROOM
    assert (reader.rooms_with(ANNA), reader.rooms_with(BERT)) == ([ROOM], [])


def test_a_conversation_goes_on_where_something_was_said_last() -> None:
    reader = build_reader()
    reader.take_direct({ANNA: [ROOM, "!newer:x"]})
    said = {"type": "m.room.message", "sender": ANNA, "content": {"msgtype": "m.text", "body": "x"}}
    reader.read_timeline("!newer:x", said | {"event_id": "$1"})
    reader.read_timeline(ROOM, said | {"event_id": "$2"})
    assert reader.places[ANNA] == ROOM
    assert (reader.room_of("$1"), reader.room_of("$2"), reader.room_of("$3")) == ("!newer:x", ROOM, "")
    reader.partner_moved(ROOM, member(ANNA, "leave", before="join"))
    assert ANNA not in reader.places


def test_who_is_new_and_who_is_gone() -> None:
    reader = build_reader()
    assert reader.take_direct({BERT: ["!b:x", "!c:x"]}) == ([(BERT, "!c:x")], [ANNA])


def test_names_are_learnt_and_bounded() -> None:
    reader = build_reader()
    reader.note_member(member(ANNA, "join", displayname="Anna\n\x00" + "a" * 10_000))
    assert len(reader.person(ANNA).display) <= 256
    assert "\n" not in reader.person(ANNA).display
    for number in range(MAX_KNOWN + 5):
        reader.note_member(member(f"@u{number}:x", "join", displayname="U"))
    assert reader.person(ANNA) == Person(ANNA)


def test_receipts_of_both() -> None:
    raw = {"type": "m.receipt", "content": {"$1": {"m.read": {ANNA: {"ts": 1}, ME: {}}}, "$2": {"m.read": 3}}}
    events = list(build_reader().read_ephemeral(ROOM, raw))
    assert [
        (event.by.remote_id, event.by.is_self, event.remote_id) for event in events if isinstance(event, ReadUpTo)
    ] == [
        (ANNA, False, "$1"),
        (ME, True, "$1"),
    ]


def test_typing_is_told_when_it_changes() -> None:
    reader = build_reader()

    def read(*users: str) -> list[tuple[str, bool]]:
        raw = {"type": "m.typing", "content": {"user_ids": list(users)}}
        events = list(reader.read_ephemeral(ROOM, raw))
        return [(event.by.remote_id, event.is_typing) for event in events if isinstance(event, TypingChanged)]

    assert read(ANNA, ME) == [(ANNA, True)]
    assert read(ANNA, BERT) == [(BERT, True)]
    assert sorted(read()) == [(ANNA, False), (BERT, False)]
    assert len(read(*(f"@u{number}:x" for number in range(500)))) == MAX_TYPING


def test_presence_of_friends_alone() -> None:
    reader = build_reader()

    def read(user: str, state: str) -> Event | None:
        return reader.read_presence(
            {"type": "m.presence", "sender": user, "content": {"presence": state, "status_msg": "out\nside"}}
        )

    assert read(ANNA, "unavailable") == PresenceChanged(Person(ANNA), True, "out side")
    assert read(ANNA, "offline") == PresenceChanged(Person(ANNA), False, "out side")
    assert read(ANNA, "elsewhere") is None
    assert read(BERT, "online") is None


def test_an_invitation() -> None:
    invite = member(ME, "invite", is_direct=True, reason="it is me") | {"sender": ANNA}
    answer = {
        "next_batch": "s1",
        "rooms": {"invite": {ROOM: {"invite_state": {"events": [member(ANNA, "join", displayname="Anna"), invite]}}}},
    }
    news = parse_answer(answer, ME)
    assert news is not None
    (found,) = news.invites
    request = build_reader().read_invite(found)
    assert (request.by.remote_id, request.by.display, request.text, found.is_direct) == (ANNA, "Anna", "it is me", True)


def test_what_was_before_we_came_is_not_new() -> None:
    said = [{"type": "m.room.message", "event_id": f"${number}"} for number in range(4)]
    invited = member(ME, "invite")
    joined = member(ME, "join", before="invite")
    renamed = member(ME, "join", before="join")
    assert _since_we_came([said[0], invited, said[1], joined, said[2]], ME) == [said[1], joined, said[2]]
    assert _since_we_came([said[0], member(ME, "join"), said[1]], ME) == [said[1]]
    assert _since_we_came([said[0], renamed, said[1]], ME) == [said[0], renamed, said[1]]


def test_the_partner_comes_and_goes() -> None:
    reader = build_reader()
    assert reader.partner_moved(ROOM, member(ANNA, "join", before="invite")) == (ANNA, True)
    assert reader.partner_moved(ROOM, member(ANNA, "leave", before="join")) == (ANNA, False)
    assert reader.partner_moved(ROOM, member(BERT, "join")) is None
    assert reader.partner_moved("!other:x", member(ANNA, "join")) is None


def test_a_room_becomes_the_newest_and_nothing_else_is_lost() -> None:
    content = {ANNA: ["!a:x", "!b:x"], "odd": 5}
    assert with_room(content, ANNA, "!a:x") == {ANNA: ["!b:x", "!a:x"], "odd": 5}
    assert with_room(content, "odd", "!a:x")["odd"] == ["!a:x"]


@given(st.dictionaries(st.text(max_size=4) | st.just(ANNA), json | st.lists(json | st.just(ROOM)), max_size=4))
def test_any_content_of_m_direct_is_read(content: dict[str, Any]) -> None:
    assert all(rooms for rooms in parse_direct(content).values())
    assert parse_direct(with_room(content, BERT, ROOM))[BERT][-1] == ROOM


_event = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["m.room.message", "m.room.member", "m.receipt", "m.typing", "m.presence", "m.direct"]),
        "event_id": json | st.just("$1"),
        "sender": json | st.just(ANNA),
        "state_key": json | st.just(ANNA),
        "content": json
        | st.fixed_dictionaries(
            {}, optional={"user_ids": json, "$1": json, "membership": st.just("join"), "presence": json, "body": json}
        ),
        "unsigned": json,
    },
)
_events = st.fixed_dictionaries({}, optional={"events": json | st.lists(json | _event, max_size=4), "limited": json})
_room = json | st.fixed_dictionaries(
    {}, optional={"timeline": json | _events, "state": _events, "ephemeral": _events, "invite_state": _events}
)
_rooms = json | st.dictionaries(st.text(max_size=4) | st.just(ROOM), _room, max_size=3)


@given(
    st.fixed_dictionaries(
        {"next_batch": st.text(max_size=8) | json},
        optional={
            "rooms": json | st.fixed_dictionaries({}, optional={"join": _rooms, "leave": _rooms, "invite": _rooms}),
            "account_data": json | _events,
            "presence": json | _events,
        },
    )
)
def test_whatever_a_server_answers_is_read(answer: dict[str, Any]) -> None:
    news = parse_answer(answer, ME)
    if news is None:
        return
    assert news.next_batch.isascii()
    reader = build_reader()
    if news.direct is not None:
        reader.take_direct(news.direct)
    for invite in news.invites:
        reader.read_invite(invite)
    for room in news.rooms:
        for raw in [*room.timeline, *room.state]:
            reader.note_member(raw)
            reader.read_timeline(room.room, raw)
            reader.partner_moved(room.room, raw)
            is_membership(raw, ME, "join")
        for raw in room.ephemeral:
            assert all(isinstance(event, ReadUpTo | TypingChanged) for event in reader.read_ephemeral(room.room, raw))
    for raw in news.presence:
        reader.read_presence(raw)
