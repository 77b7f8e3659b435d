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

from gateway.client.content import Counters
from gateway.client.errors import LinkLost, build_error
from gateway.client.events import Closed, Complained, Event, Issued, Online, Paged
from gateway.client.heartbeat import AdaptiveHeartbeat
from gateway.client.liveness import Due, Liveness
from gateway.client.requests import Phase, Requests
from gateway.client.seen import Seen
from gateway.model import frames
from gateway.model.device_address import DeviceAddress
from gateway.model.errors import ERRORS, GatewayError, HeartbeatTimeout, InvalidField, LoginTimeout, OutOfOrder
from gateway.model.frames import FRAME_BYTES, PROTOCOL_VERSION, FrameReader, FrameType, parse_body

#: no WELCOME by then: the link is dead (the gateway's own login deadline is 10 s)
LOGIN_S = 15.0


@dataclass(slots=True)
class Wishes:
    """What HELLO asks for."""

    window: int = 0
    urgency: int = 0
    sdk: str = "heliograph-python/1"


class Session(Requests):
    def __init__(
        self,
        *,
        heartbeat: AdaptiveHeartbeat,
        seen: Seen,
        counters: Counters,
        random: Callable[[], float],
        wishes: Wishes | None = None,
    ) -> None:
        wishes = wishes or Wishes()
        super().__init__(heartbeat, seen, counters, random, wishes.urgency)
        self._wishes = wishes
        self._known_id: str | None = None
        self._new_link(0.0)

    def _new_link(self, now: float) -> None:
        self._reader = FrameReader(FRAME_BYTES)
        self._out = bytearray()
        self._max_frame = FRAME_BYTES
        self._verdict: Closed | None = None
        self._last_error: Closed | None = None
        self._started = self._now = now
        self._liveness = Liveness(self.heartbeat, now)

    # --- one link's life ------------------------------------------------------------------------------------------

    def start(
        self, now: float, *, device: str = "", secret: bytes = b"", jwt: str = "", known: str | None = None
    ) -> None:
        """A connection was made: say HELLO. `known`: the device's id so far; where WELCOME gives another, what was seen
        is forgotten. None: not to be told."""
        assert self.phase is Phase.OFFLINE
        self._new_link(now)
        self._known_id = known
        self.phase = Phase.LOGIN
        self._write(
            FrameType.HELLO,
            frames.Hello(
                v=PROTOCOL_VERSION,
                device=device,
                secret=secret,
                jwt=jwt,
                heartbeat=self.heartbeat.wanted,
                window=self._wishes.window,
                urgency=self.urgency,
                sdk=self._wishes.sdk,
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

    def lost(self, now: float, why: str = "The connection was cut.") -> Closed:
        """The connection is gone, `why` where the gateway has not said; says whether to come back. What came before the
        end still counts, so next_event goes on giving it."""
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
            verdict = Closed(LinkLost(why), retry=True)
        self.phase = Phase.OFFLINE
        self._events = deque(event for event in self._events if not isinstance(event, Closed))
        self._new_link(now)
        self._link_lost()
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
        for binding in self._known():
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
        for binding in self._known():
            if binding.retry_at and now >= binding.retry_at:
                binding.retry_at = 0.0
                if binding.is_over:
                    self._send_waiting(binding)
                else:
                    self._send_register(binding)
            if binding.fetch_at and now >= binding.fetch_at:
                binding.fetch_at = 0.0
                binding.fetch_blocked = False
                self._fetch_bodies(binding)

    def pause(self, paused: bool, now: float) -> None:
        """The caller stopped reading, or goes on."""
        self._liveness.pause(paused, now)

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
        self._window = welcome.window
        self._inbox.says_whole = welcome.whole
        self._reader.max_body = max(FRAME_BYTES, welcome.max_frame)
        self._unix_offset = welcome.now_ms / 1000 - self._now
        if self._known_id is not None and welcome.device and welcome.device != self._known_id:
            self._inbox.forget_all(self.bindings)
        if welcome.device or welcome.secret:
            self._events.append(Issued(welcome.device, welcome.secret))
        self._send_all()
        self._ask_heartbeat(wanted)
        self._events.append(Online(welcome))

    def _handle_notify(self, body: bytes) -> None:
        notify = parse_body(body, frames.Notify)
        binding = self.bindings.of_token(notify.token) if notify.token else self.bindings.of_app(notify.app, notify.id)
        if binding is None:
            self.counters.unbound += 1  # A5
            return
        fetches = [r for r in self._requests if r.kind is FrameType.FETCH and r.binding is binding]
        of_all = any(not r.body.ids for r in fetches)
        if notify.more and notify.id in binding.held and binding.fetch_blocked:
            binding.fetch_blocked, binding.fetch_at = False, 0.0  # sent again: there is room
        unix_s = self._unix_offset + self._now
        self._events.extend(self._inbox.take(binding, notify, asked=bool(fetches), of_all=of_all, unix_s=unix_s))
        if binding.held:
            self._fetch_bodies(binding)

    def _handle_recall(self, body: bytes) -> None:
        ids = frames.parse_ids(body)
        for binding in self.bindings:
            self._events.extend(self._inbox.recall(binding, ids))

    def _handle_page(self, body: bytes) -> None:
        page = parse_body(body, frames.Page)
        self._events.append(Paged(page.req, page.page))

    def paged(self, req: int) -> None:
        """C13: what the page is for was started."""
        if self.phase is Phase.ONLINE:
            self._write(FrameType.PAGED, frames.Paged(req=req))

    def _handle_pong(self, _body: bytes) -> None:
        self.counters.pongs += 1
        if self._liveness.on_pong():
            self._ask_heartbeat(self.heartbeat.on_good_interval())

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
        verdict = Closed(
            error,
            retry=told.retry,
            after_ms=max(told.after_ms, 0),
            jitter_ms=max(told.jitter_ms, 0),
            to=DeviceAddress(told.host, told.port, told.tls_port) if told.host and told.retry else None,
            logged_in=self.phase is Phase.ONLINE,
        )
        self._close(verdict)

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
    FrameType.PAGE: Session._handle_page,
    FrameType.DOWN: Session._handle_down,
    FrameType.DONE: Session._handle_done,
    FrameType.ERROR: Session._handle_error,
    FrameType.GOAWAY: Session._handle_goaway,
}
_AFTER_LOGIN = frozenset(
    {
        FrameType.PONG,
        FrameType.TOKEN,
        FrameType.NOTIFY,
        FrameType.FETCHED,
        FrameType.RECALL,
        FrameType.DONE,
        FrameType.PAGE,
        FrameType.DOWN,
    }
)
_OURS = frozenset(set(FrameType) - set(_HANDLERS))
