"""The table over every state, event and fact."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from gateway.delivery.policy import PENDING, TABLE, Action, Facts, decide, describe, every_facts
from gateway.model.outcome import Event, State

SENDS = {Action.SEND, Action.SEND_AGAIN, Action.SEND_BODY}
CASES = [(s, e, f, decide(s, e, f)) for s, e, f in itertools.product(State, Event, every_facts())]


def test_every_pending_state_has_a_rule_for_every_event_and_no_final_one_has_any() -> None:
    assert set(TABLE) == {state for state in State if not state.is_final} == set(PENDING)
    assert all(set(rules) == set(Event) for rules in TABLE.values())
    assert len(list(every_facts())) == 2 ** len(Facts._fields)


def test_final_states_are_never_left() -> None:
    for state, _, _, decision in CASES:
        if state.is_final:
            assert decision == (state, (Action.IGNORE,))


def test_a_final_state_is_settled_exactly_when_it_is_entered() -> None:
    for state, _, _, decision in CASES:
        if not state.is_final:
            assert decision.state.is_final == (Action.SETTLE in decision.actions)
            assert decision.actions.count(Action.SETTLE) <= 1
            if Action.SETTLE in decision.actions:
                assert decision.actions[-1] is Action.SETTLE


def test_nothing_is_sent_to_a_disconnected_device_nor_after_the_end() -> None:
    for _, _, facts, decision in CASES:
        if SENDS & set(decision.actions):
            assert facts.connected
            assert not decision.state.is_final


def test_only_a_fetch_disturbs_a_device_below_its_floor() -> None:
    for _, event, facts, decision in CASES:
        if not facts.wanted and SENDS & set(decision.actions):
            assert event is Event.FETCH


def test_a_notifier_is_asked_only_where_one_is_left_and_then_the_state_is_notified() -> None:
    for _, _, facts, decision in CASES:
        if Action.NOTIFY in decision.actions:
            assert facts.more_notifiers
            assert decision.state is State.NOTIFIED
            assert not SENDS & set(decision.actions)


def test_a_device_that_asked_not_to_be_woken_gets_no_notifier_at_the_first_look() -> None:
    for facts in every_facts():
        if facts.connected and not facts.wanted:
            for state, event in (
                (State.ACCEPTED, Event.ROUTE),
                (State.WAITING, Event.ROUTE),
                (State.WAITING, Event.BACK),
            ):
                assert Action.NOTIFY not in decide(state, event, facts).actions


def test_at_most_one_channel_is_used_by_one_event() -> None:
    for _, _, _, decision in CASES:
        assert sum(action in SENDS or action is Action.NOTIFY for action in decision.actions) <= 1


def test_a_notifier_is_reopened_only_while_tries_are_left_and_none_is_asked_at_once() -> None:
    for _, event, facts, decision in CASES:
        if Action.REOPEN in decision.actions:
            assert facts.tries_left
            looks = (Event.ROUTE, Event.LOST, Event.NOTIFIER_TIMEOUT)
            assert event in (Event.NOTIFIER_RETRY, Event.NOTIFIER_DEAD, *looks)
            assert Action.NOTIFY not in decision.actions


def test_an_ack_settles_every_pending_state_whatever_the_facts() -> None:
    for state, event, _, decision in CASES:
        if event is Event.ACK and not state.is_final:
            assert decision == (State.ACKED, (Action.SETTLE,))


@pytest.mark.parametrize(
    ("event", "final"),
    [
        (Event.EXPIRE, State.EXPIRED),
        (Event.RECALL, State.RECALLED),
        (Event.REPLACE, State.REPLACED),
        (Event.REVOKE, State.REJECTED),
    ],
)
def test_every_pending_delivery_can_be_ended(event: Event, final: State) -> None:
    for state in PENDING:
        for facts in every_facts():
            decision = decide(state, event, facts)
            assert decision.state is final
            if state is State.SENT or (event is not Event.EXPIRE and state is not State.ACCEPTED):
                assert Action.CANCEL in decision.actions


def test_a_wait_on_a_live_link_that_wants_the_message_always_has_a_timer() -> None:
    # Elsewhere BACK ends it: the device comes back, has room again, or lowers its floor.
    for state, event, facts, decision in CASES:
        entered = decision.state is State.WAITING and state is not State.WAITING
        if entered and facts.connected and facts.wanted and event is not Event.SPILLED:
            assert Action.ARM_RETRY in decision.actions


def test_a_notified_delivery_waits_for_a_result_or_for_a_timer() -> None:
    for state, event, _, decision in CASES:
        if decision.state is State.NOTIFIED and state is not State.NOTIFIED:
            assert {Action.NOTIFY, Action.ARM_RECHECK} & set(decision.actions)
        if state is State.NOTIFIED is decision.state and event is Event.NOTIFIER_OK:
            assert Action.ARM_RECHECK in decision.actions


def test_every_pending_state_has_a_way_out_with_every_set_of_facts() -> None:
    for state in PENDING:
        for facts in every_facts():
            assert any(decide(state, event, facts).state is not state for event in Event if event is not Event.ACK)


def test_sent_is_entered_by_a_send_or_by_one_of_the_owner_before() -> None:
    for state, event, _, decision in CASES:
        if decision.state is State.SENT and state is not State.SENT:
            assert bool(SENDS & set(decision.actions)) is (event is not Event.UNDERWAY)


def test_nothing_is_sent_past_its_expiry_but_the_one_try_of_ttl_0_and_what_the_device_asks_for() -> None:
    for state, event, facts, decision in CASES:
        if not facts.ttl_left and (SENDS | {Action.NOTIFY}) & set(decision.actions):
            assert state is State.ACCEPTED or event is Event.FETCH or (state, event) == (State.SENT, Event.BACK)


def test_ttl_0_ends_at_once_where_nobody_is_there() -> None:
    facts = Facts(connected=False, wanted=True, light=False, more_notifiers=False, tries_left=True, ttl_left=False)
    assert decide(State.ACCEPTED, Event.ROUTE, facts) == (State.EXPIRED, (Action.SETTLE,))


def test_the_notifiers_do_not_matter_where_the_channel_comes_first() -> None:
    # The executor does not even look at the chain then.
    for event in (Event.ROUTE, Event.BACK, Event.LOST, Event.NOTIFIER_TIMEOUT):
        for state in PENDING:
            for facts in every_facts():
                if facts.connected and facts.wanted:
                    other = facts._replace(more_notifiers=not facts.more_notifiers, tries_left=not facts.tries_left)
                    assert decide(state, event, facts) == decide(state, event, other)


def test_events_without_a_use_of_the_chain_do_not_depend_on_it() -> None:
    used = {
        Event.ROUTE, Event.BACK, Event.LOST, Event.ACK_TIMEOUT,
        Event.NOTIFIER_RETRY, Event.NOTIFIER_DEAD, Event.NOTIFIER_TIMEOUT,
    }  # fmt: skip
    for state, event, facts, decision in CASES:
        if event not in used:
            for more, tries in itertools.product((True, False), repeat=2):
                assert decision == decide(state, event, facts._replace(more_notifiers=more, tries_left=tries))


def test_ignoring_changes_nothing() -> None:
    for state, _, _, decision in CASES:
        if Action.IGNORE in decision.actions:
            assert decision == (state, (Action.IGNORE,))


def test_the_page_shows_the_tables_as_they_are() -> None:
    page = Path(__file__).parents[3] / "docs" / "delivery.md"
    assert describe() in page.read_text(encoding="utf-8"), "run: python -m gateway.delivery docs/delivery.md"
