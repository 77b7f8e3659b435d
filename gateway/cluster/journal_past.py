"""What the fleet remembers of a partition's journal, and whether the stream that is there now can be that journal; must
never let a partition be taken over without what it had.

The record of a partition's past lies beside the leases, and no node's end removes it: which stream the journal is, told
by the moment at which it was made, and how far it had come at least. A stream that is gone, was made anew or is shorter
is not gone on with: what was accepted would be gone without a word. `recovery` changes the record, and nothing else may
name another stream there.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import msgspec

from gateway.cluster.fleet_records import BadRecord, parse_partition_key
from gateway.cluster.jetstream import StreamState
from gateway.cluster.leases import Changed, InDoubt, Leases
from gateway.model.errors import ConfigError, LogUnavailable

PAST, LACK = "journal.", "lack."
#: how long a record may be without an answer, in which an election of the bucket's servers fits
PATIENCE_S = 10.0
_MOST_WORDS = 400
_AGAIN_S = 0.1


class JournalUnusable(ConfigError):
    """What would be needed of a partition is not there: neither in its journal nor in a snapshot, nor on this node."""

    def __init__(self, partition: int, reason: str) -> None:
        super().__init__(f"partition {partition} is not taken over: {reason}", field="cluster.name")
        self.partition = partition
        self.reason = reason


class JournalLacking(JournalUnusable):
    """The stream is not what the partition had: it stays without an owner until somebody says how to go on."""


class Past(msgspec.Struct, array_like=True, frozen=True):
    """Fields are added at the end only."""

    created: str  # of the stream
    place: int  # that the stream had at least
    recovery: str = ""  # one that is under way, or ended in the middle: nobody takes the partition over
    made: str = ""  # the stream that this recovery made
    node: str = ""  # whose folder told of it, where nobody has adopted the partition since; empty: an owner wrote it

    def who(self) -> str:
        return f"the folder of node {self.node!r}" if self.node else "the fleet's records"


class Lack(msgspec.Struct, array_like=True, frozen=True):
    """Why a node did not take a partition over, and what it has of it."""

    reason: str
    created: str = ""  # of the stream that its folder follows; empty: no folder that can be trusted
    place: int = 0


class Mark(NamedTuple):
    """How far a copy has come in which stream."""

    created: str
    place: int


_past = msgspec.msgpack.Decoder(Past)
_lack = msgspec.msgpack.Decoder(Lack)


def build(record: Past | Lack) -> bytes:
    return msgspec.msgpack.encode(record)


def parse_past(raw: bytes) -> Past:
    try:
        past = _past.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BadRecord from None
    if past.place < 0:
        raise BadRecord
    return past


def parse_lack(raw: bytes) -> Lack:
    try:
        lack = _lack.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BadRecord from None
    if lack.place < 0 or len(lack.reason) > _MOST_WORDS:
        raise BadRecord
    return lack


def past_key(partition: int) -> str:
    return f"{PAST}{partition}"


def lack_key(partition: int, node: str) -> str:
    return f"{LACK}{partition}.{node}"


def parse_past_key(key: str) -> int:
    """-1: it is none."""
    return _number(key.removeprefix(PAST)) if key.startswith(PAST) else -1


def parse_lack_key(key: str) -> tuple[int, str]:
    """(-1, ""): it is none."""
    if not key.startswith(LACK):
        return -1, ""
    digits, _, node = key.removeprefix(LACK).partition(".")
    partition = _number(digits)
    return (partition, node) if partition >= 0 and node else (-1, "")


def _number(digits: str) -> int:
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 6 else -1


def lacking(state: StreamState | None, past: Past | None, snapshot: Mark | None, folder: Mark | None) -> str:
    """Why this stream (None: there is none) is not the journal that the partition had; empty: it is.

    The record says which stream it is. What a snapshot or a folder has of another stream was left behind by a recovery
    then; without a record (the bucket was lost, or an older version ran) each of them tells of an earlier owner."""
    if past is not None and past.recovery:
        return "a recovery is under way, or ended in the middle; in that case run it again"
    known: list[tuple[str, Mark]] = [] if past is None else [(past.who(), Mark(past.created, past.place))]
    for who, mark in (("a snapshot", snapshot), ("this node's folder", folder)):
        if mark is not None and mark.place and (past is None or mark.created == past.created):
            known.append((who, mark))
    for who, mark in sorted(known, key=lambda each: each[1].place, reverse=True):
        if state is None:
            return f"its journal is gone, of which {who} had {mark.place}"
        if state.created != mark.created:
            return f"its journal was made anew, and {who} had {mark.place} of the one before"
        if state.last < mark.place:
            return f"its journal ends at {state.last}, and {who} had {mark.place}"
    return ""


class Pasts:
    """The records of all partitions."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases

    async def get(self, partition: int) -> tuple[Past | None, int]:
        """With its revision, 0 where there is none. LogUnavailable where that is not known now."""
        loop = asyncio.get_running_loop()
        end = loop.time() + PATIENCE_S
        while True:
            try:
                entry = await self._leases.get(past_key(partition))
                break
            except InDoubt as exc:
                if loop.time() > end:
                    raise LogUnavailable("the record of a partition's journal can not be read now") from exc
            await asyncio.sleep(_AGAIN_S)
        if entry is None:
            return None, 0
        try:
            return parse_past(entry.value), entry.revision
        except BadRecord as exc:
            raise LogUnavailable("the record of a partition's journal is not of this version") from exc

    async def known(self) -> set[int]:
        """Partitions that the fleet's records know of, for they had an owner. LogUnavailable."""
        try:
            keys = [entry.key for entry in await self._leases.all()]
            return {max(parse_past_key(key), parse_partition_key(key)) for key in keys} - {-1}
        except InDoubt as exc:
            raise LogUnavailable("the records of the partitions' journals can not be read now") from exc

    async def change(self, partition: int, past: Past, revision: int) -> int:
        """Its new revision. Changed: it is at another one than given. LogUnavailable: it may be changed or not."""
        key, value = past_key(partition), build(past)
        loop = asyncio.get_running_loop()
        end = loop.time() + PATIENCE_S
        while True:
            try:
                if revision:
                    return await self._leases.update(key, value, revision)
                return await self._leases.create(key, value)
            except InDoubt:
                pass
            while True:
                await asyncio.sleep(_AGAIN_S)
                try:
                    entry = await self._leases.get(key)
                except InDoubt as exc:
                    if loop.time() > end:
                        raise LogUnavailable("the record of a partition's journal can not be written now") from exc
                    continue
                if entry is not None and entry.value == value and entry.revision > revision:
                    return entry.revision
                if (0 if entry is None else entry.revision) != revision:
                    raise Changed
                break

    async def remove(self, partition: int, revision: int) -> None:
        """As if nothing were known. Changed, LogUnavailable."""
        try:
            await self._leases.delete(past_key(partition), revision)
        except InDoubt as exc:
            raise LogUnavailable("the record of a partition's journal may be removed or not") from exc

    async def note(self, partition: int, created: str, place: int) -> None:
        """The stream has come so far. LogUnavailable where that can not be written, or the record names another one by
        now, or a recovery has begun: this partition must not be served."""
        while True:
            past, revision = await self.get(partition)
            if past is not None and (past.recovery or past.created != created):
                raise LogUnavailable("the partition's journal is another one by now, or is being recovered")
            try:
                await self.change(partition, Past(created, max(place, past.place if past else 0)), revision)
                return
            except Changed:
                continue

    async def remember(self, partition: int, mark: Mark, node: str) -> None:
        """What a copy on a node tells of a journal that has no record: for nodes without that copy."""
        try:
            if (await self.get(partition))[0] is None:
                await self.change(partition, Past(mark.created, mark.place, node=node), 0)
        except Changed:
            return  # another node did

    async def say(self, partition: int, node: str, lack: Lack) -> None:
        """LogUnavailable where that can not be written now."""
        key, lack = lack_key(partition, node), msgspec.structs.replace(lack, reason=lack.reason[:_MOST_WORDS])
        try:
            entry = await self._leases.get(key)
            if entry is None:
                await self._leases.create(key, build(lack))
            elif entry.value != build(lack):
                await self._leases.update(key, build(lack), entry.revision)
        except Changed:
            return  # whoever adopted the partition removes them
        except InDoubt as exc:
            raise LogUnavailable("what a node lacks of a partition can not be written down now") from exc
