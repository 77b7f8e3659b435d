"""The registry against plain dicts: tokens, groups, cursors, takeovers, bindings; and what a device costs."""

import hashlib
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway._native.registry import Registry

EMPTY = Registry().memory_bytes
U64 = (1 << 64) - 1
LARGEST = (1 << 31) - 1

numbers = st.one_of(st.integers(0, 12), st.sampled_from([1023, 1024, 5000, 100_000]))
tokens = st.integers(0, 12).map(lambda i: token_of(i))
devices = st.sampled_from([0, 1, 2, 3, U64])
links = st.sampled_from([1, 2, 3, 1 << 63, U64])
groups = st.integers(0, 5_000)
u64 = st.integers(0, U64)
cursors = st.one_of(st.integers(0, 8), u64)


def token_of(i: int) -> bytes:
    return hashlib.blake2b(i.to_bytes(8, "big"), digest_size=16).digest()


class RegistryAgainstDicts(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.registry = Registry()
        self.tokens: dict[int, bytes] = {}
        self.attributes: dict[int, tuple[int, int]] = {}  # number → group, cursor
        self.links: dict[int, int] = {}  # device → link
        self.chains: dict[int, list[int]] = {}  # device → numbers in order of binding

    def device_of(self, number: int) -> int | None:
        return next((device for device, chain in self.chains.items() if number in chain), None)

    def let_go(self, number: int) -> bool:
        device = self.device_of(number)
        if device is None:
            return False
        self.chains[device].remove(number)
        return True

    @rule(number=numbers, token=tokens, group=groups, cursor=cursors)
    def add(self, number: int, token: bytes, group: int, cursor: int) -> None:
        if number in self.tokens or token in self.tokens.values():
            with pytest.raises(ValueError, match="taken"):
                self.registry.add(number, token, group, cursor)
            return
        self.registry.add(number, token, group, cursor)
        self.tokens[number] = token
        self.attributes[number] = (group, cursor)

    @rule(number=numbers, token=tokens)
    def remove_with_any_token(self, number: int, token: bytes) -> None:
        there = self.tokens.get(number) == token
        assert self.registry.remove(number, token) is there
        if there:
            self.let_go(number)
            del self.tokens[number], self.attributes[number]

    @rule(number=numbers)
    def remove(self, number: int) -> None:
        if number in self.tokens:
            self.remove_with_any_token(number, self.tokens[number])

    @rule(number=numbers, group=groups, cursor=cursors)
    def change(self, number: int, group: int, cursor: int) -> None:
        if number in self.tokens:
            self.registry.set_group(number, group)
            self.registry.set_cursor(number, cursor)
            self.attributes[number] = (group, cursor)
            return
        calls: list[Callable[[], object]] = [
            lambda: self.registry.set_group(number, group),
            lambda: self.registry.set_cursor(number, cursor),
            lambda: self.registry.group(number),
            lambda: self.registry.cursor(number),
        ]
        for call in calls:
            with pytest.raises(KeyError):
                call()

    @rule(asked=st.lists(numbers, max_size=12), seq=cursors, floor=cursors)
    def advance_many(self, asked: list[int], seq: int, floor: int) -> None:
        below = []
        for number in asked:
            if number in self.attributes:
                group, cursor = self.attributes[number]
                if cursor < floor:
                    below.append(number)
                else:
                    self.attributes[number] = (group, max(cursor, seq))
        assert self.registry.advance_many(asked, seq, floor) == below

    @rule(device=devices, link=links)
    def login(self, device: int, link: int) -> None:
        before = self.links.get(device, 0)
        assert self.registry.login(device, link) == (before if before != link else 0)
        self.links[device] = link
        if before != link:
            self.chains[device] = []

    @rule(device=devices, link=links)
    def logout(self, device: int, link: int) -> None:
        if self.links.get(device) == link:
            assert self.registry.logout(device, link) == self.chains.pop(device)
            del self.links[device]
        else:
            assert self.registry.logout(device, link) == []

    @rule(number=numbers, device=devices)
    def bind(self, number: int, device: int) -> None:
        can = number in self.tokens and device in self.links
        assert self.registry.bind(number, device) is can
        if can and self.device_of(number) != device:
            self.let_go(number)
            self.chains[device].append(number)

    @rule(device=devices)
    def bind_all(self, device: int) -> None:
        for number in list(self.tokens):
            self.bind(number, device)

    @rule(number=numbers)
    def unbind(self, number: int) -> None:
        assert self.registry.unbind(number) is self.let_go(number)

    @invariant()
    def same(self) -> None:
        registry = self.registry
        assert len(registry) == len(self.tokens)
        assert registry.sessions == len(self.links)
        assert registry.find_many(b"".join(self.tokens.values())) == list(self.tokens)
        for number, token in self.tokens.items():
            assert registry.has(number)
            assert registry.find(token) == number
            assert (registry.group(number), registry.cursor(number)) == self.attributes[number]
        for device in (0, 1, 2, 3, U64):
            assert registry.device_link(device) == self.links.get(device, 0)
            assert registry.bound(device) == self.chains.get(device, [])
        asked = [*range(13), 1023, 1024, 5000, 100_000, LARGEST]
        link_of = {number: self.links[device] for device, chain in self.chains.items() for number in chain}
        assert registry.links(asked) == [link_of.get(number, 0) for number in asked]
        assert [registry.link(number) for number in asked] == [link_of.get(number, 0) for number in asked]
        if not self.tokens and not self.links:
            assert registry.memory_bytes == EMPTY


TestRegistryAgainstDicts = RegistryAgainstDicts.TestCase
TestRegistryAgainstDicts.settings = settings(max_examples=150, stateful_step_count=40)


@pytest.mark.parametrize("seed", range(4))
def test_chains_keep_the_order_of_binding_through_moves_removals_and_takeovers(seed: int) -> None:
    rng = random.Random(seed)
    registry = Registry()
    chains: dict[int, list[int]] = {7: [], 8: []}
    for number in range(8):
        registry.add(number, token_of(number), group=0)
    for device in chains:
        registry.login(device, 1)
    for step in range(4000):
        number, device = rng.randrange(8), rng.choice([7, 8])
        held_by = next((device for device, chain in chains.items() if number in chain), None)
        what = rng.choice(["bind", "bind", "bind", "unbind", "renew", "takeover" if step % 20 == 0 else "bind"])
        if what == "takeover":
            registry.login(device, step + 2)
            chains[device] = []
        elif what == "bind":
            assert registry.bind(number, device)
            if held_by != device:
                if held_by is not None:
                    chains[held_by].remove(number)
                chains[device].append(number)
        else:
            if what == "unbind":
                assert registry.unbind(number) is (held_by is not None)
            else:
                assert registry.remove(number, token_of(number))
                registry.add(number, token_of(number), group=0)
            if held_by is not None:
                chains[held_by].remove(number)
        assert {device: registry.bound(device) for device in chains} == chains


def crowd(devices: int) -> Registry:
    registry = Registry()
    for i in range(devices):
        registry.add(i, token_of(i), group=i % 5)
        registry.login(i * 2_654_435_761, i + 1)
        assert registry.bind(i, i * 2_654_435_761)
    return registry


def test_a_device_with_one_registration_costs_at_most_96_bytes_and_leaves_nothing_behind() -> None:
    devices = 100_000
    registry = crowd(devices)
    assert registry.memory_bytes / devices <= 96
    assert registry.links(range(devices)) == list(range(1, devices + 1))
    for i in range(devices):
        assert registry.logout(i * 2_654_435_761, i + 1) == [i]
    without_sessions = registry.memory_bytes
    assert without_sessions / devices <= 64
    for i in range(devices):
        assert registry.remove(i, token_of(i))
    assert len(registry) == registry.sessions == 0
    assert registry.memory_bytes == EMPTY


def test_numbers_far_apart_cost_a_chunk_each_and_no_more() -> None:
    registry = Registry()
    registry.add(LARGEST, token_of(1), group=1)
    registry.add(0, token_of(2), group=2)
    assert (registry.group(LARGEST), registry.group(0)) == (1, 2)
    assert registry.memory_bytes < 20_000_000
    assert registry.remove(LARGEST, token_of(1))
    assert registry.memory_bytes < EMPTY + 100_000


def test_a_takeover_unbinds_and_names_the_link_to_close() -> None:
    registry = Registry()
    registry.add(1, token_of(1), group=0)
    registry.login(7, 100)
    registry.bind(1, 7)
    assert registry.link(1) == 100
    assert registry.login(7, 200) == 100
    assert registry.bound(7) == []
    assert registry.link(1) == 0
    assert registry.logout(7, 100) == []  # the old link's end comes late
    assert registry.device_link(7) == 200


def test_a_registration_moves_with_its_binding() -> None:
    registry = Registry()
    registry.add(1, token_of(1), group=0)
    registry.login(7, 100)
    registry.login(8, 200)
    registry.bind(1, 7)
    registry.bind(1, 8)
    assert registry.bound(7) == []
    assert registry.bound(8) == [1]
    assert registry.link(1) == 200
    assert registry.logout(7, 100) == []
    assert registry.link(1) == 200


@pytest.mark.parametrize("bad", [-1, 1 << 31, 1 << 32])
def test_numbers_beyond_31_bits_are_refused(bad: int) -> None:
    registry = Registry()
    registry.add(3, token_of(3), group=0, cursor=5)
    calls: list[Callable[[], object]] = [
        lambda: registry.add(bad, token_of(1), 0),
        lambda: registry.remove(bad, token_of(1)),
        lambda: registry.has(bad),
        lambda: registry.group(bad),
        lambda: registry.set_cursor(bad, 0),
        lambda: registry.bind(bad, 0),
        lambda: registry.unbind(bad),
        lambda: registry.link(bad),
        lambda: registry.links([3, bad]),
        lambda: registry.advance_many([3, bad], 9, 0),
    ]
    for call in calls:
        with pytest.raises((ValueError, OverflowError)):
            call()
    assert registry.cursor(3) == 5  # one bad number: nothing has moved


@pytest.mark.parametrize("bad", [-1, 1 << 64])
def test_keys_links_groups_and_cursors_out_of_range_are_refused(bad: int) -> None:
    registry = Registry()
    calls: list[Callable[[], object]] = [
        lambda: registry.login(bad, 1),
        lambda: registry.login(1, bad),
        lambda: registry.add(1, token_of(1), 0, bad),
        lambda: registry.add(1, token_of(1), bad),
        lambda: registry.device_link(bad),
    ]
    for call in calls:
        with pytest.raises(OverflowError):
            call()
    with pytest.raises(ValueError, match="no link"):
        registry.login(1, 0)
    assert registry.memory_bytes == EMPTY


def test_tokens_of_another_length_are_refused() -> None:
    registry = Registry()
    for call in (lambda t: registry.add(1, t, 0), lambda t: registry.remove(1, t), registry.find, registry.find_many):
        with pytest.raises(ValueError, match="16 bytes"):
            call(bytes(15))
    assert len(registry) == 0


@given(st.lists(st.tuples(st.sampled_from(("add", "move", "remove")), st.integers(0, 9), st.integers(0, 5))))
def test_the_population_of_a_group_is_how_many_registrations_it_has(steps: list[tuple[str, int, int]]) -> None:
    registry, model = Registry(), dict[int, int]()
    for what, number, group in steps:
        token = number.to_bytes(16, "little")
        if what == "add" and number not in model:
            registry.add(number, token, group)
            model[number] = group
        elif what == "move" and number in model:
            registry.set_group(number, group)
            model[number] = group
        elif what == "remove" and number in model:
            assert registry.remove(number, token)
            del model[number]
    assert [registry.population(group) for group in range(8)] == [list(model.values()).count(g) for g in range(8)]


@given(st.integers(1, 400), st.integers(0, 1_000), st.sets(st.integers(0, 399)))
@settings(max_examples=60)
def test_a_number_finds_its_token_by_the_hash_that_was_kept(count: int, first: int, gone: set[int]) -> None:
    registry = Registry()
    for number in range(count):
        registry.add(number, token_of(first + number), 0)
        registry.keep_hash(number, token_of(first + number))
    for number in gone & set(range(count)):
        assert registry.remove(number, registry.token(number))
    for number in range(count):
        if number in gone:
            with pytest.raises(KeyError):
                registry.token(number)
        else:
            assert registry.token(number) == token_of(first + number)


def test_another_hash_finds_no_token() -> None:
    registry = Registry()
    registry.add(1, token_of(1), 0)
    registry.add(2, token_of(2), 0)
    registry.keep_hash(1, token_of(2))
    with pytest.raises(KeyError):
        registry.token(1)
    with pytest.raises(KeyError):
        registry.keep_hash(3, token_of(3))
