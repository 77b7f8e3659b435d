"""THE table of downloads: (event, facts) → what follows (E6, E7); must never do I/O, read a clock or draw a number.

Theory of operation
-------------------
A download waits, is tried, and either is over or waits again. `decide` is asked what to do when it is due, and after
each thing that happened to it. What the engine sees then is `Facts`.

- *Capable*: a call; its link opens → the transfer. It did not open → another call, up to `attempts` without progress,
  then the notice (E6). Whatever was executed counts as progress: the tries begin again.
- *Not capable*: what is left goes by short message where it fits `sms_parts` of them, else the notice (E7).
- *Unknown* counts as not capable (E5) where that costs nothing: what fits goes by short message. Where it would end in
  a notice the card is asked first, by a call: one message, as the notice would be, and its answer is kept for the next.
- *No SMSC, no room in the store*: neither is the card's fault, so it is no try; again soon, until the download expires.
- *The card is busy*: it has a channel open, be it for a link of ours whose end it did not hear of. It was reached and
  its terminal opens channels, so that is no channel that "did not open": no try, and no notice, which would tell its
  user to use another way when this one works. Again after pauses that grow with each such answer, until it expires.
- *The card refused*, by an answer with a right check: asking again brings the same, so it has FAILED. An answer without
  a check never ends anything: it is a try.
- A notice that could not be sent is tried again until the download expires. One that was sent ends it.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

from gateway.model.cards import Ability, DownloadState


class Event(StrEnum):
    """What happened to a download."""

    DUE = "due"
    # a call ended (gateway.cards.calls.Ending)
    OPENED = "opened"
    NOT_CAPABLE = "not_capable"
    TERMINAL = "terminal"
    PARAMETERS = "parameters"
    BUSY = "busy"
    CARD = "card"
    REFUSED = "refused"
    UNTRUSTED = "untrusted"
    UNDELIVERED = "undelivered"
    LATER = "later"
    UNREACHABLE = "unreachable"
    NO_LINK = "no_link"
    SILENT = "silent"
    UNKNOWN = "unknown"
    # a transfer, or its messages
    DONE = "done"
    LINK_LOST = "link_lost"
    NO_ANSWER = "no_answer"
    # the notice
    NOTICE_SENT = "notice_sent"
    NOTICE_LATER = "notice_later"
    NOTICE_REFUSED = "notice_refused"
    # what can not be brought: no such card or payload, a command too large for it
    IMPOSSIBLE = "impossible"


class Facts(NamedTuple):
    ability: Ability
    #: what is left fits `sms_parts` short messages
    small: bool
    #: fewer calls without progress than `attempts`
    tries_left: bool
    #: its expiry is still ahead
    ttl_left: bool


class Action(StrEnum):
    CALL = "call"
    TRANSFER = "transfer"
    MESSAGE = "message"
    NOTICE = "notice"
    #: again after a pause that grows with each try
    RETRY = "retry"
    #: again soon: it was no try
    RETRY_SOON = "retry soon"
    SETTLE = "settle"


class Decision(NamedTuple):
    action: Action
    state: DownloadState


_CALL = Decision(Action.CALL, DownloadState.ACTIVE)
_TRANSFER = Decision(Action.TRANSFER, DownloadState.ACTIVE)
_MESSAGE = Decision(Action.MESSAGE, DownloadState.ACTIVE)
_NOTICE = Decision(Action.NOTICE, DownloadState.ACTIVE)
_RETRY = Decision(Action.RETRY, DownloadState.WAITING)
_RETRY_SOON = Decision(Action.RETRY_SOON, DownloadState.WAITING)
_EXPIRED = Decision(Action.SETTLE, DownloadState.EXPIRED)
_FAILED = Decision(Action.SETTLE, DownloadState.FAILED)
_NOTICED = Decision(Action.SETTLE, DownloadState.NOTICED)
_DONE = Decision(Action.SETTLE, DownloadState.DONE)

Rule = Callable[[Facts], Decision]


def _when_due(facts: Facts) -> Decision:
    if not facts.ttl_left:
        return _EXPIRED
    if not facts.tries_left:
        return _NOTICE  # E6
    if facts.ability is Ability.CAPABLE:
        return _CALL  # E6
    if facts.small:
        return _MESSAGE  # E7
    return _CALL if facts.ability is Ability.UNKNOWN else _NOTICE


def _try_again(facts: Facts) -> Decision:
    if not facts.ttl_left:
        return _EXPIRED
    return _RETRY if facts.tries_left else _NOTICE  # E6


def _when_busy(facts: Facts) -> Decision:
    return _RETRY if facts.ttl_left else _EXPIRED


def _soon(facts: Facts) -> Decision:
    return _RETRY_SOON if facts.ttl_left else _EXPIRED


def _when_not_capable(facts: Facts) -> Decision:
    if not facts.ttl_left:
        return _EXPIRED
    return _MESSAGE if facts.small else _NOTICE  # E7


def _when_silent(facts: Facts) -> Decision:
    """Silence says that a terminal is not capable only where nothing was known of it (E4)."""
    return _when_not_capable(facts) if facts.ability is Ability.NOT_CAPABLE else _try_again(facts)


def _always(decision: Decision) -> Rule:
    return lambda _facts: decision


TABLE: dict[Event, Rule] = {
    Event.DUE: _when_due,
    Event.OPENED: _always(_TRANSFER),
    Event.NOT_CAPABLE: _when_not_capable,
    Event.TERMINAL: _try_again,
    Event.PARAMETERS: _try_again,
    Event.BUSY: _when_busy,
    Event.CARD: _try_again,
    Event.REFUSED: _always(_FAILED),
    Event.UNTRUSTED: _try_again,
    Event.UNDELIVERED: _try_again,
    Event.LATER: _soon,
    Event.UNREACHABLE: _always(_FAILED),
    Event.NO_LINK: _when_silent,
    Event.SILENT: _when_silent,
    Event.UNKNOWN: _try_again,
    Event.DONE: _always(_DONE),
    Event.LINK_LOST: _try_again,
    Event.NO_ANSWER: _try_again,
    Event.NOTICE_SENT: _always(_NOTICED),
    Event.NOTICE_LATER: _soon,
    Event.NOTICE_REFUSED: _always(_FAILED),
    Event.IMPOSSIBLE: _always(_FAILED),
}


def decide(event: Event, facts: Facts) -> Decision:
    return TABLE[event](facts)
