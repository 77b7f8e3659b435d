"""*Where is my push?*: the whole history of a delivery, in order; must never show who else was addressed."""

from __future__ import annotations

from gateway.model.notification import Notification
from gateway.model.outcome import Outcome, State, Step


def timeline(notification: Notification, delivery: Outcome) -> list[Step]:
    """All steps of one delivery, settled or pending, ascending in time.

    The ordinary steps are not written one by one: acceptance comes from the notification, a send that is still in
    flight from the state.
    """
    steps = [Step(notification.accepted_ms, "accepted")]
    # Stable: steps of one millisecond stay in the order they were written.
    steps += sorted((step for step in delivery.steps if step.what != "accepted"), key=lambda step: step.at_ms)
    if delivery.state == State.SENT and steps[-1].what != "sent":
        steps.append(Step(max(delivery.at_ms, steps[-1].at_ms), "sent", "edge"))
    return steps
