"""What there still is of a partition whose journal is lost: every copy that NATS has or a node told of, and how far
each has come; must never change anything.
"""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import msgspec

from gateway.cluster.entrance import patiently
from gateway.cluster.fleet_records import (
    FLEET,
    NODE,
    BadRecord,
    Beat,
    Fleet,
    Holding,
    parse_beat,
    parse_fleet,
    parse_holding,
    partition_key,
)
from gateway.cluster.import_record import finished_import
from gateway.cluster.jetstream import JetStream, JetStreamError, StreamState
from gateway.cluster.journal_past import Lack, Mark, Past, Pasts, lacking, parse_lack, parse_lack_key
from gateway.cluster.journal_records import journal_stream
from gateway.cluster.leases import Entry, Leases
from gateway.cluster.members import HOLD_S
from gateway.cluster.nats_link import NatsLink
from gateway.cluster.restored_journal import gap, is_restored
from gateway.cluster.snapshots import MalformedSnapshot, Manifest, Snapshots
from gateway.config.cluster_section import Cluster
from gateway.model.errors import ConfigError, NodeUnreachable

SNAPSHOT, STREAM = "snapshot", "stream"
#: said of a stream
GONE = "the stream is gone"
_FOLDER = "folder of "


class Copy(msgspec.Struct):
    """A copy of a partition, or what is left of one."""

    where: str  # snapshot, stream, or folder of a node
    place: int  # in the journal: what it has of it
    in_nats: bool  # can be gone on with from anywhere
    is_other: bool  # follows another stream than the partition's: how far it has come does not compare


class Survey(msgspec.Struct):
    partition: int
    reason: str  # why nobody takes it over; empty: the journal is whole, and nothing is to be recovered
    had: int  # place up to which the partition is known to have had commits
    epoch: int
    owner: str  # of a node that lives and has it; empty: nobody
    serves: bool  # that node has opened it
    copies: list[Copy]  # the furthest first
    silent: list[str]  # nodes that told of no copy and do not live: they may have one
    gap: str = ""  # why the stream can not be gone on with, or not with the snapshot; empty: it can
    fleet: str = ""  # identity of the fleet; empty: only nodes of an older program were there

    def furthest(self) -> Copy | None:
        return next((copy for copy in self.copies if not copy.is_other), None)


class Sight(msgspec.Struct):
    """What the survey was made of."""

    past: Past | None
    revision: int
    state: StreamState | None
    manifest: Manifest | None
    holding: Holding
    lacks: dict[str, Lack]
    fleet: Fleet
    gap: str = ""  # why the stream, with the snapshot, is not all that was there up to its end; empty: it is

    def follows(self, created: str) -> bool:
        """Is a copy of this stream one of the partition? A recovery that ended in the middle has made one too, and a
        backup brings the messages back as a stream of its own."""
        if self.past is None:
            return True
        if created in (self.past.created, self.past.made) and created != "":
            return True
        return self.state is not None and created == self.state.created and is_restored(self.state, self.past.created)

    def created(self) -> str:
        """Of the journal that the partition had, as far as it can be told."""
        if self.past is not None:
            return self.past.created
        marks = [Mark(lack.created, lack.place) for lack in self.lacks.values()]
        if self.manifest is not None:
            marks.append(Mark(self.manifest.created, self.manifest.place))
        if marks:
            return max(marks, key=lambda mark: mark.place).created
        return "" if self.state is None else self.state.created

    def places(self) -> list[int]:
        found = [lack.place for lack in self.lacks.values()]
        if self.past is not None:
            found.append(self.past.place)
        if self.manifest is not None:
            found.append(self.manifest.place)
        if self.state is not None:
            found.append(self.state.last)
        return found


class Surveyor:
    def __init__(self, link: NatsLink, leases: Leases, settings: Cluster) -> None:
        self._settings = settings
        self._leases = leases
        self._js = JetStream(link, timeout_s=5.0)
        self.snapshots = Snapshots(link, settings)
        self.pasts = Pasts(leases)

    async def look(self, partition: int, work: Path) -> tuple[Survey, Sight]:
        """Takes a lease's time where a node has the partition, or told of no copy. `work`: a folder for what has to be
        looked into. ConfigError where there is no such partition; NodeUnreachable."""
        entries = await patiently(self._leases.all)
        fleet = self._check(partition, entries)
        await patiently(partial(finished_import, self._leases))
        past, revision = await self.pasts.get(partition)
        try:
            state = await self._js.state(journal_stream(self._settings.name, partition))
            manifest = await self._manifest(partition)
            holding = await self.holding(partition)
            sight = Sight(past, revision, state, manifest, holding, _lacks(entries, partition), fleet)
            copy = None if manifest is None else Mark(manifest.created, manifest.place)
            sight.gap = await self.gap(sight, partition, copy, 0 if manifest is None else manifest.epoch)
        except JetStreamError as exc:
            raise NodeUnreachable(
                f"NATS does not say what it has of the partition: {exc}; see that its servers run, and run this again"
            ) from exc
        beats = [beat for entry in entries if (beat := _beat(entry)) is not None]
        live = await self._live(entries)
        has = next((beat.name for beat in beats if beat.number == holding.node and beat.name in live), "")
        copies = _copies(sight)
        survey = Survey(
            partition,
            await self._reason(sight, work),
            max([0 if past is None else past.place, *(copy.place for copy in copies if not copy.is_other)]),
            holding.epoch,
            has,
            bool(has) and holding.ready,
            copies,
            sorted(beat.name for beat in beats if beat.name not in live and beat.name not in sight.lacks),
            sight.gap,
            sight.fleet.ident,
        )
        return survey, sight

    async def gap(self, sight: Sight, partition: int, copy: Mark | None, epoch: int) -> str:
        """Why the stream does not go on where a copy ends. JetStreamError."""
        if sight.state is None:
            return GONE
        stream = journal_stream(self._settings.name, partition)
        return await gap(self._js, stream, sight.state, sight.created(), copy, epoch)

    def _check(self, partition: int, entries: list[Entry]) -> Fleet:
        fleet = next((entry for entry in entries if entry.key == FLEET), None)
        if fleet is None:
            raise ConfigError(f"NATS keeps no fleet {self._settings.name!r}", field="cluster.name")
        try:
            said = parse_fleet(fleet.value)
        except BadRecord:
            raise ConfigError("the fleet's records are of a newer version", field="cluster.name") from None
        if not 0 <= partition < said.partitions:
            raise ConfigError(
                f"there is no partition {partition}: the fleet has {said.partitions}, from 0 on", field="PARTITION"
            )
        if said.replicas != self._settings.replicas:
            raise ConfigError(
                f"{self._settings.replicas}, but the fleet {self._settings.name!r} has {said.replicas}: set it so",
                field="cluster.replicas",
            )
        return said

    async def _manifest(self, partition: int) -> Manifest | None:
        try:
            return await self.snapshots.find(partition)
        except MalformedSnapshot:
            return None

    async def holding(self, partition: int) -> Holding:
        entry = await patiently(lambda: self._leases.get(partition_key(partition)))
        try:
            return Holding(0, 0) if entry is None else parse_holding(entry.value)
        except BadRecord:
            raise ConfigError("the fleet's records are of a newer version", field="cluster.name") from None

    async def owner(self, holding: Holding) -> str:
        """The node that has it, where that lives."""
        entries = await patiently(self._leases.all)
        beat = next((beat for entry in entries if (beat := _beat(entry)) and beat.number == holding.node), None)
        return beat.name if beat is not None and beat.name in await self._live(entries) else ""

    async def _live(self, before: list[Entry]) -> set[str]:
        """Names of nodes whose record is renewed within a lease; where nobody's is, the bucket's servers may be
        electing a leader, and a node holds on for longer."""
        known = {entry.key: entry.revision for entry in before}
        loop = asyncio.get_running_loop()
        began_s, lease_s = loop.time(), self._settings.lease_s
        live: set[str] = set()
        while True:
            after = {entry.key: entry for entry in await patiently(self._leases.all)}
            for key, entry in after.items():
                beat = _beat(entry)
                if beat is not None and known.get(key) != entry.revision:
                    live.add(beat.name)
            patience_s = lease_s if live else max(lease_s, HOLD_S)
            if loop.time() - began_s >= patience_s or len(live) == sum(1 for key in after if key.startswith(NODE)):
                return live
            await asyncio.sleep(self._settings.beat_s / 2)

    async def _reason(self, sight: Sight, work: Path) -> str:
        state, manifest = sight.state, sight.manifest
        snapshot = None if manifest is None else Mark(manifest.created, manifest.place)
        if reason := lacking(state, sight.past, snapshot, None):
            return reason
        for node, lack in sight.lacks.items():
            if lack.place and lacking(state, sight.past, None, Mark(lack.created, lack.place)):
                return f"{lack.reason} (node {node})"
        if state is None or state.first <= 1:
            return ""
        if manifest is None or manifest.created != state.created or manifest.place + 1 < state.first:
            return f"its journal begins at {state.first}, and no snapshot reaches it"
        try:
            await self.snapshots.fetch(manifest, work / "looked-at")
        except MalformedSnapshot:
            return f"its journal begins at {state.first}, and the snapshot before it is not whole"
        except JetStreamError as exc:
            raise NodeUnreachable(f"the snapshot can not be read: {exc}; run this again") from exc
        return ""


def _copies(sight: Sight) -> list[Copy]:
    found: list[Copy] = []
    manifest, state = sight.manifest, sight.state
    if manifest is not None:
        found.append(Copy(SNAPSHOT, manifest.place, True, not sight.follows(manifest.created)))
    if state is not None and state.last and not sight.gap:
        found.append(Copy(STREAM, state.last, True, not sight.follows(state.created)))
    for node, lack in sight.lacks.items():
        if lack.place:
            found.append(Copy(f"{_FOLDER}{node}", lack.place, False, not sight.follows(lack.created)))
    # of two that have come as far the one that is in NATS
    return sorted(found, key=lambda copy: (copy.is_other, -copy.place, not copy.in_nats))


def _lacks(entries: list[Entry], partition: int) -> dict[str, Lack]:
    found = {}
    for entry in entries:
        number, node = parse_lack_key(entry.key)
        if number == partition and node:
            try:
                found[node] = parse_lack(entry.value)
            except BadRecord:
                continue
    return found


def _beat(entry: Entry) -> Beat | None:
    if not entry.key.startswith(NODE):
        return None
    try:
        return parse_beat(entry.value)
    except BadRecord:
        return None
