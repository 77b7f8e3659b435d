"""One batch of what a reactor reports is taken in an order in which nothing acked is sent again."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import pytest

from gateway._native import reactor as native
from gateway.config.sections import Config
from gateway.edge.server import EdgeServer
from gateway.metrics import Metrics
from gateway.model.frames import Fetch, FrameType, build_frame
from gateway.model.ports import Ack
from gateway.model.registration import build_token

LINK, DEVICE, NUMBER, SEQ = 77, 5, 3, 41
TOKEN = b"0123456789abcdef"


class OneDevice:
    """Directory and registry of one device with one registration, bound on one link."""

    @property
    def registry(self) -> OneDevice:
        return self

    def device_link(self, device: int) -> int:
        return LINK if device == DEVICE else 0

    def bound(self, device: int) -> list[int]:
        return [NUMBER] if device == DEVICE else []

    def link(self, number: int) -> int:
        return LINK if number == NUMBER else 0

    def find(self, token: bytes) -> int:
        return NUMBER if token == TOKEN else -1

    def device_of(self, number: int) -> str:
        return "d"


class Listener:
    """Delivery's side: in what order it heard."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, list[int]]] = []
        self.asked: list[tuple[int, bool]] = []

    def on_acks(self, acks: Sequence[Ack]) -> None:
        self.heard.append(("acks", [ack.seq for ack in acks]))

    def meant(self, seq: int, registrations: Sequence[int], *, flags: int) -> Sequence[int]:
        self.asked.append((seq, bool(flags)))
        return registrations[:1] if SEQ <= seq < SEQ + 10 else ()

    def on_ready(self, registrations: Sequence[int], in_flight: Collection[tuple[int, int]] = ()) -> None:
        self.heard.append(("ready", list(registrations)))

    def on_fetch(self, registration: int, ids: Sequence[int]) -> tuple[int, bool]:
        self.heard.append(("fetch", [registration]))
        return 0, False


@pytest.mark.parametrize("then", ["ready", "fetch"])
def test_a_late_ack_is_heard_before_what_the_device_gets_or_asks_for_next(
    then: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    door: Any = OneDevice()
    edge = EdgeServer(Config(), None, door, Metrics(process=False))  # type: ignore[arg-type]
    monkeypatch.setattr(edge, "send", lambda link, frame: True)
    listener: Any = Listener()
    edge.attach(listener)
    late = (native.EVENT_LATE, LINK, SEQ, DEVICE, False)
    fetch = build_frame(FrameType.FETCH, Fetch(req=1, token=build_token(TOKEN)))[2:]
    after = {
        "ready": (native.EVENT_READY, LINK, DEVICE, 1, []),
        "fetch": (native.EVENT_FRAME, LINK, FrameType.FETCH, fetch, DEVICE),
    }[then]
    edge._on_batch([], [late, after, (native.EVENT_LATE, LINK, SEQ + 1, DEVICE, True)])
    assert listener.heard == [("acks", [SEQ]), (then, [NUMBER]), ("acks", [SEQ + 1])]


def test_a_flood_of_late_acks_makes_no_work_for_each_registration_of_its_device() -> None:
    """A device with 256 registrations named 4,096 ids nobody knows, and the loop stood still for seconds."""
    door: Any = OneDevice()
    edge = EdgeServer(Config(), None, door, Metrics(process=False))  # type: ignore[arg-type]
    listener: Any = Listener()
    edge.attach(listener)
    noise = [(native.EVENT_LATE, LINK, SEQ + 1_000 + i % 7, DEVICE, False) for i in range(4_000)]
    meant = [(native.EVENT_LATE, LINK, SEQ, DEVICE, shown) for shown in (False, True, True, False)]
    edge._on_batch([], noise + meant)
    assert listener.heard == [("acks", [SEQ, SEQ])]
    assert len(listener.asked) == 9  # each id once a batch, acked and shown apart
