"""The port of outside push services and pagers, and where they tell what they hear later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from gateway.model.notification import Notification
from gateway.model.outcome import Step
from gateway.model.registration import App, Registration


class Notifier(Protocol):
    """An outside push service (APNs, FCM, Web Push, a webhook). One object a process; its queue is the caller's."""

    name: str
    #: names of settings whose values are never shown
    secrets: frozenset[str]

    def check(self, settings: Mapping[str, str]) -> None:
        """An app's settings for this notifier, when the app is created or changed. Raises BadRequest with the field
        `notifiers.<name>.<key>` and the fix; never repeats a value."""
        ...

    def lane(self, app: App, registration: Registration) -> str:
        """What fails alone: the upstream and the credential it is asked with. Never leaves the process, never holds
        an address beyond its origin; never raises, whatever the address is."""
        ...

    async def notify(self, app: App, registration: Registration, notification: Notification) -> NotifierResult: ...

    async def close(self) -> None: ...


class NotifierResult(NamedTuple):
    """ok: it was taken. dead: it never will be (bad address, not configured). Neither: try later."""

    ok: bool
    dead: bool = False
    #: of "try later": the whole lane has to rest for so long. A device's own limit is no reason to set it
    retry_after_ms: int = 0
    detail: str = ""  # for the history; never an address or secret
    #: the upstream says that this address is dead for good; implies dead
    gone: bool = False
    #: since when, Unix ms; 0 where it does not say
    gone_at_ms: int = 0
    #: False: the upstream was not asked at all (it rests, or a limit is reached), so this was no try
    asked: bool = True
    #: of "try later": it is the upstream's fault or the credential's, not this message's nor this address's, so trying
    #: again has no end but the message's own
    is_lanes: bool = False
    #: of "try later": this delivery alone has to wait for so long; its lane goes on
    hold_ms: int = 0


class DeliveryReports(Protocol):
    """Where a notifier tells what it hears of a delivery after `notify` has returned."""

    def delivery_of(self, notification: Notification, registration: int) -> int:
        """The sequence of its pending delivery to this registration, -1 where there is none (any more)."""
        ...

    def is_pending(self, notification: Notification, registration: int) -> bool:
        """Is its delivery to this registration still wanted: neither acked, recalled nor expired?"""
        ...

    def report(self, seq: int, registration: int, step: Step) -> None:
        """One more line of its history, settled or not. Of a settled one a second line with the same `what` is left
        out."""
        ...
