"""States of a delivery and the steps of its history: one answer to *where is my push?*"""

from __future__ import annotations

from enum import IntEnum

import msgspec

from gateway.model.cluster import SEQ_SHIFT


class State(IntEnum):
    """State of one delivery; the number is stored, so never renumber."""

    ACCEPTED = 0  # in the journal, not tried yet
    SENT = 1  # on the wire of a link, ack timer armed
    NOTIFIED = 2  # handed to a notifier, recheck timer armed
    WAITING = 3  # nothing can be done until the device is back, or the retry timer fires
    ANNOUNCED = 4  # the light notification was acked, the body waits for a FETCH (B2)
    # final
    ACKED = 16
    EXPIRED = 17
    RECALLED = 18
    REPLACED = 19  # by a newer one with the same collapse key
    REJECTED = 20  # its token was revoked while it was pending
    LIMITED = 21  # the registration had as many as its app allows it in the hour or day
    # of a download to a card alone
    NOTICED = 22  # its user was told to use another way (E6, E7)
    FAILED = 23  # the card refused, or it can not be done

    @property
    def is_final(self) -> bool:
        return self >= State.ACKED

    @property
    def is_of_card(self) -> bool:
        """A download to a card may end so, a delivery to a registration never."""
        return self >= State.NOTICED


#: the last step of a delivery that ended so
CLOSING = {
    State.EXPIRED: "expired",
    State.RECALLED: "recalled",
    State.REPLACED: "replaced",
    State.REJECTED: "revoked",
    State.ACKED: "acked",
    State.LIMITED: "limited",
}


class Event(IntEnum):
    """What can happen to a delivery."""

    ROUTE = 0  # look at the channel and choose: first try, or look again
    ACK = 1  # the device acked the whole message
    ACK_LIGHT = 2  # the device acked a light notification
    ACK_TIMEOUT = 3  # B3
    LOST = 4  # the link went down with it unacked, or was gone already
    SPILLED = 5  # in-flight window or outbox full: it stays in the journal
    NOTIFIER_OK = 6
    NOTIFIER_RETRY = 7  # that notifier failed for now
    NOTIFIER_DEAD = 8  # that notifier will never reach this registration
    NOTIFIER_TIMEOUT = 9  # no ack after the notifier: recheck (B5)
    BACK = 10  # the device is connected again, or has room again
    EXPIRE = 11
    RECALL = 12
    REPLACE = 13
    REVOKE = 14
    FETCH = 15  # the device asks for the body (A4, B2)
    LIMIT = 16  # one more than its app allows the registration now
    UNDERWAY = 17  # it is in flight on the device's link, sent by the partition's owner before this one


class Step(msgspec.Struct, array_like=True, gc=False):
    """One line of a delivery's history."""

    at_ms: int  # Unix milliseconds
    #: accepted sent acked shown ack_timeout lost spilled notified notifier_failed recheck announced expired recalled …
    what: str
    channel: str = ""  # edge, webhook, …
    detail: str = ""  # never an address, a secret or a subscriber identity


#: channel of the steps of a download
CARD = "card"


class Outcome(msgspec.Struct, array_like=True, gc=False):
    """The end of one delivery, as kept for receipts."""

    seq: int  # delivery sequence
    notification: int  # sequence of its notification
    registration: int
    app: str
    state: int
    at_ms: int
    steps: list[Step]

    @property
    def place(self) -> int:
        """Which of its push's deliveries it is, as its provider may see it: the sequence tells how many all apps have.
        In a fleet each partition numbers those that it has of a push to many, above the bits that say which it is."""
        return (self.seq >> SEQ_SHIFT << SEQ_SHIFT) + self.seq - self.notification

    @property
    def is_download(self) -> bool:
        """To a card (E6, E7), not of a push; its numbers are the download's."""
        return self.registration == 0 and bool(self.steps) and self.steps[-1].channel == CARD
