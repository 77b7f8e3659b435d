"""Downloads to cards and their payloads (E6, E7); must never read what is over at a start, nor open again what is over.

A download is one row; one that waits or is under way has a second, small one, so that a start and the sweep of
payloads find it. Changes go with the next commit, the newest of each. Its end is written with a line of its app's
receipts feed; the feed is also the order in which those that belong to no campaign are swept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

from msgspec.structs import replace

from gateway.model.cards import Campaign, Download, DownloadState, DownloadStep, Payload
from gateway.model.errors import StoreUnavailable
from gateway.model.outcome import CARD, Outcome, State, Step
from gateway.store.card_payloads import Payloads
from gateway.store.card_rows import build_download, parse_download, parse_download_head
from gateway.store.commit import Committer
from gateway.store.environment import Environment
from gateway.store.newest import Landed, Newest
from gateway.store.receipts import Receipts
from gateway.store.records import DELETE, PUT, Db, Row, pack_u64, unpack_u64
from gateway.store.sequences import Sequences

#: rows read at once where many are looked at
_CHUNK = 1_000
#: rows looked at for one page of an app's
_LOOKED = 2_000
_ENDS = {
    DownloadState.DONE: State.ACKED,
    DownloadState.NOTICED: State.NOTICED,
    DownloadState.FAILED: State.FAILED,
    DownloadState.STOPPED: State.RECALLED,
    DownloadState.EXPIRED: State.EXPIRED,
}


def _is_open(download: Download) -> bool:
    """Needs its payload by itself; one that is held is its campaign's business."""
    held = download.state == DownloadState.HELD and download.campaign != 0
    return not download.state.is_final and not held


def build_end(download: Download) -> Outcome:
    """The end of a download, as receipts have it: its number is that of a push and a delivery in one."""
    at_ms = download.steps[-1].at_ms if download.steps else download.created_ms
    steps = [Step(step.at_ms, step.what, CARD, step.detail) for step in download.steps]
    return Outcome(download.number, download.number, 0, download.app, _ENDS[download.state], at_ms, steps)


class DownloadStore:
    """Control thread only; model.cards.DownloadRecords."""

    def __init__(
        self,
        environment: Environment,
        committer: Committer,
        sequences: Sequences,
        receipts: Receipts,
        payloads: Payloads,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._environment = environment
        self._committer = committer
        self._sequences = sequences
        self._receipts = receipts
        self._payloads = payloads
        self._loop = loop
        self._added: dict[int, Download] = {}  # not durable yet
        self._changed: Newest[Download] = Newest(committer, loop, self._rows_of)
        #: a campaign by its number; set once, at the start
        self.campaign: Callable[[int], Campaign | None] = lambda _: None

    @property
    def unwritten(self) -> int:
        """Changes that are not durable."""
        return len(self._changed)

    # --- numbers and payloads -------------------------------------------------------------------------------

    def reserve(self, count: int) -> int:
        return self._sequences.reserve(count)

    def put_payload(self, payload: Payload) -> bytes:
        return self._payloads.put(payload)

    def payload(self, digest: bytes) -> Payload | None:
        return self._payloads.read(digest)

    # --- writing --------------------------------------------------------------------------------------------

    def add(self, downloads: Sequence[Download]) -> asyncio.Future[None]:
        for digest in {download.payload for download in downloads}:
            if not self._payloads.is_there(digest):
                raise StoreUnavailable("the payload was not written; nothing was accepted")
            self._payloads.touch(digest)
        added = {download.number: download for download in downloads}
        rows: list[Row] = []
        for number, download in added.items():
            key = pack_u64(number)
            rows.append((PUT, Db.DOWNLOADS, key, build_download(download)))
            if _is_open(download):
                rows.append((PUT, Db.OPEN_DOWNLOADS, key, download.payload))

        def undo() -> None:
            settled()
            for number in added:
                self._changed.drop(number)

        def settled() -> None:
            for number, download in added.items():
                if self._added.get(number) is download:
                    del self._added[number]

        written = self._committer.accept(rows, undo=undo, done=settled)
        self._added.update(added)
        return written

    def change(self, download: Download) -> asyncio.Future[None]:
        state = self._state(download.number)
        first = self._changed.get(download.number)
        if first is not None and first.state.is_final:  # the first end holds, and is not durable yet
            return self._changed.put(download.number, first)
        if state is None or state.is_final:
            over: asyncio.Future[None] = self._loop.create_future()
            over.set_result(None)
            return over
        if _is_open(download):
            self._payloads.touch(download.payload)
        elif download.state.is_final and not download.steps:
            # by the channel of its steps a line of the feed is known as a download's
            step = DownloadStep(download.created_ms, download.state.name.lower())
            download = replace(download, steps=(step,))
        return self._changed.put(download.number, download)

    def settle(self, download: Download) -> asyncio.Future[None]:
        if not download.state.is_final:
            raise ValueError("this download is not over")
        return self.change(download)

    def _rows_of(self, changed: Sequence[tuple[int, Download]]) -> tuple[list[Row], Landed | None]:
        rows: list[Row] = []
        ends: list[Outcome] = []
        for number, download in changed:
            key = pack_u64(number)
            if download.state.is_final:
                raw = self._environment.get(Db.DOWNLOADS, key)
                # a commit that seemed to fail may have come through: no second line of the feed then
                if raw is None or not parse_download_head(raw)[0].is_final:
                    ends.append(build_end(download))
                rows.append((DELETE, Db.OPEN_DOWNLOADS, key, b""))
            elif _is_open(download) and self._environment.get(Db.OPEN_DOWNLOADS, key) is None:
                rows.append((PUT, Db.OPEN_DOWNLOADS, key, download.payload))
            rows.append((PUT, Db.DOWNLOADS, key, build_download(download)))
        if not ends:
            return rows, None
        feed, cursor = self._receipts.feed(ends)

        def landed(there: bool) -> None:
            if there:
                self._receipts.feed_landed(cursor)
            else:
                self._receipts.feed_lost(cursor)

        return rows + feed, landed

    # --- reading --------------------------------------------------------------------------------------------

    def _fresh(self, number: int) -> Download | None:
        changed = self._changed.get(number)
        return self._added.get(number) if changed is None else changed

    def _state(self, number: int) -> DownloadState | None:
        fresh = self._fresh(number)
        if fresh is not None:
            return fresh.state
        raw = self._environment.get(Db.DOWNLOADS, pack_u64(number))
        return None if raw is None else parse_download_head(raw)[0]

    def read(self, number: int) -> Download | None:
        fresh = self._fresh(number)
        if fresh is not None:
            return fresh
        raw = self._environment.get(Db.DOWNLOADS, pack_u64(number))
        return None if raw is None else parse_download(raw)

    def outcome(self, number: int) -> Outcome | None:
        """Where this is the number of a download that is over."""
        download = self.read(number)
        return build_end(download) if download is not None and download.state.is_final else None

    def open(self) -> Iterator[Download]:
        place = b""
        while True:
            rows = list(self._environment.scan(Db.OPEN_DOWNLOADS, place, limit=_CHUNK))
            for key, _ in rows:
                download = self.read(unpack_u64(key))
                if download is not None and download.state in (DownloadState.WAITING, DownloadState.ACTIVE):
                    yield download
            if len(rows) < _CHUNK:
                return
            place = rows[-1][0] + b"\0"

    def of_app(
        self, app: str, before: int, limit: int, state: DownloadState | None = None
    ) -> tuple[list[Download], int]:
        below = before or 1 << 63
        found: list[Download] = []
        fresh = sorted((number for number in self._added if number < below), reverse=True)
        rows = self._environment.scan_back(Db.DOWNLOADS, pack_u64(below), limit=_LOOKED)
        kept = [unpack_u64(key) for key, _ in rows]
        is_end = len(kept) < _LOOKED
        for number in sorted({*fresh, *kept}, reverse=True):
            if not is_end and number < kept[-1]:
                break  # of what lies below only the fresh ones are known
            if len(found) == limit:
                return found, below
            below = number
            download = self.read(number)
            if download is not None and download.app == app and state in (None, download.state):
                found.append(download)
        return found, 0 if is_end else below

    def of_campaign(self, campaign: int, after: int, limit: int) -> list[Download]:
        kept = self.campaign(campaign)
        if kept is None or limit <= 0:
            return []
        first = max(after + 1, kept.first)
        # while participants are still being written, how many there will be is not known
        end = kept.first + kept.participants if kept.participants else 1 << 63
        found = {
            number: download
            for fresh in (self._added.items(), self._changed.items())
            for number, download in fresh
            if first <= number < end and download.campaign == campaign
        }
        rows = 0
        for key, raw in self._environment.scan(Db.DOWNLOADS, pack_u64(first)):
            number = unpack_u64(key)
            if number >= end or rows == limit:
                break
            if parse_download_head(raw)[1] == campaign:
                rows += 1
                if number not in found:
                    found[number] = parse_download(raw)
        return [found[number] for number in sorted(found)[:limit]]

    # --- sweep ----------------------------------------------------------------------------------------------

    def forget(self, number: int) -> list[Row]:
        """Rows that go with a line of the feed. Those of a campaign stay as long as it does."""
        key = pack_u64(number)
        raw = self._environment.get(Db.DOWNLOADS, key)
        if raw is None:
            return []
        state, campaign = parse_download_head(raw)
        if not state.is_final or (campaign and self.campaign(campaign) is not None):
            return []
        return [(DELETE, Db.DOWNLOADS, key, b"")]

    def forget_campaign(self, campaign: Campaign, limit: int) -> tuple[list[Row], bool]:
        """Rows of a slice of its participants, and whether there are more. One that is still open stays."""
        rows: list[Row] = []
        end = campaign.first + campaign.participants
        for key, raw in self._environment.scan(Db.DOWNLOADS, pack_u64(campaign.first)):
            state, owner = parse_download_head(raw)
            if owner != campaign.number:
                if unpack_u64(key) < end:
                    continue
                break  # a kill may have left more than it counted; no others lie between them
            if len(rows) == limit or state in (DownloadState.WAITING, DownloadState.ACTIVE):
                return rows, True
            rows.append((DELETE, Db.DOWNLOADS, key, b""))
        return rows, False
