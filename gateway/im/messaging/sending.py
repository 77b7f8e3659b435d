"""What waits for one account, out to its network in order, one at a time (D3, D4, D13, D15); must never let anything
that was accepted end without a result, nor send twice what a network would show twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from gateway.config.im_section import Im
from gateway.im.backoff import Backoff
from gateway.im.deadline import bounded
from gateway.im.messaging.results import FAILED, SENT, Results, observe
from gateway.metrics import Metric, Metrics
from gateway.model.errors import QueueFull, StoreUnavailable
from gateway.model.im import AuthFailed, Caps, CursorForgotten, MediaFile, Rejected, Session, Transient
from gateway.model.im_people import Account, Item, ItemKind, Outgoing
from gateway.model.im_ports import LogRecords, MediaStore

IN_DOUBT = "the connection was lost while it was being sent: it may have arrived"
EXPIRED = "it could not be sent in time"
UNBOUND = "the account was unbound before it could be sent"


class _Ending(NamedTuple):
    result: Item
    #: as it was sent
    message: Item | None
    #: of the metric
    label: str


class Sending:
    """One for all accounts; `drain` is run by the account's own line, one at a time."""

    def __init__(
        self,
        log: LogRecords,
        results: Results,
        media: MediaStore,
        config: Im,
        metrics: Metrics,
        clock: Callable[[], int],
    ) -> None:
        self._log = log
        self._results = results
        self._media = media
        self._config = config
        self._metrics = metrics
        self._clock = clock
        #: accounts whose queue is being sent
        self._draining: set[int] = set()
        #: account → number of what is being tried, or whose result is being kept
        self._trying: dict[int, int] = {}
        #: account → how its message ended, where the store has not taken that yet
        self._known: dict[int, _Ending] = {}

    def has_work(self, account: int) -> bool:
        return bool(self._log.outgoing(account))

    def is_draining(self, account: int) -> bool:
        return account in self._draining

    def is_trying(self, account: int) -> bool:
        return account in self._trying

    async def drain(self, account: Account, session: Session, caps: Caps, goes_on: Callable[[], bool]) -> None:
        """Until nothing waits, or `goes_on` says no. AuthFailed, CursorForgotten: the session is over."""
        backoff = Backoff(self._config.retry_s, self._config.retry_max_s)
        self._draining.add(account.number)
        try:
            while queue := self._log.outgoing(account.number):
                for outgoing in queue:
                    waiting: Outgoing | None = outgoing
                    while waiting is not None:
                        if not goes_on():
                            return
                        waiting, pause_s = await self._step(account, session, caps, waiting, backoff)
                        await asyncio.sleep(pause_s)
        finally:
            self._draining.discard(account.number)

    def fail_all(self, account: int) -> None:
        """The account is unbound: what waits is over, also what is being tried."""
        tried = self._trying.pop(account, 0)
        for outgoing in self._log.outgoing(account):
            reason = IN_DOUBT if outgoing.number == tried else UNBOUND
            if not self._end_now(outgoing, reason, "unbound"):
                break
        self._known.pop(account, None)

    def expire(self, account: int) -> int:
        """Nobody sends for it now: what is past its time has failed. When to look again, Unix ms; 0: none waits."""
        next_ms = 0
        for outgoing in self._log.outgoing(account):
            if outgoing.expires_ms <= self._clock():
                self._end_now(outgoing, EXPIRED, "expired")  # whose commit may fail: it is looked at once more
            next_ms = min(next_ms or outgoing.expires_ms, outgoing.expires_ms)
        return next_ms

    def _end_now(self, outgoing: Outgoing, reason: str, label: str) -> bool:
        """By what is known of it, or as failed; False: the store takes nothing now."""
        known = self._known_of(outgoing)
        if known is None:
            reason = IN_DOUBT if outgoing.is_in_doubt else reason
            known = _Ending(self._results.build(outgoing, FAILED, reason=reason), None, label)
        if not self._results.settle_now(outgoing, *known):
            return False
        if self._known_of(outgoing) is not None:
            del self._known[outgoing.account]
        return True

    def _known_of(self, outgoing: Outgoing) -> _Ending | None:
        known = self._known.get(outgoing.account)
        return known if known is not None and known.result.outgoing == outgoing.number else None

    async def _step(
        self, account: Account, session: Session, caps: Caps, outgoing: Outgoing, backoff: Backoff
    ) -> tuple[Outgoing | None, float]:
        """One try, or the end without one. What is still to be sent, and after what pause."""
        self._trying[account.number] = outgoing.number
        try:
            return await self._step_on(account, session, caps, outgoing, backoff)
        finally:
            if self._trying.get(account.number) == outgoing.number:
                del self._trying[account.number]

    async def _step_on(
        self, account: Account, session: Session, caps: Caps, outgoing: Outgoing, backoff: Backoff
    ) -> tuple[Outgoing | None, float]:
        known = self._known_of(outgoing)
        if known is not None:
            return await self._settle(outgoing, *known)
        # an act that is done twice is done once
        is_idempotent = caps.idempotent or outgoing.act is not None
        if outgoing.is_in_doubt and not is_idempotent:
            return await self._fail(outgoing, IN_DOUBT, "in_doubt")
        if outgoing.expires_ms <= self._clock():
            return await self._fail(outgoing, IN_DOUBT if outgoing.is_in_doubt else EXPIRED, "expired")
        outgoing = msgspec.structs.replace(outgoing, tries=outgoing.tries + 1, is_in_doubt=True)
        if not is_idempotent:
            await self._keep(outgoing)
        try:
            remote_id = await self._try(account, session, outgoing)
        except Rejected as exc:
            self._metrics.count(Metric.IM_TRIES, label="rejected")
            return await self._fail(outgoing, str(exc), "failed")
        except Transient as exc:
            self._metrics.count(Metric.IM_TRIES, label="in_doubt" if exc.is_in_doubt else "transient")
            if not exc.is_in_doubt:
                outgoing = self._clear(outgoing, is_kept=not is_idempotent)
            elif not is_idempotent:
                return await self._fail(outgoing, IN_DOUBT, "in_doubt")
            return outgoing, backoff.next_s(exc.retry_after_s)
        except (AuthFailed, CursorForgotten):
            self._metrics.count(Metric.IM_TRIES, label="auth_failed")
            self._clear(outgoing, is_kept=not is_idempotent)
            raise
        self._metrics.count(Metric.IM_TRIES, label="sent")
        backoff.reset()
        return await self._sent(session, outgoing, remote_id)

    async def _try(self, account: Account, session: Session, outgoing: Outgoing) -> str:
        files = self._files(outgoing)
        # a file takes its time
        seconds = self._config.fetch_s if files else self._config.request_s
        async with bounded(seconds, account.network, self._on_fault):
            if outgoing.act is not None:
                await session.act(outgoing.act)
                return ""
            assert outgoing.envelope is not None
            envelope = msgspec.structs.replace(outgoing.envelope, sender=session.me, at_ms=outgoing.created_ms)
            return await session.send(envelope, files)

    def _files(self, outgoing: Outgoing) -> list[MediaFile]:
        files = []
        for media in outgoing.envelope.media if outgoing.envelope is not None else ():
            file = self._media.file(outgoing.user, media.ref)
            if file is None:
                raise Rejected("a file of it is no longer here: upload it again")
            files.append(file)
        return files

    async def _sent(self, session: Session, outgoing: Outgoing, remote_id: str) -> tuple[None, float]:
        result = self._results.build(outgoing, SENT, remote_id=remote_id)
        message = None
        if outgoing.envelope is not None:
            now_ms = self._clock()
            envelope = msgspec.structs.replace(
                outgoing.envelope,
                sender=msgspec.structs.replace(session.me, is_self=True),
                remote_id=remote_id,
                at_remote_ms=now_ms,
                at_ms=now_ms,
            )
            message = Item(ItemKind.MESSAGE, now_ms, account=outgoing.account, envelope=envelope)
        return await self._settle(outgoing, result, message, "sent")

    async def _fail(self, outgoing: Outgoing, reason: str, label: str) -> tuple[None, float]:
        return await self._settle(outgoing, self._results.build(outgoing, FAILED, reason=reason), None, label)

    async def _settle(self, outgoing: Outgoing, result: Item, message: Item | None, label: str) -> tuple[None, float]:
        """Unless it was over before the network had its say (`fail_all`)."""
        if self._trying.get(outgoing.account) == outgoing.number:
            # also where the session ends while the store takes nothing: the network is not asked again
            self._known[outgoing.account] = _Ending(result, message, label)
            await self._results.settle_for_good(outgoing, result, message, label)
            self._known.pop(outgoing.account, None)
        return None, 0.0

    async def _keep(self, outgoing: Outgoing) -> None:
        """That a try is under way is durable before it begins: after a kill nobody guesses."""
        while True:
            try:
                await asyncio.shield(self._log.put_outgoing([outgoing]))
            except (StoreUnavailable, QueueFull):
                self._metrics.count(Metric.IM_STORE_WAITS)
                await asyncio.sleep(self._config.store_retry_s)
            else:
                return

    def _clear(self, outgoing: Outgoing, *, is_kept: bool) -> Outgoing:
        """The network has not taken it."""
        outgoing = msgspec.structs.replace(outgoing, is_in_doubt=False)
        if is_kept:
            try:
                self._log.put_outgoing([outgoing]).add_done_callback(observe)
            except (StoreUnavailable, QueueFull):
                self._metrics.count(Metric.IM_STORE_WAITS)  # after a kill it counts as in doubt
        return outgoing

    def _on_fault(self, network: str) -> None:
        self._metrics.count(Metric.IM_FAULTS, label=network)
