"""What a fleet was seen to do, in the order seen: pushes asked for and answered, frames and messages of devices, acks,
receipts, faults; append-only, with monotonic times. Must judge nothing: that is fleet_checks.

A registration is named `device/app/account`; a token never stands here, nor a secret. A push is known by its `op`,
which is its title too, so a device's message tells which push it is of.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO, TypeVar

import msgspec


class Event(msgspec.Struct, tag_field="what", omit_defaults=True, kw_only=True):
    at: float = 0.0  # monotonic seconds


class Asked(Event, tag="asked"):
    """A push, before its first try."""

    op: str
    kind: str
    app: str
    wanted: list[str]  # registrations it is for
    key: bool = False  # it has an idempotency key, and every try has the same
    broadcast: bool = False
    ttl_s: int = 0  # 0: long enough for the whole run
    collapse: bool = False  # a newer one with its key may take its place
    kept: bool = False  # its deliveries are made later: it waits for its time, or for its audience


class Tried(Event, tag="tried"):
    """One request with the push; `node` is where it entered."""

    op: str
    node: str


class Answered(Event, tag="answered"):
    """What came of a try. Status 0: nothing came, it may be in or not."""

    op: str
    node: str
    status: int
    id: str = ""
    error: str = ""  # its name
    retry_after: bool = False


class Became(Event, tag="became"):
    """What a push that a node kept in its spool is by now: a push of the fleet with this id, or, without one, this."""

    op: str
    id: str = ""
    state: str = ""


class RecallAsked(Event, tag="recall_asked"):
    op: str


class Recalled(Event, tag="recalled"):
    """The answer to it; 0: none."""

    op: str
    status: int


class Bound(Event, tag="bound"):
    """A registration has a token; `token` is a digest of it."""

    reg: str
    token: str


class LinkUp(Event, tag="link_up"):
    link: int
    device: int
    node: str


class LinkDown(Event, tag="link_down"):
    link: int


class Frame(Event, tag="frame"):
    """A NOTIFY as it came, before the SDK threw away what it had had."""

    link: int
    reg: str  # empty: the device knows no such token
    id: int
    op: str
    whole: bool = True


class Shown(Event, tag="shown"):
    """The app of a registration was handed the message."""

    reg: str
    id: int
    op: str


class Acked(Event, tag="acked"):
    """An ack was written to the socket."""

    link: int
    ids: list[int]


class Stopped(Event, tag="stopped"):
    """A device gave up for good, or an answer to it broke a rule."""

    device: int
    error: str


class Receipted(Event, tag="receipted"):
    """One line of the feed. `whole`: of a reading from its beginning, at the end."""

    app: str
    cursor: int
    push: str
    delivery: int
    reg: str
    state: str
    whole: bool = False


class Looked(Event, tag="looked"):
    """GET /v1/push/{id} at the end."""

    op: str
    node: str
    status: int
    state: str = ""
    deliveries: list[tuple[str, str]] = []  # registration, state


class Fault(Event, tag="fault"):
    """Begin and end of one; `number` joins them."""

    number: int
    name: str
    target: str
    begins: bool
    detail: str = ""


class Settled(Event, tag="settled"):
    """Healed, all devices there; what did not come by now does not come."""


Any_ = (
    Asked
    | Tried
    | Answered
    | Became
    | RecallAsked
    | Recalled
    | Bound
    | LinkUp
    | LinkDown
    | Frame
    | Shown
    | Acked
    | Stopped
    | Receipted
    | Looked
    | Fault
    | Settled
)
_E = TypeVar("_E", bound=Event)
_decode = msgspec.json.Decoder(Any_).decode
_encode = msgspec.json.Encoder().encode


class History:
    """Events in RAM, and in a file as they come where there is one: a run that is cut short can be looked at too."""

    def __init__(self, file: Path | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.events: list[Event] = []
        self._clock = clock
        self._file: TextIO | None = file.open("w") if file is not None else None

    @classmethod
    def read(cls, file: Path) -> History:
        """Of an earlier run; msgspec.DecodeError where a line is no event. A last line that is cut is left out."""
        self = cls()
        whole, _, _ = file.read_text().rpartition("\n")
        self.events = [_decode(line) for line in whole.splitlines() if line]
        return self

    def note(self, event: Event) -> None:
        event.at = self._clock()
        self.events.append(event)
        if self._file is not None:
            self._file.write(_encode(event).decode() + "\n")

    def of(self, kind: type[_E]) -> Iterator[_E]:
        return (event for event in self.events if isinstance(event, kind))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
