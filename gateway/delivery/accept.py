"""Takes a push in: checks, audience, journal, first send; must never answer before it is durable or acked.

The device is not kept waiting for the disk: a push is dispatched at once, and the provider is answered after the
commit or the device's ack, whichever comes first. Where the commit fails and no ack came, it was never accepted: it is
taken back from the link, and the provider gets StoreUnavailable. A push with an idempotency key waits for its commit:
only a durable key lets a repetition after a crash find the first push instead of making a second.

A push for later, and one whose audience must be looked for, is kept by the schedules first (`scheduler.py`) and comes
back here by `release` when its time has come and its audience is known. So is a push to many where this store is one of
several (model.reach): each of them takes it in by `take_over`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import msgspec

from gateway.config.sections import Config
from gateway.delivery.audience import Audience, resolve_audience
from gateway.delivery.backlog import SLICE
from gateway.delivery.dispatcher import Dispatcher
from gateway.delivery.one_machine import ONE_MACHINE
from gateway.delivery.request import BODIES, URGENCIES, PushRequest
from gateway.metrics import Metric, Metrics
from gateway.model.errors import BadRequest, GatewayError, PayloadTooLarge, QueueFull, StoreUnavailable
from gateway.model.notification import Content, Invitation, Notification, Words, pack_data
from gateway.model.ports import Directory, Journal, Schedules
from gateway.model.reach import Reach
from gateway.model.registration import App
from gateway.model.service_page import MOST_PARAMS


class Accepted(NamedTuple):
    """A push that was taken in. Answer the provider when `done` is; it may raise StoreUnavailable."""

    seq: int  # see push_ids
    done: asyncio.Future[None]
    targeted: int | None  # deliveries; None for a broadcast, and where the audience is not known yet


class Acceptor:
    """The only way in for pushes. Loop thread only. Idempotency keys are settled before (api.once)."""

    def __init__(
        self,
        *,
        directory: Directory,
        journal: Journal,
        schedules: Schedules,
        dispatcher: Dispatcher,
        config: Config,
        metrics: Metrics,
        reach: Reach = ONE_MACHINE,
    ) -> None:
        self._reach = reach
        self._directory = directory
        self._journal = journal
        self._schedules = schedules
        self._dispatcher = dispatcher
        self._delivery = config.delivery
        self._max_push_bytes = config.api.max_push_bytes
        self._metrics = metrics

    def push(self, app: App, request: PushRequest, now_ms: int, *, durable_first: bool = False) -> Accepted:
        """Take in one push; raises a GatewayError where nothing was accepted. `durable_first`: nothing of it leaves
        before its commit."""
        try:
            return self._push(app, request, now_ms, durable_first)
        except GatewayError as error:
            self._metrics.count(Metric.PUSHES_REFUSED, label=error.name)
            raise

    def push_many(self, app: App, requests: Sequence[PushRequest], now_ms: int) -> list[Accepted | GatewayError]:
        """A batch, in one turn of the loop and so in one commit; a bad one does not stop the others."""
        results: list[Accepted | GatewayError] = []
        for request in requests:
            try:
                results.append(self.push(app, request, now_ms))
            except GatewayError as error:
                results.append(error)
        return results

    def _push(self, app: App, request: PushRequest, now_ms: int, durable_first: bool) -> Accepted:
        audience = resolve_audience(self._directory, app.name, request.target)
        due_ms = max((request.deliver_at or 0) * 1000, now_ms)
        is_wide = self._reach.is_wide(audience.target)
        is_later = due_ms > now_ms or audience.is_open or is_wide
        many = 0 if is_later else _many(audience)
        notification = self._build(app, request, audience, now_ms, due_ms, many)
        if is_later:
            if is_wide:
                self._reach.check(notification)
            kept = self._schedules.add(notification, due_ms)
            kept.add_done_callback(_hear)
            if is_wide and due_ms <= now_ms:
                kept.add_done_callback(self._reach.was_kept)
            self._metrics.count(Metric.PUSHES, label=audience.kind)
            return Accepted(notification.seq, kept, None)
        done = self._take_in(notification, audience, durable_first)
        self._metrics.count(Metric.PUSHES, label=audience.kind)
        return Accepted(notification.seq, done, None if audience.target.is_broadcast else len(audience.registrations))

    def release(self, kept: Notification, audience: Audience, now_ms: int) -> asyncio.Future[None]:
        """The time of a kept push has come. Durable, and no longer kept, when the future resolves; until then nothing
        of it is sent. Raises a GatewayError where it must be tried again."""
        seq, done = self._become(kept, audience, now_ms)
        # In the same turn, so that both are one commit: it is never there twice, nor lost.
        self._schedules.released(kept.seq, seq)
        return done

    def take_over(self, kept: Notification, audience: Audience, now_ms: int) -> asyncio.Future[None]:
        """The same for a push that another store keeps, or this one goes on to keep, until all have taken it over."""
        seq, done = self._become(kept, audience, now_ms)
        self._schedules.taken(kept.seq, seq)
        return done

    def _become(self, kept: Notification, audience: Audience, now_ms: int) -> tuple[int, asyncio.Future[None]]:
        many = _many(audience)
        seq = self._journal.reserve(1 + many)
        notification = msgspec.structs.replace(
            kept, seq=seq, accepted_ms=now_ms, target=audience.target, count=many, push=kept.seq
        )
        return seq, self._take_in(notification, audience, durable_first=True)

    def _take_in(self, notification: Notification, audience: Audience, durable_first: bool) -> asyncio.Future[None]:
        count = len(audience.registrations)
        if count > SLICE and not self._dispatcher.backlog.has_room(notification.app):
            raise QueueFull("too many large audiences of this app are being sent to; try again soon")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Nobody may be left to hear of a failure (the provider hung up): that is no error of ours.
        done.add_done_callback(_hear)
        if audience.target.is_broadcast:
            commit = self._journal.broadcast(notification)
        else:
            commit = self._journal.append(notification, audience.registrations)
        if durable_first:
            self._dispatcher.hold(notification.seq)
        else:
            if count == 1:
                self._dispatcher.watch(notification.seq, done)
            self._send(notification, audience)
        commit.add_done_callback(partial(self._on_commit, notification, audience, done))
        return done

    def _send(self, notification: Notification, audience: Audience) -> None:
        if audience.target.is_broadcast:
            self._dispatcher.broadcast.send(notification)
        else:
            self._dispatcher.dispatch(notification, audience.registrations)

    def _build(
        self, app: App, request: PushRequest, audience: Audience, now_ms: int, due_ms: int, count: int
    ) -> Notification:
        defaults = self._delivery
        ttl = request.ttl if request.ttl is not None else app.ttl_s or defaults.ttl_s
        if ttl > defaults.max_ttl_s:
            raise BadRequest(f"the longest time to live is {defaults.max_ttl_s} seconds", field="ttl")
        if due_ms - now_ms > defaults.max_schedule_s * 1000:
            raise BadRequest(f"at most {defaults.max_schedule_s} seconds ahead", field="deliver_at")
        if request.over > ttl:
            raise BadRequest("it must be sent to all before its time to live is over", field="over")
        try:
            data = pack_data(request.data)
        except (OverflowError, TypeError, ValueError) as error:
            raise BadRequest("data holds a value that can not be sent to a device", field="data") from error
        localized: dict[str, Words] = {}
        for language, said in request.localized.items():
            if language.lower() in localized:
                raise BadRequest("this language is there already, in another case", field=f"localized.{language}")
            localized[language.lower()] = Words(title=said.title, text=said.text)
        words = [(request.title, request.text), *((other.title, other.text) for other in localized.values())]
        size = len(data) + sum(len(title.encode()) + len(text.encode()) for title, text in words)
        if size > self._max_push_bytes:
            raise PayloadTooLarge(
                f"title, text, localized and data take {size} bytes, the limit is {self._max_push_bytes}", field="data"
            )
        return Notification(
            seq=self._journal.reserve(1 + count),
            app=app.name,
            target=audience.target,
            content=Content(title=request.title, text=request.text, data=data, localized=localized),
            accepted_ms=now_ms,
            # Rounded up, so that a short life is not cut; TTL 0 ends with the second it came in.
            expires_s=(due_ms + ttl * 1000 + 999) // 1000 if ttl else due_ms // 1000,
            urgency=URGENCIES[request.urgency],
            collapse_key=request.collapse_key,
            body=BODIES[request.body],
            ack_ms=request.ack_ms or app.ack_ms or defaults.ack_ms,
            notifier_ack_ms=request.notifier_ack_ms or app.notifier_ack_ms or defaults.notifier_ack_ms,
            fallback=self._fallback(request, audience),
            count=count,
            over_s=request.over,
            service=_invitation(request),
        )

    def _fallback(self, request: PushRequest, audience: Audience) -> list[str] | None:
        for name in request.fallback or ():
            if name not in self._dispatcher.notifiers:
                known = ", ".join(sorted(self._dispatcher.notifiers)) or "none"
                raise BadRequest(f"there is no such notifier; configured: {known}", field="fallback")
        if audience.target.is_broadcast:
            return request.fallback or []  # a broadcast stays on the channel unless the push says otherwise
        return request.fallback

    def _on_commit(
        self,
        notification: Notification,
        audience: Audience,
        done: asyncio.Future[None],
        commit: asyncio.Future[None],
    ) -> None:
        self._dispatcher.forget_watch(notification.seq)
        was_held = self._dispatcher.release(notification.seq)
        error = None if commit.cancelled() else commit.exception()
        failed = commit.cancelled() or error is not None
        acked = done.done() and not done.cancelled() and done.exception() is None
        if failed and not acked:
            if was_held:
                pass  # nobody has it
            elif audience.target.is_broadcast:
                self._dispatcher.broadcast.withdraw(notification)
            else:
                self._dispatcher.withdraw(notification, audience.registrations)
            if not done.done():
                done.set_exception(error if isinstance(error, GatewayError) else StoreUnavailable())
            return
        if not done.done():
            done.set_result(None)
        if was_held and self._dispatcher.is_stopped(notification.seq):  # the recall that waits for this takes it back
            if audience.target.is_broadcast:
                self._dispatcher.broadcast.keep(notification)
            return
        if was_held:
            self._send(notification, audience)
        if audience.target.is_broadcast:
            self._dispatcher.broadcast.committed(notification)
        elif notification.collapse_key:
            self._dispatcher.replace_older(notification, audience.registrations)


def _invitation(request: PushRequest) -> Invitation | None:
    asked = request.service
    if asked is None:
        return None
    params = asked.params.encode("utf-8", "surrogatepass")
    if len(params) > MOST_PARAMS:
        raise BadRequest(f"takes {len(params)} bytes, the limit is {MOST_PARAMS}", field="service.params")
    if asked.aid is not None and not asked.aid.isprintable():
        raise BadRequest("an AID has printable characters only", field="service.aid")
    return Invitation(aid=asked.aid, server=asked.server, params=params)


def _many(audience: Audience) -> int:
    """Deliveries with sequences of their own; a single one has its notification's."""
    count = len(audience.registrations)
    return count if count > 1 else 0


def _hear(done: asyncio.Future[None]) -> None:
    if not done.cancelled():
        done.exception()
