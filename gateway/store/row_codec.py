"""One commit's rows as bytes, for the journal of a partition; must never read a database, nor let through what a store
could not have written.

Layout: a version byte, then blocks, each a length u32 and so many bytes of msgpack: an array of rows
[operation, database, key, value]. Blocks bound what is in RAM of a push to very many.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from itertools import chain, islice

import msgspec

from gateway.store.records import DELETE, DELETE_DUP, DUPSORT, PUT, U32, Db, Row

VERSION = 1
#: rows of a block
BLOCK_ROWS = 4_096
#: of a small commit: rows, and as much again for each of so many bytes
SMALL, _WEIGHT_BYTES = 256, 4_096
#: LMDB takes no longer key
MOST_KEY_BYTES = 511

_encode_into = msgspec.msgpack.Encoder().encode_into
_decode = msgspec.msgpack.Decoder(list[tuple[int, int, bytes, bytes]]).decode
_DATABASES = frozenset(int(db) for db in Db)
_DUPSORT = frozenset(int(db) for db in DUPSORT)
_OPERATIONS = frozenset((PUT, DELETE, DELETE_DUP))


class MalformedRows(ValueError):
    """These bytes are no commit of this version."""


def weigh(row: Row) -> int:
    return 1 + len(row[3]) // _WEIGHT_BYTES


def is_small(groups: Iterable[Collection[Row]]) -> bool:
    """Packed in a millisecond at most. Rows that are made while they are read are not looked at, but where they know
    their `weight`."""
    left = SMALL
    for rows in groups:
        weight = getattr(rows, "weight", None)
        if weight is None:
            if len(rows) > left or not isinstance(rows, list | tuple):
                return False
            weight = sum(map(weigh, rows))
        left -= weight
        if left < 0:
            return False
    return True


def build_rows(groups: Iterable[Iterable[Row]]) -> bytes:
    """All rows of all groups, in their order. Rows may be made while they are read."""
    buffer = bytearray((VERSION,))
    rows = chain.from_iterable(groups)
    while block := list(islice(rows, BLOCK_ROWS)):
        start = len(buffer)
        buffer += bytes(U32.size)
        _encode_into(block, buffer, -1)
        U32.pack_into(buffer, start, len(buffer) - start - U32.size)
    return bytes(buffer)


def parse_rows(raw: bytes) -> Iterator[list[Row]]:
    """The rows again, a block at a time. MalformedRows may be raised at any block: what came before must not stay."""
    if not raw or raw[0] != VERSION:
        raise MalformedRows("a commit of another version" if raw else "an empty commit")
    view = memoryview(raw)
    place = 1
    while place < len(raw):
        start = place + U32.size
        if start > len(raw):
            raise MalformedRows("a block is cut short")
        place = start + U32.unpack_from(raw, place)[0]
        if place > len(raw):
            raise MalformedRows("a block is cut short")
        try:
            rows = _decode(view[start:place])
        except (ValueError, RecursionError) as exc:
            raise MalformedRows("a block is no rows") from exc
        for operation, db, key, value in rows:
            if operation not in _OPERATIONS or db not in _DATABASES or not 0 < len(key) <= MOST_KEY_BYTES:
                raise MalformedRows("a row of no database of this version")
            if db in _DUPSORT and len(value) > MOST_KEY_BYTES:
                raise MalformedRows("a row of no database of this version")
        yield rows
