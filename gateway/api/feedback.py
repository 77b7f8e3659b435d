"""What a provider learns beside receipts: statistics of a push, pushes that wait for their time, tokens that are dead;
must never show one app another's.
"""

from __future__ import annotations

import asyncio

from starlette.responses import Response

from gateway.api.call import Call
from gateway.api.ports import Backend
from gateway.api.receipts import MAX_CURSOR, MAX_PAGE, PAGE
from gateway.api.wire import Counts, DeadToken, DeadTokenPage, ScheduledPage, ScheduledView, Statistics
from gateway.model.errors import TooManyRequests, UnknownPush
from gateway.model.outcome import Outcome, State
from gateway.model.ports import PushRecord
from gateway.model.registration import build_token

#: deliveries of one push looked at one by one; past it the totals by state still count all
MAX_LOOKS = 100_000
#: looked at in one turn of the loop
SLICE = 500
#: pushes counted at once; past it 429
MAX_COUNTING = 4
_ENDS = frozenset(state.name.lower() for state in State if state.is_final and not state.is_of_card)
_WHAT = frozenset(("targeted", "sent", "shown", "notified")) | _ENDS


class FeedbackRoutes:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._counting = 0

    async def statistics(self, call: Call) -> Response:
        seq = self._backend.push_ids.parse(call.path("id"), call.app.name)
        record = None if seq is None else self._lookup(call.app.name, seq, 0, 1)
        if seq is None or record is None:
            raise UnknownPush
        if record.due_ms or (record.state is not None and not record.deliveries):
            return call.answer(of_broadcast(record))
        if self._counting >= MAX_COUNTING:
            raise TooManyRequests("Statistics of many pushes are being counted; come back in a moment.", after_ms=1_000)
        self._counting += 1
        try:
            return call.answer(await self._count(call.app.name, seq, record))
        finally:
            self._counting -= 1

    async def _count(self, app: str, seq: int, first: PushRecord) -> Statistics:
        record: PushRecord | None = first
        total = Statistics(versions={}, complete=True)
        offset = 0
        while record is not None and record.deliveries and offset < MAX_LOOKS:
            record = self._lookup(app, seq, offset, SLICE)
            for delivery in record.deliveries if record is not None else ():
                version = self._backend.directory.cohort(delivery.registration).version
                count(delivery, total, total.versions.setdefault(version, Counts()))
            offset += SLICE
            await asyncio.sleep(0)
        if record is not None and record.deliveries:
            total.complete = not self._lookup_more(app, seq, offset)
        if not total.complete:
            for name in _ENDS:
                setattr(total, name, record.figures.get(name, 0) if record is not None else 0)
            total.targeted = record.figures.get("targeted", 0) if record is not None else 0
            total.pending = record.figures.get("pending", 0) if record is not None else 0
        return total

    def _lookup(self, app: str, seq: int, offset: int, limit: int) -> PushRecord | None:
        return self._backend.receipts.lookup(app, seq, offset=offset, limit=limit)

    def _lookup_more(self, app: str, seq: int, offset: int) -> bool:
        more = self._lookup(app, seq, offset, 1)
        return more is not None and bool(more.deliveries)

    async def scheduled(self, call: Call) -> Response:
        offset = call.query("offset", 0, 0, 1 << 31)
        limit = call.query("limit", PAGE, 0, MAX_PAGE)
        kept = self._backend.schedules.of_app(call.app.name)
        page = [
            ScheduledView(id=self._backend.push_ids.build(call.app.name, seq), deliver_at=due_ms // 1000)
            for seq, due_ms in kept[offset : offset + limit]
        ]
        after = offset + limit
        return call.answer(
            ScheduledPage(count=len(kept), scheduled=page, next_offset=after if after < len(kept) else None)
        )

    async def dead_tokens(self, call: Call) -> Response:
        after = call.query("after", 0, 0, MAX_CURSOR)
        limit = call.query("limit", PAGE, 1, MAX_PAGE)
        rows = self._backend.deaths.after(call.app.name, after, limit)
        page = [
            DeadToken(
                cursor=row.cursor,
                token=build_token(row.token),
                at_ms=row.at_ms,
                why="gone" if row.why == "gone" else "revoked",
                channel=row.channel,
            )
            for row in rows
        ]
        return call.answer(DeadTokenPage(dead_tokens=page, cursor=rows[-1].cursor if rows else after))


def of_broadcast(record: PushRecord) -> Statistics:
    """From its figures; `name@version` counts one version."""
    total = Statistics(versions={}, complete=True)
    for name, n in record.figures.items():
        what, at, version = name.partition("@")
        if what in _WHAT:
            setattr(total.versions.setdefault(version, Counts()) if at else total, what, n)
    for counts in (total, *total.versions.values()):
        over = counts.acked + counts.expired + counts.replaced + counts.rejected + counts.limited
        if record.state == State.RECALLED:
            counts.recalled = max(0, counts.targeted - over)
        elif record.state == State.ACCEPTED:
            counts.pending = max(0, counts.targeted - over - counts.recalled)
    return total


def count(delivery: Outcome, *into: Counts) -> None:
    """One delivery by its state and its history."""
    state = State(delivery.state)
    steps = {step.what for step in delivery.steps}
    for counts in into:
        counts.targeted += 1
        if state.is_final:
            name = state.name.lower()
            setattr(counts, name, getattr(counts, name) + 1)
        else:
            counts.pending += 1
        counts.sent += "sent" in steps or state is State.SENT
        counts.shown += "shown" in steps
        counts.notified += "notified" in steps
