"""A fleet's device key is changed while its nodes run: first every node has the new key, then secrets are made with it;
must never let one be made with a key that a node can miss, nor end a key that a node may still use.

Between the two steps stands `next` in the record, so whoever is stopped in the middle leaves a fleet in which all is
good, and a rotation that `finish` takes to its end. Each step is a compare-and-set: of two at once one gets Conflict.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from gateway.cluster.entrance import patiently
from gateway.cluster.fleet_records import KEYS, NODE, BadRecord, Beat, parse_beat
from gateway.cluster.import_record import finished_import
from gateway.cluster.key_record import KeyRecord
from gateway.cluster.leases import Changed, Leases
from gateway.cluster.shared_keys import OpenedKeys
from gateway.config.cluster_section import Cluster
from gateway.model.cluster import VERSION
from gateway.model.errors import ConfigError, Conflict, NodeUnreachable
from gateway.store.device_keys import NO_KEY, DeviceKeyRing

#: a node whose record was not renewed for so many leases is silent: it can not know what it was not told, and sends
#: devices away until it does (key_watch). No less passes before a new key is used, for a node may be on its way in
SILENT_LEASES = 2
#: how long a node that lives may take to say that it has the keys: a control thread may be busy for 15 s before its
#: beats end, and records may go without a leader for some seconds besides
TAKEN_S = 30.0


class Node(NamedTuple):
    beat: Beat
    revision: int

    @property
    def name(self) -> str:
        return self.beat.name


class Told(NamedTuple):
    """What became of a change."""

    key_id: int
    #: nodes that were silent, and learn it when they come back
    silent: list[str]


class KeyRotation:
    """From outside the nodes. Calls may raise ConfigError, Conflict (somebody else changes the keys; a node stands
    against it), NodeUnreachable (a node lives and does not say that it has the keys). `tell` gets words for people."""

    def __init__(self, leases: Leases, record: KeyRecord, settings: Cluster, tell: Callable[[str], None]) -> None:
        self._leases = leases
        self._record = record
        self._lease_s = settings.lease_s
        self._step_s = min(settings.beat_s, settings.lease_s / 4)
        self._tell = tell

    async def rotate(self, *, finish: bool = False) -> Told:
        """`finish`: the one that was interrupted, and no new one."""
        await patiently(partial(finished_import, self._leases))  # which would bring its own keys once more
        self._refuse_versions((await self._sight())[0])
        found = await self._record.read()
        key_id = found.server.device_key_next
        if key_id != NO_KEY and not finish:
            raise Conflict(
                f"device key {key_id} is on its way already: another rotation is at work, or was interrupted."
                " `heliograph keys rotate --finish` takes it to its end"
            )
        if key_id == NO_KEY and finish:
            self._tell("no rotation is under way")
            return Told(found.server.device_key_id, await self._until_taken(found.revision))
        if not finish:
            found = await self._change(found, found.server.ring.with_next())
            key_id = found.server.device_key_next
        self._tell(f"device key {key_id} is made; it is used when each node has it")
        try:
            await self._until_taken(found.revision, and_waited=True)
        except (NodeUnreachable, Conflict, ConfigError) as exc:
            raise type(exc)(
                f"{exc.message}; device key {key_id} is not used yet, `heliograph keys rotate --finish` goes on"
            ) from None
        return await self._use(found, key_id)

    async def _use(self, found: OpenedKeys, key_id: int) -> Told:
        try:
            found = await self._record.change(found, found.server.ring.with_next_used())
        except Changed:
            found = await self._record.read()
            if found.server.device_key_id != key_id:  # else another `finish` was quicker
                raise self._somebody_else() from None
        return await self._told(found, key_id)

    async def drop(self, key_id: int) -> Told:
        """An older key, or the one on its way: that ends the rotation."""
        await patiently(partial(finished_import, self._leases))
        found = await self._record.read()
        ring = found.server.ring
        rest = ring.without(key_id)
        if key_id != ring.next:
            if ring.next != NO_KEY:
                raise Conflict(
                    f"device key {ring.next} is on its way: `heliograph keys rotate --finish` first, or drop that one"
                )
            silent = await self._until_taken(found.revision)
            if silent:
                raise Conflict(
                    f"{_names(silent)} may make secrets with an older key still: silent, and did not hear of the one in"
                    " use. Start it, or wait until its record goes, ten minutes after its end"
                )
        return await self._told(await self._change(found, rest), key_id)

    async def _told(self, found: OpenedKeys, key_id: int) -> Told:
        """It is done: a node that does not say so is told of, and undoes nothing."""
        try:
            return Told(key_id, await self._until_taken(found.revision))
        except (NodeUnreachable, Conflict, ConfigError) as exc:
            raise type(exc)(f"{exc.message}; the change itself is made") from None

    async def _change(self, found: OpenedKeys, ring: DeviceKeyRing) -> OpenedKeys:
        try:
            return await self._record.change(found, ring)
        except Changed:
            raise self._somebody_else() from None

    def _somebody_else(self) -> Conflict:
        return Conflict("somebody else changed the fleet's keys at the same time; see `heliograph keys list`")

    # --- the nodes

    async def _until_taken(self, revision: int, *, and_waited: bool = False) -> list[str]:
        """Each node that lives has the keys of this revision, `and_waited`: and who was not seen may not take itself
        for one that missed nothing. Names of those that are silent and have not."""
        loop = asyncio.get_running_loop()
        renewed: dict[str, tuple[int, float]] = {}  # record → its revision, and how much had passed by then
        passed, looked_at = 0.0, loop.time()
        while True:
            nodes, newest = await self._sight()
            self._refuse_versions(nodes)
            # the longest lease: a node goes by its own
            silent_s = SILENT_LEASES * max([self._lease_s, *(node.beat.lease_s for node in nodes.values())])
            # only time in which records could be read counts: where they can not, nobody's beats get through
            passed += min(loop.time() - looked_at, 2 * self._step_s)
            looked_at = loop.time()
            silent: list[str] = []
            living: list[str] = []
            for key, node in nodes.items():
                if renewed.get(key, (0, 0.0))[0] != node.revision:
                    renewed[key] = node.revision, passed
                # more than the newest is a revision of another bucket, out of which this node has not come yet
                if not revision <= node.beat.keys <= newest:
                    (silent if passed - renewed[key][1] >= silent_s else living).append(node.name)
            if not living and (passed >= silent_s or not and_waited):
                return sorted(silent)
            if living and passed >= silent_s + TAKEN_S:
                raise NodeUnreachable(f"{_names(living)} did not take the fleet's keys (its log says why)")
            await asyncio.sleep(self._step_s)

    async def _sight(self) -> tuple[dict[str, Node], int]:
        """The nodes by their records' keys, and the revision of the fleet's keys beside them."""
        found, newest = {}, 0
        for entry in await patiently(self._leases.all):
            if entry.key == KEYS:
                newest = entry.revision
            elif entry.key.startswith(NODE):
                try:
                    found[entry.key] = Node(parse_beat(entry.value), entry.revision)
                except BadRecord:
                    raise ConfigError(
                        "a node's record can not be read: it is of a much newer program", field="cluster.name"
                    ) from None
        return found, newest

    def _refuse_versions(self, nodes: dict[str, Node]) -> None:
        """A silent one too: it comes back as it was, and would refuse devices for good."""
        older = [node.name for node in nodes.values() if not node.beat.keys]
        if older:
            raise Conflict(
                f"{_names(older)} runs an older program that reads the fleet's keys at its start alone: upgrade it, or"
                " stop it (SIGTERM); the record of a node that was killed goes after ten minutes"
            )
        newer = [node.name for node in nodes.values() if node.beat.version > VERSION]
        if newer:
            raise Conflict(f"{_names(newer)} runs a newer program than this: change the keys with that one")


def _names(nodes: list[str]) -> str:
    return f"node {nodes[0]!r}" if len(nodes) == 1 else f"nodes {', '.join(map(repr, sorted(nodes)))}"
