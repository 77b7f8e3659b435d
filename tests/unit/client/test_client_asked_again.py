"""A registration that is asked for again on its link: the gateway has it bound all the time, so what comes meanwhile is
taken, and still nothing of an account that another one takes the place of (A5)."""

from __future__ import annotations

from scripted_gateway import error, notify, token
from session_core import Core, arrived

from gateway.client.events import Binding, Ended, Resumed
from gateway.model import errors
from gateway.model.frames import FrameType


def test_what_comes_before_the_new_token_is_taken_and_confirmed():
    core = Core().online()
    binding = core.bind("tok")
    core.session.register(binding)
    ((_, register),) = core.sent()
    assert [n.id for n in arrived(core.give(notify(1, "tok"), notify(2, app="mail")))] == [1, 2]
    assert core.sent() == [(FrameType.ACK, [1, 2])]
    core.give(token(register.req, "tok"))
    assert [n.id for n in arrived(core.give(notify(3, "tok")))] == [3]
    assert core.counters.unbound == 0


def test_one_that_is_refused_for_now_stays_what_it_was():
    core = Core().online()
    binding = core.bind("tok")
    core.session.register(binding)
    ((_, register),) = core.sent()
    core.give(error(errors.TooManyRequests, req=register.req, after_ms=60_000))
    assert [n.id for n in arrived(core.give(notify(1, "tok")))] == [1]
    assert core.counters.unbound == 0


def test_on_a_new_link_nothing_is_taken_before_its_token():
    core = Core().online()
    binding = core.bind("tok")
    core.session.register(binding)
    core.session.lost(core.now)
    core.online()
    assert core.give(notify(1, "tok"), notify(2, app="mail")) == []
    assert core.counters.unbound == 2


def test_an_account_asked_for_again_and_then_replaced_is_silent():  # A5
    core = Core().online()
    old = core.bind("t-old", account="old")
    core.session.register(old)
    new = Binding("mail", "1", "new")
    core.session.register(new)
    again, register = (body for _, body in core.sent())
    assert core.give(notify(1, "t-old"), token(again.req, "t-old"), notify(2, "t-old"))[1:] == []
    events = core.give(token(register.req, "t-new"), notify(3, "t-old"), notify(4, app="mail"))
    assert [n.account for n in arrived(events)] == ["new"]
    assert [e.binding for e in events if isinstance(e, Ended)] == [old]
    assert core.counters.unbound == 3


def test_an_account_that_is_not_replaced_after_all_gets_what_is_on_its_way():
    core = Core().online()
    old = core.bind("t-old", account="old")
    new = Binding("mail", "1", "new")
    core.session.register(new)
    ((_, register),) = core.sent()
    events = core.give(notify(1, "t-old"), error(errors.UnknownApp, req=register.req), notify(2, "t-old"))
    assert [type(e) for e in events[:2]] == [Ended, Resumed]
    assert [(n.account, n.id) for n in arrived(events)] == [("old", 2)]
    assert not old.is_over
