"""Broadcasts: stored once for an (app, version range) with a cursor per registration (A3, A4); must never show one
twice to a registration, nor skip one.

A registration has received broadcast b when *b is at or below its cursor and matches its version*, or b is in its done
set. The done set is the exception: acks out of order, and what was received under an earlier version. Everybody else
costs one cursor, 64 of them to a row.

A fleet's broadcasts come from its own stream, in its order (`begin`, `take_in`). Their rows are of this folder alone
and may be missing where it was made from the partition's journal; cursors, done sets and figures are in that journal.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Collection, Iterable, Sequence

from gateway._native.registry import Registry
from gateway.config.sections import Store as StoreConfig
from gateway.metrics import Metric, Metrics
from gateway.model.cluster import is_broadcast_seq
from gateway.model.errors import QueueFull
from gateway.model.notification import Notification
from gateway.model.outcome import Outcome, State, Step
from gateway.store.commit import Committer
from gateway.store.contents import Contents
from gateway.store.figures import Figures
from gateway.store.groups import Groups, Matcher
from gateway.store.receipts import Receipts
from gateway.store.records import (
    CURSOR_PAGE,
    CURSORS_A_PAGE,
    CURSORS_SHIFT,
    DELETE,
    PUT,
    Db,
    PushEnd,
    Row,
    build_notification,
    build_seqs,
    pack_u32,
    pack_u64,
)

#: pages of cursors written at one cut; the rest follow with the next
_DRAIN_PAGES = 2_048
#: figure of a broadcast whose audience was counted to the end; shown nowhere, as those of versions
_COUNTED = "@counted"
#: the same: single deliveries that grew out of it and are pending
_ADOPTED = "@adopted"
#: figures of those who wait for it no longer
_OVER = ("acked", "expired", "recalled", "replaced", "rejected", "limited")


class _Live:
    __slots__ = ("app", "expires_s", "matches")

    def __init__(self, app: str, expires_s: int, matches: Matcher) -> None:
        self.app = app
        self.expires_s = expires_s
        self.matches = matches


class Broadcasts:
    """Control thread only; see model.ports.Broadcasts."""

    def __init__(
        self,
        committer: Committer,
        registry: Registry,
        groups: Groups,
        contents: Contents,
        figures: Figures,
        receipts: Receipts,
        config: StoreConfig,
        metrics: Metrics,
        clock: Callable[[], int],
    ) -> None:
        self._committer = committer
        self._registry = registry
        self._groups = groups
        self._contents = contents
        self._figures = figures
        self._receipts = receipts
        self._max_of_app = config.max_broadcasts_per_app
        self._metrics = metrics
        self._clock = clock
        self._live: dict[int, _Live] = {}
        self._of_app: dict[str, list[int]] = {}  # ascending
        self._highest = 0
        self._done: dict[int, set[int]] = {}
        self._early: dict[int, set[int]] = {}  # the same of a fleet's broadcasts that were not told of yet
        self._dirty: dict[int, set[int]] = {}  # page of cursors → numbers whose done set changed too
        committer.add_source(self._drain)

    # --- storing --------------------------------------------------------------------------------------------

    def store(self, notification: Notification) -> asyncio.Future[None]:
        """Broadcasts come in the order of their sequences, else one could pass below a cursor unseen."""
        seq, app = notification.seq, notification.app
        if seq <= self._highest:
            raise ValueError("broadcasts are stored in the order of their sequences")
        if len(self._of_app.get(app, ())) >= self._max_of_app:
            self._metrics.count(Metric.STORE_REFUSED, label="broadcasts_of_app")
            raise QueueFull("too many broadcasts of this app are live; nothing was accepted")
        row = build_notification(notification)
        matches = Matcher(self._groups, app, notification.target.versions, notification.target.where)

        def undo() -> None:
            if seq in self._live:
                self._forget(seq)
                self._figures.drop(seq)
                self._contents.drop(seq)

        future = self._committer.accept(
            [(PUT, Db.BROADCASTS, pack_u64(seq), row)], undo=undo, done=lambda: self._contents.landed(seq)
        )
        self._contents.put(notification, len(row))
        self._figures.open(seq)
        self._add(seq, _Live(app, notification.expires_s, matches))
        return future

    def restore(self, notification: Notification, figures: dict[str, int]) -> None:
        """Recovery, in ascending order."""
        self._figures.open(notification.seq, figures)
        target = notification.target
        matches = Matcher(self._groups, notification.app, target.versions, target.where)
        self._add(notification.seq, _Live(notification.app, notification.expires_s, matches))

    def restore_done(self, number: int, seqs: Iterable[int]) -> None:
        if not self._registry.has(number):
            return
        live, early = set(), set()
        for seq in seqs:
            if seq in self._live:
                live.add(seq)
            elif is_broadcast_seq(seq):
                early.add(seq)
        if live:
            self._done[number] = live
        if early:
            self._early[number] = early

    def _add(self, seq: int, live: _Live) -> None:
        self._live[seq] = live
        insort(self._of_app.setdefault(live.app, []), seq)
        self._highest = max(self._highest, seq)

    def _forget(self, seq: int) -> None:
        live = self._live.pop(seq)
        of_app = self._of_app[live.app]
        del of_app[bisect_left(of_app, seq)]
        if not of_app:
            del self._of_app[live.app]

    # --- a fleet's ------------------------------------------------------------------------------------------

    def begin(self, told: Sequence[Notification], recalled: Collection[int], at_ms: int) -> None:
        """See the port."""
        known = set()
        for notification in told:
            seq = notification.seq
            known.add(seq)
            self._highest = max(self._highest, seq)
            is_over = seq in recalled or notification.expires_s < at_ms // 1_000
            if seq in self._live or self._receipts.has_ended(seq) or (is_over and not self._figures.of(seq)):
                continue
            self._put_local(notification)
        self._place_early()
        for seq in [seq for seq in self._live if is_broadcast_seq(seq)]:
            gone = seq not in known and self._live[seq].expires_s >= at_ms // 1_000
            if gone or seq in recalled:
                self.end(seq, State.RECALLED, at_ms)

    def take_in(self, notification: Notification) -> bool:
        seq = notification.seq
        if seq <= self._highest:
            return False
        if self._receipts.has_ended(seq):
            self._highest = seq
            return False
        self._put_local(notification)
        if self._early:
            self._place_early()
        return True

    def known_to(self) -> int:
        early = max((max(seqs) for seqs in self._early.values()), default=0)
        figures = self._figures.highest()
        return max(self._highest, early, figures if is_broadcast_seq(figures) else 0)

    def _put_local(self, notification: Notification) -> None:
        seq = notification.seq
        row = build_notification(notification)
        self._contents.put(notification, len(row))
        self._committer.local([(PUT, Db.BROADCASTS, pack_u64(seq), row)], done=lambda: self._contents.landed(seq))
        self.restore(notification, self._figures.of(seq))

    def _place_early(self) -> None:
        for number, seqs in list(self._early.items()):
            told = {seq for seq in seqs if seq in self._live}
            later = {seq for seq in seqs if seq > self._highest}
            if later:
                self._early[number] = later
            else:
                del self._early[number]
            if told and self._registry.has(number):
                self._done.setdefault(number, set()).update(told)
                self._normalise(number)

    def is_live(self, seq: int) -> bool:
        return seq in self._live

    # --- who waits for what ---------------------------------------------------------------------------------

    def live(self, app: str) -> list[int]:
        return list(self._of_app.get(app, ()))

    def waiting(self, registration: int) -> list[int]:
        if not self._of_app or not self._registry.has(registration):
            return []
        group = self._registry.group(registration)
        now_s = self._clock() // 1_000
        return [
            seq
            for seq in self._missing(registration, group, self._of_app.get(self._groups.app(group), ()))
            if self._live[seq].expires_s >= now_s
        ]

    def is_waiting(self, seq: int, registration: int) -> bool:
        live = self._live.get(seq)
        if live is None or live.expires_s < self._clock() // 1_000 or not self._registry.has(registration):
            return False
        if seq <= self._registry.cursor(registration) or seq in self._done.get(registration, ()):
            return False
        return live.matches(self._registry.group(registration))

    def _missing(self, number: int, group: int, of_app: Sequence[int]) -> list[int]:
        """Of these live ones, those that match and were not received."""
        if not of_app:
            return []
        done = self._done.get(number, ())
        above = of_app[bisect_right(of_app, self._registry.cursor(number)) :]
        return [seq for seq in above if seq not in done and self._live[seq].matches(group)]

    def matches(self, notification: Notification, registration: int) -> bool:
        if not self._registry.has(registration):
            return False
        group = self._registry.group(registration)
        live = self._live.get(notification.seq)
        if live is not None:
            return live.matches(group)
        target = notification.target
        return Matcher(self._groups, notification.app, target.versions, target.where)(group)

    def acked(self, seq: int, registrations: Sequence[int], at_ms: int) -> None:  # noqa: ARG002 - the port's
        live = self._live.get(seq)
        if live is None:
            return  # over: nobody waits for it any more
        of_app = self._of_app[live.app]
        place = bisect_left(of_app, seq)
        floor = of_app[place - 1] if place else 0
        below = self._registry.advance_many(registrations, seq, floor)
        if self._done:
            for number in registrations:
                if number in self._done:
                    self._normalise(number)
        if any(not live.matches(group) for group, _ in self._registry.group_runs(registrations)):
            # Updated since it was sent to them: their cursor says nothing of what does not match.
            below = list({*below, *(n for n in registrations if not self._is_of(live, n))})
        for number in below:
            if self._registry.has(number):
                self._done.setdefault(number, set()).add(seq)
                self._normalise(number)
        for page in {number >> CURSORS_SHIFT for number in registrations}:
            self._dirty.setdefault(page, set())
        if self._dirty:
            self._committer.nudge()

    def _is_of(self, live: _Live, number: int) -> bool:
        return not self._registry.has(number) or live.matches(self._registry.group(number))

    def _normalise(self, number: int) -> None:
        """Move the cursor up to just below the first one missing; keep in the done set what the cursor does not say."""
        group = self._registry.group(number)
        of_app = self._of_app.get(self._groups.app(group), [])
        done = self._done[number]
        cursor = self._registry.cursor(number)
        place = bisect_right(of_app, cursor)
        while place < len(of_app):
            seq = of_app[place]
            if seq not in done and self._live[seq].matches(group):
                break
            cursor = seq
            place += 1
        self._registry.set_cursor(number, cursor)
        kept = {seq for seq in done if seq in self._live and (seq > cursor or not self._live[seq].matches(group))}
        if kept:
            self._done[number] = kept
        else:
            del self._done[number]
        self._dirty.setdefault(number >> CURSORS_SHIFT, set()).add(number)

    # --- what the directory tells ---------------------------------------------------------------------------

    def move(self, number: int, group: int) -> None:
        """Another version of the app: what is live and matches the new one and was not received is waiting now (A4)."""
        before = self._registry.group(number)
        self._registry.set_group(number, group)
        of_app = self._of_app.get(self._groups.app(before), ())
        cursor = self._registry.cursor(number)
        below = of_app[: bisect_right(of_app, cursor)]
        done = {seq for seq in self._done.get(number, ()) if seq in self._live}
        if not below and not done:
            return
        done.update(seq for seq in below if self._live[seq].matches(before))
        self._registry.set_cursor(number, 0)
        self._done[number] = done
        self._normalise(number)
        self._committer.nudge()

    def forget(self, number: int) -> None:
        """The registration is gone."""
        self._early.pop(number, None)
        if self._done.pop(number, None) is not None:
            self._dirty.setdefault(number >> CURSORS_SHIFT, set()).add(number)

    # --- figures and end ------------------------------------------------------------------------------------

    def count(self, seq: int, what: str, registrations: Sequence[int]) -> None:
        self._figures.count(seq, what, len(registrations))
        for group, n in self._registry.group_runs(registrations):
            self._figures.count_version(seq, what, self._groups.cohort(group).version, n)

    def adopted(self, seq: int, registration: int, *, undone: bool = False) -> None:
        n = -1 if undone else 1
        self._figures.count(seq, _ADOPTED, n)
        for group, _ in self._registry.group_runs([registration]):
            self._figures.count_version(seq, _ADOPTED, self._groups.cohort(group).version, n)

    def notified(self, seq: int, registration: int, steps: Sequence[Step]) -> None:
        """A notifier took the single delivery that grew out of it; `steps`: those before."""
        if not any(step.what == "notified" for step in steps):
            self.count(seq, "notified", [registration])

    def settled(self, seq: int, outcome: Outcome, adopted_ms: int) -> None:
        """The single delivery that grew out of it is over."""
        registrations = [outcome.registration]
        self.adopted(seq, outcome.registration, undone=True)
        self.count(seq, State(outcome.state).name.lower(), registrations)
        sent_ms = [step.at_ms for step in outcome.steps if step.what == "sent"]
        if sent_ms and min(sent_ms) >= adopted_ms:  # else it was sent as a broadcast, and counted so
            self.count(seq, "sent", registrations)
        if any(step.what == "shown" for step in outcome.steps):
            self.count(seq, "shown", registrations)

    def is_recalled(self, seq: int) -> bool:
        return seq not in self._live and self._receipts.ended_as(seq) == State.RECALLED

    def counted(self, seq: int) -> None:
        self._figures.count(seq, _COUNTED, 1)

    def recount(self, seq: int) -> bool:
        if self._figures.of(seq).get(_COUNTED):
            return False
        self._figures.uncount(seq, "targeted")
        return True

    def count_sent(self, seq: int, group: int, links: int) -> None:
        self._figures.count(seq, "sent", links)
        if links:
            self._figures.count_version(seq, "sent", self._groups.cohort(group).version, links)

    def count_expired(self, seq: int) -> None:
        # By version, so that one who came later and acked does not hide one who was meant and missed it.
        figures = self._figures.of(seq)
        missed_in_all = 0
        for name in [name for name in figures if name.startswith("targeted@")]:
            version = name[len("targeted") :]
            missed = figures[name] - sum(figures.get(f"{over}{version}", 0) for over in (*_OVER, _ADOPTED))
            self._figures.count(seq, f"expired{version}", max(0, missed))
            missed_in_all += max(0, missed)
        self._figures.count(seq, "expired", missed_in_all)

    def figures(self, seq: int) -> dict[str, int]:
        return self._figures.of(seq)

    def end(self, seq: int, state: int, at_ms: int) -> None:
        if seq not in self._live:
            return
        metadata = self._contents.metadata(Db.BROADCASTS, seq)
        self._forget(seq)
        self._contents.drop(seq)
        self._figures.close(seq)
        end = self._receipts.end_push(seq, PushEnd(at_ms // 1_000, state, metadata))
        removal: Row = (DELETE, Db.BROADCASTS, pack_u64(seq), b"")
        rows = [end]
        if is_broadcast_seq(seq):
            self._committer.local([removal])
        else:
            rows.append(removal)
        self._committer.keep(rows, done=lambda: self._receipts.push_landed(seq))

    # --- cursors to disk ------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Just before a cut: cursors in order of their numbers, a page a row, with the done sets they belong to."""
        if not self._dirty:
            return
        pages = sorted(self._dirty)[:_DRAIN_PAGES]
        drained = {page: self._dirty.pop(page) for page in pages}
        rows: list[Row] = []
        for page, numbers in drained.items():
            rows.append((PUT, Db.CURSORS, pack_u32(page), self._build_page(page)))
            for number in numbers:
                done = self._done.get(number, set()) | self._early.get(number, set())
                if done:
                    rows.append((PUT, Db.DONE, pack_u32(number), build_seqs(sorted(done))))
                else:
                    rows.append((DELETE, Db.DONE, pack_u32(number), b""))

        def redo() -> None:
            for page, numbers in drained.items():
                self._dirty.setdefault(page, set()).update(numbers)

        self._committer.refresh(rows, redo=redo, done=self._committer.nudge if self._dirty else None)

    def _build_page(self, page: int) -> bytes:
        first = page << CURSORS_SHIFT
        has, cursor = self._registry.has, self._registry.cursor
        return CURSOR_PAGE.pack(
            *[cursor(number) if has(number) else 0 for number in range(first, first + CURSORS_A_PAGE)]
        )
