"""What notifiers hear of a delivery later, written into its history; must never change a delivery's state."""

from __future__ import annotations

from collections.abc import Callable

from gateway.model.notification import Notification
from gateway.model.outcome import Step
from gateway.model.ports import Journal


class Reports:
    """DeliveryReports port over the journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        #: told of each line after it was written: (delivery, registration)
        self.on_step: Callable[[int, int], None] = lambda _seq, _registration: None

    def delivery_of(self, notification: Notification, registration: int) -> int:
        if not notification.count:
            return notification.seq
        for seq in self._journal.pending_of(registration):
            delivery = self._journal.get(seq)
            if delivery is not None and delivery.notification == notification.seq:
                return seq
        return -1

    def is_pending(self, notification: Notification, registration: int) -> bool:
        seq = self.delivery_of(notification, registration)
        return seq >= 0 and self._journal.get(seq) is not None

    def report(self, seq: int, registration: int, step: Step) -> None:
        self._journal.amend(seq, step, registration)
        self.on_step(seq, registration)
