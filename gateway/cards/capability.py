"""What cards' terminals can: asked, concluded, kept with its evidence, forgotten when it changed (E1 to E5); must never
be concluded from a message that did not arrive, nor from an answer that proves nothing.

| a call ends with | known of the card then |
|---|---|
| the final ACK of its link, in time | capable (E4) |
| the terminal's own 30, 31, 32; a card that does not know PUSH | not capable |
| silence, though the message was delivered | not capable (E4), unless it was capable: then nothing new (E6) |
| an open channel and no link, `attempts` times | not capable (E4) |
| anything else | nothing new; asked again with growing pauses, up to `attempts` |

Kept by card, never by IMEI; where nothing is known a card counts as not capable (E5). A check request, or a word of the
operator, makes what was known void at once, and what a call that began before it brings.

A check is not kept: after a restart the card stays unknown, and is asked by the next download to it, its next request,
or the operator.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress

import structlog

from gateway.cards.calls import Called, Calls, Ending
from gateway.config.ota_section import Ota
from gateway.metrics import Metric, Metrics
from gateway.model.cards import Ability, Capability, CardRecords, Evidence
from gateway.model.errors import GatewayError

_log = structlog.get_logger(__name__)

_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS
#: cards whose check requests are counted; past it the one that was quiet for longest is forgotten
MOST_RATED = 100_000
_VOID = ("check_request", "terminal_changed")
#: what voided last: as it is written down, or as it is to be
Mark = Evidence | tuple[str, str] | None
#: what is void, and could not be written down, is tried again after so long
_AGAIN_S = 0.5


def pause_s(settings: Ota, tries: int, random_: random.Random) -> float:
    """Before the next call after so many in vain, 1 or more: doubles, and is cut by up to a half, so that what failed
    together is not tried again together."""
    whole: float = min(settings.retry_s * 2.0 ** min(tries - 1, 60), settings.retry_max_s)
    return whole * random_.uniform(0.5, 1.0)


class Capabilities:
    """Control thread only. `clock`: Unix ms."""

    def __init__(
        self,
        *,
        records: CardRecords,
        calls: Calls,
        settings: Ota,
        metrics: Metrics,
        clock: Callable[[], int],
        random_: random.Random,
    ) -> None:
        self._records, self._calls, self._settings = records, calls, settings
        self._metrics, self._clock, self._random = metrics, clock, random_
        self._checks: dict[bytes, asyncio.Task[None]] = {}
        #: of each of those: it was asked for again meanwhile
        self._again: dict[bytes, asyncio.Event] = {}
        #: their terminals changed, and the store did not take that yet: no card says it twice
        self._owed: dict[bytes, tuple[str, str]] = {}
        self._is_closing = False
        #: check requests of the last hour: when the hour began, how many
        self._rates: OrderedDict[bytes, tuple[int, int]] = OrderedDict()

    @property
    def checking(self) -> int:
        return len(self._checks)

    def read(self, card: bytes) -> Capability:
        """As it may be believed now: what is too old is unknown."""
        known = self._records.capability(card)
        if card in self._owed:
            return Capability(Ability.UNKNOWN, known.since_ms, 0, known.evidence)
        if known.until_ms and known.until_ms <= self._clock():
            return Capability(Ability.UNKNOWN, known.until_ms, 0, known.evidence)
        return known

    # --- what makes it void ------------------------------------------------------------------------------------------

    def on_check_request(self, card: bytes) -> None:
        """The card is in another terminal, and says so with a right check (E1)."""
        if not self._is_in_rate(card):
            self._metrics.count(Metric.OTA_CHECKS, label="too_often")
            return
        self._void(card, "check_request", "")
        self.ask(card)

    def invalidate(self, card: bytes, why: str) -> None:
        """Its terminal changed, as the operator says. `why`: a word, never an identity."""
        self._void(card, "terminal_changed", why)

    def _is_in_rate(self, card: bytes) -> bool:
        now_ms = self._clock()
        since_ms, count = self._rates.pop(card, (now_ms, 0))
        if now_ms - since_ms >= _HOUR_MS:
            since_ms, count = now_ms, 0
        self._rates[card] = (since_ms, count + 1)
        if len(self._rates) > MOST_RATED:
            self._rates.popitem(last=False)
        return count < self._settings.checks_per_hour

    def _void(self, card: bytes, what: str, detail: str) -> None:
        self._metrics.count(Metric.OTA_CHECKS, label=what)
        self._write_void(card, what, detail)

    def _write_void(self, card: bytes, what: str, detail: str) -> None:
        self._write(card, what, detail, Ability.UNKNOWN, lambda: self._owe(card, what, detail))

    def _owe(self, card: bytes, what: str, detail: str) -> None:
        """Again, until the store takes it, or what is newer."""
        if not self._is_closing:
            self._owed[card] = (what, detail)
            asyncio.get_running_loop().call_later(_AGAIN_S, self._write_owed, card)

    def _write_owed(self, card: bytes) -> None:
        owed = self._owed.get(card)
        if owed is not None and not self._is_closing:
            self._write_void(card, *owed)

    # --- asking ------------------------------------------------------------------------------------------------------

    def ask(self, card: bytes) -> bool:
        """Call it now, for its answer alone. False: too many are asked. One that is being asked already goes on, and
        what it brings counts only as far as it began after the card's terminal changed; where that concludes nothing,
        it is called again at once, and all tries begin anew."""
        if self._is_closing:
            return False
        if card in self._checks:
            self._again[card].set()
            return True
        if len(self._checks) >= self._settings.at_once:
            self._metrics.count(Metric.OTA_BOUNDS, label="checks")
            return False
        again = self._again[card] = asyncio.Event()
        task = asyncio.get_running_loop().create_task(self._check(card, again), name="card-check")
        self._checks[card] = task
        task.add_done_callback(lambda _task: self._forget(card))
        return True

    def _forget(self, card: bytes) -> None:
        del self._checks[card], self._again[card]

    async def _check(self, card: bytes, again: asyncio.Event) -> None:
        try:
            while await self._ask_until_known(card, again):
                pass
        except Exception:
            _log.exception("card_check_failed")

    async def _ask_until_known(self, card: bytes, again: asyncio.Event) -> bool:
        """True: it was asked for again."""
        again.clear()
        asked_ms = self._clock()
        for tries in range(1, self._settings.attempts + 1):
            called = await self._call(card, asked_ms, last=tries == self._settings.attempts)
            if called is None or self.read(card).ability is not Ability.UNKNOWN:
                return False
            pause = pause_s(self._settings, tries, self._random)
            if called.ending is Ending.LATER:
                pause = max(self._settings.smsc_retry_s, called.retry_after_ms / 1_000)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await again.wait()
                return True
        self._metrics.count(Metric.OTA_CHECKS, label="given_up")
        return False

    async def _call(self, card: bytes, asked_ms: int, *, last: bool) -> Called | None:
        """None: there is no such card, it can not be called at all, or a download called it meanwhile."""
        async with self._calls.hold(card):
            record, known = self._records.read(card), self.read(card)
            if record is None or (known.ability is not Ability.UNKNOWN and known.since_ms > asked_ms):
                return None
            mark = self.mark(card)
            async with self._calls.call(card, record) as (called, line):
                self.learn(card, called, mark, last=last)
                await line.hang_up(self._settings.answer_s)
        return None if called.ending is Ending.UNREACHABLE else called

    # --- concluding --------------------------------------------------------------------------------------------------

    def mark(self, card: bytes) -> Mark:
        """Where a call begins: what voided last, by no clock, which may be set meanwhile."""
        lines = self._records.capability(card).evidence
        return self._owed.get(card) or next((line for line in reversed(lines) if line.what in _VOID), None)

    def learn(self, card: bytes, called: Called, mark: Mark, *, last: bool = False) -> Ability:
        """From a call that began at this mark; `last`: there will be no further one soon. What is known after it."""
        known = self.read(card)
        ability = Ability(known.ability)
        what = "call"
        match called.ending:
            case Ending.OPENED:
                what, ability = "link_opened", Ability.CAPABLE
            case Ending.NOT_CAPABLE:
                what, ability = "terminal_result", Ability.NOT_CAPABLE
            case Ending.SILENT:
                what = "validity_over"
                if ability is Ability.UNKNOWN:
                    ability = Ability.NOT_CAPABLE
            case Ending.NO_LINK:
                what = "no_link"
                if last and ability is Ability.UNKNOWN:
                    ability = Ability.NOT_CAPABLE
            case Ending.LATER:
                return ability  # nothing was asked
            case _:
                what = called.ending.value
        if self.mark(card) not in (None, mark):
            # its terminal changed while it was called: whose answer it is nobody knows
            ability, what = Ability.UNKNOWN, f"{what}_of_another_terminal"
        self._metrics.count(Metric.OTA_CHECKS, label=ability.name.lower())
        self._write(card, what, called.detail, ability)
        return ability

    def _write(
        self, card: bytes, what: str, detail: str, ability: Ability, on_failed: Callable[[], None] = lambda: None
    ) -> None:
        """One more line of evidence; the oldest go past the bound. It is seen at once where the store takes it."""
        now_ms = self._clock()
        known = self._records.capability(card)
        evidence = (*known.evidence, Evidence(now_ms, what, int(ability), detail))[-self._settings.evidence_lines :]
        same = known.ability == ability
        until_ms = 0
        if ability is not Ability.UNKNOWN and self._settings.capability_days:
            until_ms = now_ms + int(self._settings.capability_days * _DAY_MS)
            if same and what not in ("link_opened", "terminal_result", "validity_over", "no_link"):
                until_ms = known.until_ms  # nothing was seen that would make it newer
        capability = Capability(ability, known.since_ms if same else now_ms, until_ms, evidence)
        try:
            written = self._records.write_capability(card, capability)
        except GatewayError as error:
            self._metrics.count(Metric.OTA_BOUNDS, label="store")
            _log.warning("card_capability_not_written", error=error.name)
            on_failed()
            return
        self._owed.pop(card, None)

        def look(future: asyncio.Future[None]) -> None:
            if not future.cancelled() and future.exception() is not None:
                _log.warning("card_capability_not_written", error=type(future.exception()).__name__)
                on_failed()

        written.add_done_callback(look)

    async def close(self) -> None:
        """What is asked now is not concluded: the card stays as it is known."""
        self._is_closing = True
        tasks = list(self._checks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
