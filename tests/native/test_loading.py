"""Rows of the store taken into RAM in chunks: the same as one by one, and nothing of a row that is cut."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway._native.pending import Pending
from gateway._native.registry import Registry
from gateway.model.notification import Content, Notification, Target
from gateway.model.registration import Registration
from gateway.store.records import build_delivery, build_notification, build_registration, pack_u32, pack_u64

START_S = 1_800_000_000
LARGEST = (1 << 31) - 1
Row = tuple[bytes, bytes]


def token_of(i: int) -> bytes:
    return hashlib.blake2b(i.to_bytes(8, "big"), digest_size=16).digest()


def registration_row(number: int, app: int, version: str, *, out: bool = False, chain: list[str] | None = None) -> Row:
    registration = Registration(
        number=number,
        token=token_of(number),
        device=f"d{number}",
        app="shop",
        version=version,
        account="",
        signed_out=out,
        fallback=chain,
    )
    return pack_u32(number), build_registration(registration, app)


class Numbering:
    """(app, version) → group, as they are met; counts how often it is asked."""

    def __init__(self, unknown: int = -1) -> None:
        self.groups: dict[tuple[int, bytes], int] = {}
        self.asked = 0
        self.unknown = unknown

    def __call__(self, app: int, version: bytes) -> int:
        self.asked += 1
        return -1 if app == self.unknown else self.groups.setdefault((app, version), len(self.groups))


@settings(max_examples=60)
@given(
    st.dictionaries(
        st.one_of(st.integers(0, 3_000), st.just(LARGEST)),
        st.tuples(st.integers(1, 3), st.text("0123.ab", max_size=66), st.booleans()),
        max_size=60,
    ),
    st.integers(1, 20),
)
def test_a_chunk_loads_what_its_rows_say(wanted: dict[int, tuple[int, str, bool]], chunk: int) -> None:
    rows = [registration_row(number, app, text, out=out) for number, (app, text, out) in sorted(wanted.items())]
    registry, numbering = Registry(), Numbering(unknown=3)
    registry.expect(len(rows))
    for first in range(0, len(rows), chunk):
        registry.load(rows[first : first + chunk], numbering)
    known = {number: facts for number, facts in wanted.items() if facts[0] != 3}
    assert len(registry) == len(known)
    for number, (app, version, out) in wanted.items():
        assert registry.find(token_of(number)) == (number if number in known else -1)
        if number in known:
            assert registry.group(number) == numbering.groups[app, version.encode()]
            assert registry.signed_out(number) is out
            assert registry.cursor(number) == 0
    for group in numbering.groups.values():
        assert registry.population(group) == sum(registry.group(number) == group for number in known)


def test_versions_are_asked_for_once_a_chunk_not_once_a_row() -> None:
    rows = [registration_row(number, 1, f"1.{number % 20}") for number in range(2_000)]
    registry, numbering = Registry(), Numbering()
    registry.load(rows, numbering)
    # two of them may share a place
    assert numbering.asked <= 20 * 20
    assert len(numbering.groups) == 20


def test_more_versions_than_places_are_told_apart() -> None:
    rows = [registration_row(number, 1 + number % 2, f"1.{number % 1_500}") for number in range(3_000)]
    registry, numbering = Registry(), Numbering()
    registry.load(rows, numbering)
    for number in range(3_000):
        assert registry.group(number) == numbering.groups[1 + number % 2, f"1.{number % 1_500}".encode()]


def test_every_cut_of_a_registration_is_refused() -> None:
    key, value = registration_row(1, 1, "1.25")
    for size in range(22 + 4):
        with pytest.raises(ValueError, match="cut"):
            Registry().load([(key, value[:size])], Numbering())
    for bad in (b"", key[:3], key + b"\0"):
        with pytest.raises(ValueError, match="cut"):
            Registry().load([(bad, value)], Numbering())
    # a row further on is looked at ahead of its turn
    with pytest.raises(ValueError, match="cut"):
        Registry().load([registration_row(n, 1, "1.0") for n in range(2, 15)] + [(key, value[:21])], Numbering())


def test_numbers_and_tokens_twice_and_numbers_beyond_31_bits_are_refused() -> None:
    one, two = registration_row(1, 1, "1.0"), registration_row(2, 1, "1.0")
    with pytest.raises(ValueError, match="number is taken"):
        Registry().load([one, one], Numbering())
    with pytest.raises(ValueError, match="token is taken"):
        Registry().load([one, (two[0], one[1])], Numbering())
    with pytest.raises(ValueError, match="31 bits"):
        Registry().load([(pack_u32(LARGEST + 1), one[1])], Numbering())


def test_what_is_no_row_is_a_type_error_and_what_numbering_raises_comes_through() -> None:
    def refuses(app: int, version: bytes) -> int:
        raise KeyError(version)

    for bad in (1, (b"key",), [b"key", b"value"], ("key", "value"), (None, b"")):
        with pytest.raises((TypeError, IndexError)):
            Registry().load([bad], Numbering())  # type: ignore[list-item]
    with pytest.raises(KeyError):
        Registry().load([registration_row(1, 1, "1.0")], refuses)


@pytest.mark.parametrize("count", [0, 1, 255, 256, 20_000])
def test_room_that_was_expected_is_enough_costs_no_more_and_comes_back(count: int) -> None:
    registry = Registry()
    empty = registry.memory_bytes
    registry.expect(count)
    assert registry.memory_bytes - empty <= count * 32 + 256 * 20 * 30
    registry.load([registration_row(number, 1, "1.0") for number in range(count)], Numbering())
    filled = registry.memory_bytes
    assert registry.find_many(b"".join(map(token_of, range(count)))) == list(range(count))
    assert (filled - empty) <= count * (40 + 28) + 256 * 20 * 40 + 41_000
    registry.expect(1 << 40)  # only an empty one makes room
    assert registry.memory_bytes == filled
    for number in range(count):
        assert registry.remove(number, token_of(number))
    # segments that never had a row keep their room; those that had gave it back
    assert registry.memory_bytes - empty <= 256 * 20 * 8


def single(seq: int, registration: int, expires_s: int, collapse_key: str = "", count: int = 0) -> Row:
    notification = Notification(
        seq=seq,
        app="shop",
        target=Target(token="x" * 22),
        content=Content(title="t", text="x"),
        accepted_ms=START_S * 1_000,
        expires_s=expires_s,
        ack_ms=3_000,
        notifier_ack_ms=30_000,
        collapse_key=collapse_key,
        count=count,
    )
    return pack_u64(seq), build_notification(notification, registration)


def test_journal_rows_are_loaded_up_to_the_first_that_is_not_its_own_only_delivery() -> None:
    rows = [
        single(1, 7, START_S + 5),
        single(2, 8, START_S + 6, collapse_key="k"),
        single(3, 0, START_S + 7, count=2),
        (pack_u64(4), build_delivery(7, 1)),
        (pack_u64(5), build_delivery(8, 2)),
        single(1 << 40, LARGEST, START_S + 8),
    ]
    pending = Pending(START_S * 1_000)
    assert [pending.load(rows, place) for place in (0, 2, 3, 4, 5, 6)] == [2, 2, 3, 4, 6, 6]
    assert len(pending) == 3
    assert pending.get(1) == (7, 1, 0, 0, START_S + 5)
    assert pending.get(2) == (8, 2, 0, 0, START_S + 6)
    assert pending.get(1 << 40) == (LARGEST, 1 << 40, 0, 0, START_S + 8)
    assert pending.due((START_S + 6) * 1_000, 9) == [1, 2]


def test_a_cut_journal_row_is_left_to_the_caller_and_a_sequence_twice_is_refused() -> None:
    key, value = single(9, 7, START_S + 5)
    pending = Pending(START_S * 1_000)
    for size in range(21):
        assert pending.load([(key, value[:size])], 0) == 0
    assert pending.load([(key[:7], value)], 0) == 0
    assert len(pending) == 0
    with pytest.raises(ValueError, match="pending already"):
        pending.load([(key, value), (key, value)], 0)
