"""The fan-out group against a list with swap-remove; memory follows the size both ways."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway._native.group import Group

EMPTY = Group().memory_bytes
MEMBER = 8  # bytes
u32 = st.integers(0, 0xFFFF_FFFF)


class GroupAgainstList(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.group = Group()
        self.model: list[tuple[int, int]] = []

    @rule(slot=u32, registration=u32)
    def add(self, slot: int, registration: int) -> None:
        assert self.group.add(slot, registration) == len(self.model)
        self.model.append((slot, registration))

    @rule(count=st.integers(1, 200))
    def add_many(self, count: int) -> None:
        for i in range(count):
            self.add(i, count)

    def remove_at(self, position: int) -> None:
        last = self.model.pop()
        if position == len(self.model):
            assert self.group.remove(position) is None
        else:
            self.model[position] = last
            assert self.group.remove(position) == last

    @precondition(lambda self: self.model)
    @rule(where=st.floats(0, 1))
    def remove(self, where: float) -> None:
        self.remove_at(int(where * (len(self.model) - 1)))

    @precondition(lambda self: self.model)
    @rule(where=st.floats(0, 1), part=st.floats(0, 1))
    def remove_many(self, where: float, part: float) -> None:
        for _ in range(int(part * len(self.model))):
            self.remove_at(int(where * (len(self.model) - 1)))

    @rule(beyond=st.integers(0, 3))
    def remove_beyond_the_end(self, beyond: int) -> None:
        with pytest.raises(ValueError, match="no member"):
            self.group.remove(len(self.model) + beyond)

    @invariant()
    def same(self) -> None:
        assert len(self.group) == len(self.model)
        assert self.group.members() == self.model
        capacity = (self.group.memory_bytes - EMPTY) // MEMBER
        assert len(self.model) <= capacity <= max(8 if self.model else 0, 4 * len(self.model))


TestGroupAgainstList = GroupAgainstList.TestCase
TestGroupAgainstList.settings = settings(max_examples=80, stateful_step_count=30)


def test_grows_by_half_and_gives_everything_back() -> None:
    group = Group()
    for i in range(100_000):
        group.add(i, i)
    assert group.memory_bytes - EMPTY <= 100_000 * MEMBER * 1.5
    for _ in range(100_000):
        group.remove(0)
    assert len(group) == 0
    assert group.memory_bytes == EMPTY


@pytest.mark.parametrize("bad", [-1, 1 << 32])
def test_numbers_outside_32_bits_are_refused(bad: int) -> None:
    group = Group()
    for slot, registration in ((bad, 0), (0, bad)):
        with pytest.raises(OverflowError):
            group.add(slot, registration)
    with pytest.raises(OverflowError):
        group.remove(bad)
    assert group.members() == []
