"""How the devices of a node that drains are spread over the others."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.fleet.elsewhere import choose_refuges
from gateway.model.cluster import Member


def node(number: int, links: int = 0, *, devices: str | None = None, draining: bool = False) -> Member:
    address = f"n{number}.example:7400" if devices is None else devices
    return Member(number, f"n{number}", address, "", 1, draining, links)


ME = node(1, 1_000)


def weights(*others: Member, links: int = 1_000) -> dict[str, int]:
    return {refuge.address.host: refuge.weight for refuge in choose_refuges(ME, [ME, *others], links)}


def test_level_nodes_get_equal_shares() -> None:
    assert weights(node(2, 500), node(3, 500)) == {"n2.example": 500, "n3.example": 500}


def test_the_emptier_node_is_filled_up_first() -> None:
    assert weights(node(2, 100), node(3, 700)) == {"n2.example": 800, "n3.example": 200}
    assert weights(node(2, 0), node(3, 5_000)) == {"n2.example": 1_000}


def test_who_takes_nobody_is_not_named() -> None:
    assert weights() == {}
    assert weights(node(2, draining=True), node(3, devices=""), node(4, devices="no address")) == {}


def test_an_earlier_life_of_this_node_is_not_named() -> None:
    assert weights(ME._replace(number=9)) == {}


def test_a_node_without_devices_still_names_the_others() -> None:
    assert weights(node(2, 10), node(3, 10), links=0) == {"n2.example": 1, "n3.example": 1}


@given(st.lists(st.integers(0, 2_000_000), min_size=1, max_size=30), st.integers(0, 2_000_000))
def test_all_devices_are_placed_and_those_that_take_some_end_level(held: list[int], links: int) -> None:
    others = [node(number, count) for number, count in enumerate(held, start=2)]
    given_out = weights(*others, links=links)
    assert given_out
    placed = sum(given_out.values())
    assert max(links, len(held)) <= placed < max(links, len(held)) + len(held)
    ends = {
        other.links + given_out[f"n{other.number}.example"]
        for other in others
        if f"n{other.number}.example" in given_out
    }
    assert len(ends) == 1
    assert all(other.links >= max(ends) for other in others if f"n{other.number}.example" not in given_out)
