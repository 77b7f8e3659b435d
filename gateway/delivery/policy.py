"""THE table of delivery: (state, event, facts) → (new state, actions); must never do I/O or read a clock.

Theory of operation
-------------------
A delivery is one notification for one registration. Its life is a walk over `model.outcome.State`; everything that can
happen to it is a `model.outcome.Event`; what the dispatcher can see at that moment is `Facts`. `TABLE` has a rule for
every pair of a non-final state and an event, and a rule is a pure function of the facts. The dispatcher gathers the
facts, asks `decide`, writes the new state down, and executes the actions in order.

- *Channel first* (B2): a connected device that wants the message gets it through its link; the reactor arms the ack
  timer. A device whose urgency floor is above the message asked not to be woken for it: no notifier either.
- *No ack* (B3): the next notifier of the chain. *Disconnected* (B4): the next notifier at once.
- *Notifier silent* (B5): look at the channel again; send there where it is back, else the next notifier.
- A message whose light form was acked is ANNOUNCED; its body goes out on FETCH and its ack settles the delivery. An ack
  that says that the body is there (WHOLE) is an ACK whatever was sent.
- NOTIFIED starts when the call is queued and a result is certain (the call is bounded in time), so it needs no timer
  before NOTIFIER_OK; from then on the recheck timer runs.
- *Quiet hours and spread pushes* hold a message back: it is not wanted then, and has no notifier; the dispatcher
  looks again when the hold ends.
- WAITING leaves by BACK (the device is connected, or has room), by its retry timer, or by its expiry. Where the device
  is connected and wants the message a retry timer is always armed, for no BACK would come.
- Final states are never left. An event that makes no sense in a state has the rule `ignored`: the state stays and the
  dispatcher counts it. An ack settles any state: late is as good as in time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import StrEnum
from functools import cache
from itertools import product
from typing import NamedTuple

from gateway.model.outcome import Event, State


class Facts(NamedTuple):
    """What the dispatcher sees when the event comes."""

    connected: bool  # a link is bound for the registration (B1)
    wanted: bool  # urgency is at or above the device's floor, and nothing holds it back (quiet hours, its own spread)
    light: bool  # its next (or last) frame is a light notification (B2)
    more_notifiers: bool  # the chain has one that was not used up, and nothing holds it back
    #: those of the chain that failed for now may be tried again; where none has just done so: there is such a one
    tries_left: bool
    ttl_left: bool  # its expiry is still ahead
    asked: bool = False  # the device asked for its body (B2)


class Action(StrEnum):
    """What the dispatcher is to do, in this order."""

    SEND = "send"  # on the channel; not twice where it is in flight there
    SEND_AGAIN = "send again"  # on the channel, though it was sent before
    SEND_BODY = "send body"  # the whole message, on request
    NOTIFY = "notify"  # queue it for the next notifier of the chain, which is used up by that
    REOPEN = "reopen"  # all notifiers that failed for now count as unused again
    ARM_RETRY = "arm retry"  # ROUTE after delivery.retry_ms, doubling
    ARM_RECHECK = "arm recheck"  # NOTIFIER_TIMEOUT after notifier_ack_ms
    CANCEL = "take back"  # from the link and from the device
    SETTLE = "settle"  # write the outcome
    IGNORE = "ignore"  # count the event, nothing else
    STEP_ANNOUNCED = "step: announced"
    STEP_ACK_TIMEOUT = "step: ack_timeout"
    STEP_LOST = "step: lost"
    STEP_SPILLED = "step: spilled"
    STEP_NOTIFIED = "step: notified"
    STEP_NOTIFIER_FAILED = "step: notifier_failed"
    STEP_RECHECK = "step: recheck"


class Decision(NamedTuple):
    state: State
    actions: tuple[Action, ...] = ()


Look = Callable[[Facts], Decision]


class Rule(NamedTuple):
    """A named pure function of the facts; the name is its row in docs/delivery.md."""

    name: str
    look: Look


_ACCEPTED, _SENT, _NOTIFIED, _WAITING, _ANNOUNCED = (
    State.ACCEPTED,
    State.SENT,
    State.NOTIFIED,
    State.WAITING,
    State.ANNOUNCED,
)
#: the states in which a delivery is pending
PENDING = (_ACCEPTED, _SENT, _NOTIFIED, _WAITING, _ANNOUNCED)


def _expired(*steps: Action) -> Decision:
    return Decision(State.EXPIRED, (*steps, Action.SETTLE))


def _first_look(facts: Facts) -> Decision:
    if facts.connected and facts.wanted:
        # TTL 0 too: a device that is there gets its one try (RFC 8030 §5.2)
        return Decision(_SENT, (Action.SEND,))  # B2
    if not facts.connected and facts.more_notifiers:
        return Decision(_NOTIFIED, (Action.NOTIFY,))  # B4
    return Decision(_WAITING) if facts.ttl_left else _expired()


def _look_again(send: Action, *steps: Action) -> Look:
    def look(facts: Facts) -> Decision:
        if not facts.ttl_left:
            return _expired(*steps)
        if facts.connected:
            return Decision(_SENT, (*steps, send)) if facts.wanted else Decision(_WAITING, steps)
        if facts.more_notifiers:
            return Decision(_NOTIFIED, (*steps, Action.NOTIFY))  # B4
        return Decision(_WAITING, (*steps, Action.REOPEN, Action.ARM_RETRY) if facts.tries_left else steps)

    return look


def _no_ack(facts: Facts) -> Decision:
    if not facts.ttl_left:
        return Decision(State.EXPIRED, (Action.STEP_ACK_TIMEOUT, Action.CANCEL, Action.SETTLE))
    if facts.more_notifiers:
        return Decision(_NOTIFIED, (Action.STEP_ACK_TIMEOUT, Action.NOTIFY))  # B3
    return Decision(_WAITING, (Action.STEP_ACK_TIMEOUT, Action.ARM_RETRY))


def _no_room(facts: Facts) -> Decision:
    if not facts.ttl_left:
        return _expired(Action.STEP_SPILLED)
    # READY passes over what is in flight, and of this one the light form may be.
    arm = (Action.ARM_RETRY,) if facts.asked else ()
    return Decision(_WAITING, (Action.STEP_SPILLED, *arm))


def _body_lost(facts: Facts) -> Decision:
    # The device asked for the body, so a notifier would tell it nothing new.
    if not facts.ttl_left:
        return _expired(Action.STEP_LOST)
    if facts.connected and facts.wanted:
        return Decision(_SENT, (Action.STEP_LOST, Action.SEND))
    return Decision(_WAITING, (Action.STEP_LOST,))


def _back(state: State, send: Action) -> Look:
    def look(facts: Facts) -> Decision:
        if not facts.ttl_left and state is not _SENT:
            return _expired()
        return Decision(_SENT, (send,)) if facts.connected and facts.wanted else Decision(state)

    return look


def _notifier_took_it(_: Facts) -> Decision:
    return Decision(_NOTIFIED, (Action.STEP_NOTIFIED, Action.ARM_RECHECK))


def _notifier_failed_for_now(facts: Facts) -> Decision:
    if not facts.ttl_left:
        return _expired(Action.STEP_NOTIFIER_FAILED)
    if facts.more_notifiers:
        return Decision(_NOTIFIED, (Action.STEP_NOTIFIER_FAILED, Action.NOTIFY))
    if facts.tries_left:
        return Decision(_WAITING, (Action.STEP_NOTIFIER_FAILED, Action.REOPEN, Action.ARM_RETRY))
    return Decision(_WAITING, (Action.STEP_NOTIFIER_FAILED, Action.ARM_RETRY))


def _late_failure_for_now(state: State) -> Look:
    def look(facts: Facts) -> Decision:
        reopen = (Action.REOPEN,) if facts.tries_left and not facts.more_notifiers else ()
        arm = (Action.ARM_RETRY,) if state is _WAITING else ()
        return Decision(state, (Action.STEP_NOTIFIER_FAILED, *reopen, *arm))

    return look


def _notifier_is_dead(facts: Facts) -> Decision:
    if not facts.ttl_left:
        return _expired(Action.STEP_NOTIFIER_FAILED)
    if facts.more_notifiers:
        return Decision(_NOTIFIED, (Action.STEP_NOTIFIER_FAILED, Action.NOTIFY))
    if facts.tries_left:
        return Decision(_WAITING, (Action.STEP_NOTIFIER_FAILED, Action.REOPEN, Action.ARM_RETRY))
    # On a live link nobody would say BACK.
    arm = (Action.ARM_RETRY,) if facts.connected else ()
    return Decision(_WAITING, (Action.STEP_NOTIFIER_FAILED, *arm))


def _late_death(state: State) -> Look:
    def look(facts: Facts) -> Decision:
        reopen = (Action.REOPEN,) if facts.tries_left and not facts.more_notifiers else ()
        is_armed = facts.connected or facts.more_notifiers or facts.tries_left
        arm = (Action.ARM_RETRY,) if state is _WAITING and is_armed else ()
        return Decision(state, (Action.STEP_NOTIFIER_FAILED, *reopen, *arm))

    return look


def _fetch(state: State) -> Look:
    def look(facts: Facts) -> Decision:
        # A4: the device asks, so its floor does not matter.
        return Decision(_SENT, (Action.SEND_BODY,)) if facts.connected else Decision(state, (Action.IGNORE,))

    return look


def _fetch_in_flight(facts: Facts) -> Decision:
    if facts.connected and facts.light:
        # Who asks for the body has the light form, acked or not.
        return Decision(_ANNOUNCED, (Action.STEP_ANNOUNCED, Action.SEND_BODY))
    return Decision(_SENT, (Action.IGNORE,))


def _fetch_announced(facts: Facts) -> Decision:
    return Decision(_ANNOUNCED, (Action.SEND_BODY,) if facts.connected else (Action.IGNORE,))


def _stay(state: State, *actions: Action) -> Look:
    return lambda _: Decision(state, actions)


def _end(state: State, *actions: Action) -> Rule:
    return Rule(f"end: {state.name}{' (take back)' if actions else ''}", _stay(state, *actions, Action.SETTLE))


def _ignored(state: State) -> Rule:
    return Rule("ignored", _stay(state, Action.IGNORE))


_underway = Rule("on its way already", _stay(_SENT))
_announced = Rule("light form acked", _stay(_ANNOUNCED, Action.STEP_ANNOUNCED))

TABLE: dict[State, dict[Event, Rule]] = {
    _ACCEPTED: {
        Event.ROUTE: Rule("first look", _first_look),
        Event.ACK: _end(State.ACKED),
        Event.ACK_LIGHT: _announced,
        Event.ACK_TIMEOUT: _ignored(_ACCEPTED),
        Event.LOST: _ignored(_ACCEPTED),
        Event.SPILLED: _ignored(_ACCEPTED),
        Event.NOTIFIER_OK: _ignored(_ACCEPTED),
        Event.NOTIFIER_RETRY: _ignored(_ACCEPTED),
        Event.NOTIFIER_DEAD: _ignored(_ACCEPTED),
        Event.NOTIFIER_TIMEOUT: _ignored(_ACCEPTED),
        Event.BACK: Rule("first look", _first_look),
        Event.EXPIRE: _end(State.EXPIRED),
        Event.RECALL: _end(State.RECALLED),
        Event.REPLACE: _end(State.REPLACED),
        Event.REVOKE: _end(State.REJECTED),
        Event.FETCH: Rule("fetch", _fetch(_ACCEPTED)),
        Event.LIMIT: _end(State.LIMITED),
        # What becomes of it is told to this owner now.
        Event.UNDERWAY: _underway,
    },
    _SENT: {
        Event.ROUTE: _ignored(_SENT),
        Event.ACK: _end(State.ACKED),
        Event.ACK_LIGHT: _announced,
        Event.ACK_TIMEOUT: Rule("no ack (B3)", _no_ack),
        Event.LOST: Rule("lost, look again", _look_again(Action.SEND, Action.STEP_LOST)),
        Event.SPILLED: Rule("no room", _no_room),
        Event.NOTIFIER_OK: Rule("notifier late: OK", _stay(_SENT, Action.STEP_NOTIFIED)),
        Event.NOTIFIER_RETRY: Rule("notifier late: failed for now", _late_failure_for_now(_SENT)),
        Event.NOTIFIER_DEAD: Rule("notifier late: failed", _late_death(_SENT)),
        Event.NOTIFIER_TIMEOUT: _ignored(_SENT),
        # In flight on the new link already, or on one whose loss is still to be told.
        Event.BACK: Rule("send where not in flight", _back(_SENT, Action.SEND)),
        Event.EXPIRE: _end(State.EXPIRED, Action.CANCEL),
        Event.RECALL: _end(State.RECALLED, Action.CANCEL),
        Event.REPLACE: _end(State.REPLACED, Action.CANCEL),
        Event.REVOKE: _end(State.REJECTED, Action.CANCEL),
        Event.FETCH: Rule("fetch while the light form is in flight", _fetch_in_flight),
        Event.LIMIT: _ignored(_SENT),
        Event.UNDERWAY: _ignored(_SENT),
    },
    _NOTIFIED: {
        Event.ROUTE: _ignored(_NOTIFIED),
        Event.ACK: _end(State.ACKED),
        Event.ACK_LIGHT: _announced,
        Event.ACK_TIMEOUT: _ignored(_NOTIFIED),
        Event.LOST: _ignored(_NOTIFIED),
        Event.SPILLED: _ignored(_NOTIFIED),
        Event.NOTIFIER_OK: Rule("notifier took it", _notifier_took_it),
        Event.NOTIFIER_RETRY: Rule("notifier failed for now", _notifier_failed_for_now),
        Event.NOTIFIER_DEAD: Rule("notifier is dead", _notifier_is_dead),
        Event.NOTIFIER_TIMEOUT: Rule("recheck (B5)", _look_again(Action.SEND_AGAIN, Action.STEP_RECHECK)),
        Event.BACK: Rule("device is back while notified", _back(_NOTIFIED, Action.SEND_AGAIN)),  # B5
        Event.EXPIRE: _end(State.EXPIRED),
        Event.RECALL: _end(State.RECALLED, Action.CANCEL),
        Event.REPLACE: _end(State.REPLACED, Action.CANCEL),
        Event.REVOKE: _end(State.REJECTED, Action.CANCEL),
        Event.FETCH: Rule("fetch", _fetch(_NOTIFIED)),
        Event.LIMIT: _ignored(_NOTIFIED),
        Event.UNDERWAY: _ignored(_NOTIFIED),
    },
    _WAITING: {
        Event.ROUTE: Rule("look again", _look_again(Action.SEND_AGAIN)),
        Event.ACK: _end(State.ACKED),
        Event.ACK_LIGHT: _announced,
        Event.ACK_TIMEOUT: _ignored(_WAITING),
        Event.LOST: _ignored(_WAITING),
        Event.SPILLED: _ignored(_WAITING),
        Event.NOTIFIER_OK: Rule("notifier took it", _notifier_took_it),
        Event.NOTIFIER_RETRY: Rule("notifier late: failed for now, waiting", _late_failure_for_now(_WAITING)),
        Event.NOTIFIER_DEAD: Rule("notifier late: failed, waiting", _late_death(_WAITING)),
        Event.NOTIFIER_TIMEOUT: _ignored(_WAITING),
        Event.BACK: Rule("device is back", _back(_WAITING, Action.SEND_AGAIN)),
        Event.EXPIRE: _end(State.EXPIRED),
        Event.RECALL: _end(State.RECALLED, Action.CANCEL),
        Event.REPLACE: _end(State.REPLACED, Action.CANCEL),
        Event.REVOKE: _end(State.REJECTED, Action.CANCEL),
        Event.FETCH: Rule("fetch", _fetch(_WAITING)),
        Event.LIMIT: _ignored(_WAITING),
        Event.UNDERWAY: _ignored(_WAITING),
    },
    _ANNOUNCED: {
        Event.ROUTE: _ignored(_ANNOUNCED),
        Event.ACK: _end(State.ACKED),
        Event.ACK_LIGHT: _ignored(_ANNOUNCED),
        # The body after a FETCH; the device is there and can fetch again.
        Event.ACK_TIMEOUT: Rule("body not acked", _stay(_ANNOUNCED, Action.STEP_ACK_TIMEOUT)),
        Event.LOST: Rule("body lost", _body_lost),
        Event.SPILLED: Rule("no room", _no_room),
        Event.NOTIFIER_OK: Rule("notifier late: OK, announced", _stay(_ANNOUNCED, Action.STEP_NOTIFIED)),
        Event.NOTIFIER_RETRY: Rule("notifier late: failed, announced", _stay(_ANNOUNCED, Action.STEP_NOTIFIER_FAILED)),
        Event.NOTIFIER_DEAD: Rule("notifier late: failed, announced", _stay(_ANNOUNCED, Action.STEP_NOTIFIER_FAILED)),
        Event.NOTIFIER_TIMEOUT: _ignored(_ANNOUNCED),
        Event.BACK: _ignored(_ANNOUNCED),  # the body waits for a FETCH
        Event.EXPIRE: _end(State.EXPIRED),
        Event.RECALL: _end(State.RECALLED, Action.CANCEL),
        Event.REPLACE: _end(State.REPLACED, Action.CANCEL),
        Event.REVOKE: _end(State.REJECTED, Action.CANCEL),
        Event.FETCH: Rule("fetch, announced", _fetch_announced),
        Event.LIMIT: _ignored(_ANNOUNCED),
        Event.UNDERWAY: _ignored(_ANNOUNCED),
    },
}


@cache
def decide(state: State, event: Event, facts: Facts) -> Decision:
    """What becomes of a delivery in `state` when `event` comes; final states ignore everything."""
    rules = TABLE.get(state)
    return Decision(state, (Action.IGNORE,)) if rules is None else rules[event].look(facts)


def every_facts() -> Iterator[Facts]:
    """All combinations of facts."""
    return (Facts(*bits) for bits in product((False, True), repeat=len(Facts._fields)))


def describe() -> str:
    """The tables as Markdown, for docs/delivery.md (`python -m gateway.delivery docs/delivery.md` rewrites it)."""
    out = ["| event | " + " | ".join(s.name for s in PENDING) + " |", "|---" * (len(PENDING) + 1) + "|"]
    for event in Event:
        cells = (TABLE[state][event].name for state in PENDING)
        out.append(f"| {event.name} | " + " | ".join("·" if name == "ignored" else name for name in cells) + " |")
    out += ["", "| rule | facts | new state | actions |", "|---|---|---|---|"]
    seen: set[str] = set()
    for state in PENDING:
        for rule in TABLE[state].values():
            if rule.name in seen or rule.name == "ignored":
                continue
            seen.add(rule.name)
            out += [f"| {rule.name} | {row}" for row in _rows(rule.look)]
    return "\n".join(out)


def _rows(look: Look) -> Iterator[str]:
    """One row a distinct decision: a decision tree over the facts, cut where they make no difference."""

    def walk(fixed: dict[str, bool], free: list[str]) -> Iterator[tuple[dict[str, bool], Decision]]:
        got = {
            look(Facts(**fixed, **dict(zip(free, bits, strict=True))))
            for bits in product((False, True), repeat=len(free))
        }
        if len(got) == 1:
            yield fixed, got.pop()
            return
        for i, name in enumerate(free):
            rest = free[:i] + free[i + 1 :]
            if any(
                look(Facts(**fixed, **{name: True}, **dict(zip(rest, bits, strict=True))))
                != look(Facts(**fixed, **{name: False}, **dict(zip(rest, bits, strict=True))))
                for bits in product((False, True), repeat=len(rest))
            ):
                yield from walk({**fixed, name: True}, rest)
                yield from walk({**fixed, name: False}, rest)
                return

    for fixed, (state, actions) in walk(
        {}, ["ttl_left", "connected", "wanted", "more_notifiers", "tries_left", "light", "asked"]
    ):
        when = ", ".join(name if value else f"not {name}" for name, value in fixed.items()) or "always"
        yield f"{when} | {state.name} | {', '.join(actions) or '–'} |"
