"""A bound that many share: one alone gets most of it, and a newcomer always finds a place while there is one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.model.shares import Shares


def take_all(shares: Shares, holder: str) -> int:
    taken = 0
    while shares.has_room(holder):
        shares.take(holder)
        taken += 1
    return taken


def test_one_alone_has_three_quarters_and_each_newcomer_finds_room() -> None:
    shares = Shares(64)
    assert [take_all(shares, name) for name in "abcde"] == [48, 8, 4, 2, 1]
    assert shares.has_room("f")
    shares.give("a", 47)
    assert shares.has_room("b")


def test_a_small_bound_is_used_whole() -> None:
    for most in (1, 2, 3):
        assert take_all(Shares(most), "a") == most


@given(
    most=st.integers(1, 50),
    steps=st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=200),
)
def test_counts_are_kept_and_the_bound_too(most: int, steps: list[tuple[str, bool]]) -> None:
    shares = Shares(most)
    held = dict.fromkeys("abcd", 0)
    for holder, takes in steps:
        if takes and shares.has_room(holder):
            shares.take(holder)
            held[holder] += 1
        elif not takes and held[holder]:
            shares.give(holder)
            held[holder] -= 1
        assert shares.taken == sum(held.values()) <= most
        assert all(shares.of(name) == count for name, count in held.items())
        assert shares.taken == most or shares.has_room("newcomer")
