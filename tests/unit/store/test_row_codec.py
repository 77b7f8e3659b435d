"""Rows of a commit as bytes: whatever a store writes comes back, and nothing else does."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.store.records import DELETE, DELETE_DUP, DUPSORT, PUT, Db, Row
from gateway.store.row_codec import BLOCK_ROWS, SMALL, MalformedRows, build_rows, is_small, parse_rows

rows = st.tuples(
    st.sampled_from([PUT, DELETE, DELETE_DUP]),
    st.sampled_from([int(db) for db in Db if db not in DUPSORT]),
    st.binary(min_size=1, max_size=511),
    st.binary(max_size=2_000),
)


def parsed(raw: bytes) -> list[Row]:
    return [row for block in parse_rows(raw) for row in block]


@given(st.lists(st.lists(rows, max_size=5), max_size=5))
def test_rows_come_back_in_their_order(groups: list[list[Row]]) -> None:
    assert parsed(build_rows(groups)) == [row for group in groups for row in group]


def test_small_is_what_takes_a_moment_to_pack() -> None:
    row: Row = (PUT, int(Db.JOURNAL), b"k", b"v")
    large: Row = (PUT, int(Db.JOURNAL), b"k", bytes(500_000))

    class Heavy(list[Row]):
        weight = SMALL + 1

    assert is_small([[row] * SMALL])
    assert is_small([[large], (large,), [row] * 10])
    assert not is_small([[row] * SMALL, [row]])
    assert not is_small([[large] * 3])
    assert not is_small([Heavy([row])])
    assert not is_small([range(3)])  # type: ignore[list-item]  # made while they are read: nobody knows how large


def test_many_rows_are_read_in_blocks() -> None:
    many: list[Row] = [(PUT, int(Db.JOURNAL), n.to_bytes(8, "big"), b"v") for n in range(2 * BLOCK_ROWS + 1)]
    raw = build_rows([many])
    assert [len(block) for block in parse_rows(raw)] == [BLOCK_ROWS, BLOCK_ROWS, 1]
    assert parsed(raw) == many


@given(st.binary(max_size=300))
def test_foreign_bytes_raise_nothing_but_the_declared_error(raw: bytes) -> None:
    for start in (b"", b"\x01"):
        with contextlib.suppress(MalformedRows):
            parsed(start + raw)


@given(st.lists(rows, min_size=1, max_size=5), st.data())
def test_a_damaged_commit_is_refused_or_is_rows_again(given_rows: list[Row], data: st.DataObject) -> None:
    raw = bytearray(build_rows([given_rows]))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        again = parsed(bytes(raw))
    except MalformedRows:
        return
    for operation, db, key, _ in again:
        assert operation in (PUT, DELETE, DELETE_DUP)
        assert db in set(Db)
        assert 0 < len(key) <= 511


@given(st.lists(rows, min_size=1, max_size=5), st.data())
def test_a_commit_cut_short_is_refused(given_rows: list[Row], data: st.DataObject) -> None:
    raw = build_rows([given_rows])
    with pytest.raises(MalformedRows):
        parsed(raw[: data.draw(st.integers(2, len(raw) - 1))])


def test_other_versions_and_databases_are_refused() -> None:
    good = build_rows([[(PUT, int(Db.META), b"k", b"v")]])
    with pytest.raises(MalformedRows):
        parsed(b"\x02" + good[1:])
    with pytest.raises(MalformedRows):
        parsed(build_rows([[(PUT, 250, b"k", b"v")]]))
    with pytest.raises(MalformedRows):
        parsed(build_rows([[(7, int(Db.META), b"k", b"v")]]))
    with pytest.raises(MalformedRows):
        parsed(build_rows([[(PUT, int(Db.META), b"", b"v")]]))
