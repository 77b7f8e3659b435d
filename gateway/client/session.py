"""The device's side of the protocol as a sans-IO state machine; touches no socket, no clock and no callback.

Theory of operation: the caller opens a connection and calls start; what the gateway sends goes into receive, and
next_event is called until it gives None; after any call data_to_send gives the bytes to write, and tick is due at
deadline(). When the connection ends, lost tells why it did and whether to come back. One Session outlives its links: it
keeps what shall be bound, what was seen, and the requests that still want an answer.

    OFFLINE ──start──► LOGIN ──WELCOME──► ONLINE ──GOAWAY · fatal ERROR · bad frame · dead──► OVER ──lost──► OFFLINE

On a new link nothing is assumed: HELLO, then REGISTER for each binding, before anything else; then what was waiting.
Times are seconds of any monotonic clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from gateway.client.bindings import Bindings
from gateway.client.content import Counters, Notification, Tip
from gateway.client.errors import LinkLost, build_error
from gateway.client.events import (
    Answered,
    Binding,
    BindState,
    Bound,
    Closed,
    Complained,
    Ended,
    Event,
    Issued,
    Online,
    Request,
    Resumed,
)
from gateway.client.events import Fetched as FetchResult
from gateway.client.heartbeat import AdaptiveHeartbeat
from gateway.client.inbox import Inbox
from gateway.client.liveness import Due, Liveness
from gateway.client.seen import Seen
from gateway.model import frames
from gateway.model.errors import (
    ERRORS,
    FrameTooLarge,
    GatewayError,
    HeartbeatTimeout,
    InvalidField,
    LoginTimeout,
    OutOfOrder,
    QueueFull,
)
from gateway.model.frames import (
    FRAME_BYTES,
    MAX_IDS,
    PROTOCOL_VERSION,
    FrameReader,
    FrameType,
    build_frame,
    build_varint,
    parse_body,
)

#: no WELCOME by then: the link is dead (the gateway's own login deadline is 10 s)
LOGIN_S = 15.0
#: requests waiting for an answer; past it QueueFull
MAX_REQUESTS = 256
#: refused requests are sent again after after_ms plus a random part of this share of it
RETRY_JITTER = 0.3


class Phase(Enum):
    OFFLINE = "offline"
    LOGIN = "login"
    ONLINE = "online"
    OVER = "over"


@dataclass(slots=True)
class Wishes:
    """What HELLO asks for."""

    window: int = 0
    urgency: int = 0
    sdk: str = "heliograph-python/1"


class Session:
    def __init__(
        self,
        *,
        heartbeat: AdaptiveHeartbeat,
        seen: Seen,
        counters: Counters,
        random: Callable[[], float],
        wishes: Wishes | None = None,
    ) -> None:
        self.phase = Phase.OFFLINE
        self.heartbeat = heartbeat
        self.wishes = wishes or Wishes()
        self.counters = counters
        self.bindings = Bindings()
        self._inbox = Inbox(seen, counters)
        self._random = random
        self._requests: dict[Request, int] = {}  # → req on this link, 0 = not sent on it
        self._by_req: dict[int, Request] = {}
        self._last_req = 0
        self._foreground_told: bool | None = None
        self._events: deque[Event] = deque()
        self._new_link(0.0)

    def _new_link(self, now: float) -> None:
        self._reader = FrameReader(FRAME_BYTES)
        self._out = bytearray()
        self._max_frame = FRAME_BYTES
        self._verdict: Closed | None = None
        self._last_error: Closed | None = None
        self._started = self._now = now
        self._liveness = Liveness(self.heartbeat, now)
        self._unix_offset = 0.0

    # --- one link's life ------------------------------------------------------------------------------------------

    def start(self, now: float, *, device: str = "", secret: bytes = b"", jwt: str = "") -> None:
        """A connection was made: say HELLO."""
        assert self.phase is Phase.OFFLINE
        self._new_link(now)
        self.phase = Phase.LOGIN
        self._write(
            FrameType.HELLO,
            frames.Hello(
                v=PROTOCOL_VERSION,
                device=device,
                secret=secret,
                jwt=jwt,
                heartbeat=self.heartbeat.wanted,
                window=self.wishes.window,
                urgency=self.wishes.urgency,
                sdk=self.wishes.sdk,
            ),
        )

    def receive(self, data: bytes | bytearray | memoryview, now: float) -> None:
        """Bytes from the gateway, in any pieces."""
        self._liveness.on_received(now)
        self._reader.append(data)

    def next_event(self, now: float) -> Event | None:
        """The next thing to do, None where more bytes are needed. Handling one event may put new ones behind it."""
        self._now = now
        while not self._events and self._parse_frame():
            pass
        return self._events.popleft() if self._events else None

    def _parse_frame(self) -> bool:
        if self.phase not in (Phase.LOGIN, Phase.ONLINE):
            return False
        try:
            frame = self._reader.take()
            if frame is not None:
                self._handle_frame(*frame)
        except GatewayError as exc:
            self.counters.broken_links += 1
            self._close(Closed(exc, retry=True))
            return True
        return frame is not None

    def lost(self, now: float) -> Closed:
        """The connection is gone, for whatever reason; says whether to come back. What came before the end still
        counts, so next_event goes on giving it."""
        if self.phase is Phase.OFFLINE:
            return Closed(LinkLost("The gateway can not be reached."), retry=True)
        self._now = now
        while self._parse_frame():
            pass
        verdict = self._verdict
        if verdict is None and self.phase in (Phase.LOGIN, Phase.ONLINE):
            # An ERROR of an unknown number that was the last word gave the reason.
            verdict = self._last_error
        if verdict is None:
            self.counters.cuts += 1
            if self.phase is Phase.ONLINE:
                self._liveness.on_cut(now)
            verdict = Closed(LinkLost("The connection was cut."), retry=True)
        self.phase = Phase.OFFLINE
        self._events = deque(event for event in self._events if not isinstance(event, Closed))
        self._new_link(now)
        self._by_req.clear()
        for request in [r for r in self._requests if r.internal]:
            del self._requests[request]
        for request in self._requests:
            self._requests[request] = 0
        self._foreground_told = None
        self.bindings.unbind_all()
        return verdict

    def data_to_send(self, now: float) -> bytes:
        """Bytes to write now: all confirmations since the last call are one frame of each kind."""
        if self.phase is Phase.ONLINE:
            self._out += self._inbox.flush(self._max_frame)
        if not self._out:
            return b""
        data = bytes(self._out)
        self._out.clear()
        self._liveness.last_sent = now
        return data

    def deadline(self) -> float | None:
        """When tick is due, if nothing happens before."""
        if self.phase is Phase.LOGIN and not self._liveness.paused:
            return self._started + LOGIN_S
        if self.phase is not Phase.ONLINE:
            return None
        due = self._liveness.deadline()
        for binding in self.bindings:
            for at in (binding.retry_at, binding.fetch_at):
                if at:
                    due = min(due, at)
        return due

    def tick(self, now: float) -> None:
        if self.phase is Phase.LOGIN:
            if now >= self._started + LOGIN_S and not self._liveness.paused:
                self._close(Closed(LoginTimeout("The gateway did not answer HELLO."), retry=True))
            return
        if self.phase is not Phase.ONLINE:
            return
        due = self._liveness.due(now)
        if due is Due.DEAD:
            self._liveness.on_cut(now)
            self._close(Closed(HeartbeatTimeout("The gateway did not answer PING."), retry=True))
            return
        if due is Due.PING:
            self.counters.pings += 1
            self._liveness.on_ping(now)
            self._write(FrameType.PING, None)
        for binding in self.bindings:
            if binding.retry_at and now >= binding.retry_at:
                binding.retry_at = 0.0
                self._send_register(binding)
            if binding.fetch_at and now >= binding.fetch_at:
                binding.fetch_at = 0.0
                self._fetch_bodies(binding)

    def pause(self, paused: bool, now: float) -> None:
        """The caller stopped reading, or goes on."""
        self._liveness.pause(paused, now)

    # --- what the app wants -----------------------------------------------------------------------------------------

    def register(self, binding: Binding) -> None:
        """Bind it, on this link and on each later one. Bound, or Ended with the reason, follows; a refusal that says
        to retry is retried. Unless binding.keep, other accounts of the app are suspended until then (A5)."""
        if binding.state is BindState.ENDED:
            raise ValueError("this binding has ended")
        binding.retry_at = 0.0
        binding.suspended = False
        self.bindings.put(binding)
        if not binding.keep:
            for other in self.bindings.others(binding):
                other.suspended = True
        if self.phase is Phase.ONLINE:
            self._send_register(binding)

    def abandon(self, binding: Binding) -> None:
        """Nobody waits for it any more: what it would have replaced goes on, unless it is replaced already."""
        if binding.state is BindState.BOUND:
            leave = frames.Unregister(req=0, token=binding.token)
            self._request(Request(FrameType.UNREGISTER, leave, internal=True))
        self._end(binding)
        self._resume_others(binding)

    def unregister(self, binding: Binding, *, forget: bool = False) -> Request | None:
        """End the binding at once; None where the gateway needs no word: not bound there, and not to be forgotten."""
        self._check_room()
        known = binding.token and (forget or binding.state is not BindState.WANTED)
        self._end(binding)
        if not known:
            return None
        body = frames.Unregister(req=0, token=binding.token, forget=forget)
        return self._request(Request(FrameType.UNREGISTER, body))

    def fetch(self, binding: Binding) -> Request:
        """A4: everything that waits for the token and for its app and version; Answered with Fetched follows."""
        return self._request(Request(FrameType.FETCH, frames.Fetch(req=0, token=binding.token), binding))

    def set_urgency(self, floor: int) -> Request:
        """Below this urgency the gateway keeps notifications (RFC 8030 §5.3)."""
        self.wishes.urgency = floor
        return self._request(Request(FrameType.STATE, frames.State(urgency=floor)))

    def set_foreground(self, binding: Binding, foreground: bool, now: float) -> None:
        """B6. In the foreground held messages come as Arrived events, bodies of light ones are fetched."""
        if binding.foreground == foreground or binding.state is BindState.ENDED:
            return
        binding.foreground = foreground
        if foreground:
            self._events.extend(self._inbox.foreground(binding, self._unix_offset + now))
            self._fetch_bodies(binding)
        self._tell_foreground()

    def confirm(self, binding: Binding, item: Notification | Tip) -> None:
        """The app's queue has it."""
        if binding.state is not BindState.ENDED:
            self._inbox.confirm(binding, item)
            self._unblock(binding)

    def confirm_shown(self, binding: Binding, notification: Notification) -> None:
        """The user saw it. Also said for a binding that has ended: it was shown all the same."""
        self._inbox.confirm_shown(notification)
        self._unblock(binding)

    def cancel(self, request: Request) -> None:
        """Nobody waits for the answer any more."""
        req = self._requests.pop(request, 0)
        self._by_req.pop(req, None)

    # --- frames -----------------------------------------------------------------------------------------------------

    def _handle_frame(self, kind: int, body: bytes) -> None:
        self._last_error = None
        if self.phase is Phase.LOGIN and kind in _AFTER_LOGIN:
            raise OutOfOrder("The gateway sent a frame of a logged-in link before WELCOME.")
        handle = _HANDLERS.get(kind)
        if handle is not None:
            handle(self, body)
        elif kind in _OURS:
            raise OutOfOrder("The gateway sent a frame that only devices send.")
        else:
            self.counters.unknown_frames += 1

    def _handle_welcome(self, body: bytes) -> None:
        if self.phase is not Phase.LOGIN:
            raise OutOfOrder("The gateway sent a second WELCOME.")
        welcome = parse_body(body, frames.Welcome)
        if welcome.heartbeat < 1 or not 1 <= welcome.heartbeat_min <= welcome.heartbeat_max:
            raise InvalidField("WELCOME has no sound heartbeat", field="heartbeat")
        self.phase = Phase.ONLINE
        self.counters.links += 1
        wanted = self.heartbeat.on_welcome(welcome.heartbeat, welcome.heartbeat_min, welcome.heartbeat_max)
        self._max_frame = welcome.max_frame
        self._reader.max_body = max(FRAME_BYTES, welcome.max_frame)
        self._unix_offset = welcome.now_ms / 1000 - self._now
        if welcome.device or welcome.secret:
            self._events.append(Issued(welcome.device, welcome.secret))
        for binding in list(self.bindings):
            if not binding.suspended:
                self._send_register(binding)
        for request in list(self._requests):
            self._send(request)
        self._tell_foreground()
        self._ask_heartbeat(wanted)
        self._events.append(Online(welcome))

    def _handle_token(self, body: bytes) -> None:
        token = parse_body(body, frames.Token)
        request = self._answered(token.req, FrameType.REGISTER)
        binding = request.binding if request else None
        if binding is None:
            return
        if not token.token:
            raise InvalidField("TOKEN without a token", field="token")
        if binding.state is BindState.ENDED:
            # Given up while REGISTER was under way.
            leave = frames.Unregister(req=0, token=token.token)
            self._request(Request(FrameType.UNREGISTER, leave, internal=True))
            return
        changed = self.bindings.bind(binding, token.token)
        for other in self.bindings.others(binding):
            if other.suspended and not binding.keep:
                self._end(other)
        self._events.append(Bound(binding, changed))
        self._fetch_bodies(binding)

    def _handle_notify(self, body: bytes) -> None:
        notify = parse_body(body, frames.Notify)
        binding = self.bindings.of_token(notify.token) if notify.token else self.bindings.of_app(notify.app)
        if binding is None:
            self.counters.unbound += 1  # A5
            return
        self._events.extend(self._inbox.take(binding, notify))
        if binding.foreground and binding.held:
            self._fetch_bodies(binding)

    def _handle_recall(self, body: bytes) -> None:
        ids = frames.parse_ids(body)
        for binding in self.bindings:
            self._events.extend(self._inbox.recall(binding, ids))

    def _handle_fetched(self, body: bytes) -> None:
        fetched = parse_body(body, frames.Fetched)
        request = self._answered(fetched.req, FrameType.FETCH)
        if request is None or request.binding is None:
            return
        request.count += fetched.count
        more = fetched.more and self._inbox.news > request.had  # not when only duplicates came
        if request.internal:
            self._bodies_came(request.binding, request, fetched, more)
        elif more:
            self._request(request)
        else:
            self._events.append(Answered(request, result=FetchResult(request.count, fetched.more)))

    def _handle_done(self, body: bytes) -> None:
        done = parse_body(body, frames.Done)
        request = self._answered(done.req, FrameType.UNREGISTER, FrameType.STATE)
        if request is None:
            return
        if done.heartbeat and request.kind is FrameType.STATE and request.body.heartbeat:
            self.heartbeat.on_agreed(done.heartbeat)
        self._answer(request)

    def _handle_pong(self, _body: bytes) -> None:
        self.counters.pongs += 1
        if self._liveness.on_pong():
            self._ask_heartbeat(self.heartbeat.on_good_interval())

    def _ask_heartbeat(self, interval: int) -> None:
        if interval:
            self._request(Request(FrameType.STATE, frames.State(heartbeat=interval), internal=True))

    def _handle_error(self, body: bytes) -> None:
        told = parse_body(body, frames.Error)
        self.counters.errors += 1
        error = build_error(told.code, told.name, told.message, retry=told.retry, after_ms=told.after_ms)
        verdict = Closed(error, retry=told.retry, after_ms=max(told.after_ms, 0))
        if self.phase is Phase.LOGIN or (told.code in ERRORS and ERRORS[told.code].fatal):
            self._close(verdict)
        elif told.req and told.req in self._by_req:
            self._refused(self._by_req[told.req], error)
        else:
            if told.code not in ERRORS:
                self._last_error = verdict
            self._events.append(Complained(error))

    def _handle_goaway(self, body: bytes) -> None:
        told = parse_body(body, frames.Goaway)
        error = build_error(told.code, told.name, retry=told.retry, after_ms=told.after_ms)
        if told.code == HeartbeatTimeout.code:
            self._liveness.on_unheard(self._now)  # A6
        self._close(Closed(error, retry=told.retry, after_ms=max(told.after_ms, 0), jitter_ms=max(told.jitter_ms, 0)))

    # --- requests and answers -----------------------------------------------------------------------------------------

    def _request(self, request: Request) -> Request:
        if not request.internal:
            self._check_room()
        self._requests[request] = 0
        if self.phase is Phase.ONLINE:
            self._send(request)
        return request

    def _check_room(self) -> None:
        if len(self._requests) >= MAX_REQUESTS:
            raise QueueFull("Too many requests of this device wait for an answer.")

    def _send(self, request: Request) -> None:
        if self._requests.get(request, -1):
            return  # sent on this link already, or refused meanwhile
        if request.kind is FrameType.FETCH:
            self._out += self._inbox.flush(self._max_frame)  # confirmations make room in the in-flight window
            request.had = self._inbox.news
            if request.binding is not None:
                request.body.token = request.binding.token or request.body.token
        self._last_req = req = self._last_req % 0xFFFFFFFF + 1
        request.body.req = req
        self._requests[request] = req
        self._by_req[req] = request
        if not self._write(request.kind, request.body):
            self._refused(request, FrameTooLarge("The request is larger than the gateway takes."))

    def _send_register(self, binding: Binding) -> None:
        binding.state = BindState.ASKED
        for old in [r for r in self._requests if r.kind is FrameType.REGISTER and r.binding is binding]:
            self.cancel(old)  # a newer REGISTER of the same binding: only its answer counts
        body = frames.Register(
            req=0,
            app=binding.app,
            version=binding.version,
            account=binding.account,
            keep=binding.keep,
            alias=binding.alias,
            tags=binding.tags,
            addresses=binding.addresses,
            fallback=binding.fallback,
        )
        self._request(Request(FrameType.REGISTER, body, binding, internal=True))

    def _answered(self, req: int, *kinds: FrameType) -> Request | None:
        """The request this answers; None where nobody waits any more."""
        request = self._by_req.get(req)
        if request is None:
            return None
        if request.kind not in kinds:
            raise OutOfOrder("The gateway answered a request with the wrong kind of frame.")
        self.cancel(request)
        return request

    def _answer(self, request: Request, error: GatewayError | None = None) -> None:
        if not request.internal:
            self._events.append(Answered(request, error))

    def _refused(self, request: Request, error: GatewayError) -> None:
        self.cancel(request)
        binding = request.binding
        again_at = self._now + max(error.after_ms, 1_000) / 1000 * (1 + RETRY_JITTER * self._random())
        if binding is not None and request.kind is FrameType.REGISTER:
            if binding.state is BindState.ENDED:
                return
            binding.state = BindState.WANTED
            if error.retryable:
                binding.retry_at = again_at
                return
            self._end(binding, error)
            self._resume_others(binding)
        elif binding is not None and request.internal:  # FETCH for bodies
            binding.fetch = None
            if error.retryable:
                binding.fetch_at = again_at
            else:
                self._drop_bodies(binding, request.body.ids)
        else:
            self._answer(request, error)

    # --- bindings -----------------------------------------------------------------------------------------------------

    def _end(self, binding: Binding, error: GatewayError | None = None) -> None:
        if binding.state is BindState.ENDED:
            return
        self.bindings.remove(binding)
        binding.state = BindState.ENDED
        binding.held.clear()
        binding.retry_at = binding.fetch_at = 0.0
        self._events.append(Ended(binding, error))
        self._tell_foreground()

    def _resume_others(self, binding: Binding) -> None:
        others = self.bindings.others(binding)
        if binding.keep or any(b.state is not BindState.BOUND and not (b.keep or b.suspended) for b in others):
            return  # nothing was suspended, or for a yet newer one too
        for other in others:
            if other.suspended:
                other.suspended = False
                self._events.append(Resumed(other))
                if self.phase is Phase.ONLINE:
                    self._send_register(other)  # the gateway may have replaced it already

    def _fetch_bodies(self, binding: Binding) -> None:
        """B2: in the foreground ask for what is held light, or for all where some were refused."""
        if not binding.foreground or not binding.is_live or binding.fetch is not None or binding.fetch_blocked:
            return
        if binding.fetch_at:
            return
        ids = [] if binding.missed else [n.id for n in binding.held.values() if n.light]
        if not ids and not binding.missed:
            return
        binding.fetch = Request(
            FrameType.FETCH, frames.Fetch(req=0, token=binding.token, ids=ids[:MAX_IDS]), binding, internal=True
        )
        self._request(binding.fetch)

    def _bodies_came(self, binding: Binding, request: Request, fetched: frames.Fetched, more: bool) -> None:
        binding.fetch = None
        if fetched.more:
            # The window was full. Confirmations may have made room by now; without progress wait for some.
            binding.fetch_blocked = not more
        elif request.body.ids:
            self._drop_bodies(binding, request.body.ids)
        else:
            binding.missed = False
        self._fetch_bodies(binding)

    def _drop_bodies(self, binding: Binding, ids: list[int]) -> None:
        """Asked for and not sent: expired or recalled by now."""
        binding.missed = binding.missed and bool(ids)
        for id in ids:
            held = binding.held.get(id)
            if held is not None and held.light:
                del binding.held[id]
                self.counters.bodies_gone += 1

    def _unblock(self, binding: Binding) -> None:
        if binding.fetch_blocked:
            binding.fetch_blocked = False
            self._fetch_bodies(binding)

    def _tell_foreground(self) -> None:
        """STATE for the link as a whole: is any app in the foreground?"""
        if self.phase is not Phase.ONLINE:
            return
        foreground = any(b.foreground for b in self.bindings)
        told = self._foreground_told is not False  # a new link is taken to be in the foreground
        if len(self.bindings) and foreground != told:
            self._foreground_told = foreground
            self._request(Request(FrameType.STATE, frames.State(foreground=foreground), internal=True))

    # --- bytes --------------------------------------------------------------------------------------------------------

    def _write(self, kind: FrameType, body: Any) -> bool:
        frame = build_frame(kind, body)
        if len(frame) > 1 + len(build_varint(self._max_frame)) + self._max_frame:
            return False
        self._out += frame
        return True

    def _close(self, verdict: Closed) -> None:
        if self.phase is Phase.OVER:
            return
        self.phase = Phase.OVER
        self._verdict = verdict
        self._events.append(verdict)


_HANDLERS: dict[int, Callable[[Session, bytes], None]] = {
    FrameType.PONG: Session._handle_pong,
    FrameType.WELCOME: Session._handle_welcome,
    FrameType.TOKEN: Session._handle_token,
    FrameType.NOTIFY: Session._handle_notify,
    FrameType.FETCHED: Session._handle_fetched,
    FrameType.RECALL: Session._handle_recall,
    FrameType.DONE: Session._handle_done,
    FrameType.ERROR: Session._handle_error,
    FrameType.GOAWAY: Session._handle_goaway,
}
_AFTER_LOGIN = frozenset(
    {FrameType.PONG, FrameType.TOKEN, FrameType.NOTIFY, FrameType.FETCHED, FrameType.RECALL, FrameType.DONE}
)
_OURS = frozenset(set(FrameType) - set(_HANDLERS))
