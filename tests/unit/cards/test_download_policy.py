"""Every row of the table of downloads (E6, E7)."""

from __future__ import annotations

from itertools import product

import pytest

from gateway.cards.calls import Ending
from gateway.cards.download_policy import TABLE, Action, Event, Facts, decide
from gateway.model.cards import Ability, DownloadState

UNKNOWN, CAPABLE, NOT_CAPABLE = Ability.UNKNOWN, Ability.CAPABLE, Ability.NOT_CAPABLE
EVERY = [Facts(*each) for each in product(Ability, (False, True), (False, True), (False, True))]


def look(
    event: Event, ability: Ability = CAPABLE, *, small: bool = False, tries: bool = True, ttl: bool = True
) -> Action | DownloadState:
    """What it is told to do; the state where that is the end."""
    decision = decide(event, Facts(ability, small, tries, ttl))
    return decision.state if decision.action is Action.SETTLE else decision.action


def test_every_event_has_a_rule_and_every_ending_of_a_call_is_an_event() -> None:
    assert set(TABLE) == set(Event)
    assert {ending.value for ending in Ending} <= {event.value for event in Event}


@pytest.mark.parametrize("event", Event)
def test_the_state_goes_with_the_action(event: Event) -> None:
    for facts in EVERY:
        action, state = decide(event, facts)
        if action is Action.SETTLE:
            assert state.is_final
        else:
            waits = action in (Action.RETRY, Action.RETRY_SOON)
            assert state is (DownloadState.WAITING if waits else DownloadState.ACTIVE)


@pytest.mark.parametrize(
    ("ability", "small", "action"),
    [
        (CAPABLE, False, Action.CALL),
        (CAPABLE, True, Action.CALL),
        (NOT_CAPABLE, False, Action.NOTICE),
        (NOT_CAPABLE, True, Action.MESSAGE),
        (UNKNOWN, False, Action.CALL),  # asked first: the default would end in a notice
        (UNKNOWN, True, Action.MESSAGE),  # E5: as not capable
    ],
)
def test_when_it_is_due(ability: Ability, small: bool, action: Action) -> None:
    assert look(Event.DUE, ability, small=small) is action
    assert look(Event.DUE, ability, small=small, tries=False) is Action.NOTICE
    assert look(Event.DUE, ability, small=small, ttl=False) is DownloadState.EXPIRED


@pytest.mark.parametrize(
    "event",
    [
        Event.TERMINAL,
        Event.PARAMETERS,
        Event.CARD,
        Event.UNTRUSTED,
        Event.UNDELIVERED,
        Event.UNKNOWN,
        Event.LINK_LOST,
        Event.NO_ANSWER,
    ],
)
@pytest.mark.parametrize("ability", Ability)
@pytest.mark.parametrize("small", [False, True])
def test_what_may_pass_is_tried_up_to_the_threshold(event: Event, ability: Ability, small: bool) -> None:
    assert look(event, ability, small=small) is Action.RETRY
    assert look(event, ability, small=small, tries=False) is Action.NOTICE  # E6
    assert look(event, ability, small=small, ttl=False) is DownloadState.EXPIRED
    assert look(event, ability, small=small, tries=False, ttl=False) is DownloadState.EXPIRED


@pytest.mark.parametrize("ability", Ability)
@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("tries", [False, True])
def test_a_busy_card_was_reached_and_gets_no_notice(ability: Ability, small: bool, tries: bool) -> None:
    assert look(Event.BUSY, ability, small=small, tries=tries) is Action.RETRY
    assert look(Event.BUSY, ability, small=small, tries=tries, ttl=False) is DownloadState.EXPIRED


@pytest.mark.parametrize("event", [Event.SILENT, Event.NO_LINK])
@pytest.mark.parametrize("tries", [False, True])
def test_silence_counts_only_where_it_made_the_card_not_capable(event: Event, tries: bool) -> None:
    assert look(event, NOT_CAPABLE, small=True, tries=tries) is Action.MESSAGE
    assert look(event, NOT_CAPABLE, tries=tries) is Action.NOTICE
    for ability in (CAPABLE, UNKNOWN):
        assert look(event, ability, small=True, tries=tries) is (Action.RETRY if tries else Action.NOTICE)
    assert look(event, NOT_CAPABLE, ttl=False) is DownloadState.EXPIRED


@pytest.mark.parametrize("ability", Ability)
@pytest.mark.parametrize("tries", [False, True])
def test_a_terminal_that_says_that_it_can_not(ability: Ability, tries: bool) -> None:
    assert look(Event.NOT_CAPABLE, ability, small=True, tries=tries) is Action.MESSAGE
    assert look(Event.NOT_CAPABLE, ability, tries=tries) is Action.NOTICE
    assert look(Event.NOT_CAPABLE, ability, ttl=False) is DownloadState.EXPIRED


@pytest.mark.parametrize("event", [Event.LATER, Event.NOTICE_LATER])
def test_what_is_no_try_is_done_again_soon(event: Event) -> None:
    for facts in EVERY:
        action, state = decide(event, facts)
        if facts.ttl_left:
            assert action is Action.RETRY_SOON
        else:
            assert state is DownloadState.EXPIRED


@pytest.mark.parametrize(
    ("event", "state"),
    [
        (Event.DONE, DownloadState.DONE),
        (Event.REFUSED, DownloadState.FAILED),
        (Event.UNREACHABLE, DownloadState.FAILED),
        (Event.IMPOSSIBLE, DownloadState.FAILED),
        (Event.NOTICE_REFUSED, DownloadState.FAILED),
        (Event.NOTICE_SENT, DownloadState.NOTICED),
    ],
)
def test_what_ends_it_ends_it_always(event: Event, state: DownloadState) -> None:
    for facts in EVERY:
        assert decide(event, facts) == (Action.SETTLE, state)


def test_an_open_link_is_used_always() -> None:
    assert {decide(Event.OPENED, facts).action for facts in EVERY} == {Action.TRANSFER}
