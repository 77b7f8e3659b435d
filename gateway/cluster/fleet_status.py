"""What a fleet is now, as NATS has it: members, owners, streams; must never change anything, and needs no node."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import msgspec

from gateway.cluster.entrance import patiently
from gateway.cluster.fleet_lookup import require_fleet
from gateway.cluster.fleet_records import (
    FLEET,
    KEYS,
    NODE,
    BadRecord,
    Beat,
    Holding,
    parse_beat,
    parse_fleet,
    parse_holding,
    parse_partition_key,
)
from gateway.cluster.import_record import IMPORT, read_import
from gateway.cluster.journal_past import (
    Past,
    parse_lack,
    parse_lack_key,
    parse_past,
    parse_past_key,
)
from gateway.cluster.journal_records import journal_stream
from gateway.cluster.kv_leases import KvLeases, bucket_of
from gateway.cluster.leases import Entry
from gateway.cluster.nats_link import NatsLink
from gateway.config.cluster_section import Cluster
from gateway.model.errors import NodeUnreachable

if TYPE_CHECKING:
    from nats.js.api import StreamInfo

_PATIENCE_S = 5.0


class MemberStatus(msgspec.Struct):
    name: str
    number: int
    is_live: bool  # its record was renewed while we looked
    draining: bool
    links: int
    partitions: int
    devices: str
    api: str
    version: int
    keys: int  # revision of the fleet's keys that it has; 0: it takes none while it runs (an older program)
    strangers: int = 0  # partition folders of another fleet in its store.path, when it started


class PartitionStatus(msgspec.Struct):
    partition: int
    owner: str  # empty: nobody's
    epoch: int
    ready: bool  # it serves
    problem: str = ""  # why nobody takes it over, where that is known
    refusals: dict[str, str] = {}  # what each node said that did not take it over, while nobody serves it


class StreamStatus(msgspec.Struct):
    name: str
    messages: int
    bytes: int
    last: int  # sequence of the last message
    replicas: int
    in_sync: int  # copies that have everything, the leader's too; 0: there is no leader
    leader: str


class FleetStatus(msgspec.Struct):
    name: str
    members: list[MemberStatus]
    partitions: list[PartitionStatus]
    streams: list[StreamStatus]
    keys: int  # revision of the fleet's keys; 0: there are none yet
    #: a gateway's store is being brought in, or that was broken off: no node starts before it is finished
    importing: bool = False
    #: tells it from another fleet; empty: only nodes of an older program were there
    ident: str = ""


async def look(settings: Cluster) -> FleetStatus:
    """Takes up to a lease's time, where a member is silent. ConfigError where there is no such fleet."""
    link = NatsLink(settings, purpose="status")
    await link.connect(_PATIENCE_S)
    try:
        await _streams(link, settings.name)  # who gets no answer is told so before there is more to wait for
        await require_fleet(link, settings.name)
        leases = KvLeases(link, settings)
        before = await patiently(leases.all)
        after = before
        loop = asyncio.get_running_loop()
        end = loop.time() + settings.lease_s
        while loop.time() < end and len(_renewed(before, after)) < len(_beats(after)):
            await asyncio.sleep(settings.beat_s / 2)
            after = await patiently(leases.all)
        # last, for what the records say of a stream must not be newer
        return describe(settings, after, _renewed(before, after), await _streams(link, settings.name))
    finally:
        await link.close()


def _beats(entries: list[Entry]) -> dict[str, Beat]:
    found = {}
    for entry in entries:
        if entry.key.startswith(NODE):
            try:
                found[entry.key] = parse_beat(entry.value)
            except BadRecord:
                continue
    return found


def _renewed(before: list[Entry], after: list[Entry]) -> set[str]:
    known = {entry.key: entry.revision for entry in before}
    return {key for key in _beats(after) for entry in after if entry.key == key and known.get(key) != entry.revision}


def describe(settings: Cluster, entries: list[Entry], live: set[str], streams: list[StreamStatus]) -> FleetStatus:
    """`live`: keys of members that were renewed."""
    beats = _beats(entries)
    holdings: dict[int, Holding] = {}
    pasts: dict[int, Past] = {}
    refusals: dict[int, dict[str, str]] = {}  # by partition and node
    count, ident = settings.partitions, ""
    for entry in entries:
        try:
            if entry.key == FLEET:
                fleet = parse_fleet(entry.value)
                count, ident = fleet.partitions, fleet.ident
            elif (partition := parse_partition_key(entry.key)) >= 0:
                holdings[partition] = parse_holding(entry.value)
            elif (partition := parse_past_key(entry.key)) >= 0:
                pasts[partition] = parse_past(entry.value)
            elif (lack := parse_lack_key(entry.key))[0] >= 0:
                refusals.setdefault(lack[0], {})[lack[1]] = parse_lack(entry.value).reason
        except BadRecord:
            continue
    lasts = {stream.name: stream.last for stream in streams}
    names = {beat.number: beat.name for beat in beats.values()}
    partitions = []
    for partition in range(count):
        holding = holdings.get(partition, Holding(0, 0))
        # a number without a member: its node is gone, and nobody took the partition yet
        owner = names.get(holding.node, f"#{holding.node}" if holding.node else "")
        last = lasts.get(journal_stream(settings.name, partition))
        said = {} if holding.ready else dict(sorted(refusals.get(partition, {}).items()))
        problem = _problem(pasts.get(partition), said, last)
        partitions.append(PartitionStatus(partition, owner, holding.epoch, holding.ready, problem, said))
    members = [
        MemberStatus(
            name=beat.name,
            number=beat.number,
            is_live=key in live,
            draining=beat.draining,
            links=beat.links,
            partitions=sum(1 for holding in holdings.values() if holding.node == beat.number),
            devices=beat.devices,
            api=beat.api,
            version=beat.version,
            keys=beat.keys,
            strangers=beat.strangers,
        )
        for key, beat in sorted(beats.items())
    ]
    keys = max((entry.revision for entry in entries if entry.key == KEYS), default=0)
    record = read_import(next((entry for entry in entries if entry.key == IMPORT), None))
    importing = record is not None and not record.done
    return FleetStatus(settings.name, members, partitions, streams, keys, importing, ident)


def _problem(past: Past | None, refusals: dict[str, str], last: int | None) -> str:
    """Of its journal; `last`: where that ends, None: there is none. A node that tried knows it best; where none lives
    it is seen all the same. What one lacks another may have, so each is heard where they differ."""
    if past is not None and past.recovery:
        return "it is being recovered, or that ended in the middle"
    if past is not None and last is None:
        return f"its journal is gone, of which {past.who()} had {past.place}"
    if past is not None and last is not None and last < past.place:
        return f"its journal ends at {last}, and {past.who()} had {past.place}"
    if len(set(refusals.values())) > 1:
        return "; ".join(f"{node}: {reason}" for node, reason in refusals.items())
    return next(iter(refusals.values()), "")


async def _streams(link: NatsLink, name: str) -> list[StreamStatus]:
    ours = re.compile(rf"{re.escape(name)}_(J_\d+|BROADCASTS|S)|KV_{re.escape(bucket_of(name))}")
    found: list[StreamStatus] = []
    offset = 0
    while True:
        try:
            page = await link.js.streams_info(offset)
        except Exception as exc:
            raise NodeUnreachable(f"NATS does not say what it keeps: {type(exc).__name__}") from None
        found += [_stream(info) for info in page if ours.fullmatch(info.config.name or "")]
        offset += len(page)
        if not page:
            return sorted(found, key=_place)


def _place(stream: StreamStatus) -> tuple[str, int]:
    stem, _, number = stream.name.rpartition("_")
    return (stem, int(number)) if number.isdigit() else (stream.name, 0)


def _stream(info: StreamInfo) -> StreamStatus:
    leader, others = "", []
    if info.cluster is not None:
        leader, others = info.cluster.leader or "", info.cluster.replicas or []
    is_single = (info.config.num_replicas or 1) == 1
    current = sum(1 for other in others if other.current and not other.offline)
    return StreamStatus(
        name=info.config.name or "",
        messages=info.state.messages,
        bytes=info.state.bytes,
        last=info.state.last_seq,
        replicas=info.config.num_replicas or 1,
        in_sync=current + 1 if leader or is_single else 0,
        leader=leader,
    )
