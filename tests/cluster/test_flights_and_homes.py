"""The tables of a node and of a core: numbers used again, texts in slots, what was sent and not heard of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cluster.flights import GRACE_S, Flights
from gateway.cluster.holds import Holds
from gateway.cluster.node_homes import REST_S, NodeHomes
from gateway.cluster.packed_texts import PackedTexts
from gateway.metrics import Metric, Metrics


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def token(i: int) -> bytes:
    return i.to_bytes(4, "big") * 4


def homes(clock: Clock) -> NodeHomes:
    return NodeHomes(lambda device: hash(device) & 0xFFFF or 1, clock)


def test_a_number_that_was_left_rests_and_is_then_anothers() -> None:
    clock = Clock()
    table = homes(clock)
    one = table.take(3, 77, token(1), "device-1", "shop", "1.0")
    table.release(one)
    assert (table.table.partition(one), table.table.number(one)) == (3, 77)  # reactors may still speak of it
    other = table.take(4, 78, token(2), "device-2", "shop", "1.0")
    assert other != one
    clock.now += REST_S + 1
    third = table.take(5, 79, token(3), "device-3", "news", "2.0")
    assert third == one
    assert (table.table.partition(third), table.table.number(third), table.device_of(third)) == (5, 79, "device-3")
    assert table.group_app(table.registry.group(third)) == "news"


def test_a_registration_keeps_its_number_while_it_is_bound() -> None:
    table = homes(Clock())
    local = table.take(3, 77, token(1), "d", "shop", "1.0")
    group = table.registry.group(local)
    assert table.take(3, 77, token(1), "d", "shop", "2.0") == local
    assert table.registry.group(local) != group


def test_groups_of_two_partitions_are_two_and_only_those_known_here_are_found() -> None:
    table = homes(Clock())
    one = table.take(0, 1, token(1), "d", "shop", "1.0")
    other = table.take(1, 1, token(2), "d", "shop", "1.0")
    assert table.registry.group(one) != table.registry.group(other)
    assert table.known_groups(0, "shop", [(9, "1.0"), (8, "2.0")]) == [table.registry.group(one)]
    assert table.owner_groups[table.registry.group(one)] == 9
    assert table.partition_of_group(table.registry.group(other)) == 1


def test_only_what_is_bound_of_a_partition_is_told_again() -> None:
    table = homes(Clock())
    locals_ = [table.take(i % 2, i, token(i), "d", "shop", "1.0") for i in range(1, 9)]
    table.registry.login(5, 55)
    for local in locals_[:6]:
        table.registry.bind(local, 5)
    told = [local for part in table.bound_to(1, 3) for local in part]
    assert told == [local for local in locals_[:6] if table.table.partition(local) == 1]
    assert table.link_of(locals_[0], 1, 1) == 55
    assert table.link_of(locals_[0], 0, 1) == table.link_of(locals_[0], 1, 2) == table.link_of(10_000, 1, 1) == 0


@given(st.lists(st.tuples(st.integers(0, 40), st.text(max_size=130)), max_size=60))
def test_packed_texts_are_what_was_put_there_last(changes: list[tuple[int, str]]) -> None:
    texts, wanted = PackedTexts(), dict[int, str]()
    for number, text in changes:
        if text:
            texts[number] = wanted[number] = text
        else:
            texts.drop(number)
            wanted.pop(number, None)
    assert [texts[number] for number in range(60)] == [wanted.get(number, "") for number in range(60)]


def test_a_text_that_is_too_long_changes_nothing() -> None:
    texts = PackedTexts()
    texts[1] = "short"
    with pytest.raises(ValueError, match="too long"):
        texts[1] = "é" * 300
    assert texts[1] == "short"


def test_flights_are_due_once_and_after_their_grace() -> None:
    flights = Flights(Metrics(process=False))
    flights.add(7, 1, 10_000, 2_000)
    flights.add(8, 2, 10_500, 60_000)
    assert flights.due(12_000) == []
    due = flights.due(12_000 + 1_000 + GRACE_S * 1_000)
    assert [(list(seqs), list(numbers)) for seqs, numbers in due] == [([7], [1])]
    assert len(flights) == 1
    assert flights.due(30_000) == []


def test_past_its_bound_a_flight_goes_unwatched_and_is_counted() -> None:
    metrics = Metrics(process=False)
    flights = Flights(metrics, most=1)
    flights.add(7, 1, 0, 1)
    flights.add(8, 1, 0, 1)
    assert (len(flights), metrics.value(Metric.FAR_LOST, "unwatched")) == (1, 1)


def test_an_owner_that_asks_after_the_reactor_was_asked_gets_an_answer_of_its_own() -> None:
    asked: list[int] = []
    holds = Holds(asked.append)
    holds.ask(5, 1)
    holds.ask(5, 2)
    assert asked == [5]
    assert set(holds.take(5)) == {1}
    assert asked == [5, 5]
    assert set(holds.take(5)) == {2}
    assert (asked, len(holds), set(holds.take(5))) == ([5, 5], 0, set())
