"""Users who come and go in any order, over links that break anywhere, against a small model of the gateway: once it is
quiet, exactly the accounts that are wanted are bound there, and no other is in use."""

from __future__ import annotations

import random
from typing import Any

import pytest
from scripted_gateway import error, parse_sent, token, welcome
from session_core import Core

from gateway.client.events import Answered, Binding, BindState, Bound, Ended, Request
from gateway.client.requests import Phase
from gateway.model import frames
from gateway.model.errors import TooManyRequests, UnknownToken
from gateway.model.frames import FrameReader, FrameType, build_frame

RUNS = 400


class GatewayModel:
    """What a gateway does with REGISTER and UNREGISTER; answers wait until they are fetched."""

    def __init__(self, luck: random.Random, refusals: float) -> None:
        self._luck = luck
        self._refusals = refusals
        self._made = 0
        self.tokens: dict[tuple[str, str], str] = {}
        self.in_use: set[tuple[str, str]] = set()
        self.new_link()

    def new_link(self) -> None:
        self.bound: dict[str, tuple[str, str]] = {}
        self.asked: list[tuple[FrameType, Any]] = []
        self.answers: list[bytes] = []

    def step(self, *, kindly: bool) -> bool:
        if not self.asked:
            return False
        kind, body = self.asked.pop(0)
        if kind is FrameType.HELLO:
            self.answers.append(welcome())
        elif kind is FrameType.PING:
            self.answers.append(b"\x02\x00")
        elif kind is FrameType.STATE:
            self.answers.append(build_frame(FrameType.DONE, frames.Done(req=body.req, heartbeat=body.heartbeat)))
        elif not kindly and kind is not FrameType.FETCH and self._luck.random() < self._refusals:
            self.answers.append(error(TooManyRequests, req=body.req, retry=True, after_ms=2_000))
        elif kind is FrameType.REGISTER:
            self._register(body)
        elif body.token not in self.bound:
            self.answers.append(error(UnknownToken, req=body.req))
        elif kind is FrameType.FETCH:
            self.answers.append(build_frame(FrameType.FETCHED, frames.Fetched(req=body.req, count=0)))
        else:
            assert kind is FrameType.UNREGISTER
            key = self.bound.pop(body.token)
            self.in_use.discard(key)
            if body.forget:
                del self.tokens[key]
            self.answers.append(build_frame(FrameType.DONE, frames.Done(req=body.req)))
        return True

    def _register(self, body: frames.Register) -> None:
        key = body.app, body.account
        if key not in self.tokens:
            self._made += 1
            self.tokens[key] = f"t{self._made}"
        if not body.keep:
            for text, other in list(self.bound.items()):
                if other[0] == body.app and other != key:
                    del self.bound[text]
                    self.in_use.discard(other)
        self.bound[self.tokens[key]] = key
        self.in_use.add(key)
        self.answers.append(token(body.req, self.tokens[key]))


class Users:
    """Of one device, who do anything at any moment."""

    def __init__(self, seed: int, *, keeps: bool | None, refusals: float) -> None:
        self.luck = random.Random(seed)
        self.keeps = keeps
        self.core = Core()
        self.session = self.core.session
        self.gateway = GatewayModel(self.luck, refusals)
        self.is_linked = False
        self.bound: set[Binding] = set()
        self.wanted: set[Binding] = set()
        self.unanswered: set[Request] = set()

    def hear(self) -> None:
        while (event := self.session.next_event(self.core.now)) is not None:
            if isinstance(event, Bound):
                self.bound.add(event.binding)
            elif isinstance(event, Ended):
                self.wanted.discard(event.binding)
            elif isinstance(event, Answered):
                self.unanswered.discard(event.request)

    def write(self) -> None:
        data = self.session.data_to_send(self.core.now)
        self.gateway.asked += [parse_sent(*frame) for frame in FrameReader().feed(data)]

    def read(self) -> bool:
        if not self.gateway.answers:
            return False
        self.session.receive(self.gateway.answers.pop(0), self.core.now)
        return True

    def link(self) -> None:
        self.session.start(self.core.now)
        self.gateway.new_link()
        self.is_linked = True
        self.write()

    def cut(self) -> None:
        for _ in range(self.luck.randrange(4)):
            self.gateway.step(kindly=False)
        for _ in range(self.luck.randrange(3)):
            self.read()
        self.session.lost(self.core.now)
        self.gateway.new_link()
        self.is_linked = False

    def register(self) -> None:
        account = self.luck.choice("abc")
        binding = self.session.bindings.find("mail", account) or Binding("mail", "1", account)
        binding.keep = account != "b" if self.keeps is None else self.keeps
        self.session.register(binding)
        self.wanted.add(binding)

    def unregister(self) -> None:
        binding = self.luck.choice(list(self.session.bindings))
        request = self.session.unregister(binding, forget=self.luck.random() < 0.3)
        if request is not None:
            self.unanswered.add(request)

    def abandon(self) -> None:
        new = [binding for binding in self.session.bindings if binding not in self.bound]
        if new:
            self.session.abandon(self.luck.choice(new))

    def give_up(self) -> None:
        if self.unanswered:
            request = self.luck.choice(sorted(self.unanswered, key=lambda one: (one.kind, one.body.token)))
            self.unanswered.discard(request)
            self.session.give_up(request)

    def fetch(self) -> None:
        bound = [binding for binding in self.session.bindings if binding in self.bound]
        if bound:
            self.unanswered.add(self.session.fetch(self.luck.choice(bound)))

    def act(self) -> None:
        acts = [self.register] * 4 + [self.abandon] * 2 + [self.hear] * 5 + [self.give_up, self.fetch]
        if len(self.session.bindings):
            acts += [self.unregister] * 3
        if self.is_linked:
            acts += [self.cut] * 2 + [self.write, self.read, lambda: self.gateway.step(kindly=False)] * 6  # type: ignore[list-item]
        else:
            acts += [self.link] * 3
        self.luck.choice(acts)()
        self.core.now += self.luck.choice([0, 0, 0, 3])
        if self.session.phase is Phase.ONLINE:
            self.session.receive(b"", self.core.now)  # the gateway was heard
            self.session.tick(self.core.now)

    def settle(self) -> None:
        if not self.is_linked:
            self.link()
        for _ in range(2_000):
            self.hear()
            self.write()
            if self.gateway.step(kindly=True) or self.read():
                continue
            due = [binding.retry_at for binding in self.session._known() if binding.retry_at]
            if not due:
                return
            self.core.now = max(self.core.now, min(due))
            self.session.receive(b"", self.core.now)
            self.session.tick(self.core.now)
        raise AssertionError("it does not become quiet")

    def check(self) -> None:
        wanted = {binding.key for binding in self.session.bindings}
        assert set(self.session.bindings) == self.wanted
        assert all(binding.state is BindState.BOUND and not binding.suspended for binding in self.session.bindings)
        assert set(self.gateway.bound.values()) == wanted == self.gateway.in_use
        assert all(self.gateway.tokens[binding.key] == binding.token for binding in self.session.bindings)
        assert not self.unanswered
        assert not self.session._requests


@pytest.mark.parametrize("refusals", [0.0, 0.3])
@pytest.mark.parametrize("keeps", [True, False, None], ids=["side by side", "one after the other", "both"])
def test_whatever_users_do_those_who_are_there_are_bound_and_nobody_else(keeps: bool | None, refusals: float):
    if keeps is None and refusals:
        refusals = 0.0  # a replacement that is refused and tried later replaces who came meanwhile, unheard
    for seed in range(RUNS):
        users = Users(seed, keeps=keeps, refusals=refusals)
        for _ in range(users.luck.randrange(1, 4)):
            for _ in range(users.luck.randrange(3, 40)):
                users.act()
            users.settle()
            users.check()
