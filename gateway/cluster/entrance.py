"""How a node comes into the fleet: it agrees with the others on what the fleet is, has its name for itself, and gets a
number; must never take the name of a node that lives.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import NamedTuple, TypeVar

import msgspec
import structlog

from gateway.cluster.beats import clock
from gateway.cluster.fleet_records import (
    FLEET,
    NODE,
    NUMBERS,
    BadRecord,
    Beat,
    Fleet,
    build,
    parse_beat,
    parse_fleet,
    parse_number,
)
from gateway.cluster.leases import Changed, Entry, InDoubt, Leases
from gateway.config.cluster import node_name
from gateway.config.cluster_section import Cluster
from gateway.model.cluster import VERSION
from gateway.model.errors import ConfigError

_log = structlog.get_logger(__name__)

_T = TypeVar("_T")

_LAST_NUMBER = 65_535
#: how long the bucket may be without an answer, in which an election of its servers fits
PATIENCE_S = 30.0
_AGAIN_S = 0.1


async def patiently(work: Callable[[], Awaitable[_T]], now: Callable[[], float] = clock) -> _T:
    """Again while there is no answer: the servers may be electing a leader. What is done has to look first. ConfigError
    where that lasts."""
    end = now() + PATIENCE_S
    while True:
        try:
            return await work()
        except InDoubt as exc:
            if now() > end:
                raise ConfigError(
                    f"the fleet's records can not be read or written: {exc.message}", field="cluster.url"
                ) from None
        await asyncio.sleep(_AGAIN_S)


class Entrance(NamedTuple):
    """A node that is in the fleet, from now until its lease is over."""

    beat: Beat
    key: str
    revision: int
    #: when the bucket was made that it came into (Leases.made)
    bucket: str = ""

    @property
    def number(self) -> int:
        return self.beat.number


async def enter(
    settings: Cluster,
    leases: Leases,
    *,
    devices: str = "",
    api: str = "",
    keys: int = 0,
    ident: str = "",
    version: int = VERSION,
    now: Callable[[], float] = clock,
) -> Entrance:
    """ConfigError says what keeps this node out. Takes a lease's time where a node of this name was there and is not
    any more."""
    door = _Door(settings, leases, version, now, ident)
    bucket = await door.patiently(leases.made)  # before anything is written: all of it has to be in this one
    await door.patiently(door.agree)
    await door.check_versions()
    revision = await door.wait_for_name()
    number = await door.patiently(partial(door.take_number, bucket))
    at_ms = int(now() * 1000)
    beat = Beat(number, door.name, devices, api, version, at_ms=at_ms, keys=keys, lease_s=settings.lease_s)
    return (await door.patiently(partial(door.write, beat, revision)))._replace(bucket=bucket)


class _Door:
    def __init__(self, settings: Cluster, leases: Leases, version: int, now: Callable[[], float], ident: str) -> None:
        self._settings = settings
        self._leases = leases
        self._version = version
        self._now = now
        self._ident = ident
        self.name = node_name(settings)
        self._key = f"{NODE}{self.name}"

    async def patiently(self, work: Callable[[], Awaitable[_T]]) -> _T:
        return await patiently(work, self._now)

    async def agree(self) -> None:
        """On what the fleet is: the first node says it."""
        mine = Fleet(self._version, self._settings.partitions, self._settings.replicas, self._ident)
        while True:
            entry = await self._leases.get(FLEET)
            if entry is not None:
                break
            with suppress(Changed):
                await self._leases.create(FLEET, build(mine))
                return
        try:
            fleet = parse_fleet(entry.value)
        except BadRecord:
            raise ConfigError(
                "the fleet's records can not be read: another program uses this name, or a much newer version",
                field="cluster.name",
            ) from None
        for field in ("partitions", "replicas"):
            there, here = getattr(fleet, field), getattr(mine, field)
            if there != here:
                raise ConfigError(
                    f"{here}, but the fleet {self._settings.name!r} has {there}: set it so, or name another fleet",
                    field=f"cluster.{field}",
                )
        if self._ident and fleet.ident != self._ident:  # a program of before made the record
            with suppress(Changed):  # another node writes the same
                await self._leases.update(
                    FLEET, build(msgspec.structs.replace(fleet, ident=self._ident)), entry.revision
                )

    async def check_versions(self) -> None:
        """A node understands those one version apart from it."""
        for entry in await self.patiently(self._leases.all):
            beat = _beat_of(entry)
            if beat is None or abs(beat.version - self._version) <= 1 or beat.name == self.name:
                continue
            if await self._lives(entry):
                raise ConfigError(
                    f"node {beat.name!r} of the fleet speaks version {beat.version}, this one {self._version}; nodes"
                    " may be one apart: go there by way of the versions between",
                    field="cluster.name",
                )

    async def wait_for_name(self) -> int:
        """The revision of the name's record; 0: there is none."""
        entry = await self.patiently(partial(self._leases.get, self._key))
        if entry is None:
            return 0
        _log.info("waiting_for_name", node=self.name, seconds=self._settings.lease_s)
        if await self._lives(entry):
            raise self._is_taken()
        return entry.revision

    async def _lives(self, entry: Entry) -> bool:
        """Is this record renewed within a lease? Only time in which records could be read counts."""
        step = min(self._settings.beat_s, self._settings.lease_s / 4)
        silence, looked_at = 0.0, self._now()
        while silence < self._settings.lease_s:
            await asyncio.sleep(step)
            found = await self.patiently(partial(self._leases.get, entry.key))
            if found is None:
                return False
            if found.revision != entry.revision:
                return True
            silence += min(self._now() - looked_at, 2 * step)
            looked_at = self._now()
        return False

    async def take_number(self, bucket: str) -> int:
        """One after the last one given, round and round, and nobody's that has a record. A bucket's first is one of its
        own: nodes of the one before it may still be there for a moment, with numbers of that one."""
        while True:
            entry = await self._leases.get(NUMBERS)
            taken = {beat.number for other in await self._leases.all() if (beat := _beat_of(other)) is not None}
            try:
                number = zlib.crc32(bucket.encode()) % _LAST_NUMBER if entry is None else parse_number(entry.value)
            except BadRecord:
                number = 0
            number = number % _LAST_NUMBER + 1
            while number in taken:
                number = number % _LAST_NUMBER + 1
            try:
                if entry is None:
                    await self._leases.create(NUMBERS, build(number))
                else:
                    await self._leases.update(NUMBERS, build(number), entry.revision)
            except Changed:
                continue
            return number

    async def write(self, beat: Beat, revision: int) -> Entrance:
        """The node's own record, where nobody else wrote it meanwhile."""
        entry = await self._leases.get(self._key)
        if entry is not None and entry.revision != revision:
            found = _beat_of(entry)
            if found is not None and found.number == beat.number:  # it was in doubt, and is carried out
                return Entrance(beat, self._key, entry.revision)
            raise self._is_taken()
        try:
            if entry is None:
                written = await self._leases.create(self._key, build(beat))
            else:
                written = await self._leases.update(self._key, build(beat), revision)
        except Changed:
            raise self._is_taken() from None
        return Entrance(beat, self._key, written)

    def _is_taken(self) -> ConfigError:
        return ConfigError(
            f"a node {self.name!r} is in the fleet already, and lives; each node needs a name of its own",
            field="cluster.node",
        )


def _beat_of(entry: Entry) -> Beat | None:
    if not entry.key.startswith(NODE):
        return None
    try:
        return parse_beat(entry.value)
    except BadRecord:
        return None
