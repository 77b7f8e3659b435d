"""The policy table beside the same decision written out as ifs."""

from __future__ import annotations

from typing import Any

from bench.units.pairs import PEER, UNIT, take
from gateway.delivery.policy import PENDING, TABLE, Facts, decide, every_facts
from gateway.model.outcome import Event, State

PAIR = "policy: decisions, beside the table's rules without a memory"
ASKED = [(state, event, facts) for state in PENDING for event in Event for facts in list(every_facts())[::7]]


def look(state: State, event: Event, facts: Facts) -> Any:
    return TABLE[state][event].look(facts)


def test_table(benchmark: Any) -> None:
    take(benchmark, PAIR, UNIT, lambda: [decide(*asked) for asked in ASKED])


def test_rules(benchmark: Any) -> None:
    take(benchmark, PAIR, PEER, lambda: [look(*asked) for asked in ASKED])
