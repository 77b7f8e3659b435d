"""A way to have the network trigger a device, and what is asked of it; must never
show who is triggered by being printed.

Sources: 3GPP TS 23.682 §5.2 (device triggering), TS 29.122 §4.4.6 and §5.7 (T8), TS 29.368 §5 (Tsp).
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple, Protocol, runtime_checkable

from gateway.model.subscriber import Subscriber
from gateway.notifiers.upstream import Answer


class DeviceTrigger(NamedTuple):
    """One trigger as every way can carry it."""

    reference: int  # 1 to 2³²-1, drawn by the pager; what comes back later names it
    payload: bytes
    port: int  # application port on the terminal, 16000 to 16999
    validity_s: int  # 1 or more
    is_urgent: bool
    #: what the device's app registered with: an opaque id, which has the form of an External Identifier (TS 23.003
    #: §19.7.2) where it names its host
    external_id: str = ""

    def __repr__(self) -> str:
        return "DeviceTrigger(…)"


class Outcome(StrEnum):
    """What a way hears of a trigger after it was taken."""

    DELIVERED = "delivered"
    FAILED = "failed"
    EXPIRED = "expired"
    UNCONFIRMED = "unconfirmed"  # the network handed it on, and will not know more


class OnOutcome(Protocol):
    def __call__(self, reference: int, outcome: Outcome, detail: str) -> None:
        """`detail` names nobody. A reference that is not known (any more) is ignored."""
        ...


class TriggerWay(Protocol):
    """T8 or Tsp; is given an `OnOutcome` when it is made."""

    name: str

    def start(self) -> None:
        """Connect or listen now; on the loop."""
        ...

    async def send(self, subscriber: Subscriber, trigger: DeviceTrigger) -> Answer:
        """A row of the way's own table or of the pager's; OK: the network took it. TimeoutError and OSError where the
        network can not be asked."""
        ...

    async def close(self) -> None: ...


@runtime_checkable
class Replacing(TriggerWay, Protocol):
    """A way on which a trigger that is not delivered yet can be replaced by a newer one."""

    async def replace(self, old: int, subscriber: Subscriber, trigger: DeviceTrigger) -> tuple[Answer, bool]:
        """As `send`. True: the trigger with reference `old` is not delivered any more, and nothing more is told of it.
        Where the network does not have it any more, or replaces none, a trigger of its own goes out."""
        ...


@runtime_checkable
class Watching(TriggerWay, Protocol):
    """A way on which the network tells when a device can be reached again, where that is set."""

    async def watch(self, subscriber: Subscriber, external_id: str) -> None:
        """Ask for it once; `Waiting.back` is called with the subscriber's handle when it is. Never raises but
        CancelledError."""
        ...
