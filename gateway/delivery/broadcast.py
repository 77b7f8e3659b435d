"""Broadcasts (A3): stored once, sent to whole groups, a cursor a registration; must never be copied per device.

A broadcast leaves this scheme for a registration only where the push named a fallback of its own: then the device that
does not ack, or is not connected, gets a single delivery of its own and the ordinary table carries on.
"""

from __future__ import annotations

import asyncio
import heapq
from array import array
from collections.abc import Callable, Iterator, Sequence

import msgspec

from gateway.delivery.backlog import SLICE, Backlog
from gateway.delivery.forms import build_notify, goes_light
from gateway.delivery.holds import quiet_hold
from gateway.delivery.spread import Spread
from gateway.metrics import Metric, Metrics
from gateway.model.errors import GatewayError
from gateway.model.notification import Notification, Target, language_of
from gateway.model.outcome import State
from gateway.model.ports import Ack, Broadcasts, Directory, Edge, Journal
from gateway.model.registration import build_token

#: single deliveries remembered for one broadcast, for its recall; past it, as after a start, that looks for them
MAX_ADOPTED = 100_000

#: starts the single delivery: (notification, was it sent to the device as a broadcast already?)
Adopt = Callable[[Notification, bool], None]


class _Live:
    """A live broadcast and its frames, built when first needed."""

    __slots__ = ("_frames", "adopted", "has_others", "light", "notification")

    def __init__(self, notification: Notification, inline_bytes: int) -> None:
        self.notification = notification
        self.light = goes_light(notification, inline_bytes)
        self._frames: dict[str, bytes] = {}  # language → its first frame
        self.adopted = array("Q")
        #: there may be some that are not remembered
        self.has_others = False

    def frame(self, locale: str) -> bytes:
        """What goes out first to registrations of this locale."""
        language = language_of(self.notification.content, locale)
        frame = self._frames.get(language)
        if frame is None:
            frame = build_notify(self.notification, self.notification.seq, "", light=self.light, locale=language)
            self._frames[language] = frame
        return frame

    def whole_frame(self, locale: str) -> bytes:
        if not self.light:
            return self.frame(locale)
        return build_notify(self.notification, self.notification.seq, "", light=False, locale=locale)


class BroadcastRouter:
    """Everything delivery does with a broadcast. Loop thread only."""

    def __init__(
        self,
        *,
        edge: Edge,
        journal: Journal,
        broadcasts: Broadcasts,
        directory: Directory,
        backlog: Backlog,
        metrics: Metrics,
        inline_bytes: int,
        clock: Callable[[], int],
        adopt: Adopt,
        take_back: Callable[[Sequence[tuple[int, int]]], None],
    ) -> None:
        self._edge = edge
        self._journal = journal
        self._broadcasts = broadcasts
        self._directory = directory
        self._backlog = backlog
        self._metrics = metrics
        self._inline_bytes = inline_bytes
        self._clock = clock
        self._adopt = adopt
        self._take_back = take_back
        self._live: dict[int, _Live] = {}
        self._expiries: list[tuple[int, int]] = []  # heap of (Unix ms, sequence)
        self._spreads: dict[int, Spread] = {}
        self._loaded: list[int] = []
        #: to be walked when it is certain who is connected
        self._uncertain: list[Notification] = []
        #: (Unix ms, app): quiet hours of some of its groups end then, and a broadcast waits for them
        self._wakes: list[tuple[int, str]] = []  # heap
        self._waking: set[tuple[int, str]] = set()  # the same
        self._adopting: set[tuple[int, int]] = set()  # (sequence, registration) whose row is not committed yet

    def __contains__(self, seq: int) -> bool:
        return seq in self._live

    def load(self) -> None:
        """Take up the live broadcasts of every app, after a start."""
        for app in self._directory.app_names():
            for seq in self._broadcasts.live(app):
                notification = self._journal.notification(seq)
                if notification is None:
                    continue
                self.keep(notification).has_others = bool(notification.fallback)
                self._loaded.append(seq)
                if notification.seq in self._spreads:
                    self._backlog.add(self._spread_out(notification), app)
                if notification.fallback:
                    for group in self._groups(notification):
                        until = quiet_hold(notification, self._directory.group_cohort(group), self._clock())
                        if until:
                            self._wake_at(until, app)

    def resume(self) -> None:
        """After a start, when those who were connected before are back: walks that a kill cut off are made again."""
        for seq in self._loaded:
            live = self._live.get(seq)
            if live is not None and self._broadcasts.recount(seq):
                self._backlog.add(self._walk(live.notification), live.notification.app)
        self._loaded.clear()

    def keep(self, notification: Notification) -> _Live:
        """Live from now on, and sent to nobody yet."""
        live = self._live[notification.seq] = _Live(notification, self._inline_bytes)
        # Acks of what was sent at its last moment still count (TTL 0).
        until = max(notification.expires_s * 1000, notification.accepted_ms + notification.ack_ms)
        heapq.heappush(self._expiries, (until, notification.seq))
        if notification.over_s and notification.accepted_ms + notification.over_s * 1000 > self._clock():
            self._spreads[notification.seq] = Spread(notification)
        return live

    # --- the push

    def send(self, notification: Notification) -> None:
        """Fan out to the links that are there now; the others come by `waiting` when they are back."""
        live = self.keep(notification)
        if notification.seq in self._spreads:
            return  # portion by portion, from its commit on
        now = self._clock()
        by_language: dict[str, list[int]] = {}
        for group in self._groups(notification):
            cohort = self._directory.group_cohort(group)
            until = quiet_hold(notification, cohort, now)
            if until:
                self._wake_at(until, notification.app)
            else:
                by_language.setdefault(language_of(notification.content, cohort.locale), []).append(group)
        for language, groups in by_language.items():
            self._edge.fanout(groups, live.frame(language), notification.seq, notification.ack_ms, notification.urgency)

    def committed(self, notification: Notification) -> None:
        """The row is durable: count the audience, and fall back for those who are away where the push says so."""
        if notification.seq not in self._live:
            return
        if self._edge.is_certain:
            self._backlog.add(self._walk(notification), notification.app)
        else:
            self._uncertain.append(notification)

    def withdraw(self, notification: Notification) -> None:
        """The commit failed: it was never accepted, so take it back."""
        self._spreads.pop(notification.seq, None)
        if self._live.pop(notification.seq, None) is not None:
            self._edge.recall_fanout(self._groups(notification), notification.seq)

    def _walk(self, notification: Notification) -> Iterator[None]:
        spread = self._spreads.get(notification.seq)
        for part in self._parts(notification):
            if notification.seq not in self._live:
                return
            if part:
                self._broadcasts.count(notification.seq, "targeted", part)
            if spread is not None:
                self._add(spread, part)
            elif notification.fallback:
                for start in range(0, len(part), SLICE):
                    for registration in part[start : start + SLICE]:
                        if not self._edge.is_connected(registration):
                            self._fall_back_one(notification, registration)  # B4
                    yield
            yield
        if notification.seq in self._live:
            self._broadcasts.counted(notification.seq)

    def _groups(self, notification: Notification) -> list[int]:
        target = notification.target
        return self._directory.groups(notification.app, target.versions, target.where)

    def _parts(self, notification: Notification) -> Iterator[Sequence[int]]:
        target = notification.target
        return self._directory.by_versions(notification.app, target.versions, target.where)

    # --- what waits for its moment

    def _spread_out(self, notification: Notification) -> Iterator[None]:
        """After a start: whoever is connected by then is found again."""
        for part in self._parts(notification):
            spread = self._spreads.get(notification.seq)
            if spread is None:
                return
            self._add(spread, part)
            yield

    def _add(self, spread: Spread, registrations: Sequence[int]) -> None:
        """Those who are to get it in their portions; at once where that was handed out while they were looked for."""
        for registration in registrations:
            has_way = spread.notification.fallback or self._edge.is_connected(registration)
            if has_way and not spread.add(registration):
                self._hand_over(spread.notification, registration)

    def _wake_at(self, at_ms: int, app: str) -> None:
        if (at_ms, app) not in self._waking:
            self._waking.add((at_ms, app))
            heapq.heappush(self._wakes, (at_ms, app))

    def tick(self, now_ms: int) -> None:
        """Hand out the portions whose moment has come, and look again where quiet hours ended; none of it while those
        who are there may seem to be away."""
        if not self._edge.is_certain:
            return
        for notification in self._uncertain:
            self._backlog.add(self._walk(notification), notification.app)
        self._uncertain.clear()
        for seq, spread in list(self._spreads.items()):
            if seq not in self._live or spread.is_over:
                del self._spreads[seq]
                continue
            for portion in spread.due(now_ms):
                self._backlog.add(self._hand_out(spread.notification, portion), spread.notification.app)
        while self._wakes and self._wakes[0][0] <= now_ms:
            at_ms, app = heapq.heappop(self._wakes)
            self._waking.discard((at_ms, app))
            self._backlog.add(self._wake(app), app)

    def _hand_out(self, notification: Notification, portion: Sequence[int]) -> Iterator[None]:
        for start in range(0, len(portion), SLICE):
            if notification.seq not in self._live:
                return
            for registration in portion[start : start + SLICE]:
                self._hand_over(notification, registration)
            yield

    def _hand_over(self, notification: Notification, registration: int) -> None:
        if self._edge.is_connected(registration):
            self._edge.await_room(registration)  # the reactor says what is in flight: nothing goes twice
        else:
            self._fall_back_one(notification, registration)  # B4

    def _fall_back_one(self, notification: Notification, registration: int) -> None:
        """The push's own chain, where it has one, for one that is away and waits for it."""
        is_live = notification.seq in self._live
        if notification.fallback and is_live and self._broadcasts.is_waiting(notification.seq, registration):
            self._fall_back(notification, registration, sent=False)

    def _wake(self, app: str) -> Iterator[None]:
        # B4 for those who left meanwhile, where a push has a chain of its own.
        falls_back = any(live.notification.fallback for live in self._live.values() if live.notification.app == app)
        for part in self._directory.by_versions(app, ""):
            for registration in part:
                if not self._directory.cohort(registration).quiet:
                    continue
                if self._edge.is_connected(registration):
                    self._edge.await_room(registration)
                elif falls_back:
                    self.fall_back_late(registration)
            yield

    def fall_back_late(self, registration: int) -> None:
        """What was held back for one that is away by now goes to the push's own chain."""
        for seq in self.waiting(registration):
            notification = self._live[seq].notification
            if notification.fallback and not self._is_held(notification, registration):
                self._fall_back(notification, registration, sent=False)

    def _is_held(self, notification: Notification, registration: int) -> bool:
        """Not now: it is remembered for when its moment comes."""
        now = self._clock()
        spread = self._spreads.get(notification.seq)
        if spread is not None and spread.at_ms(registration) > now and spread.add(registration):
            return True
        until = quiet_hold(notification, self._directory.cohort(registration), now)
        if until:
            self._wake_at(until, notification.app)
        return bool(until)

    # --- what devices answer

    def on_acks(self, acks: Sequence[Ack]) -> None:
        """One batch: cursors move once a broadcast. A light form's ack counts: its body is there while it is live."""
        acked: dict[int, list[int]] = {}
        shown: dict[int, list[int]] = {}
        seen: set[tuple[int, int]] = set()
        at_ms = 0
        for ack in acks:
            key = (ack.seq, ack.registration)
            # A late ack is looked up: an acked one, or one that was never for it, moves and counts nothing.
            fresh = key not in seen and (ack.sent_ms > 0 or self._broadcasts.is_waiting(ack.seq, ack.registration))
            if fresh:
                seen.add(key)
                acked.setdefault(ack.seq, []).append(ack.registration)
                at_ms = max(at_ms, ack.acked_ms)
            if ack.shown and (fresh or self.is_for(ack.seq, ack.registration)):
                shown.setdefault(ack.seq, []).append(ack.registration)
        for seq, registrations in acked.items():
            self._broadcasts.acked(seq, registrations, at_ms)
            self._broadcasts.count(seq, "acked", registrations)
        for seq, registrations in shown.items():
            self._broadcasts.count(seq, "shown", registrations)

    def on_acks_in_time(self, seq: int, registrations: Sequence[int], at_ms: int) -> None:
        """The common ones: each in time, once, not shown."""
        self._broadcasts.acked(seq, registrations, at_ms)
        self._broadcasts.count(seq, "acked", registrations)

    def meant(self, seq: int, registrations: Sequence[int], *, shown: bool) -> list[int]:
        """Of these, those a late ack of it can be for."""
        return [n for n in registrations if self._broadcasts.is_waiting(seq, n) or (shown and self.is_for(seq, n))]

    def on_unacked(self, seq: int, registration: int, *, spilled: bool) -> None:
        """Ack time over, link lost, or no room: its cursor keeps it, or its own fallback takes it up (B3)."""
        notification = self._live[seq].notification
        if notification.fallback and not spilled:
            self._fall_back(notification, registration, sent=True)

    def send_one(self, seq: int, registration: int, *, whole: bool = False) -> bool | None:
        """Send to one registration. None: the device does not want it now; False: no room or no link."""
        live = self._live[seq]
        notification = live.notification
        if not whole and (
            notification.urgency < self._edge.urgency_floor(registration) or self._is_held(notification, registration)
        ):
            return None
        locale = self._directory.cohort(registration).locale if notification.content.localized else ""
        frame = live.whole_frame(locale) if whole else live.frame(locale)
        sent = self._edge.notify(registration, frame, seq, notification.ack_ms, again=whole)
        if sent and not whole:
            self._broadcasts.count(seq, "sent", [registration])
        return sent

    def is_for(self, seq: int, registration: int) -> bool:
        return self._broadcasts.matches(self._live[seq].notification, registration)

    def waiting(self, registration: int) -> list[int]:
        """Live ones this registration has not acked, ascending (A4)."""
        return [
            seq
            for seq in self._broadcasts.waiting(registration)
            if seq in self._live and (seq, registration) not in self._adopting
        ]

    # --- fallback of its own

    def _fall_back(self, broadcast: Notification, registration: int, *, sent: bool) -> None:
        key = (broadcast.seq, registration)
        record = self._directory.registration(registration)
        if record is None or key in self._adopting:
            return
        notification = msgspec.structs.replace(
            broadcast,
            seq=self._journal.reserve(1),
            target=Target(token=build_token(record.token)),
            accepted_ms=self._clock(),
            count=0,
            push=broadcast.push_seq,
            broadcast=broadcast.seq,
        )
        try:
            commit = self._journal.append(notification, [registration])
        except GatewayError:
            return  # it stays waiting by its cursor
        self._adopting.add(key)
        self._broadcasts.adopted(broadcast.seq, registration)
        # At once, not with the commit: a recall in between takes it back too.
        live = self._live.get(broadcast.seq)
        if live is not None:
            if len(live.adopted) < MAX_ADOPTED:
                live.adopted.append(notification.seq)
            else:
                live.has_others = True
        commit.add_done_callback(lambda done: self._adopted(broadcast.seq, notification.seq, registration, done))
        if sent:
            # The single delivery has another id: the device must not show both.
            self._edge.recall(registration, broadcast.seq)
        self._adopt(notification, sent)

    def _adopted(self, broadcast: int, seq: int, registration: int, commit: asyncio.Future[None]) -> None:
        self._adopting.discard((broadcast, registration))
        if commit.cancelled() or commit.exception() is not None:
            # The row is out of RAM again; the broadcast still waits by its cursor.
            self._broadcasts.adopted(broadcast, registration, undone=True)
            self._take_back([(seq, registration)])
            return
        self._broadcasts.acked(broadcast, [registration], self._clock())
        self._metrics.count(Metric.BROADCASTS_ADOPTED)

    # --- the end

    def notification(self, seq: int) -> Notification:
        return self._live[seq].notification

    def expire(self, now_ms: int) -> None:
        while self._expiries and self._expiries[0][0] <= now_ms:
            _, seq = heapq.heappop(self._expiries)
            if self._live.pop(seq, None) is not None:
                self._broadcasts.count_expired(seq)
                self._broadcasts.end(seq, State.EXPIRED, now_ms)

    def recall(self, seq: int, now_ms: int) -> Iterator[Sequence[int]]:
        """Take it back everywhere; returns the single deliveries that grew out of it, in slices."""
        live = self._live.pop(seq)
        self._spreads.pop(seq, None)
        if len(self._expiries) > 2 * len(self._live) + SLICE:
            # Those recalled long before their expiry must not pile up.
            self._expiries = [entry for entry in self._expiries if entry[1] in self._live]
            heapq.heapify(self._expiries)
        self._broadcasts.end(seq, State.RECALLED, now_ms)
        self._edge.recall_fanout(self._groups(live.notification), seq)
        return self._grown(live)

    def _grown(self, live: _Live) -> Iterator[Sequence[int]]:
        """Those that are pending still, and some that are not. One that moves under our feet is the executor's: it
        sends nothing of a broadcast that was recalled."""
        for start in range(0, len(live.adopted), SLICE):
            yield live.adopted[start : start + SLICE]
        if not live.has_others:
            return
        notification = live.notification
        # Whatever version each has by now.
        for part in self._directory.by_versions(notification.app, ""):
            for start in range(0, len(part), SLICE):
                yield [
                    seq
                    for registration in part[start : start + SLICE]
                    for seq in self._journal.pending_of(registration)
                    if self._has_grown(seq, notification)
                ]

    def _has_grown(self, seq: int, broadcast: Notification) -> bool:
        delivery = self._journal.get(seq)
        # They end together: that spares reading nearly all others.
        if delivery is None or delivery.notification != seq or delivery.expires_s != broadcast.expires_s:
            return False
        notification = self._journal.notification(seq)
        return notification is not None and notification.broadcast == broadcast.seq
