"""The policy table beside the same decisions written out as ifs, for the events of a delivery on its way."""

from __future__ import annotations

from typing import Any

from bench.units.pairs import PEER, UNIT, take
from gateway.delivery.policy import Action, Decision, Facts, decide, every_facts
from gateway.model.outcome import Event, State

PAIR = "policy: decisions, beside ifs"
EVENTS = (Event.ACK, Event.ACK_LIGHT, Event.ACK_TIMEOUT, Event.LOST, Event.SPILLED, Event.EXPIRE, Event.BACK)
ASKED = [(State.SENT, event, facts) for event in EVENTS for facts in every_facts()]


def written_out(state: State, event: Event, facts: Facts) -> Decision:
    """What somebody would write who has no table."""
    if event is Event.ACK:
        return Decision(State.ACKED, (Action.SETTLE,))
    if event is Event.ACK_LIGHT:
        return Decision(State.ANNOUNCED, (Action.STEP_ANNOUNCED,))
    if event is Event.EXPIRE:
        return Decision(State.EXPIRED, (Action.CANCEL, Action.SETTLE))
    if event is Event.BACK:
        return Decision(state, (Action.SEND,) if facts.connected and facts.wanted else ())
    if event is Event.ACK_TIMEOUT:
        if not facts.ttl_left:
            return Decision(State.EXPIRED, (Action.STEP_ACK_TIMEOUT, Action.CANCEL, Action.SETTLE))
        if facts.more_notifiers:
            return Decision(State.NOTIFIED, (Action.STEP_ACK_TIMEOUT, Action.NOTIFY))
        return Decision(State.WAITING, (Action.STEP_ACK_TIMEOUT, Action.ARM_RETRY))
    step = Action.STEP_LOST if event is Event.LOST else Action.STEP_SPILLED
    if not facts.ttl_left:
        return Decision(State.EXPIRED, (step, Action.SETTLE))
    if event is Event.SPILLED:
        return Decision(State.WAITING, (step, Action.ARM_RETRY) if facts.asked else (step,))
    if facts.connected and not facts.wanted:
        return Decision(State.WAITING, (step,))
    if facts.connected:
        return Decision(State.SENT, (step, Action.SEND))
    if facts.more_notifiers:
        return Decision(State.NOTIFIED, (step, Action.NOTIFY))
    return Decision(State.WAITING, (step, Action.REOPEN, Action.ARM_RETRY) if facts.tries_left else (step,))


def test_table(benchmark: Any) -> None:
    assert all(decide(*asked) == written_out(*asked) for asked in ASKED)
    take(benchmark, PAIR, UNIT, lambda: [decide(*asked) for asked in ASKED * 4])


def test_ifs(benchmark: Any) -> None:
    take(benchmark, PAIR, PEER, lambda: [written_out(*asked) for asked in ASKED * 4])
