"""What the device SDK confirms, holds and fetches: duplicates, light forms, their bodies, in fore- and background."""

from __future__ import annotations

import msgspec
import pytest
from scripted_gateway import notify, token, welcome
from session_core import Core, arrived, kinds

from gateway.client.content import AckPolicy, Notification, Recall, Tip
from gateway.client.events import Answered, Fetched
from gateway.client.inbox import MAX_HELD
from gateway.model import frames
from gateway.model.frames import FrameType, build_frame

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
    ((kind, register),) = core.sent()  # a gateway takes no confirmation for what is not bound
    assert kind is FrameType.REGISTER
    core.give(token(register.req, "tok"))
    assert core.sent() == [(FrameType.SHOWN, [1])]


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
    assert kinds(core.sent()) == ["FETCH"]
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


def test_a_body_that_is_gone_is_not_asked_for_again_unless_its_light_form_comes_again():
    core = Core().online()
    binding = core.bind("tok")
    core.give(notify(5, "tok", more=True))
    fetch = core.sent()[1][1]
    core.give(build_frame(FrameType.FETCHED, frames.Fetched(req=fetch.req, count=0)))
    assert core.sent() == []
    assert binding.held == {}
    core.give(notify(5, "tok", more=True))
    assert kinds(core.sent()) == ["FETCH"]


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
