"""What a node keeps on its own disk of the fleet's journals: which ones there were, and how far they had come; must
never be believed over a record that is there.

The fleet's records tell it (`journal_past`) as long as there are records. Where NATS has lost those too, a partition
may lie in no folder of the node that comes back first: by this file that node keeps it from being begun empty all the
same.
"""

from __future__ import annotations

import asyncio
from hashlib import blake2b
from pathlib import Path

import msgspec
import structlog

from gateway.cluster.fleet_records import BadRecord
from gateway.cluster.journal_past import Mark, Pasts, parse_past, parse_past_key
from gateway.cluster.leases import Entry
from gateway.model.errors import ConfigError
from gateway.store.keys import write_secret_file

_log = structlog.get_logger(__name__)

FILE = "fleet-pasts.json"


class _Kept(msgspec.Struct):
    """The file."""

    fleet: str  # its name and a hash of the key of its tokens
    bucket: str  # when the bucket was made whose records these are
    pasts: dict[int, Mark]  # by partition


class RememberedPasts:
    """Control thread only. `folder`: the node's store.path; `fleet` its name, and `token_key` what tells it from an
    earlier one of that name; `bucket`: when the one was made that it came into."""

    def __init__(self, folder: Path, fleet: str, token_key: bytes, bucket: str) -> None:
        self._path = folder / FILE
        self._fleet = f"{fleet}.{blake2b(token_key, digest_size=8).hexdigest()}"
        self._bucket = bucket
        self._before = self._read()
        self._pasts: dict[int, Mark] = {} if self._before is None else dict(self._before.pasts)
        #: the file lacks places that were heard, or names the bucket before: no loss, until this node's end
        self._is_behind = self._before is not None and self._before.bucket != bucket
        self._has_news = False
        self._writing: asyncio.Task[None] | None = None

    def _read(self) -> _Kept | None:
        try:
            kept = msgspec.json.decode(self._path.read_bytes(), type=_Kept)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as exc:
            _log.warning("remembered_pasts_not_read", file=str(self._path), reason=type(exc).__name__)
            return None
        return kept if kept.fleet == self._fleet else None

    async def tell(self, pasts: Pasts, partitions: int) -> None:
        """Before this node takes anything: of journals that another bucket knew of, and this one does not; of a fleet
        with so many partitions. LogUnavailable."""
        if self._before is None or self._before.bucket == self._bucket:
            return
        told = sorted((self._before.pasts.keys() & set(range(partitions))) - await pasts.known())
        for partition in told:
            await pasts.remember(partition, self._before.pasts[partition])
        _log.warning("fleet_records_are_others", bucket=self._bucket, before=self._before.bucket, told=len(told))

    def hear(self, entry: Entry) -> None:
        """Any of the fleet's records, as the watch brings them."""
        partition = parse_past_key(entry.key)
        if partition < 0:
            return
        if not entry.value:
            if self._pasts.pop(partition, None) is not None:
                self._write_soon()
            return
        try:
            past = parse_past(entry.value)
        except BadRecord:
            return
        before = self._pasts.get(partition)
        self._pasts[partition] = mark = Mark(past.created, past.place)
        if before is None or before.created != past.created:
            self._write_soon()
        elif before != mark:
            self._is_behind = True

    def _write_soon(self) -> None:
        self._has_news = True
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._write())

    async def _write(self) -> None:
        while self._has_news:
            self._has_news = self._is_behind = False
            text = msgspec.json.encode(_Kept(self._fleet, self._bucket, self._pasts))
            try:
                await asyncio.to_thread(write_secret_file, self._path, text)
            except ConfigError as exc:
                _log.warning("remembered_pasts_not_written", reason=exc.message)

    async def close(self) -> None:
        """The file has all that was heard."""
        if self._is_behind:
            self._write_soon()
        if self._writing is not None:
            await asyncio.gather(self._writing, return_exceptions=True)
