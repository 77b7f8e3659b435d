"""The sans-IO core of the device SDK: phases, bindings, requests, heartbeats; time is handed in."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_gateway import error, goaway, notify, token, welcome
from session_core import Core, arrived, kinds

from gateway.client.errors import LinkLost
from gateway.client.events import (
    Answered,
    Arrived,
    Binding,
    BindState,
    Bound,
    Closed,
    Complained,
    Ended,
    Fetched,
    Issued,
    Online,
    Resumed,
)
from gateway.client.heartbeat import CEILING_INTERVALS, AdaptiveHeartbeat
from gateway.client.requests import Phase
from gateway.client.session import LOGIN_S
from gateway.model import errors, frames
from gateway.model.frames import FrameType, build_frame

# --- login -----------------------------------------------------------------------------------------------------------


def test_hello_is_the_first_frame_and_nothing_follows_before_welcome():
    core = Core(heartbeat=90)
    core.session.register(Binding("mail", "1"))
    core.session.start(core.now, device="d", secret=b"s")
    ((kind, hello),) = core.sent()
    assert (kind, hello.v, hello.device, hello.secret, hello.heartbeat) == (FrameType.HELLO, 1, "d", b"s", 90)
    events = core.give(welcome(device="d", secret=b"new"))
    assert [type(e) for e in events] == [Issued, Online]
    assert events[0] == Issued("d", b"new")
    assert kinds(core.sent()) == ["REGISTER"]


@pytest.mark.parametrize("kind", [errors.Unauthorized, errors.UnsupportedVersion, errors.InvalidField])
def test_refused_login_is_not_tried_again_where_the_gateway_says_so(kind):
    core = Core()
    core.session.start(core.now)
    (closed,) = core.give(error(kind))
    assert type(closed.error) is kind
    assert not closed.retry
    assert core.session.lost(core.now) == closed


def test_overloaded_login_comes_back_after_the_given_time():
    core = Core()
    core.session.start(core.now)
    (closed,) = core.give(goaway(errors.Overloaded, after_ms=7000, jitter_ms=500))
    assert (closed.retry, closed.after_ms, closed.jitter_ms) == (True, 7000, 500)


def test_no_welcome_in_time_ends_the_link():
    core = Core()
    core.session.start(core.now)
    assert core.session.deadline() == core.now + LOGIN_S
    core.now += LOGIN_S
    core.session.tick(core.now)
    (closed,) = core.events()
    assert isinstance(closed.error, errors.LoginTimeout)
    assert closed.retry


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (notify(1, "tok"), errors.OutOfOrder),
        (b"\x02\x00", errors.OutOfOrder),
        (welcome(heartbeat=0), errors.InvalidField),
        (build_frame(FrameType.WELCOME, []), errors.InvalidField),
        (b"\x04\x01\xc1", errors.MalformedFrame),
        (b"\x04\xff\xff\xff\xff", errors.MalformedFrame),
        (b"\x04\xff\xff\xff\x7f", errors.FrameTooLarge),
        (b"\x03\x00", errors.OutOfOrder),
    ],
)
def test_broken_frames_before_welcome_end_the_link_and_it_is_tried_again(data, expected):
    core = Core()
    core.session.start(core.now)
    (closed,) = core.give(data)
    assert type(closed.error) is expected
    assert closed.retry
    assert core.counters.broken_links == 1
    assert core.give(welcome()) == []  # nothing counts any more on this link


@pytest.mark.parametrize(
    "data",
    [
        welcome(),
        b"\x08\x01\xc1",
        build_frame(FrameType.NOTIFY, {"id": -1, "token": "tok"}),
        build_frame(FrameType.NOTIFY, {"id": "1", "token": "tok"}),
        notify(1, "tok", data=msgspec.Raw(b"\xa1\xff")),
        build_frame(FrameType.RECALL, {"ids": [1]}),
        build_frame(FrameType.ERROR, {"code": "x"}),
        build_frame(FrameType.GOAWAY),
        b"\x09\x01\x90",
    ],
)
def test_broken_frames_after_login_end_the_link_and_it_is_tried_again(data):
    core = Core().online()
    core.bind("tok")
    (closed,) = core.give(data)
    assert isinstance(closed.error, errors.GatewayError)
    assert closed.retry


def test_frames_before_a_broken_one_still_count():
    core = Core().online()
    core.bind("tok")
    events = core.give(notify(7, "tok", title="x"), b"\x08\xff\xff\xff\xff\x01")
    assert [type(e) for e in events] == [Arrived, Closed]


def test_unknown_frames_and_unknown_fields_are_ignored():
    core = Core().online()
    core.bind("tok")
    body = {"id": 5, "token": "tok", "title": "t", "from_the_future": [1, {"a": 2}]}
    events = core.give(b"\x20\x00", build_frame(0x7F, {"x": 1}), build_frame(FrameType.NOTIFY, body))
    assert [n.id for n in arrived(events)] == [5]
    assert core.counters.unknown_frames == 2


# --- registrations ---------------------------------------------------------------------------------------------------


def test_everything_is_registered_again_on_a_new_link_before_anything_else():
    core = Core().online()
    first = core.bind("t1", app="mail", account="a", keep=True)
    second = core.bind("t2", app="mail", account="b", keep=True, tags=["x"])
    core.give(notify(1, "t1"))  # its ack has not been written when the link goes
    core.session.lost(core.now)
    request = core.session.fetch(first)
    sent = core.reconnect("t1", "t2")
    assert kinds(sent) == ["REGISTER", "REGISTER"]
    assert [(b.account, b.tags) for _, b in sent] == [("a", None), ("b", ["x"])]
    sent = core.sent()  # they need the token bound, so they waited for TOKEN
    assert kinds(sent) == ["ACK", "FETCH"]
    assert sent[0][1] == [1]
    fetch = sent[1][1]
    events = core.give(build_frame(FrameType.FETCHED, frames.Fetched(req=fetch.req, count=0)))
    assert events == [Answered(request, result=Fetched(0, more=False))]
    assert second.state is BindState.BOUND


def test_notifications_for_a_token_that_is_not_bound_are_dropped_and_not_acked():
    core = Core().online()
    core.bind("tok")
    assert core.give(notify(1, "other"), notify(2, app="other"), notify(3)) == []
    assert core.sent() == []
    assert core.counters.unbound == 3


def test_account_switch_silences_the_old_account_from_the_moment_it_is_asked_for():  # A5
    core = Core().online()
    old = core.bind("t-old", account="old")
    new = Binding("mail", "1", "new")
    core.session.register(new)
    ((_, register),) = core.sent()
    assert core.give(notify(1, "t-old")) == []
    assert core.sent() == []
    events = core.give(token(register.req, "t-new"), notify(2, "t-old"), notify(3, "t-new"))
    assert [type(e) for e in events] == [Ended, Bound, Arrived]
    assert events[0].binding is old
    assert core.counters.unbound == 2
    assert [b.account for k, b in core.reconnect("t-new") if k is FrameType.REGISTER] == ["new"]


def test_a_switch_under_way_when_the_link_is_cut_goes_on_with_the_new_account():
    core = Core().online()
    old = core.bind("t-old", account="old")
    core.session.register(Binding("mail", "1", "new"))
    assert [b.account for k, b in core.reconnect("t-new") if k is FrameType.REGISTER] == ["new"]
    assert old.state is BindState.ENDED


def test_switching_back_before_the_answer_leaves_the_last_one_asked_for():
    core = Core().online()
    first = core.bind("t1", account="a")
    second = Binding("mail", "1", "b")
    core.session.register(second)
    core.session.register(first)
    requests = [b for k, b in core.sent() if k is FrameType.REGISTER]
    assert [r.account for r in requests] == ["b", "a"]
    core.give(token(requests[0].req, "t2"), token(requests[1].req, "t1"), notify(1, "t2"))
    assert (first.is_live, second.state) == (True, BindState.ENDED)
    assert [n.account for n in arrived(core.give(notify(2, "t1")))] == ["a"]


def test_refused_switch_leaves_the_old_account_in_place():
    core = Core().online()
    old = core.bind("t-old", account="old")
    new = Binding("mail", "1", "new")
    core.session.register(new)
    ((_, register),) = core.sent()
    events = core.give(error(errors.UnknownApp, req=register.req))
    assert [type(e) for e in events] == [Ended, Resumed]
    assert isinstance(events[0].error, errors.UnknownApp)
    ((_, again),) = core.sent()
    assert again.account == "old"
    core.give(token(again.req, "t-old"))
    assert arrived(core.give(notify(1, "t-old")))[0].id == 1
    assert old.state is BindState.BOUND


def test_accounts_kept_side_by_side_each_get_their_own():
    core = Core().online()
    core.bind("t1", account="a")
    core.bind("t2", account="b", keep=True)
    events = core.give(notify(1, "t1"), notify(2, "t2"), notify(3, "t1"))
    assert [(n.id, n.account) for n in arrived(events)] == [(1, "a"), (2, "b"), (3, "a")]


def test_broadcast_reaches_the_app_once_however_many_accounts():  # A4
    core = Core().online()
    core.bind("t1", account="a")
    core.bind("t2", account="b", keep=True)
    events = core.give(notify(9, app="mail"), notify(9, app="mail"))
    assert [(n.id, n.account, n.broadcast) for n in arrived(events)] == [(9, "b", True)]
    assert core.sent() == [(FrameType.ACK, [9, 9])]


def test_retryable_refusal_registers_again_after_the_given_time():
    core = Core().online()
    binding = Binding("mail", "1")
    core.session.register(binding)
    ((_, register),) = core.sent()
    assert core.give(error(errors.StoreUnavailable, req=register.req)) == []
    assert core.session.deadline() == core.now + 2.0 * 1.15
    core.now += 2.3
    core.session.tick(core.now)
    ((kind, again),) = core.sent()
    assert kind is FrameType.REGISTER
    assert again.req != register.req


def test_a_registration_given_up_while_asked_for_is_taken_back():
    core = Core().online()
    binding = Binding("mail", "1")
    core.session.register(binding)
    ((_, register),) = core.sent()
    core.session.abandon(binding)
    events = core.give(token(register.req, "late"))
    assert [type(e) for e in events] == [Ended]
    ((kind, leave),) = core.sent()
    assert (kind, leave.token, leave.forget) == (FrameType.UNREGISTER, "late", False)


def test_unregister_silences_at_once_and_is_answered():
    core = Core().online()
    binding = core.bind("tok")
    request = core.session.unregister(binding, forget=True)
    ((kind, body),) = core.sent()
    assert (kind, body.token, body.forget) == (FrameType.UNREGISTER, "tok", True)
    assert arrived(core.give(notify(1, "tok"))) == []
    assert Answered(request) in core.give(build_frame(FrameType.DONE, frames.Done(req=body.req)))
    assert core.reconnect() == []


def test_unregister_while_its_register_is_under_way_waits_for_the_token():
    core = Core().online()
    binding = Binding("mail", "1")
    core.session.register(binding)
    ((_, register),) = core.sent()
    request = core.session.unregister(binding)
    assert core.sent() == []
    core.give(token(register.req, "tok"))
    ((kind, body),) = core.sent()
    assert (kind, body.token) == (FrameType.UNREGISTER, "tok")
    assert core.give(build_frame(FrameType.DONE, frames.Done(req=body.req))) == [Answered(request)]


def test_a_cut_answers_unregister_but_not_forget():
    core = Core().online()
    first, second = core.bind("t1", account="a", keep=True), core.bind("t2", account="b", keep=True)
    leave, forget = core.session.unregister(first), core.session.unregister(second, forget=True)
    core.sent()
    core.session.lost(core.now)
    assert Answered(leave) in core.events()
    core.session.start(core.now)
    core.give(welcome())
    registers = [body for kind, body in core.sent() if kind is FrameType.REGISTER]
    assert sorted((register.account, register.keep) for register in registers) == [("a", True), ("b", True)]
    core.give(*(token(register.req, "t1" if register.account == "a" else "t2") for register in registers))
    leaves = [body for kind, body in core.sent() if kind is FrameType.UNREGISTER]
    assert sorted((body.token, body.forget) for body in leaves) == [("t1", False), ("t2", True)]
    assert core.give(*(build_frame(FrameType.DONE, frames.Done(req=body.req)) for body in leaves)) == [Answered(forget)]
    assert core.reconnect() == []


def test_forgetting_off_line_waits_for_the_link_and_hears_a_refusal():
    core = Core().online()
    binding = core.bind("tok")
    core.session.lost(core.now)
    request = core.session.unregister(binding, forget=True)
    core.session.start(core.now)
    core.give(welcome())
    register = core.sent()[1][1]
    events = core.give(error(errors.UnknownApp, req=register.req))
    (answered,) = (e for e in events if isinstance(e, Answered))
    assert answered.request is request
    assert isinstance(answered.error, errors.UnknownApp)


def test_a_late_token_of_a_replaced_account_can_not_take_the_place_of_the_new_one():
    """The first account's REGISTER waited for a commit in the gateway, the second one's did not."""
    core = Core().online()
    core.session.register(Binding("mail", "1", "first"))
    core.session.register(Binding("mail", "1", "second"))
    first, second = (b for _, b in core.sent())
    core.give(token(second.req, "t2"))
    core.give(token(first.req, "t1"))
    sent = core.sent()
    assert kinds(sent) == ["UNREGISTER", "REGISTER"]
    assert sent[0][1].token == "t1"
    assert sent[1][1].account == "second"


def test_a_new_token_for_the_same_registration_is_told():
    core = Core().online()
    binding = core.bind("old")
    sent = core.reconnect("new")
    assert kinds(sent) == ["REGISTER"]
    assert binding.token == "new"
    assert arrived(core.give(notify(1, "old"), notify(2, "new")))[0].id == 2


def test_requests_are_bounded():
    core = Core()
    binding = Binding("mail", "1")
    core.session.register(binding)
    for _ in range(256):
        core.session.set_urgency(1)
    with pytest.raises(errors.QueueFull):
        core.session.set_urgency(1)


def test_an_oversized_request_is_refused_here_and_the_link_goes_on():
    core = Core().online(max_frame=4096)
    binding = Binding("mail", "1", addresses={"apns": "x" * 5000})
    core.session.register(binding)
    (ended,) = core.events()
    assert isinstance(ended.error, errors.FrameTooLarge)
    assert core.sent() == []
    assert core.session.phase is Phase.ONLINE


# --- ends of a link --------------------------------------------------------------------------------------------------


def test_takeover_is_final():
    core = Core().online()
    (closed,) = core.give(goaway(errors.Takeover))
    assert isinstance(closed.error, errors.Takeover)
    assert not core.session.lost(core.now).retry


def test_a_goaway_still_unread_when_the_connection_ends_counts():
    core = Core().online()
    core.bind("tok")
    core.session.receive(notify(1, "tok") + goaway(errors.Takeover), core.now)
    assert not core.session.lost(core.now).retry
    assert [n.id for n in arrived(core.events())] == [1]  # and so does what came before it


def test_a_request_s_error_leaves_the_link_alone():
    core = Core().online()
    request = core.session.set_urgency(1)
    ((_, state),) = core.sent()
    ((answered),) = core.give(error(errors.InvalidField, req=state.req))
    assert answered.request is request
    assert isinstance(answered.error, errors.InvalidField)
    assert core.session.phase is Phase.ONLINE


def test_an_error_that_answers_nothing_is_told():
    core = Core().online()
    (complained,) = core.give(error(errors.UnknownFrame))
    assert isinstance(complained, Complained)
    assert core.session.lost(core.now).retry


def test_an_error_of_an_unknown_number_as_the_last_word_decides():
    core = Core().online()
    core.give(build_frame(FrameType.ERROR, frames.Error(code=999, name="new", message="", retry=False)))
    verdict = core.session.lost(core.now)
    assert (verdict.retry, verdict.error.code, verdict.error.name) == (False, 999, "new")


def test_a_plain_cut_is_tried_again():
    core = Core().online()
    verdict = core.session.lost(core.now)
    assert isinstance(verdict.error, LinkLost)
    assert verdict.retry
    assert core.counters.cuts == 1


# --- heartbeat (A6) --------------------------------------------------------------------------------------------------


def test_ping_goes_out_when_nothing_was_sent_for_the_agreed_interval():
    core = Core().online(heartbeat=60)
    core.now += 59.9
    core.session.tick(core.now)
    assert core.sent() == []
    core.now += 0.1
    core.session.tick(core.now)
    assert core.sent() == [(FrameType.PING, None)]


def test_other_frames_put_the_ping_off():
    core = Core().online(heartbeat=60)
    core.bind("tok")
    core.now += 50
    core.give(notify(1, "tok"))
    assert kinds(core.sent()) == ["ACK"]
    assert core.session.deadline() == core.now + 60


def test_a_missing_pong_is_a_dead_link():
    core = Core().online(heartbeat=60)
    core.now += 60
    core.session.tick(core.now)
    core.sent()
    core.now += 9.9
    core.session.tick(core.now)
    assert core.events() == []
    core.now += 0.2
    core.session.tick(core.now)
    (closed,) = core.events()
    assert isinstance(closed.error, errors.HeartbeatTimeout)
    assert closed.retry


def test_bytes_that_come_put_the_verdict_off_and_a_pause_suspends_it():
    core = Core().online(heartbeat=60)
    core.bind("tok")
    core.now += 60
    core.session.tick(core.now)
    core.sent()
    core.now += 9
    core.give(notify(1, "tok"))
    core.sent()
    core.now += 9
    core.session.tick(core.now)
    assert core.events() == []
    core.session.pause(True, core.now)
    core.now += 50
    core.session.tick(core.now)
    assert core.events() == []
    core.session.pause(False, core.now)
    core.now += 10
    core.session.tick(core.now)
    assert [type(e) for e in core.events()] == [Closed]


def test_the_interval_grows_while_it_holds_up_to_the_gateway_s_bound():
    core = Core().online(heartbeat=60, heartbeat_max=100)
    sent = core.pass_time(60 * 3 + 1)
    assert kinds(sent) == ["PING", "PING", "PING", "STATE"]
    assert core.heartbeat.agreed == 75
    core.pass_time(3600)
    assert core.heartbeat.agreed == 100
    assert core.heartbeat.wanted == 100  # and asked for in the next HELLO


def test_a_cut_after_silence_halves_the_interval_and_the_failed_one_is_a_ceiling():
    core = Core().online(heartbeat=120)
    core.now += 120
    core.session.tick(core.now)
    core.sent()
    core.session.lost(core.now + 1)  # reset on the first PING after a long silence
    core.session.start(core.now)
    ((_, hello),) = core.sent()
    assert hello.heartbeat == 60
    core.give(welcome(heartbeat=60))
    core.pass_time(60 * CEILING_INTERVALS)
    assert 60 < core.heartbeat.agreed < 120


def test_a_cut_in_the_middle_of_traffic_says_nothing_about_the_interval():
    core = Core().online(heartbeat=120)
    core.now += 20
    core.session.lost(core.now)
    assert core.heartbeat.wanted == 0


def test_heartbeat_timeout_of_the_gateway_halves_the_interval():
    core = Core().online(heartbeat=120)
    core.now += 120
    core.session.tick(core.now)
    assert kinds(core.sent()) == ["PING"]  # it never got there
    core.now += 9
    (closed,) = core.give(goaway(errors.HeartbeatTimeout))
    assert closed.retry
    assert core.heartbeat.wanted == 60


def test_heartbeat_timeout_after_our_own_sleep_changes_nothing():
    core = Core().online(heartbeat=120)
    core.now += 1800
    core.give(goaway(errors.HeartbeatTimeout))
    assert core.heartbeat.wanted == 0


def test_our_own_bounds_are_asked_for_where_the_agreed_interval_is_outside():
    core = Core()
    core.session.heartbeat = core.heartbeat = AdaptiveHeartbeat(0, 1, 45)
    core.session.start(core.now)
    core.sent()
    core.give(welcome(heartbeat=60, heartbeat_min=30))
    ((kind, state),) = core.sent()
    assert (kind, state.heartbeat) == (FrameType.STATE, 45)


# --- any split, any garbage ------------------------------------------------------------------------------------------

STREAM = b"".join(
    [
        welcome(secret=b"s"),
        token(1, "tok"),
        notify(1, "tok", title="a"),
        notify(2, "tok", more=True),
        notify(1, "tok", title="a"),
        notify(3, app="mail", data=msgspec.Raw(b"\x93\x01\x02\x03")),
        b"\x44\x03abc",
        build_frame(FrameType.RECALL, [1, 3]),
        notify(2, "tok", data=msgspec.Raw(b"\xa1x")),
        error(errors.UnknownFrame),
        b"\x02\x00",
        goaway(errors.Draining, after_ms=5),
    ]
)


def run_pieces(pieces: list[bytes]) -> tuple[list[str], dict[str, int]]:
    core = Core()
    core.session.register(Binding("mail", "1"))
    core.session.start(core.now)
    core.sent()
    out: list[str] = []
    for piece in pieces:
        for event in core.give(piece):
            match event:
                case Arrived(_, item):
                    out.append(f"{type(item).__name__} {item.id}")
                case Closed(reason):
                    out.append(f"Closed {type(reason).__name__}")
                case _:
                    out.append(type(event).__name__)
    return out, core.counters.as_dict()


@settings(max_examples=150)
@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=40), garbage=st.binary(max_size=30))
def test_any_split_of_the_stream_gives_the_same_events(cuts, garbage):
    stream = STREAM[: len(STREAM) - 10] + garbage if garbage else STREAM
    points = [0, *sorted(min(c, len(stream)) for c in cuts), len(stream)]
    pieces = [stream[a:b] for a, b in pairwise(points)]
    assert run_pieces(pieces) == run_pieces([stream])


def test_a_byte_at_a_time_gives_the_same_events():
    whole = run_pieces([STREAM])
    assert run_pieces([STREAM[i : i + 1] for i in range(len(STREAM))]) == whole
    assert whole[0][-1] == "Closed Draining"
    assert "Notification 2" in whole[0]


FRAMES = st.one_of(
    st.binary(max_size=60),
    st.builds(
        lambda kind, body: bytes((kind,)) + frames.build_varint(len(body)) + body,
        st.sampled_from([*FrameType]),
        st.one_of(
            st.binary(max_size=40),
            st.builds(
                msgspec.msgpack.encode,
                st.dictionaries(
                    st.sampled_from(["id", "req", "token", "data", "code", "name", "count", "more", "after_ms", "app"]),
                    st.one_of(st.integers(-(2**63), 2**64 - 1), st.text(max_size=4), st.booleans(), st.none()),
                ),
            ),
        ),
    ),
)


@settings(max_examples=300)
@given(pieces=st.lists(FRAMES, max_size=8), login=st.booleans())
def test_garbage_raises_nothing_and_ends_in_a_documented_error(pieces, login):
    core = Core()
    core.session.register(Binding("mail", "1"))
    core.session.start(core.now)
    if login:
        core.give(welcome(), token(1, "tok"))
    events = core.give(*pieces)
    core.session.data_to_send(core.now)
    closed = [e for e in events if isinstance(e, Closed)]
    assert len(closed) <= 1
    for event in closed:
        assert isinstance(event.error, errors.GatewayError)
        assert event is events[-1]
    core.session.lost(core.now)
