"""The sans-IO core of the device SDK with its clock in the test's hand, and a strict reading of what it sends."""

from __future__ import annotations

from typing import Any

from scripted_gateway import parse_sent, token, welcome

from gateway.client.content import Counters, Recall
from gateway.client.events import Arrived, Binding, BindState, Event
from gateway.client.heartbeat import AdaptiveHeartbeat
from gateway.client.seen import Seen
from gateway.client.session import Session
from gateway.model import frames
from gateway.model.frames import FrameReader, FrameType, build_frame


class Core:
    """A Session with its clock and a strict reading of what it sends."""

    def __init__(self, *, dedupe: int = 1000, seen_store: Any = None, heartbeat: int = 0) -> None:
        self.now = 1000.0
        self.counters = Counters()
        self.told: list[Event] = []  # all of them
        self.heartbeat = AdaptiveHeartbeat(heartbeat)
        self.session = Session(
            heartbeat=self.heartbeat,
            seen=Seen(dedupe, seen_store, self.counters),
            counters=self.counters,
            random=lambda: 0.5,
        )

    def give(self, *data: bytes) -> list[Event]:
        self.session.receive(b"".join(data), self.now)
        return self.events()

    def events(self) -> list[Event]:
        out = []
        while (event := self.session.next_event(self.now)) is not None:
            out.append(event)
            self.told.append(event)
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
