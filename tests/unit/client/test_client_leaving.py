"""Accounts that end, with a link or without one: the gateway hears of it, and nothing of theirs goes on (A5)."""

from __future__ import annotations

from typing import Any

import pytest
from scripted_gateway import error, notify, token, welcome
from session_core import Core, arrived, kinds

from gateway.client import requests
from gateway.client.errors import RegistrationEnded
from gateway.client.events import Answered, Binding, BindState
from gateway.model import frames
from gateway.model.errors import TooManyRequests, UnknownApp
from gateway.model.frames import FrameType, build_frame


def link(core: Core) -> list[tuple[FrameType, Any]]:
    """A new one; what was sent behind HELLO."""
    core.session.start(core.now)
    core.sent()
    core.give(welcome())
    return core.sent()


def done(req: int) -> bytes:
    return build_frame(FrameType.DONE, frames.Done(req=req))


def account_of(sent: list[tuple[FrameType, Any]]) -> dict[str, Any]:
    return {body.account: body for kind, body in sent if kind is FrameType.REGISTER}


def test_an_account_that_was_left_off_line_is_left_on_the_next_link():
    core = Core().online()
    anna, zoe = core.bind("ta", account="anna", keep=True), core.bind("tz", account="zoe", keep=True)
    core.session.lost(core.now)
    assert core.session.unregister(anna) is None  # nobody waits for a link
    core.events()
    registers = account_of(link(core))
    assert registers["anna"].keep
    core.give(token(registers["zoe"].req, "tz"), token(registers["anna"].req, "ta"))
    assert arrived(core.give(notify(5, "ta", title="for anna"))) == []
    ((kind, leave),) = core.sent()
    assert (kind, leave.token, leave.forget) == (FrameType.UNREGISTER, "ta", False)
    core.give(done(leave.req))
    assert zoe.state is BindState.BOUND
    assert list(account_of(core.reconnect("tz"))) == ["zoe"]


def test_an_account_that_another_replaced_off_line_is_left_on_the_next_link():
    core = Core().online()
    core.bind("ta", account="anna")
    core.session.lost(core.now)
    bert = Binding("mail", "1", "bert")
    core.session.register(bert)
    registers = account_of(link(core))
    assert list(registers) == ["bert"]
    core.give(token(registers["bert"].req, "tb"))
    ((kind, register),) = core.sent()
    assert (kind, register.account, register.keep) == (FrameType.REGISTER, "anna", True)
    core.give(token(register.req, "ta"))
    ((kind, leave),) = core.sent()
    assert (kind, leave.token) == (FrameType.UNREGISTER, "ta")
    core.give(done(leave.req))
    assert core.sent() == []
    assert bert.state is BindState.BOUND


def test_one_that_another_replaced_on_its_link_needs_no_word():
    core = Core().online()
    core.bind("ta", account="anna")
    core.bind("tb", account="bert")
    assert core.sent() == []


@pytest.mark.parametrize("cuts", [1, 3])
def test_a_link_that_is_lost_while_an_account_is_left_is_not_its_end(cuts: int):
    core = Core().online()
    anna = core.bind("ta", account="anna")
    request = core.session.unregister(anna)
    core.sent()
    for _ in range(cuts):
        core.session.lost(core.now)
        (register,) = account_of(link(core)).values()
        core.give(token(register.req, "ta"))
        ((kind, leave),) = core.sent()
        assert kind is FrameType.UNREGISTER
    assert Answered(request) not in core.give(done(leave.req))  # it was answered with the first cut
    core.session.lost(core.now)
    assert link(core) == []


def test_a_registration_that_was_given_up_with_its_link_is_left_where_it_may_be_bound():
    core = Core().online()
    anna = Binding("mail", "1", "anna")
    core.session.register(anna)
    core.sent()
    core.session.abandon(anna)
    core.session.lost(core.now)
    (register,) = account_of(link(core)).values()
    assert register.keep
    core.give(token(register.req, "ta"))
    assert kinds(core.sent()) == ["UNREGISTER"]


def test_one_that_was_never_asked_for_needs_no_word():
    core = Core()
    anna = Binding("mail", "1", "anna")
    core.session.register(anna)
    core.session.abandon(anna)
    assert link(core) == []


def test_an_account_that_is_back_before_the_link_is_not_left():
    core = Core().online()
    core.session.unregister(core.bind("ta", account="anna"))
    core.session.lost(core.now)
    anna = Binding("mail", "1", "anna")
    core.session.register(anna)
    (register,) = account_of(link(core)).values()
    assert not register.keep
    core.give(token(register.req, "ta"))
    assert core.sent() == []
    assert anna.state is BindState.BOUND


def test_an_account_that_is_back_while_it_is_left_is_bound_again():
    core = Core().online()
    core.session.unregister(core.bind("ta", account="anna"))
    ((_, leave),) = core.sent()
    anna = Binding("mail", "1", "anna")
    core.session.register(anna)
    ((_, register),) = core.sent()
    core.give(token(register.req, "ta"), done(leave.req))  # answers may come in another order
    ((kind, again),) = core.sent()
    assert (kind, again.account) == (FrameType.REGISTER, "anna")
    core.give(token(again.req, "ta"))
    assert anna.state is BindState.BOUND


def test_the_late_token_of_one_that_is_back_takes_it_from_nobody():
    core = Core().online()
    given_up, anna = Binding("mail", "1", "anna"), Binding("mail", "1", "anna")
    core.session.register(given_up)
    core.session.abandon(given_up)
    core.session.register(anna)
    first, second = (body for kind, body in core.sent() if kind is FrameType.REGISTER)
    core.give(token(first.req, "ta"), token(second.req, "ta"))
    ((kind, register),) = core.sent()  # for the first may have taken its place; and no UNREGISTER
    assert (kind, register.account) == (FrameType.REGISTER, "anna")
    core.give(token(register.req, "ta"))
    assert anna.state is BindState.BOUND


@pytest.mark.parametrize("step", ["REGISTER", "UNREGISTER"])
def test_a_refusal_that_says_to_retry_is_retried_also_for_an_account_that_is_left(step: str):
    core = Core().online()
    core.session.unregister(core.bind("ta", account="anna"))
    core.session.lost(core.now)
    (register,) = account_of(link(core)).values()
    if step == "REGISTER":
        core.give(error(TooManyRequests, req=register.req, retry=True, after_ms=60_000))
        register = next(body for kind, body in core.pass_time(90) if kind is FrameType.REGISTER)
    core.give(token(register.req, "ta"))
    ((_, leave),) = core.sent()
    if step == "UNREGISTER":
        core.give(error(TooManyRequests, req=leave.req, retry=True, after_ms=60_000))
        leave = next(body for kind, body in core.pass_time(90) if kind is FrameType.UNREGISTER)
    core.give(done(leave.req))
    assert "UNREGISTER" not in kinds(core.pass_time(300))


def test_an_account_that_the_gateway_does_not_know_is_left_no_more():
    core = Core().online()
    core.session.unregister(core.bind("ta", account="anna"))
    core.session.lost(core.now)
    (register,) = account_of(link(core)).values()
    core.give(error(UnknownApp, req=register.req))
    core.session.lost(core.now)
    assert link(core) == []


def test_so_many_accounts_are_left_and_no_more(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(requests, "MAX_REQUESTS", 3)
    core = Core().online()
    bindings = [core.bind(f"t{n}", account=f"a{n}", keep=True) for n in range(5)]
    core.session.lost(core.now)
    for binding in bindings:
        core.session.unregister(binding)
    assert core.counters.leaves_lost == 2
    assert list(account_of(link(core))) == ["a2", "a3", "a4"]


@pytest.mark.parametrize("ends", ["unregistered", "replaced"])
@pytest.mark.parametrize("asks", ["fetch", "ask"])
def test_who_asked_for_an_account_that_ended_is_told_and_it_is_not_bound_again_for_that(ends: str, asks: str):
    core = Core().online()
    anna = core.bind("ta", account="anna")
    request = core.session.fetch(anna) if asks == "fetch" else core.session.ask(anna, "profile", b"")
    core.sent()
    core.session.lost(core.now)
    if ends == "unregistered":
        core.session.unregister(anna)
    else:
        core.session.register(Binding("mail", "1", "bert"))
    registers = account_of(link(core))
    if ends == "replaced":
        core.give(token(registers["bert"].req, "tb"))
        registers = account_of(core.sent())
    answers = [event for event in core.told if isinstance(event, Answered)]
    assert [(event.request, type(event.error)) for event in answers] == [(request, RegistrationEnded)]
    core.give(token(registers["anna"].req, "ta"))
    assert kinds(core.sent()) == ["UNREGISTER"]


def test_one_that_is_bound_anew_for_a_new_token_takes_the_place_of_nobody_who_came_meanwhile():
    core = Core().online()
    bert = core.bind("tb", account="bert")
    core.session.lost(core.now)
    core.session.unregister(bert, forget=True)
    bert, cleo = Binding("mail", "1", "bert"), Binding("mail", "1", "cleo", keep=True)
    core.session.register(bert)
    core.session.register(cleo)
    first, second, to_forget = (body for kind, body in link(core) if kind is FrameType.REGISTER)
    core.give(token(first.req, "tb"), token(second.req, "tc"), token(to_forget.req, "tb"))
    ((kind, leave),) = core.sent()
    assert (kind, leave.token, leave.forget) == (FrameType.UNREGISTER, "tb", True)
    core.give(done(leave.req))
    registers = account_of(core.sent())
    assert list(registers) == ["bert", "cleo"]  # for bert's takes her place
    core.give(token(registers["bert"].req, "tb2"), token(registers["cleo"].req, "tc"))
    assert (bert.token, bert.state, cleo.state) == ("tb2", BindState.BOUND, BindState.BOUND)


@pytest.mark.parametrize("forget", [False, True])
def test_who_is_refused_an_end_is_told_and_has_it_later_all_the_same(forget: bool):
    core = Core().online()
    request = core.session.unregister(core.bind("ta", account="anna"), forget=forget)
    ((_, leave),) = core.sent()
    events = core.give(error(TooManyRequests, req=leave.req, retry=True, after_ms=60_000))
    (answered,) = (event for event in events if isinstance(event, Answered))
    assert answered.request is request
    assert isinstance(answered.error, TooManyRequests)
    (again,) = (body for kind, body in core.pass_time(90) if kind is FrameType.UNREGISTER)
    assert (again.token, again.forget) == ("ta", forget)


def test_who_waits_for_an_end_no_longer_has_it_all_the_same():
    core = Core().online()
    anna = core.bind("ta", account="anna")
    core.session.lost(core.now)
    request = core.session.unregister(anna, forget=True)
    assert request is not None
    core.session.give_up(request)
    (register,) = account_of(link(core)).values()
    core.give(token(register.req, "ta"))
    ((_, leave),) = core.sent()
    assert leave.forget
    assert not [event for event in core.give(done(leave.req)) if isinstance(event, Answered)]
