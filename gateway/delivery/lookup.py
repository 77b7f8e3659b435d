"""*Where is my push?*: the whole history of a delivery, in order; must never show who else was addressed."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from gateway.model.notification import Notification
from gateway.model.outcome import Outcome, State, Step


def timeline(notification: Notification, delivery: Outcome) -> list[Step]:
    """All steps of one delivery, settled or pending, ascending in time.

    The ordinary steps are not written one by one: acceptance comes from the notification, a send that is still in
    flight from the state.
    """
    steps = [Step(notification.accepted_ms, "accepted")]
    # Stable: steps of one millisecond stay in the order they were written.
    steps += sorted(_never_earlier(delivery.steps, notification.accepted_ms), key=lambda step: step.at_ms)
    if delivery.state == State.SENT and steps[-1].what != "sent":
        steps.append(Step(max(delivery.at_ms, steps[-1].at_ms), "sent", "edge"))
    return steps


def _never_earlier(steps: list[Step], accepted_ms: int) -> Iterator[Step]:
    """A step comes after those written before it: a reactor's clock may be a millisecond behind, and an NTP server may
    set the gateway's back. Only a send is written when what came of it is known, with the time it had."""
    latest = accepted_ms
    for step in steps:
        if step.what == "sent":
            yield msgspec.structs.replace(step, at_ms=max(step.at_ms, accepted_ms))
        elif step.what != "accepted":
            latest = max(latest, step.at_ms)
            yield msgspec.structs.replace(step, at_ms=latest)
