"""How a running node learns the fleet's keys when they change, and knows whether it has missed any; must never take
other token or push id keys than it began with, nor say in its beats that it has what it has not.

All records come over one watch, in the order in which they were written. Who makes a new key lets two leases pass
before anything is made with it. So a node whose own beat came back to it, sent half a lease ago at most, has every key
that can be in use: either the key's record was there before that beat, and was heard before it, or it is too young.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from gateway.cluster.beats import clock
from gateway.cluster.entrance import Entrance
from gateway.cluster.fleet_records import KEYS, BadRecord, parse_beat
from gateway.cluster.leases import Entry
from gateway.cluster.shared_keys import FleetKeys, open_keys
from gateway.model.errors import ConfigError
from gateway.store.device_keys import NO_KEY
from gateway.store.keys import write_secret_file

_log = structlog.get_logger(__name__)

#: part of the lease for which an own beat says that nothing was missed; the rest is for clocks that do not run alike
_CURRENT = 0.5


class KeyWatch:
    """Control thread only. `tell` is called with the revision of the record whose keys this node has from now on."""

    def __init__(
        self,
        keys: FleetKeys,
        entrance: Entrance,
        lease_s: float,
        tell: Callable[[int], None],
        *,
        now: Callable[[], float] = clock,
    ) -> None:
        self._keys = keys
        self._key = entrance.key
        self._number = entrance.number
        self._current_s = _CURRENT * lease_s
        self._tell = tell
        self._now = now
        self._revision = keys.revision
        self._beat_at: float | None = None
        self._unwritten: bytes | None = None
        self._writing: asyncio.Task[None] | None = None

    def is_current(self) -> bool:
        """Has this node every key that a device's secret can be made with now?"""
        return self._beat_at is not None and self._now() - self._beat_at < self._current_s

    def hear(self, entry: Entry) -> None:
        """Any of the fleet's records, as the watch brings them."""
        if entry.key == self._key:
            self._hear_beat(entry)
        # of one bucket: where it is another, whose revisions begin anew, the watch tells nothing and the node leaves
        elif entry.key == KEYS and entry.value and entry.revision > self._revision:
            self._hear_keys(entry)

    def _hear_beat(self, entry: Entry) -> None:
        try:
            beat = parse_beat(entry.value)
        except BadRecord:
            return
        if beat.number == self._number:
            self._beat_at = beat.at_ms / 1000

    def _hear_keys(self, entry: Entry) -> None:
        mine = self._keys.server
        try:
            found = open_keys(self._keys.seal, entry, mine.path.parent).server
            fixed = [(keys.token_key, keys.push_id_key, keys.hash_key) for keys in (mine, found)]
            if fixed[0] != fixed[1]:
                raise ConfigError("other token or push id keys than this node began with", field="cluster.name")
        except ConfigError as exc:
            _log.error("fleet_keys_refused", revision=entry.revision, reason=exc.message)
            return
        mine.take(found.ring)
        self._revision = entry.revision
        following = {} if found.device_key_next == NO_KEY else {"following": found.device_key_next}
        _log.info("fleet_keys_changed", revision=entry.revision, in_use=found.device_key_id, **following)
        self._tell(entry.revision)
        self._unwritten = found.build()
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._write())

    async def _write(self) -> None:
        """For local tools alone: the next start reads the record again."""
        while self._unwritten is not None:
            text, self._unwritten = self._unwritten, None
            try:
                await asyncio.to_thread(write_secret_file, self._keys.server.path, text)
            except ConfigError as exc:
                _log.warning("fleet_keys_not_written", reason=exc.message)

    async def close(self) -> None:
        """Nothing is being written any more."""
        if self._writing is not None:
            await asyncio.gather(self._writing, return_exceptions=True)
