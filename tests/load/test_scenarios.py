"""Parts of the load test that decide something: the shape of a run, live tokens, and what a device must not get."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from gateway.model.frames import Notify
from load.scenarios.day import SCENARIOS, Shape, phase_at, users_at
from load.scenarios.inbox import SEEN, Inbox, Misbehaved
from load.scenarios.storms import STORMS, Storms
from load.scenarios.tokens import LiveTokens

TOKEN = "k0JhGkTzVXqWm1bHn6s0Dg"


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_phases_follow_each_other_to_the_end_and_never_ask_for_more_users_than_there_are(scenario: str) -> None:
    ends = [phase.end for phase in SCENARIOS[scenario]]
    assert ends == sorted(ends)
    assert ends[-1] == 1.0
    for step in range(101):
        assert 2 <= users_at(scenario, step / 100, 200) <= 200
    assert phase_at(scenario, 1.0) is None


def test_a_shape_calls_each_storm_once_and_ends() -> None:
    shape, options = Shape(), SimpleNamespace(scenario="storm", full_seconds=100, full_users=50)
    before = STORMS.number
    ticks = [shape.tick(second, options) for second in range(101)]
    assert STORMS.number - before == 2
    assert ticks[-1] is None
    assert ticks[50] == (50, 10.0)


def test_a_storm_hits_each_device_once() -> None:
    storms, users = Storms(), [SimpleNamespace() for _ in range(50)]
    assert not any(storms.hits(user) for user in users)
    storms.call(1.0)
    assert all(storms.hits(user) for user in users)
    assert not any(storms.hits(user) for user in users)


def test_live_tokens_are_bounded_and_forget_who_left() -> None:
    live = LiveTokens(2, choose=lambda n: n - 1)
    assert live.pick() is None
    assert live.add("a")
    assert live.add("b")
    assert not live.add("c")
    assert live.pick() == "b"
    link = live.links["a"]
    live.remove("a")
    live.remove("a")
    assert live.links["a"] != link
    assert live.pick() == "b"
    assert live.add("c")
    assert "a" not in live
    assert len(live) == 2


def test_a_device_notices_what_is_not_for_it_and_what_comes_twice_on_a_link() -> None:
    inbox = Inbox()
    inbox.check(Notify(id=1, token=TOKEN), TOKEN)
    inbox.check(Notify(id=1, app="shop"), TOKEN)
    with pytest.raises(Misbehaved, match="twice"):
        inbox.check(Notify(id=1, token=TOKEN), TOKEN)
    with pytest.raises(Misbehaved, match="another token"):
        inbox.check(Notify(id=2, token="x" * 22), TOKEN)
    inbox.link += 1
    inbox.check(Notify(id=1, token=TOKEN), TOKEN)
    for number in range(3 * SEEN):
        inbox.check(Notify(id=10 + number, token=TOKEN), TOKEN)
    assert len(inbox._seen) == SEEN
