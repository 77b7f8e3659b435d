"""The sans-IO core of the device SDK: phases, bindings, confirmations, bodies, heartbeats; time is handed in."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_gateway import error, goaway, notify, parse_sent, token, welcome

from gateway.client.content import AckPolicy, Counters, Notification, Recall, Tip
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
    Event,
    Fetched,
    Issued,
    Online,
    Resumed,
)
from gateway.client.heartbeat import CEILING_INTERVALS, AdaptiveHeartbeat
from gateway.client.inbox import MAX_HELD
from gateway.client.requests import Phase
from gateway.client.seen import Seen
from gateway.client.session import LOGIN_S, Session
from gateway.model import errors, frames
from gateway.model.frames import FrameReader, FrameType, build_frame


class Core:
    """A Session with its clock and a strict reading of what it sends."""

    def __init__(self, *, dedupe: int = 1000, seen_store: Any = None, heartbeat: int = 0) -> None:
        self.now = 1000.0
        self.counters = Counters()
        self.heartbeat = AdaptiveHeartbeat(heartbeat)
        self.session = Session(
            heartbeat=self.heartbeat, seen=Seen(dedupe, seen_store), counters=self.counters, random=lambda: 0.5
        )

    def give(self, *data: bytes) -> list[Event]:
        self.session.receive(b"".join(data), self.now)
        return self.events()

    def events(self) -> list[Event]:
        out = []
        while (event := self.session.next_event(self.now)) is not None:
            out.append(event)
            if isinstance(event, Arrived) and not isinstance(event.item, Recall):
                self.session.confirm(event.binding, event.item)
        return out

    def sent(self) -> list[tuple[FrameType, Any]]:
        return [parse_sent(*frame) for frame in FrameReader().feed(self.session.data_to_send(self.now))]

    def online(self, **fields: Any) -> Core:
        self.session.start(self.now)
        self.give(welcome(**fields))
        self.sent()
        return self

    def bind(self, text: str = "tok", app: str = "mail", version: str = "1", **fields: Any) -> Binding:
        binding = Binding(app, version, **fields)
        self.session.register(binding)
        ((_, register),) = (f for f in self.sent() if f[0] is FrameType.REGISTER)
        self.give(token(register.req, text))
        assert binding.state is BindState.BOUND
        self.sent()
        return binding

    def reconnect(self, *bind: str) -> list[tuple[FrameType, Any]]:
        """Cut, log in again, answer REGISTERs with these tokens; returns all that was sent after HELLO."""
        self.session.lost(self.now)
        self.session.start(self.now)
        assert [kind for kind, _ in self.sent()] == [FrameType.HELLO]
        self.give(welcome())
        sent = self.sent()
        registers = [body for kind, body in sent if kind is FrameType.REGISTER]
        for register, text in zip(registers, bind, strict=True):
            self.give(token(register.req, text))
        return sent

    def pass_time(self, seconds: float) -> list[tuple[FrameType, Any]]:
        """Tick whenever it is due; the gateway answers each PING at once."""
        end, sent = self.now + seconds, []
        while (due := self.session.deadline()) is not None and due <= end:
            self.now = max(due, self.now)
            self.session.tick(self.now)
            for kind, body in self.sent():
                sent.append((kind, body))
                if kind is FrameType.PING:
                    self.give(b"\x02\x00")
                if kind is FrameType.STATE:
                    self.give(build_frame(FrameType.DONE, frames.Done(req=body.req, heartbeat=body.heartbeat)))
            sent += self.answer_states()
        self.now = end
        return sent

    def answer_states(self) -> list[tuple[FrameType, Any]]:
        sent = self.sent()
        for kind, body in sent:
            if kind is FrameType.STATE:
                self.give(build_frame(FrameType.DONE, frames.Done(req=body.req, heartbeat=body.heartbeat)))
        return sent


def arrived(events: list[Event]) -> list[Any]:
    return [e.item for e in events if isinstance(e, Arrived)]


def kinds(sent: list[tuple[FrameType, Any]]) -> list[str]:
    return [kind.name for kind, _ in sent]


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
    assert kinds(sent) == ["REGISTER", "REGISTER", "ACK"]
    assert [(b.account, b.tags) for _, b in sent[:2]] == [("a", None), ("b", ["x"])]
    assert sent[2][1] == [1]
    ((kind, fetch),) = core.sent()  # it needs the token bound, so it waited for TOKEN
    assert kind is FrameType.FETCH
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
    ((kind, register),) = core.sent()[1:]
    assert (kind, register.account, register.keep) == (FrameType.REGISTER, "b", True)
    core.give(token(register.req, "t2"))
    ((kind, body),) = core.sent()
    assert (kind, body.token, body.forget) == (FrameType.UNREGISTER, "t2", True)
    assert core.give(build_frame(FrameType.DONE, frames.Done(req=body.req))) == [Answered(forget)]
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


# --- confirmations ---------------------------------------------------------------------------------------------------


def test_acks_of_one_turn_are_one_frame():
    core = Core().online()
    core.bind("tok")
    core.give(*(notify(i, "tok") for i in range(20)))
    assert core.sent() == [(FrameType.ACK, list(range(20)))]
    assert core.sent() == []


def test_many_acks_are_split_at_the_bound():
    core = Core().online(window=4000)
    core.bind("tok")
    core.give(*(notify(2**63 + i, "tok") for i in range(1500)))
    sent = core.sent()
    assert [len(ids) for _, ids in sent] == [1024, 476]


def test_a_duplicate_is_acked_again_and_not_handed_out():
    core = Core().online()
    core.bind("tok")
    core.give(notify(1, "tok"))
    core.sent()
    core.reconnect("tok")
    assert core.give(notify(1, "tok")) == []
    assert core.sent() == [(FrameType.ACK, [1])]
    assert core.counters.duplicates == 1


def test_the_same_id_for_another_token_is_another_notification():
    core = Core().online()
    core.bind("t1", account="a")
    core.bind("t2", account="b", keep=True)
    assert len(arrived(core.give(notify(1, "t1"), notify(1, "t2"), notify(1, app="mail")))) == 3


def test_dedupe_forgets_the_oldest_past_its_bound():
    core = Core(dedupe=10).online()
    core.bind("tok")
    core.give(*(notify(i, "tok") for i in range(11)))
    assert [n.id for n in arrived(core.give(notify(0, "tok"), notify(10, "tok")))] == [0]


def test_what_a_store_remembers_is_dropped_after_a_restart():
    class Store:
        def __init__(self) -> None:
            self.kept: list[tuple[str, int]] = []

        def load(self) -> list[tuple[str, int]]:
            return list(self.kept)

        def add(self, source: str, id: int) -> None:
            self.kept.append((source, id))

    store = Store()
    core = Core(seen_store=store).online()
    core.bind("tok")
    core.give(notify(1, "tok"), notify(2, "tok", more=True))
    assert store.kept == [("tok", 1)]  # the light one is not had yet
    again = Core(seen_store=store).online()
    again.bind("tok")
    assert again.give(notify(1, "tok")) == []
    assert again.sent() == [(FrameType.ACK, [1])]


def test_on_display_nothing_is_acked_before_it_is_shown():  # B6
    core = Core().online()
    binding = core.bind("tok", ack=AckPolicy.DISPLAY)
    (message,) = arrived(core.give(notify(1, "tok", title="t")))
    assert core.sent() == []
    assert core.give(notify(1, "tok", title="t")) == []  # sent again: the app still has it in hand
    assert core.sent() == []
    core.session.confirm_shown(binding, message)
    core.session.confirm_shown(binding, message)
    assert core.sent() == [(FrameType.SHOWN, [1])]
    assert core.give(notify(1, "tok", title="t")) == []
    assert core.sent() == [(FrameType.SHOWN, [1])]


def test_shown_after_an_ack_on_receipt_is_told_too():
    core = Core().online()
    binding = core.bind("tok")
    (message,) = arrived(core.give(notify(1, "tok")))
    core.session.confirm_shown(binding, message)
    assert core.sent() == [(FrameType.ACK, [1]), (FrameType.SHOWN, [1])]


def test_shown_off_line_is_told_on_the_next_link():
    core = Core().online()
    binding = core.bind("tok", ack=AckPolicy.DISPLAY)
    (message,) = arrived(core.give(notify(1, "tok")))
    core.session.lost(core.now)
    core.session.confirm_shown(binding, message)
    core.session.start(core.now)
    assert kinds(core.sent()) == ["HELLO"]
    core.give(welcome())
    assert kinds(core.sent()) == ["REGISTER", "SHOWN"]


def test_recall_is_told_for_what_was_had_and_only_that():
    core = Core().online()
    core.bind("tok")
    core.give(notify(1, "tok"), notify(2, app="mail"))
    assert arrived(core.give(build_frame(FrameType.RECALL, [1, 2, 3]))) == [Recall(1), Recall(2)]


# --- foreground, background, bodies ----------------------------------------------------------------------------------


def test_in_the_background_a_tip_and_in_the_foreground_the_message():  # B6
    core = Core().online()
    binding = core.bind("tok", foreground=False)
    (tip,) = arrived(core.give(notify(1, "tok", title="Anna", text="Hello", data=msgspec.Raw(b"\x2a"))))
    assert isinstance(tip, Tip)
    assert (tip.title, tip.text, tip.id, tip.channel) == ("Anna", "Hello", 1, "edge")
    core.sent()
    core.session.set_foreground(binding, True, core.now)
    (message,) = arrived(core.events())
    assert isinstance(message, Notification)
    assert (message.id, message.data, message.channel) == (1, 42, "edge")
    assert "ACK" not in kinds(core.sent())  # it was acked with the tip


def test_a_tip_is_never_empty():
    core = Core().online()
    core.bind("tok", foreground=False)
    (tip,) = arrived(core.give(notify(1, "tok", data=msgspec.Raw(b"\xc0"))))
    assert (tip.title, tip.text) == ("mail", "New message")


def test_a_light_notification_in_the_foreground_fetches_its_body():  # B2
    core = Core().online()
    core.bind("tok")
    assert arrived(core.give(notify(5, "tok", title="t", more=True))) == []
    sent = core.sent()
    assert sent[0] == (FrameType.ACK, [5])
    kind, fetch = sent[1]
    assert (kind, fetch.token, fetch.ids) == (FrameType.FETCH, "tok", [5])
    done = build_frame(FrameType.FETCHED, frames.Fetched(req=fetch.req, count=1))
    (message,) = arrived(core.give(notify(5, "tok", title="t", data=msgspec.Raw(b"\x01")), done))
    assert (message.id, message.data, message.light) == (5, 1, False)
    assert core.sent() == [(FrameType.WHOLE, [5])]
    assert core.counters.notifications == 1


def test_light_ones_of_the_background_are_fetched_in_the_foreground_and_again_after_a_cut():
    core = Core().online()
    binding = core.bind("tok", foreground=False)
    (tip,) = arrived(core.give(notify(5, "tok", title="t", more=True)))
    assert tip.notification.light
    assert core.sent() == [(FrameType.ACK, [5])]
    core.session.set_foreground(binding, True, core.now)
    assert [b.ids for k, b in core.sent() if k is FrameType.FETCH] == [[5]]
    core.session.lost(core.now)
    core.session.start(core.now)
    core.give(welcome())
    register = next(b for k, b in core.sent() if k is FrameType.REGISTER)
    core.give(token(register.req, "tok"))
    fetch = next(b for k, b in core.sent() if k is FrameType.FETCH)
    assert fetch.ids == [5]
    gone = core.give(build_frame(FrameType.FETCHED, frames.Fetched(req=fetch.req, count=0)))
    assert arrived(gone) == []  # recalled or expired meanwhile
    assert core.counters.bodies_gone == 1
    assert binding.held == {}


def test_a_light_one_that_comes_again_without_its_body_being_here_is_fetched_again():
    core = Core().online()
    core.bind("tok")
    core.give(notify(5, "tok", more=True))
    fetch = core.sent()[1][1]
    core.give(build_frame(FrameType.FETCHED, frames.Fetched(req=fetch.req, count=1)))  # it did not fit after all
    assert core.sent() == []
    assert core.give(notify(5, "tok", more=True)) == []
    sent = core.sent()
    assert kinds(sent) == ["ACK", "FETCH"]
    assert arrived(core.give(notify(5, "tok", data=msgspec.Raw(b"\x01"))))[0].data == 1


def test_no_more_bodies_are_asked_for_at_once_than_the_window_takes():
    core = Core().online(window=2)
    binding = core.bind("tok", foreground=False)
    core.give(*(notify(i, "tok", more=True) for i in range(5)))
    core.sent()
    core.session.set_foreground(binding, True, core.now)
    asked = []
    for _ in range(3):
        fetch = next(b for k, b in core.sent() if k is FrameType.FETCH)
        asked.append(fetch.ids)
        bodies = [notify(i, "tok", data=msgspec.Raw(b"\x01")) for i in fetch.ids]
        core.give(*bodies, build_frame(FrameType.FETCHED, frames.Fetched(req=fetch.req, count=len(bodies))))
    assert asked == [[0, 1], [2, 3], [4]]
    assert kinds(core.sent()) == ["WHOLE"]


def test_on_display_a_light_notification_is_acked_by_its_body_being_shown():
    core = Core().online()
    binding = core.bind("tok", ack=AckPolicy.DISPLAY)
    core.give(notify(5, "tok", more=True))
    ((kind, _),) = core.sent()
    assert kind is FrameType.FETCH
    (message,) = arrived(core.give(notify(5, "tok", data=msgspec.Raw(b"\x01"))))
    core.session.confirm_shown(binding, message)
    assert core.sent() == [(FrameType.SHOWN, [5]), (FrameType.WHOLE, [5])]


@pytest.mark.parametrize("foreground", [True, False])
def test_a_light_one_whose_body_is_here_is_confirmed_as_the_body(foreground: bool):
    """The gateway lost what confirmed the body: an ACK of the light form would leave the delivery open."""
    core = Core().online()
    binding = core.bind("tok")
    core.give(notify(5, "tok", data=msgspec.Raw(b"\x01")))  # of a FETCH of all
    assert core.sent() == [(FrameType.ACK, [5])]
    core.session.set_foreground(binding, foreground, core.now)
    core.answer_states()
    assert core.give(notify(5, "tok", more=True)) == []
    assert core.sent() == [(FrameType.WHOLE, [5])]
    assert core.give(notify(5, "tok", data=msgspec.Raw(b"\x01"))) == []
    assert core.sent() == [(FrameType.WHOLE, [5])]


def test_a_body_that_is_here_and_was_not_shown_is_confirmed_when_it_is():
    core = Core().online()
    binding = core.bind("tok", ack=AckPolicy.DISPLAY)
    core.give(notify(5, "tok", more=True))
    core.sent()
    (message,) = arrived(core.give(notify(5, "tok", data=msgspec.Raw(b"\x01"))))
    core.give(notify(5, "tok", more=True))
    assert core.sent() == []
    core.session.confirm_shown(binding, message)
    both = [(FrameType.SHOWN, [5]), (FrameType.WHOLE, [5])]
    assert core.sent() == both
    core.give(notify(5, "tok", more=True))
    assert core.sent() == both


def test_a_restarted_app_confirms_the_body_it_had():
    class Kept:
        def load(self) -> list[tuple[str, int]]:
            return [("tok", 5)]

        def add(self, source: str, id: int) -> None: ...

    core = Core(seen_store=Kept()).online()
    core.bind("tok")
    assert core.give(notify(5, "tok", more=True)) == []
    assert core.sent() == [(FrameType.WHOLE, [5])]


def test_what_a_fetch_of_all_brings_may_have_come_light():
    """Before the app was started anew, or when too many were held."""
    core = Core().online()
    binding = core.bind("tok")
    core.session.fetch(binding)
    ((_, fetch),) = core.sent()
    core.give(notify(5, "tok", data=msgspec.Raw(b"\x01")))
    assert core.sent() == [(FrameType.WHOLE, [5])]
    core.give(build_frame(FrameType.FETCHED, frames.Fetched(req=fetch.req, count=1)))
    core.give(notify(6, "tok", data=msgspec.Raw(b"\x01")))
    assert core.sent() == [(FrameType.ACK, [6])]


@pytest.mark.parametrize("ack", [AckPolicy.RECEIPT, AckPolicy.DISPLAY])
def test_a_tip_that_is_shown_after_its_body_came_confirms_nothing(ack: AckPolicy):
    """Where the message itself was not shown it must come again to an app that dies now (B6)."""
    core = Core().online()
    binding = core.bind("tok", ack=ack, foreground=False)
    (tip,) = arrived(core.give(notify(5, "tok", title="t", more=True)))
    core.session.set_foreground(binding, True, core.now)
    core.give(notify(5, "tok", data=msgspec.Raw(b"\x01")))
    core.answer_states()
    core.session.confirm_shown(binding, tip.notification)
    assert core.sent() == []


def test_a_gateway_that_does_not_know_whole_gets_acks():
    core = Core().online(whole=False)
    binding = core.bind("tok", ack=AckPolicy.DISPLAY)
    core.give(notify(5, "tok", more=True))
    core.sent()
    (message,) = arrived(core.give(notify(5, "tok", data=msgspec.Raw(b"\x01"))))
    core.session.confirm_shown(binding, message)
    assert core.sent() == [(FrameType.SHOWN, [5])]


@pytest.mark.parametrize("foreground", [True, False])
def test_a_light_form_is_not_confirmed_any_more_once_its_body_was_asked_for(foreground: bool):
    """The gateway would take it for the body's, and where the link is cut then the body never comes."""
    core = Core().online()
    binding = core.bind("tok")
    core.give(notify(5, "tok", more=True))
    assert kinds(core.sent()) == ["ACK", "FETCH"]
    core.session.set_foreground(binding, foreground, core.now)
    core.reconnect("tok")
    ((kind, fetch),) = [one for one in core.answer_states() if one[0] is not FrameType.STATE]
    assert (kind, fetch.ids) == (FrameType.FETCH, [5])
    assert core.give(notify(5, "tok", more=True)) == []  # the gateway had heard of nothing
    assert core.sent() == []
    core.give(
        notify(5, "tok", data=msgspec.Raw(b"\x01")),
        build_frame(FrameType.FETCHED, frames.Fetched(req=fetch.req, count=1)),
    )
    core.session.set_foreground(binding, True, core.now)
    core.events()
    assert (FrameType.WHOLE, [5]) in core.answer_states()
    assert binding.asked == set()


def test_a_tip_that_was_asked_for_before_its_app_took_it_confirms_nothing():
    core = Core().online()
    binding = core.bind("tok", ack=AckPolicy.DISPLAY, foreground=False)
    (tip,) = arrived(core.give(notify(5, "tok", title="t", more=True)))
    core.session.set_foreground(binding, True, core.now)
    assert "FETCH" in kinds(core.answer_states())
    core.session.confirm_shown(binding, tip.notification)
    assert core.sent() == []


def test_what_comes_light_during_a_fetch_is_confirmed_unless_that_may_bring_its_body():
    core = Core().online()
    binding = core.bind("tok", foreground=False)
    core.session.fetch(binding)
    ((_, fetch),) = core.sent()
    core.give(notify(5, "tok", title="t", more=True))
    ((kind, fetch_one),) = core.sent()  # its body may be on its way
    assert (kind, fetch_one.ids) == (FrameType.FETCH, [5])
    core.give(build_frame(FrameType.FETCHED, frames.Fetched(req=fetch.req, count=0)))
    core.give(notify(6, "tok", title="t", more=True))
    assert core.sent() == [(FrameType.ACK, [6])]


def test_a_body_that_is_gone_leaves_nothing_asked_for():
    core = Core().online()
    binding = core.bind("tok")
    core.give(notify(5, "tok", more=True))
    fetch = core.sent()[1][1]
    core.give(build_frame(FrameType.FETCHED, frames.Fetched(req=fetch.req, count=0)))
    assert binding.asked == set()
    core.give(notify(5, "tok", more=True))
    assert kinds(core.sent()) == ["ACK", "FETCH"]


def test_a_light_broadcast_that_was_had_whole_is_acked():
    core = Core().online()
    core.bind("tok")
    core.give(notify(7, "", app="mail", data=msgspec.Raw(b"\x01")))
    core.sent()
    core.give(notify(7, "", app="mail", more=True))
    assert core.sent() == [(FrameType.ACK, [7])]


def test_a_full_window_is_fetched_on_when_a_confirmation_makes_room():
    core = Core().online()
    binding = core.bind("tok", ack=AckPolicy.DISPLAY)
    (shown,) = arrived(core.give(notify(1, "tok")))
    core.give(notify(5, "tok", more=True))
    ((_, fetch),) = core.sent()
    core.give(build_frame(FrameType.FETCHED, frames.Fetched(req=fetch.req, count=0, more=True)))
    assert core.sent() == []
    core.session.confirm_shown(binding, shown)
    assert kinds(core.sent()) == ["SHOWN", "FETCH"]


def test_fetch_goes_on_while_it_brings_something_new():  # A4
    core = Core().online()
    binding = core.bind("tok")
    request = core.session.fetch(binding)
    ((_, fetch),) = core.sent()
    more = build_frame(FrameType.FETCHED, frames.Fetched(req=fetch.req, count=1, more=True))
    events = core.give(notify(1, "tok"), more)
    assert arrived(events)[0].id == 1
    sent = core.sent()
    assert kinds(sent) == ["ACK", "FETCH"]
    more = build_frame(FrameType.FETCHED, frames.Fetched(req=sent[1][1].req, count=1, more=True))
    events = core.give(notify(1, "tok"), more)  # only a duplicate: going on could go on for ever
    assert events == [Answered(request, result=Fetched(2, more=True))]


def test_what_can_not_be_held_is_not_acked_and_is_fetched_in_the_foreground():
    core = Core().online()
    binding = core.bind("tok", foreground=False)
    events = core.give(*(notify(i, "tok", title="t") for i in range(MAX_HELD + 3)))
    assert len(arrived(events)) == MAX_HELD
    ((_, acked),) = core.sent()
    assert len(acked) == MAX_HELD
    assert core.counters.held_full == 3
    core.session.set_foreground(binding, True, core.now)
    assert len(arrived(core.events())) == MAX_HELD
    fetch = next(b for k, b in core.sent() if k is FrameType.FETCH)
    assert fetch.ids == []
    assert [n.id for n in arrived(core.give(notify(MAX_HELD, "tok")))] == [MAX_HELD]


def test_a_newer_one_with_the_same_collapse_key_replaces_the_held_one():
    core = Core().online()
    binding = core.bind("tok", foreground=False)
    core.give(notify(1, "tok", collapse="score"), notify(2, "tok", collapse="score"))
    core.session.set_foreground(binding, True, core.now)
    assert [n.id for n in arrived(core.events())] == [2]


def test_a_held_one_past_its_end_is_not_shown():
    core = Core().online(now_ms=5_000_000)
    binding = core.bind("tok", foreground=False)
    core.give(notify(1, "tok", expires=5060), notify(2, "tok", expires=5120))
    core.now += 90
    core.session.set_foreground(binding, True, core.now)
    assert [n.id for n in arrived(core.events())] == [2]
    assert core.counters.expired == 1


def test_recall_takes_a_held_one_away():
    core = Core().online()
    binding = core.bind("tok", foreground=False)
    core.give(notify(1, "tok"), build_frame(FrameType.RECALL, [1]))
    core.session.set_foreground(binding, True, core.now)
    assert arrived(core.events()) == []


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
