"""What a node keeps on its own disk of the fleet's journals: which ones there were, and how far they had come; must
never be believed over a record that is there.

The fleet's records tell it (`journal_past`) as long as there are records. Where NATS has lost those too, a partition
may lie in no folder of the node that comes back first: by this file that node keeps it from being begun empty all the
same. And where a node that knew of nothing was first, and made a fleet of this name with keys of its own, all that
remember the one before keep out, and say so: it would seem to be whole, and have nothing of what was accepted.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import structlog

from gateway.cluster.fleet_identity import FleetIdentity
from gateway.cluster.fleet_records import BadRecord
from gateway.cluster.journal_past import Mark, Pasts, parse_past, parse_past_key
from gateway.cluster.leases import Entry
from gateway.model.errors import ConfigError
from gateway.store.keys import write_secret_file

_log = structlog.get_logger(__name__)

FILE = "fleet-pasts.json"


class _Kept(msgspec.Struct):
    """The file."""

    fleet: FleetIdentity
    bucket: str  # when the bucket was made whose records these are
    pasts: dict[int, Mark]  # by partition


def _read(file: Path) -> _Kept | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=_Kept)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as exc:
        _log.warning("remembered_pasts_not_read", file=str(file), reason=type(exc).__name__)
        return None


def remembers(folder: Path, name: str) -> bool:
    """Does this node know of journals of a fleet of this name?"""
    kept = _read(folder / FILE)
    return kept is not None and kept.fleet.name == name and bool(kept.pasts)


def _begun_without(file: Path, kept: _Kept, fleet: FleetIdentity) -> ConfigError:
    return ConfigError(
        f"{str(file)!r} knows of {len(kept.pasts)} partitions of the fleet {kept.fleet}, and the one that NATS has now"
        f" has other keys ({fleet.ident}) and nothing of what those had. If NATS lost all and a node with an empty"
        " folder was first: stop all nodes, remove the fleet's streams, and start this node before any other. If"
        " cluster.url is of other servers: correct it. If the earlier fleet is given up: remove this file"
        " (docs/cluster.md)",
        field="store.path",
    )


class RememberedPasts:
    """Control thread only. `folder`: the node's store.path; `bucket`: when the one was made that it came into.
    ConfigError: the file is of an earlier fleet of this name, which had other keys."""

    def __init__(self, folder: Path, fleet: FleetIdentity, bucket: str) -> None:
        self._path = folder / FILE
        self._fleet = fleet
        self._bucket = bucket
        found = _read(self._path)
        self._before = found if found is not None and found.fleet == fleet else None
        #: of another fleet that was here: its memory makes way for this one's
        self._others = found if found is not None and found.fleet != fleet and found.pasts else None
        if self._others is not None and self._others.fleet.name == fleet.name:
            raise _begun_without(self._path, self._others, fleet)
        self._pasts: dict[int, Mark] = {} if self._before is None else dict(self._before.pasts)
        #: the file lacks places that were heard, or names the bucket before: no loss, until this node's end
        self._is_behind = self._before is not None and self._before.bucket != bucket
        self._has_news = False
        self._writing: asyncio.Task[None] | None = None

    async def tell(self, pasts: Pasts, partitions: int) -> None:
        """Before this node takes anything: of journals that another bucket knew of, and this one does not; of a fleet
        with so many partitions. LogUnavailable."""
        if self._before is None or self._before.bucket == self._bucket:
            return
        told = sorted((self._before.pasts.keys() & set(range(partitions))) - await pasts.known())
        for partition in told:
            # an owner wrote it, and it is this fleet's: no folder is doubted for it
            await pasts.remember(partition, self._before.pasts[partition], "")
        if told:
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
                await asyncio.to_thread(self._replace, text)
            except (ConfigError, OSError) as exc:
                _log.warning("remembered_pasts_not_written", reason=str(exc))

    def _replace(self, text: bytes) -> None:
        others, self._others = self._others, None
        if others is not None:
            self._path.rename(self._path.with_name(f"{FILE}.of-{others.fleet.name}-{others.fleet.ident}"))
        write_secret_file(self._path, text)

    async def close(self) -> None:
        """The file has all that was heard."""
        if self._is_behind:
            self._write_soon()
        if self._writing is not None:
            await asyncio.gather(self._writing, return_exceptions=True)
