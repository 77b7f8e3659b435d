"""Carries downloads out: when each is due, calls, transfers, messages, notices, retries, the end (E6, E7); must never
tell of an end before it is in the store, nor begin a second one at a card that has one under way.

All that counts is in the store; RAM holds when each is due. A gateway that was killed begins with what the store says,
and goes on at the command that is not known to be executed. A notice that an SMSC took in the moment of the kill is
sent again: the one thing here that may happen twice, besides what gateway.cards.transfer says of one key set for both,
and gateway.cards.by_message of messages.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import structlog

from gateway.cards.by_message import send_by_message
from gateway.cards.calls import Calls, Ending
from gateway.cards.capability import Capabilities, pause_s
from gateway.cards.card_keys import Unusable, find_keys
from gateway.cards.download_policy import Action, Decision, Event, Facts, decide
from gateway.cards.packets import count_parts
from gateway.cards.progress import Progress
from gateway.cards.transfer import Happened, Transfer
from gateway.cards.waiting import Waiting
from gateway.config.ota_section import Ota
from gateway.metrics import Metric, Metrics
from gateway.metrics.sink import Reading
from gateway.model.cards import (
    Ability,
    CardMessages,
    CardRecord,
    CardRecords,
    Download,
    DownloadRecords,
    DownloadState,
    Fate,
    Payload,
)
from gateway.model.errors import GatewayError, StoreUnavailable
from gateway.ota.packet_security import Keys

_log = structlog.get_logger(__name__)

#: `stop` waits so long for a transfer to come to the end of its command; it ends by itself after that
STOP_PATIENCE_S = 2.0
#: a look at what is due is never further away than this, should the clock have jumped
_MOST_SLEEP_S = 60.0
#: downloads taken up without letting others run
_SLICE = 500
#: cut off: it goes no further in this process, whatever happened
_CUT = Decision(Action.RETRY, DownloadState.WAITING)
#: what can end without having been a try of this download, and how it ends then
_TRIES = (Action.CALL, Action.MESSAGE)
_NO_TRY = (Event.LATER, Event.BUSY)


class _Phase(Enum):
    #: nothing is on its way that may be executed: it can be cut off at once
    FREE = 0
    #: a command is under way over a link, or a notice to an SMSC
    TRANSFER = 1
    #: it is over, and being written
    SETTLING = 2


class _End(NamedTuple):
    decision: Decision
    retry_after_ms: int = 0


@dataclass(slots=True, eq=False)
class _Active:
    progress: Progress
    task: asyncio.Task[None]
    phase: _Phase = _Phase.FREE
    #: what it ends with, where it is cut off; None: it goes on after the next start
    cut: DownloadState | None = None
    is_cut: bool = False


class DownloadEngine:
    """model.cards.Downloads. Control thread only. `clock`: Unix ms."""

    def __init__(
        self,
        *,
        records: CardRecords,
        downloads: DownloadRecords,
        calls: Calls,
        capabilities: Capabilities,
        messages: CardMessages,
        settings: Ota,
        metrics: Metrics,
        clock: Callable[[], int],
        random_: random.Random,
    ) -> None:
        self._records, self._downloads, self._calls = records, downloads, calls
        self._capabilities, self._messages = capabilities, messages
        self._settings, self._metrics, self._clock, self._random = settings, metrics, clock, random_
        self.on_over: Callable[[Download], None] = lambda _download: None
        self._waiting = Waiting(self._read_open)
        self._active: dict[int, _Active] = {}
        #: over, and the store did not take it yet
        self._unsettled: dict[int, Download] = {}
        #: there are more in the store than RAM may hold
        self._is_short = False
        self._is_closing = False
        self._timer: asyncio.TimerHandle | None = None
        #: when it fires, by the loop's clock; a handle of uvloop that fires at once does not know
        self._timer_s = 0.0
        self._resuming: asyncio.Task[None] | None = None
        metrics.add_source(self._read_figures)

    def _read_figures(self) -> list[Reading]:
        return [
            (Metric.OTA_ACTIVE, "downloads", self.active),
            (Metric.OTA_ACTIVE, "checks", self._capabilities.checking),
            (Metric.OTA_WAITING, "", self.waiting),
        ]

    @property
    def active(self) -> int:
        return len(self._active)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    # --- taking up ---------------------------------------------------------------------------------------------------

    async def resume(self) -> None:
        """What an earlier process left. Once, before the first `start`."""
        await self._take_up()

    async def _take_up(self) -> None:
        self._is_short = False
        for count, download in enumerate(self._downloads.open(), 1):
            # whose packets may be in doubt counts for all, though there may be no room for it
            self._waiting.note_begun(download)
            self.start(download)
            if count % _SLICE == 0:
                await asyncio.sleep(0)

    def start(self, download: Download) -> None:
        """Carry it out when it is due; it is in the store already. Past `ota.waiting` it stays in the store alone until
        there is room."""
        if download.number in self._active or download.number in self._waiting:
            return
        if len(self._waiting) >= self._settings.waiting:
            self._metrics.count(Metric.OTA_BOUNDS, label="waiting")
            self._is_short = True
            return
        self._waiting.add(download, min(download.due_ms, download.expires_ms))
        self._arm()

    def _read_open(self, number: int) -> Download | None:
        if number in self._unsettled:
            return self._unsettled[number]
        download = self._downloads.read(number)
        return None if download is None or download.state.is_final else download

    def _arm(self) -> None:
        """Look when the next one is due."""
        next_ms = self._waiting.next_ms
        if self._is_closing or next_ms is None or len(self._active) >= self._settings.at_once:
            return
        late_s = min(max(0.0, (next_ms - self._clock()) / 1_000), _MOST_SLEEP_S)
        loop = asyncio.get_running_loop()
        fires_s = loop.time() + late_s
        if self._timer is not None:
            if self._timer_s <= fires_s:
                return
            self._timer.cancel()
        self._timer, self._timer_s = loop.call_later(late_s, self._look), fires_s

    def _look(self) -> None:
        self._timer = None
        now_ms = self._clock()
        for _ in range(_SLICE):
            if self._is_closing or len(self._active) >= self._settings.at_once:
                break
            download = self._waiting.take(now_ms)
            if download is None:
                break
            self._begin(download)
        if self._is_short and len(self._waiting) * 2 < self._settings.waiting and self._resuming is None:
            self._resuming = asyncio.get_running_loop().create_task(self._take_up(), name="downloads-take-up")
            self._resuming.add_done_callback(self._on_taken_up)
        self._arm()

    def _on_taken_up(self, task: asyncio.Task[None]) -> None:
        self._resuming = None
        if not task.cancelled() and task.exception() is not None:
            _log.error("card_downloads_not_taken_up", error=type(task.exception()).__name__)
            self._is_short = True

    def _begin(self, download: Download) -> None:
        payload = self._downloads.payload(download.payload)
        progress = Progress(download, payload or Payload(()), self._downloads, self._clock)
        task = asyncio.get_running_loop().create_task(self._carry(progress, payload is not None), name="card-download")
        self._active[download.number] = _Active(progress, task)

    # --- one download ------------------------------------------------------------------------------------------------

    async def _carry(self, progress: Progress, has_payload: bool) -> None:
        number, card = progress.download.number, progress.download.card
        active = self._active[number]
        left_s = (progress.download.expires_ms - self._clock()) / 1_000
        loop = asyncio.get_running_loop()
        expiry = loop.call_later(max(0.0, left_s), self._cut_off, number, DownloadState.EXPIRED)
        is_over = False
        try:
            if number in self._unsettled:
                end = _End(Decision(Action.SETTLE, self._unsettled[number].state))
            elif not has_payload:
                end = self._note(progress, Happened(Event.IMPOSSIBLE, "no payload"), None)
            elif left_s <= 0:
                end = self._note(progress, Happened(Event.DUE), None)
            else:
                async with self._calls.hold(card):
                    end = await self._try(active)
            active.phase = _Phase.SETTLING
            is_over = await self._conclude(active, end)
        except asyncio.CancelledError:
            if active.cut is None:
                progress.write()  # it goes on after the next start
                raise
            active.task.uncancel()
            active.phase = _Phase.SETTLING
            is_over = await self._settle(progress, active.cut)
        except Exception:
            _log.exception("card_download_failed")
            if active.cut is not None and active.phase is not _Phase.SETTLING:
                # it was to end in this moment, and a fault changes nothing of that
                active.phase = _Phase.SETTLING
                is_over = await self._settle(progress, active.cut)
            else:
                progress.set(tries=progress.download.tries + 1, cause="fault")
                self._wait_again(progress, pause_s(self._settings, progress.download.tries, self._random))
        finally:
            expiry.cancel()
            del self._active[number]
            self._waiting.release(card, number, self._clock(), is_over=is_over)
            self._arm()

    async def _try(self, active: _Active) -> _End:
        """Until it is over or has to wait."""
        progress = active.progress
        record = self._records.read(progress.download.card)
        if record is None:
            return self._note(progress, Happened(Event.IMPOSSIBLE, "no such card"), None)
        try:
            keys = find_keys(record, record.push_keys)
            data_keys = find_keys(record, record.data_keys)
        except Unusable as error:
            return self._note(progress, Happened(Event.IMPOSSIBLE, error.cause), None)
        # all of it may be done, and the gateway killed before that was written
        end = self._note(progress, Happened(Event.DONE if progress.is_done else Event.DUE), keys)
        while True:
            before = progress.download.done
            match end.decision.action:
                case Action.CALL:
                    happened = await self._call(active, record, data_keys)
                case Action.MESSAGE:
                    progress.set(way="message")
                    progress.step("message")
                    happened = await send_by_message(self._calls, progress, record, keys, self._settings, self._metrics)
                case Action.NOTICE:
                    # an SMSC may have taken it: its answer is waited for, or it is sent twice
                    active.phase = _Phase.TRANSFER
                    happened = await self._notify(progress, record)
                case _:
                    return end
            if progress.is_stopping and happened.event not in (Event.DONE, Event.NOTICE_SENT):
                return _End(_CUT)
            is_try = end.decision.action in _TRIES and happened.event not in _NO_TRY
            if is_try and progress.download.done == before:
                progress.set(tries=progress.download.tries + 1)
            end = self._note(progress, happened, keys)

    async def _call(self, active: _Active, record: CardRecord, data_keys: Keys) -> Happened:
        """And the transfer, where the link opens (E6)."""
        progress = active.progress
        card, before = progress.download.card, progress.download
        progress.set(way="link", state=DownloadState.ACTIVE, calls=progress.download.calls + 1)
        progress.step("called")
        progress.write()
        mark = self._capabilities.mark(card)
        async with self._calls.call(card, record) as (called, line):
            # a call is evidence, whoever made it; the last of many counts as the end of a check
            last = progress.download.tries + 1 >= self._settings.attempts
            self._capabilities.learn(card, called, mark, last=last)
            if called.ending is Ending.LATER:
                progress.set(calls=before.calls, steps=before.steps)  # nobody was called
            if called.ending is not Ending.OPENED:
                return Happened(Event(called.ending.value), called.detail, called.retry_after_ms)
            progress.step("opened", called.detail)
            transfer = Transfer(
                progress=progress,
                record=record,
                keys=data_keys,
                line=line,
                records=self._records,
                settings=self._settings,
                metrics=self._metrics,
            )
            active.phase = _Phase.TRANSFER
            happened = await transfer.run()
            self._waiting.note_begun(progress.download)
            if happened.event not in (Event.LINK_LOST, Event.NO_ANSWER):
                await line.hang_up(self._settings.answer_s)  # else it is cut: nobody listens there
            return happened

    async def _notify(self, progress: Progress, record: CardRecord) -> Happened:
        """The user is told to use another way (E6, E7)."""
        text = progress.download.notice or self._settings.notice
        left_s = max(1, (progress.download.expires_ms - self._clock()) // 1_000)
        sent = await self._messages.send_text(record, text, valid_s=left_s)
        if sent.fate is Fate.LATER:
            return Happened(Event.NOTICE_LATER, sent.detail, sent.retry_after_ms)
        if sent.fate is Fate.REFUSED:
            return Happened(Event.NOTICE_REFUSED, sent.detail)
        # one that the SMSC did not answer has most likely been sent: nobody is told the same again and again
        return Happened(Event.NOTICE_SENT)

    def _note(self, progress: Progress, happened: Happened, keys: Keys | None) -> _End:
        """What happened is in its history, and what follows from it."""
        self._metrics.count(Metric.OTA_DOWNLOAD_EVENTS, label=happened.event.value)
        if happened.event not in (Event.DUE, Event.OPENED, Event.DONE, Event.NOTICE_SENT):
            progress.step(happened.event.value, happened.detail)
            progress.set(cause=happened.event.value)
        download = progress.download
        facts = Facts(
            Ability(self._capabilities.read(download.card).ability),
            keys is not None
            and count_parts(progress.commands, download.done, keys, self._settings.sms_parts) is not None,
            download.tries < self._settings.attempts,
            self._clock() < download.expires_ms,
        )
        return _End(decide(happened.event, facts), happened.retry_after_ms)

    async def _conclude(self, active: _Active, end: _End) -> bool:
        """Over, or due again. Whether it is over."""
        progress, settings = active.progress, self._settings
        if end.decision.action is Action.SETTLE:
            return await self._settle(progress, end.decision.state)
        if active.cut is not None:
            return await self._settle(progress, active.cut)
        if active.is_cut:
            progress.set(state=DownloadState.WAITING)
            progress.write()
            return False
        if end.decision.action is Action.RETRY_SOON:
            # spread over the same again: what an SMSC refused at once must not come back at once
            soon_s = max(settings.smsc_retry_s, end.retry_after_ms / 1_000) * self._random.uniform(1.0, 2.0)
            self._wait_again(progress, soon_s)
        else:
            in_vain = progress.download.tries + progress.count_busy()
            self._wait_again(progress, pause_s(settings, max(1, in_vain), self._random))
        return False

    def _wait_again(self, progress: Progress, pause: float) -> None:
        due_ms = min(self._clock() + int(pause * 1_000), progress.download.expires_ms)
        progress.set(state=DownloadState.WAITING, due_ms=due_ms)
        progress.step("retry", f"in {pause:.0f} s")
        progress.write()
        if not self._is_closing:
            self._waiting.add(progress.download, due_ms)

    async def _settle(self, progress: Progress, state: DownloadState) -> bool:
        """True: its end is in the store, and was told. False: the store takes nothing now; again soon."""
        number = progress.download.number
        download = self._unsettled.get(number)
        if download is None:
            if state is not DownloadState.FAILED:
                progress.step(state.name.lower())
            progress.set(state=state, plan=None)
            download = progress.download
        try:
            await self._downloads.settle(download)
        except GatewayError as error:
            _log.warning("card_download_not_settled", error=error.name)
            self._metrics.count(Metric.OTA_BOUNDS, label="store")
            self._unsettled[number] = download
            if not self._is_closing:
                self._waiting.add(download, self._clock() + error.after_ms)
            return False
        self._unsettled.pop(number, None)
        self._metrics.count(Metric.OTA_DOWNLOADS, label=download.state.name.lower())
        try:
            self.on_over(download)
        except Exception:
            _log.exception("card_download_end_not_told")
        return True

    # --- cutting off -------------------------------------------------------------------------------------------------

    def _cut_off(self, number: int, state: DownloadState | None) -> None:
        """No further command of it is begun. None: it goes on after the next start."""
        active = self._active.get(number)
        if active is None or active.is_cut or active.phase is _Phase.SETTLING:
            return
        active.is_cut, active.cut = True, state
        active.progress.is_stopping = True
        if active.phase is _Phase.FREE:
            active.task.cancel()

    async def stop(self, number: int) -> Download | None:
        """No more tries; over a link what runs is cut off after the command under way, which is waited for a little.
        A message that is on its way can not be taken back. None: there is no such download. StoreUnavailable: it goes
        no further, and its end is written as soon as the store can be."""
        active = self._active.get(number)
        if active is not None:
            self._cut_off(number, DownloadState.STOPPED)
            await asyncio.wait([active.task], timeout=STOP_PATIENCE_S)
            self._check_settled(number)
            return self._downloads.read(number) if active.task.done() else active.progress.download
        self._check_settled(number)
        download = self._read_open(number)
        if download is None:
            return self._downloads.read(number)
        self._waiting.discard(number)
        progress = Progress(download, Payload(()), self._downloads, self._clock)
        is_over = await self._settle(progress, DownloadState.STOPPED)
        self._waiting.release(download.card, number, self._clock(), is_over=is_over)
        self._arm()
        self._check_settled(number)
        return progress.download

    def _check_settled(self, number: int) -> None:
        """StoreUnavailable where it is over, and that is not durable: a kill would take it back."""
        if number in self._unsettled:
            raise StoreUnavailable("its end could not be written yet; ask again")

    async def close(self, drain_s: float = 0.0) -> None:
        """Nothing new begins; transfers have so long to end, what only waits for a card is cut off at once."""
        self._is_closing = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        tasks = [active.task for active in self._active.values()]
        if self._resuming is not None:
            self._resuming.cancel()
            tasks.append(self._resuming)
        for number, active in list(self._active.items()):
            if active.phase is _Phase.FREE:
                self._cut_off(number, None)
        if tasks and drain_s:
            await asyncio.wait(tasks, timeout=drain_s)
        for number in list(self._active):
            self._cut_off(number, None)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
