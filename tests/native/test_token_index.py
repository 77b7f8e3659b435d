"""The token index against a dict: any mix of puts, removals and look-ups, any pattern of tokens, 32 bytes an entry."""

import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway._native.token_index import TokenIndex

EMPTY = TokenIndex().memory_bytes
numbers = st.integers(0, (1 << 31) - 1)


def token_of(i: int) -> bytes:
    return hashlib.blake2b(i.to_bytes(8, "big"), digest_size=16).digest()


def unmix(x: int) -> int:
    """The input for which the index's mixing gives x: lets a test choose segment and place."""
    mask = (1 << 64) - 1
    for factor in (0xC4CEB9FE1A85EC53, 0xFF51AFD7ED558CCD):
        x ^= x >> 33
        x = x * pow(factor, -1, 1 << 64) & mask
    return x ^ (x >> 33)


def colliding_token(place: int, i: int) -> bytes:
    """Distinct tokens of one segment whose home is the given 256th of it."""
    return unmix(0xAB << 56 | place << 48 | i).to_bytes(8, "little") + bytes(8)


# Few tokens, so that replacing and removing happen; crowded at the end and the beginning of one segment, so that
# clusters join and wrap.
tokens = st.one_of(
    st.binary(min_size=16, max_size=16),
    st.integers(0, 40).map(lambda i: i.to_bytes(16, "big")),
    st.builds(colliding_token, st.sampled_from([0, 1, 90, 91, 254, 255]), st.integers(0, 12)),
)


class IndexAgainstDict(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.index = TokenIndex()
        self.model: dict[bytes, int] = {}

    @rule(token=tokens, number=numbers)
    def put(self, token: bytes, number: int) -> None:
        assert self.index.put(token, number) is (token not in self.model)
        self.model[token] = number

    @rule(some=st.dictionaries(tokens, numbers, max_size=60))
    def put_many(self, some: dict[bytes, int]) -> None:
        for token, number in some.items():
            self.put(token, number)

    @rule(token=tokens)
    def remove(self, token: bytes) -> None:
        assert self.index.remove(token) is (self.model.pop(token, None) is not None)

    @rule(share=st.floats(0, 1), seed=st.integers(0, 9))
    def remove_many(self, share: float, seed: int) -> None:
        chosen = random.Random(seed).sample(sorted(self.model), int(share * len(self.model)))
        for token in chosen:
            self.remove(token)

    @rule(asked=st.lists(tokens, max_size=40))
    def find(self, asked: list[bytes]) -> None:
        expected = [self.model.get(token, -1) for token in asked]
        assert [self.index.find(token) for token in asked] == expected
        assert self.index.find_many(b"".join(asked)) == expected

    @invariant()
    def same(self) -> None:
        assert len(self.index) == len(self.model)
        assert self.index.find_many(b"".join(self.model)) == list(self.model.values())


TestIndexAgainstDict = IndexAgainstDict.TestCase
TestIndexAgainstDict.settings = settings(max_examples=120, stateful_step_count=30)


def test_at_most_32_bytes_an_entry_while_growing_and_while_shrinking() -> None:
    index = TokenIndex()
    everything = [token_of(i) for i in range(60_000)]
    for n, token in enumerate(everything, 1):
        index.put(token, n)
        if n >= 10_000:
            assert index.memory_bytes <= 32 * n
    for n, token in enumerate(everything, 1):
        index.remove(token)
        if 60_000 - n >= 10_000:
            assert index.memory_bytes <= 32 * (60_000 - n)
    assert len(index) == 0
    assert index.memory_bytes == EMPTY


def test_finds_all_of_many_in_one_call() -> None:
    index = TokenIndex()
    for i in range(20_000):
        index.put(token_of(i), i)
    asked = list(range(25_000))
    random.Random(1).shuffle(asked)
    found = index.find_many(b"".join(map(token_of, asked)))
    assert found == [i if i < 20_000 else -1 for i in asked]


@settings(max_examples=30)
@given(st.integers(1, 600), st.integers(0, 255), st.randoms(use_true_random=False))
def test_tokens_crowded_on_one_place_stay_correct(count: int, place: int, rng: random.Random) -> None:
    index = TokenIndex()
    crowd = [colliding_token(place, i) for i in range(count)]
    for i, token in enumerate(crowd):
        index.put(token, i)
    gone = set(rng.sample(range(count), count // 2))
    for i in gone:
        assert index.remove(crowd[i])
    assert index.find_many(b"".join(crowd)) == [-1 if i in gone else i for i in range(count)]


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
def test_takes_any_buffer(make: type) -> None:
    index = TokenIndex()
    index.put(make(token_of(1)), 1)
    assert index.find(make(token_of(1))) == 1
    assert index.find_many(make(token_of(1) + token_of(2))) == [1, -1]
    assert index.find_many(make(b"")) == []
    assert index.remove(make(token_of(1)))


@pytest.mark.parametrize("size", [0, 15, 17, 32])
def test_tokens_of_another_length_are_refused(size: int) -> None:
    index = TokenIndex()
    for call in (lambda t: index.put(t, 1), index.find, index.remove):
        with pytest.raises(ValueError, match="16 bytes"):
            call(bytes(size))
    if size % 16:
        with pytest.raises(ValueError, match="16 bytes"):
            index.find_many(bytes(size))
    assert len(index) == 0


@pytest.mark.parametrize("number", [-1, 1 << 31, 1 << 32])
def test_numbers_beyond_31_bits_are_refused(number: int) -> None:
    index = TokenIndex()
    with pytest.raises((ValueError, OverflowError)):
        index.put(token_of(1), number)
    assert len(index) == 0


def test_the_largest_number_comes_back_whole() -> None:
    index = TokenIndex()
    index.put(token_of(1), (1 << 31) - 1)
    index.put(token_of(2), 0)
    assert index.find_many(token_of(1) + token_of(2)) == [(1 << 31) - 1, 0]
