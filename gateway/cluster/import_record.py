"""The fleet's record of an import: whose store it is made from, and whether it is done; must never let a node into a
fleet that has but a part of what was accepted.
"""

from __future__ import annotations

import msgspec

from gateway.cluster.fleet_records import BadRecord
from gateway.cluster.leases import Entry, Leases
from gateway.model.errors import ConfigError

IMPORT = "import"


class Import(msgspec.Struct, frozen=True):
    """Written before anything else of the fleet, and again when all of it is there."""

    source: str  # tells a store from others, and nothing else of it
    life: str  # of the command that is at it: a second one takes it over
    done: bool = False
    #: chunks of tokens that lie elsewhere than their first bits say
    stray_chunks: int = 0
    #: most that any try of it made journals for, so that the last one knows what to remove; 0: an older program
    partitions: int = 0


_decoder = msgspec.msgpack.Decoder(Import)


def build_import(record: Import) -> bytes:
    return msgspec.msgpack.encode(record)


def parse_import(raw: bytes) -> Import:
    """BadRecord."""
    try:
        return _decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BadRecord from None


def read_import(entry: Entry | None) -> Import | None:
    """ConfigError where the record is of a newer version."""
    try:
        return None if entry is None else parse_import(entry.value)
    except BadRecord:
        raise ConfigError(
            "the fleet's record of its import can not be read: a newer version wrote it", field="cluster.name"
        ) from None


async def finished_import(leases: Leases) -> Import | None:
    """None: the fleet began empty. ConfigError where an import is under way, or was broken off. InDoubt."""
    record = read_import(await leases.get(IMPORT))
    if record is not None and not record.done:
        raise ConfigError(
            "the import of a gateway's store into this fleet is not finished: `heliograph cluster import STORE`"
            " finishes it, with the same store and these settings",
            field="cluster.name",
        )
    return record
