"""What devices are told that are sent away, and how evenly that spreads them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.edge.farewell import (
    FRAMES_MAX,
    TURNS_MAX,
    Refuge,
    farewell_of_drain,
    farewell_of_overload,
    take_turns,
)
from gateway.model.device_address import DeviceAddress
from gateway.model.errors import Draining, Overloaded
from gateway.model.frames import FrameReader, Goaway, parse_body

A, B = DeviceAddress("a.example", 7400, 7443), DeviceAddress("b.example", 7400)


def goaways(frames: list[bytes]) -> list[Goaway]:
    return [parse_body(body, Goaway) for frame in frames for _, body in FrameReader().feed(frame)]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=12))
def test_any_stretch_of_devices_gives_each_node_its_share(weights: list[int]) -> None:
    turns = take_turns(weights)
    assert len(turns) == sum(weights)
    assert [turns.count(place) for place in range(len(weights))] == weights
    total = sum(weights)
    seen = [0] * len(weights)
    for at, place in enumerate(turns * 2, start=1):
        seen[place] += 1
        for count, weight in zip(seen, weights, strict=True):
            assert abs(count - at * weight / total) <= len(weights) / 2 + 1


@given(st.lists(st.integers(1, 1 << 40), min_size=1, max_size=FRAMES_MAX))
def test_however_large_the_weights_the_order_is_bounded_and_names_every_node(weights: list[int]) -> None:
    turns = take_turns(weights)
    assert len(turns) <= TURNS_MAX
    assert set(turns) == set(range(len(weights)))


def test_with_nobody_else_devices_come_back_over_the_time_of_the_drain() -> None:
    farewell = farewell_of_drain([], 10.0, 1_000, 5_000)
    (goaway,) = goaways(farewell.frames)
    assert (goaway.name, goaway.host, goaway.after_ms, goaway.jitter_ms) == ("draining", "", 1_000, 11_000)
    assert goaway.after_ms == Draining.after_ms
    assert farewell.turns == b"\0"


def test_a_drain_names_every_node_in_turn_and_they_come_at_once() -> None:
    farewell = farewell_of_drain([Refuge(A, 1), Refuge(B, 3)], 10.0, 1_000, 0)
    told = goaways(farewell.frames)
    assert [(one.host, one.port, one.tls_port) for one in told] == [("b.example", 7400, 0), ("a.example", 7400, 7443)]
    assert all(one.retry and one.after_ms == 0 and one.jitter_ms == 1_000 for one in told)
    assert sorted(farewell.turns) == [0, 0, 0, 1]


def test_a_node_gets_no_more_than_half_of_the_logins_a_second_that_it_lets_in() -> None:
    farewell = farewell_of_drain([Refuge(A, 1), Refuge(B, 1)], 10.0, 100_000, 1_000)
    # 50,000 devices each, at 500 a second: 100 s, of which the drain itself takes 10
    assert [one.jitter_ms for one in goaways(farewell.frames)] == [90_000, 90_000]


def test_a_node_without_weight_is_not_named_and_no_more_than_the_most_are() -> None:
    assert farewell_of_overload([Refuge(A, 0)]).frames == []
    many = [Refuge(DeviceAddress(f"n{number}.example", 7400), number) for number in range(100)]
    farewell = farewell_of_overload(many)
    told = goaways(farewell.frames)
    assert len(told) == FRAMES_MAX
    assert {one.host for one in told} == {f"n{number}.example" for number in range(36, 100)}
    assert {(one.code, one.name) for one in told} == {(Overloaded.code, "overloaded")}


def test_reactors_do_not_begin_with_the_same_node() -> None:
    farewell = farewell_of_drain([Refuge(A, 1), Refuge(B, 1)], 1.0, 10, 0)
    assert [farewell.turned(index, 2)[0] for index in range(2)] == [0, 1]
    assert sorted(farewell.turned(1, 2)) == sorted(farewell.turns)
