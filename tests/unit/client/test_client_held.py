"""What the device SDK holds for the foreground: tips, collapse keys, accounts that change, bodies that do not come."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from scripted_gateway import error, notify, token, welcome
from session_core import Core, arrived, kinds

from gateway.client.content import AckPolicy, Notification, Tip
from gateway.client.events import Arrived, Binding, BindState
from gateway.client.inbox import MAX_HELD
from gateway.client.requests import FETCH_AGAIN_MAX_S, FETCH_AGAIN_S, MAX_REQUESTS
from gateway.client.seen import FULL, Seen
from gateway.model import frames
from gateway.model.errors import TooManyRequests
from gateway.model.frames import FrameType, build_frame

BODY = msgspec.Raw(b"\x01")


def fetched(req: int, count: int, *, more: bool = False) -> bytes:
    return build_frame(FrameType.FETCHED, frames.Fetched(req=req, count=count, more=more))


# --- tips of what came light in the foreground ------------------------------------------------------------------------


def test_an_app_that_leaves_the_foreground_before_a_body_came_gets_its_tip():  # B6
    core = Core().online()
    binding = core.bind("tok")
    core.give(notify(5, "tok", title="t", more=True))
    assert kinds(core.sent()) == ["ACK", "FETCH"]
    core.session.set_foreground(binding, False, core.now)
    (tip,) = arrived(core.events())
    assert (type(tip), tip.title, tip.id) == (Tip, "t", 5)
    core.answer_states()
    assert arrived(core.give(notify(5, "tok", title="t", data=BODY))) == []  # one tip is enough
    assert core.sent() == [(FrameType.WHOLE, [5])]
    core.session.set_foreground(binding, True, core.now)
    (message,) = arrived(core.events())
    assert (type(message), message.data) == (Notification, 1)


def test_a_body_that_comes_in_the_background_without_a_tip_before_it_gets_one():
    core = Core().online(now_ms=5_000_000)
    binding = core.bind("tok")
    core.give(notify(5, "tok", title="t", more=True, expires=5_010))
    ((_, fetch),) = [one for one in core.sent() if one[0] is FrameType.FETCH]
    core.now += 20
    core.session.set_foreground(binding, False, core.now)
    assert core.events() == []  # what is over has no tip; its end was set anew meanwhile
    core.answer_states()
    (tip,) = arrived(core.give(notify(5, "tok", title="t", data=BODY, expires=5_100), fetched(fetch.req, 1)))
    assert (type(tip), tip.id) == (Tip, 5)
    assert core.sent() == [(FrameType.WHOLE, [5])]


def test_a_body_in_the_background_is_not_confirmed_before_its_tip_is_shown():
    core = Core().online()
    binding = core.bind("tok", ack=AckPolicy.DISPLAY)
    core.give(notify(5, "tok", title="t", more=True))
    core.session.set_foreground(binding, False, core.now)
    (tip,) = arrived(core.events())
    core.answer_states()
    core.give(notify(5, "tok", title="t", data=BODY))
    assert core.sent() == []
    core.session.confirm_shown(binding, tip.notification)
    assert core.sent() == []  # of the light form, whose body is here: the message itself was not shown
    core.session.set_foreground(binding, True, core.now)
    (message,) = arrived(core.events())
    core.answer_states()
    core.session.confirm_shown(binding, message)
    assert core.sent() == [(FrameType.SHOWN, [5]), (FrameType.WHOLE, [5])]


# --- collapse keys ----------------------------------------------------------------------------------------------------


def test_a_broadcast_does_not_take_the_place_of_a_push_with_the_same_key():
    core = Core().online()
    binding = core.bind("tok", foreground=False)
    core.give(notify(1, "tok", collapse="news"), notify(2, app="mail", collapse="news"))
    core.session.set_foreground(binding, True, core.now)
    assert [n.id for n in arrived(core.events())] == [1, 2]


def test_an_older_one_that_comes_late_takes_no_place_and_is_not_confirmed():
    core = Core().online()
    binding = core.bind("tok", foreground=False)
    core.give(notify(6, "tok", collapse="score"))
    assert core.sent() == [(FrameType.ACK, [6])]
    assert core.give(notify(5, "tok", collapse="score")) == []
    assert core.sent() == []
    core.give(build_frame(FrameType.RECALL, [6]))  # it was not kept after all
    (tip,) = arrived(core.give(notify(5, "tok", collapse="score")))
    assert tip.id == 5
    core.session.set_foreground(binding, True, core.now)
    assert [n.id for n in arrived(core.events())] == [5]


def test_a_body_does_not_take_the_place_of_a_newer_one():
    core = Core().online()
    binding = core.bind("tok")
    core.give(notify(5, "tok", more=True, collapse="score"))
    core.sent()
    core.session.set_foreground(binding, False, core.now)
    core.give(notify(6, "tok", collapse="score"), notify(5, "tok", data=BODY, collapse="score"))
    core.give(build_frame(FrameType.RECALL, [5]))
    core.session.set_foreground(binding, True, core.now)
    assert [n.id for n in arrived(core.events())] == [6]


def test_one_that_was_replaced_before_it_was_confirmed_is_new_when_it_comes_again():
    core = Core().online()
    binding = core.bind("tok", ack=AckPolicy.DISPLAY, foreground=False)
    core.give(notify(1, "tok", collapse="score"), notify(2, "tok", collapse="score"))
    core.give(build_frame(FrameType.RECALL, [2]))
    assert [tip.id for tip in arrived(core.give(notify(1, "tok", collapse="score")))] == [1]
    core.session.set_foreground(binding, True, core.now)
    assert [n.id for n in arrived(core.events())] == [1]


def test_a_broadcast_that_a_newer_one_of_its_key_replaced_does_not_come_behind_it():
    core = Core().online()
    binding = core.bind("tok", ack=AckPolicy.DISPLAY, foreground=False)
    core.give(notify(7, app="mail", collapse="release"), notify(8, app="mail", collapse="release"))
    core.session.set_foreground(binding, True, core.now)
    assert [n.id for n in arrived(core.events())] == [8]
    assert core.give(notify(7, app="mail", collapse="release")) == []


def test_an_older_broadcast_behind_a_newer_one_of_its_key_is_over():
    core = Core().online()
    binding = core.bind("tok", foreground=False)
    core.give(notify(8, app="mail", collapse="release"), notify(7, app="mail", collapse="release"))
    assert core.sent() == [(FrameType.ACK, [8, 7])]  # else it would come on each link
    core.session.set_foreground(binding, True, core.now)
    assert [n.id for n in arrived(core.events())] == [8]


# --- accounts that change (A5) ----------------------------------------------------------------------------------------


def test_what_was_not_handed_out_is_new_when_its_account_is_back():
    core = Core().online()
    before = core.bind("ta", account="a", ack=AckPolicy.DISPLAY, foreground=False)
    core.give(notify(1, "ta", title="t"))
    core.bind("tb", account="b")
    assert before.state is BindState.ENDED
    binding = core.bind("ta", account="a", ack=AckPolicy.DISPLAY)
    (message,) = arrived(core.give(notify(1, "ta", title="t")))
    core.session.confirm_shown(binding, message)
    assert (FrameType.SHOWN, [1]) in core.sent()


def test_a_broadcast_that_was_held_for_one_account_is_new_to_the_next():
    core = Core().online()
    core.bind("ta", account="a", foreground=False)
    core.give(notify(7, app="mail", title="t"))
    core.sent()
    core.bind("tb", account="b")
    assert [n.id for n in arrived(core.give(notify(7, app="mail", title="t")))] == [7]


def test_a_tip_that_is_shown_after_its_account_ended_does_not_keep_its_message_from_a_later_one():
    core = Core().online()
    before = core.bind("ta", account="a", ack=AckPolicy.DISPLAY, foreground=False)
    (tip,) = arrived(core.give(notify(1, "ta", title="t")))
    core.bind("tb", account="b")
    core.session.confirm_shown(before, tip.notification)
    assert (FrameType.SHOWN, [1]) in core.sent()
    binding = core.bind("ta", account="a", ack=AckPolicy.DISPLAY)
    (message,) = arrived(core.give(notify(1, "ta", title="t")))
    core.session.confirm_shown(binding, message)
    assert (FrameType.SHOWN, [1]) in core.sent()


def test_what_the_caller_could_not_hand_out_is_new_when_it_comes_again():
    core = Core().online()
    core.bind("tok")
    (message,) = arrived(core.give(notify(1, "tok")))
    assert core.session.forget(message)
    assert [n.id for n in arrived(core.give(notify(1, "tok")))] == [1]


# --- bodies that do not come ------------------------------------------------------------------------------------------


def test_bodies_that_were_counted_and_did_not_come_are_asked_for_again():
    """Lost between the node that has them and the node of this link."""
    core = Core().online()
    core.bind("tok")
    core.give(notify(5, "tok", more=True))
    _, (_, fetch) = core.sent()
    core.give(notify(6, "tok"), fetched(fetch.req, 1))  # another is no body of it
    assert core.sent() == [(FrameType.ACK, [6])]
    assert core.pass_time(FETCH_AGAIN_S - 1) == []
    ((kind, again),) = core.pass_time(2)
    assert (kind, again.ids) == (FrameType.FETCH, [5])
    assert [n.id for n in arrived(core.give(notify(5, "tok", data=BODY), fetched(again.req, 1)))] == [5]
    assert core.pass_time(FETCH_AGAIN_S * 3) == []
    assert core.counters.bodies_gone == 0


def test_what_a_fetch_of_all_counted_and_did_not_bring_is_asked_for_again():
    core = Core().online()
    binding = core.bind("tok", foreground=False)
    core.give(*(notify(id, "tok", title="t") for id in range(MAX_HELD + 2)))  # two are refused
    core.answer_states()
    core.session.set_foreground(binding, True, core.now)
    core.events()
    ((_, fetch),) = [one for one in core.answer_states() if one[0] is FrameType.FETCH]
    core.give(notify(MAX_HELD, "tok"), fetched(fetch.req, 2))
    ((_, again),) = [one for one in core.sent() + core.pass_time(FETCH_AGAIN_S) if one[0] is FrameType.FETCH]
    assert (fetch.ids, again.ids) == ([], [])
    core.give(notify(MAX_HELD + 1, "tok"), fetched(again.req, 1))
    assert "FETCH" not in kinds(core.sent() + core.pass_time(FETCH_AGAIN_S * 3))


def test_a_body_that_comes_in_the_background_does_not_make_forget_what_had_no_room():
    core = Core().online()
    binding = core.bind("tok")
    core.give(notify(0, "tok", title="t", more=True))
    _, (_, fetch) = core.sent()
    core.session.set_foreground(binding, False, core.now)
    core.give(*(notify(id, "tok", title="t") for id in range(1, MAX_HELD + 1)))  # one is refused
    core.give(notify(0, "tok", title="t", data=BODY), fetched(fetch.req, 1))
    core.answer_states()
    core.session.set_foreground(binding, True, core.now)
    ((_, fetch),) = [one for one in core.answer_states() if one[0] is FrameType.FETCH]
    assert fetch.ids == []


def test_of_several_bodies_those_that_are_gone_are_told_from_those_that_were_lost():
    core = Core().online()
    binding = core.bind("tok", foreground=False)
    core.give(*(notify(id, "tok", more=True) for id in (5, 6, 7)))
    core.session.set_foreground(binding, True, core.now)
    ((_, fetch),) = [one for one in core.answer_states() if one[0] is FrameType.FETCH]
    assert fetch.ids == [5, 6, 7]
    core.give(notify(5, "tok", data=BODY), fetched(fetch.req, 2))  # of 6 and 7 one is lost and one is gone
    ((_, fetch),) = [one for one in core.sent() + core.pass_time(FETCH_AGAIN_S) if one[0] is FrameType.FETCH]
    assert fetch.ids == [6, 7]
    core.give(notify(7, "tok", data=BODY), fetched(fetch.req, 1))
    assert binding.held == {}
    assert core.counters.bodies_gone == 1


def test_a_full_window_is_asked_again_less_and_less_often_while_nothing_is_confirmed():
    core = Core().online()
    binding = core.bind("tok", ack=AckPolicy.DISPLAY)
    (shown,) = arrived(core.give(notify(1, "tok")))
    core.give(notify(5, "tok", more=True))
    ((_, fetch),) = core.sent()
    for pause_s in (FETCH_AGAIN_S, FETCH_AGAIN_S * 2, FETCH_AGAIN_S * 4):
        core.give(fetched(fetch.req, 0, more=True))
        assert core.pass_time(pause_s - 1) == []
        ((kind, fetch),) = core.pass_time(1)
        assert (kind, fetch.ids) == (FrameType.FETCH, [5])
    for _ in range(10):
        core.give(fetched(fetch.req, 0, more=True))
        ((_, fetch),) = [one for one in core.pass_time(FETCH_AGAIN_MAX_S) if one[0] is FrameType.FETCH]
    core.give(fetched(fetch.req, 0, more=True))
    core.session.confirm_shown(binding, shown)
    assert kinds(core.sent()) == ["SHOWN", "FETCH"]


def test_a_light_form_that_comes_again_does_not_cut_short_a_pause_that_the_gateway_asked_for():
    core = Core().online()
    core.bind("tok")
    core.give(notify(5, "tok", more=True))
    _, (_, fetch) = core.sent()
    core.give(error(TooManyRequests, req=fetch.req, after_ms=60_000))
    core.give(notify(5, "tok", more=True))
    assert "FETCH" not in kinds(core.sent() + core.pass_time(59))
    assert "FETCH" in kinds(core.pass_time(30))


# --- confirmations of what was had ------------------------------------------------------------------------------------


@pytest.mark.parametrize("knows", [True, False])
def test_a_body_that_was_confirmed_off_line_is_confirmed_as_the_next_gateway_understands_it(knows: bool):
    core = Core().online(whole=not knows)
    binding = core.bind("tok", ack=AckPolicy.DISPLAY)
    core.give(notify(5, "tok", more=True))
    core.sent()
    (message,) = arrived(core.give(notify(5, "tok", data=BODY)))
    core.session.lost(core.now)
    core.session.confirm_shown(binding, message)
    core.session.start(core.now)
    core.give(welcome(whole=knows))
    ((_, register),) = [one for one in core.sent() if one[0] is FrameType.REGISTER]
    core.give(token(register.req, "tok"))
    shown, whole = (FrameType.SHOWN, [5]), (FrameType.WHOLE, [5])
    assert core.sent() == ([shown, whole] if knows else [shown])


def test_what_was_touched_lately_is_not_forgotten():
    seen = Seen(3)
    for id in range(3):
        seen.mark("t", id, 0)
    seen.mark("t", 0, FULL)
    seen.mark("t", 3, FULL)
    assert seen.get("t", 0) == FULL
    assert seen.get("t", 1) is None


# --- broadcasts, which come once for each registration ----------------------------------------------------------------


def two_accounts(**fields: Any) -> tuple[Core, Binding, Binding]:
    core = Core().online()
    return core, core.bind("ta", account="a", keep=True, **fields), core.bind("tb", account="b", keep=True, **fields)


@pytest.mark.parametrize("later", [0, 2])
def test_a_broadcast_that_is_shown_is_confirmed_for_each_registration(later: int):
    core, _, newest = two_accounts(ack=AckPolicy.DISPLAY)
    (message,) = arrived(core.give(notify(7, app="mail"), notify(7, app="mail")))
    assert core.sent() == []
    core.session.confirm_shown(newest, message)
    assert core.sent() == [(FrameType.SHOWN, [7, 7])]
    for _ in range(later):
        assert arrived(core.give(notify(7, app="mail"))) == []
        assert core.sent() == [(FrameType.SHOWN, [7])]


def test_what_came_on_an_earlier_link_is_not_owed_on_the_next():
    core, _, newest = two_accounts(ack=AckPolicy.DISPLAY)
    (message,) = arrived(core.give(notify(7, app="mail"), notify(7, app="mail"), notify(7, app="mail")))
    core.reconnect("ta", "tb")
    core.give(notify(7, app="mail"), notify(7, app="mail"))
    core.session.confirm_shown(newest, message)
    assert core.sent() == [(FrameType.SHOWN, [7, 7, 7])]  # two of this link, and the first time that it is said at all


def test_a_light_broadcast_is_confirmed_for_each_registration():
    core, _, _ = two_accounts()
    core.give(notify(7, app="mail", more=True), notify(7, app="mail", more=True))
    (kind, acked), (_, fetch) = core.sent()
    assert (kind, acked) == (FrameType.ACK, [7])
    (message,) = arrived(core.give(notify(7, app="mail", data=BODY), fetched(fetch.req, 1)))
    assert message.data == 1
    assert core.sent() == [(FrameType.ACK, [7, 7])]  # the body, and the light form of the other


def test_the_body_of_a_broadcast_goes_to_the_account_that_has_its_light_form():
    core, older, newest = two_accounts()
    core.session.lost(core.now)
    core.session.start(core.now)
    core.sent()
    core.give(welcome())
    first, second = (body for kind, body in core.sent() if kind is FrameType.REGISTER)
    core.give(token(first.req, "ta"), notify(7, app="mail", more=True), token(second.req, "tb"))
    ((_, fetch),) = [one for one in core.sent() if one[0] is FrameType.FETCH]
    events = core.give(notify(7, app="mail", more=True), notify(7, app="mail", data=BODY), fetched(fetch.req, 1))
    assert [event.binding for event in events if isinstance(event, Arrived)] == [older]
    assert not older.held
    assert not newest.held
    assert "FETCH" not in kinds(core.pass_time(FETCH_AGAIN_MAX_S))
    core.session.set_foreground(older, False, core.now)
    assert arrived(core.events()) == []


# --- bounds, and a gateway that is another ----------------------------------------------------------------------------


def test_what_is_over_makes_room_for_what_is_not():
    core = Core().online(now_ms=5_000_000)
    core.bind("tok", foreground=False)
    for id in range(MAX_HELD):
        core.give(notify(id, "tok", title="t", expires=5_010))
    core.sent()
    assert arrived(core.give(notify(1_000, "tok", title="live"))) == []
    assert (core.counters.held_full, core.sent()) == (1, [])
    core.now += 20
    (tip,) = arrived(core.give(notify(1_000, "tok", title="live")))
    assert tip.title == "live"
    assert core.counters.expired == MAX_HELD


def test_a_fetch_goes_on_where_no_room_is_for_another_request():
    core = Core().online()
    binding = core.bind("tok")
    for _ in range(MAX_REQUESTS):
        core.session.fetch(binding)
    request = next(body for _, body in core.sent())
    core.give(notify(4, "tok", more=True))  # and one for its body, which is the device's own
    core.sent()
    core.give(notify(5, "tok"), fetched(request.req, 1, more=True))
    assert core.counters.broken_links == 0
    assert "FETCH" in kinds(core.sent())


def test_what_was_dropped_is_dropped_with_the_bodies_that_are_on_their_way():
    core = Core().online()
    binding = core.bind("tok")
    core.give(notify(5, "tok", title="t", more=True))
    ((_, fetch),) = [one for one in core.sent() if one[0] is FrameType.FETCH]
    core.session.drop(binding)
    assert core.counters.discarded == 1
    assert arrived(core.give(notify(5, "tok", title="t", data=BODY), fetched(fetch.req, 1))) == []
    assert core.sent() == [(FrameType.WHOLE, [5])]


class Kept:
    """A SeenStore that may fail."""

    def __init__(self) -> None:
        self.ids: list[tuple[str, int]] = []
        self.fails = False

    def load(self) -> list[tuple[str, int]]:
        return list(self.ids)

    def add(self, source: str, id: int) -> None:
        if self.fails:
            raise OSError("no space left")
        self.ids.append((source, id))

    def clear(self) -> None:
        if self.fails:
            raise OSError("no space left")
        self.ids.clear()


def test_a_store_that_fails_costs_neither_the_link_nor_what_came():
    kept = Kept()
    core = Core(seen_store=kept).online()
    core.bind("tok")
    kept.fails = True
    (message,) = arrived(core.give(notify(5, "tok", title="t")))
    assert message.title == "t"
    assert core.sent() == [(FrameType.ACK, [5])]
    assert core.counters.seen_unsaved == 1
    core.session.lost(core.now)
    core.session.start(core.now, known="another")
    core.give(welcome())
    assert core.counters.seen_unsaved == 2


@pytest.mark.parametrize("before", ["", "another"])
def test_who_gets_a_new_id_forgets_what_the_gateway_before_numbered(before: str):
    kept = Kept()
    kept.ids = [("mail", 7)]
    core = Core(seen_store=kept)
    core.session.start(core.now, device=before, known=before)
    core.give(welcome(device="dev~1"))
    core.sent()
    assert kept.ids == []
    core.bind("tok")
    assert [message.id for message in arrived(core.give(notify(7, app="mail", title="t")))] == [7]


@pytest.mark.parametrize("known", ["dev~1", None])
def test_who_keeps_its_id_or_is_named_by_a_jwt_remembers(known: str | None):
    kept = Kept()
    kept.ids = [("mail", 7)]
    core = Core(seen_store=kept)
    core.session.start(core.now, known=known)
    core.give(welcome(device="dev~1"))
    core.sent()
    core.bind("tok")
    assert arrived(core.give(notify(7, app="mail", title="t"))) == []
    assert core.sent() == [(FrameType.ACK, [7])]


def test_who_gets_a_new_id_keeps_nothing_that_the_new_gateway_would_take_for_its_own():
    core = Core().online()
    binding = core.bind("tok", foreground=False)
    (tip,) = arrived(core.give(notify(1_000, app="mail", title="old", collapse="x")))
    core.sent()
    core.session.lost(core.now)
    core.session.confirm_shown(binding, tip.notification)
    core.session.start(core.now, known="dev~1")
    core.sent()
    core.give(welcome(device="dev~2"))
    (register,) = (body for kind, body in core.sent() if kind is FrameType.REGISTER)
    core.give(token(register.req, "other"))
    core.answer_states()
    (tip,) = arrived(core.give(notify(3, app="mail", title="new", collapse="x")))
    assert tip.title == "new"
    assert core.sent() == [(FrameType.ACK, [3])]
    assert list(binding.held) == [3]
