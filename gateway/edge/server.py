"""The device door: turns what reactors report into sessions and delivery events, and deliveries into frames on links.

Must never keep a Python object for a device that only sits there: who is bound where lives in the native registry.
"""

from __future__ import annotations

import asyncio
import os
import time
from array import array
from collections.abc import Callable, Sequence
from typing import cast

import structlog

from gateway._native import reactor as native
from gateway._native.batches import Batches
from gateway._native.far_records import HomeTable
from gateway._native.intake import Router
from gateway.auth.service_keys import ServiceKeys
from gateway.config.sections import Config
from gateway.edge.asks import Asks
from gateway.edge.attendance import LinkAttendance
from gateway.edge.certificates import Certificates
from gateway.edge.farewell import Elsewhere, farewell_of_drain, farewell_of_overload, nowhere
from gateway.edge.flapping import FlappingGuard
from gateway.edge.link_requests import LinkRequests, req_of
from gateway.edge.login import DeviceLogin, Session, agree_heartbeat, parse_hello, silence_ms
from gateway.edge.login_queue import LoginQueue
from gateway.edge.pages import LinkPages
from gateway.edge.plane import AckEvent, Event, Plane, build_error, build_goaway
from gateway.edge.ports import Home
from gateway.edge.requests import DeviceRequests
from gateway.metrics import Metric, Metrics
from gateway.model.errors import Flapping, GatewayError, NodeUnreachable, Overloaded, Takeover, Unauthorized
from gateway.model.frames import PROTOCOL_VERSION, FrameType, Hello, ProviderWelcome, build_frame
from gateway.model.ports import Ack, EdgeEvents, ImDoor, ProviderDoor
from gateway.model.registration import Registration
from gateway.store.directory import Directory

_log = structlog.get_logger(__name__)
FUSE_S = 1.0


def unix_ms() -> int:
    return time.time_ns() // 1_000_000


class EdgeServer:
    """model.ports.Edge on the data plane."""

    def __init__(
        self,
        config: Config,
        login: DeviceLogin,
        directory: Home,
        metrics: Metrics,
        clock: Callable[[], int] = unix_ms,
        *,
        batches: Batches | None = None,
        service_keys: ServiceKeys | None = None,
        attendance: LinkAttendance | None = None,
        requests: Callable[[EdgeServer], LinkRequests] | None = None,
        acks_to: HomeTable | None = None,
    ) -> None:
        """`attendance`, `requests` and `acks_to`, which takes all acks: a node of a fleet has its own. Without them
        `directory` is a whole one."""
        self._config = config.edge
        self._login = login
        self._directory = directory
        self._registry = directory.registry
        self._metrics = metrics
        self._clock = clock
        self._events: EdgeEvents | None = None
        self._flapping = FlappingGuard(config.edge.device_logins_per_minute)
        #: sessions that have no registration to be found by: link → session
        self._unbound: dict[int, Session] = {}
        #: links whose device wants nothing below an urgency: link → floor
        self._floors: dict[int, int] = {}
        #: links for which more waits than they take; nothing new is sent there until the reactor says there is room
        self._held: set[int] = set()
        #: the link that said so just now, and how many notifications it takes
        self._ready_link = 0
        self._ready_room = 0
        #: where it is a set: the sequences that notify queues meanwhile
        self.tally: set[int] | None = None
        self._providers: ProviderDoor | None = None
        #: links of providers
        self._streams: set[int] = set()
        self._drained = 0
        self._all_drained = asyncio.Event()
        #: other nodes of a fleet that take devices; asked each second, and at a drain
        self.elsewhere: Elsewhere = nowhere
        self._overload_words = farewell_of_overload(())
        self._housekeeping: asyncio.Task[None] | None = None
        self._batches = batches
        self.plane = Plane(config.edge, metrics, self._on_batch, batches, self._on_runs, acks_to)
        self.certificates = Certificates(config.edge, metrics, self.plane.use_tls)
        self.router = Router(self.plane.reactors, self._held, self._floors)
        self.asks = Asks(self)
        self._queue = LoginQueue(self._echo, config.edge.login_timeout_s)
        self._requests = (
            DeviceRequests(self, cast(Directory, directory), config.edge, clock, service_keys)
            if requests is None
            else requests(self)
        )
        self.pages = LinkPages(self.send, self._registry.link)

        def app_of(number: int) -> str:
            return directory.group_app(self._registry.group(number))

        self.attendance = attendance or LinkAttendance(cast(Directory, directory), app_of, self._registry.link)

    # --- life

    def attach(self, events: EdgeEvents) -> None:
        """Who hears what becomes of notifications; before start."""
        self._events = events

    def open_to_providers(self, door: ProviderDoor) -> None:
        """From now on providers may open streams."""
        self._providers = door

    def open_to_users(self, door: ImDoor, app: str) -> None:
        """From now on registrations of this app may ask as users of IM."""
        self.asks.door = door
        self.asks.app = self.attendance.app = app

    @property
    def events(self) -> EdgeEvents:
        assert self._events is not None, "attach the delivery floor before start"
        return self._events

    @property
    def port(self) -> int:
        return self.plane.port

    @property
    def tls_port(self) -> int:
        return self.plane.tls_port

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self.plane.start(loop, self.certificates.start())
        self.certificates.watch()
        self._housekeeping = loop.create_task(self._keep_house(), name="edge-housekeeping")

    async def drain(self, over_s: float) -> None:
        """Stop accepting and send every device away, to other nodes where `elsewhere` knows some, spread over the time;
        returns when the last was told."""
        farewell = farewell_of_drain(self.elsewhere(), over_s, self.plane.links(), self._config.logins_per_s)
        self._drained = 0
        self._all_drained.clear()
        reactors = self.plane.reactors
        for index, reactor in enumerate(reactors):
            turns = farewell.turned(index, len(reactors))
            over_ms = int(over_s * 1000)
            while not reactor.drain_links(farewell.frames, over_ms, turns):  # noqa: ASYNC110 - a full mailbox has no event
                await asyncio.sleep(0.01)
        if self.plane.reactors:
            await self._all_drained.wait()

    async def stop(self) -> None:
        if self._housekeeping is not None:
            self._housekeeping.cancel()
            await asyncio.gather(self._housekeeping, return_exceptions=True)
            self._housekeeping = None
        await self.certificates.close()
        await self._requests.close()
        await self.asks.close()
        await self.plane.stop()

    async def _keep_house(self) -> None:
        """Hold the memory fuse; say when connections can not be accepted."""
        limit = self._config.memory_limit_bytes
        page = os.sysconf("SC_PAGE_SIZE")
        refusing = False
        failed = 0
        while True:
            await asyncio.sleep(FUSE_S)
            failed = self._warn_of_accepts(failed)
            try:
                self._tell_elsewhere()
            except Exception as exc:
                # the fuse below must hold whatever others say of themselves
                _log.error("elsewhere_failed", kind=type(exc).__name__)
            if not limit:
                continue
            with open("/proc/self/statm") as statm:  # noqa: ASYNC230 - no disk behind it
                resident = int(statm.read().split()[1]) * page
            if (resident > limit) != refusing:
                refusing = not refusing
                self.plane.refuse_logins(refusing)
                _log.warning("memory_fuse", refusing=refusing, resident_bytes=resident, limit_bytes=limit)

    def _tell_elsewhere(self) -> None:
        """Logins that are too many are sent to nodes that have room."""
        words = farewell_of_overload(self.elsewhere())
        if words != self._overload_words:
            reactors = self.plane.reactors
            for index, reactor in enumerate(reactors):
                self.plane.insist(reactor.send_elsewhere, words.frames, words.turned(index, len(reactors)))
            self._overload_words = words

    def _warn_of_accepts(self, before: int) -> int:
        failed = self.plane.accept_errors()
        if failed > before:
            _log.warning(
                "accept_failed",
                times=failed - before,
                links=self.plane.links(),
                hint="descriptors or memory short: raise the limit of open files or edge.reactors (each has its own)",
            )
        return failed

    # --- sessions

    def session(self, link: int, device: int) -> Session | None:
        """Who is on this link; `device` is what the reactor knows it by."""
        session = self._unbound.get(link)
        if session is not None:
            return session
        if self._registry.device_link(device) != link:
            return None
        for number in self._registry.bound(device):
            named = self._directory.device_of(number)
            if named is not None:
                return Session(device, named)
        return None

    def remember(self, link: int, session: Session) -> None:
        """Keep a session that has no registration (any more) to be found by."""
        self._unbound[link] = session

    def forget(self, link: int) -> None:
        """It has a registration now, and no Python object any more."""
        self._unbound.pop(link, None)

    def set_floor(self, link: int, urgency: int) -> None:
        if urgency > 0 or link in self._floors:
            self.plane.insist(self.plane.of(link).set_floor, link, urgency)
        if urgency > 0:
            self._floors[link] = urgency
        else:
            self._floors.pop(link, None)

    def send(self, link: int, frame: bytes) -> None:
        self.plane.insist(self.plane.of(link).send, link, frame)

    def close(self, link: int, frame: bytes | None) -> None:
        self.plane.insist(self.plane.of(link).close, link, frame)

    def refuse(self, link: int, error: GatewayError, req: int = 0) -> None:
        """Tell a device what was wrong; a fatal error ends the link."""
        self._metrics.count(Metric.FRAMES_MALFORMED, label=error.name)
        frame = build_error(error, req=req, versions=getattr(error, "versions", None))
        if error.fatal:
            self.close(link, frame)
        else:
            self.send(link, frame)

    def unbind(self, link: int, number: int) -> None:
        """Nothing more for this registration on this link; what is unacked comes back as lost."""
        self.attendance.left((number,))
        self._registry.unbind(number)
        self.pages.leave((number,))
        self.plane.insist(self.plane.of(link).unbind, link, number)

    def bind(self, link: int, number: int, device: int) -> None:
        """From now on what comes for this registration goes to this link, what waits for it first."""
        moved = self._registry.link(number) != link
        self.plane.insist(self.plane.of(link).bind, link, self._registry.group(number), number)
        self._registry.bind(number, device)
        self.forget(link)
        if moved:
            self.attendance.came(number)
            self.events.on_ready([number])
        else:
            self.hold(link)  # something of it may be in flight: only the reactor knows

    # --- what the directory tells

    def leaving(self, registration: Registration) -> None:
        """Its token is revoked this moment, by whomever: nothing more for it on its link, broadcasts neither."""
        link = self._registry.link(registration.number)
        if link:
            session = Session(self._directory.device_key(registration.device), registration.device)
            self.unbind(link, registration.number)
            if not self._registry.bound(session.key):
                self.remember(link, session)

    def returned(self, registration: Registration) -> None:
        """The store refused that: all is as it was."""
        device = self._directory.device_key(registration.device)
        link = self._registry.device_link(device)
        if link and not registration.signed_out:
            self.bind(link, registration.number, device)

    def moved(self, number: int, *, asked: bool) -> None:
        """Fan-outs must find it in its new group; what waits for it there is looked for, where its device asked for
        this behind TOKEN (`bind`)."""
        link = self._registry.link(number)
        if link:
            self.plane.insist(self.plane.of(link).bind, link, self._registry.group(number), number)
            if not asked:
                self.hold(link)

    # --- what the reactors report

    def _on_batch(self, acks: list[AckEvent], others: list[Event]) -> None:
        events = self.events
        if acks:
            events.on_acks([Ack._make(ack) for ack in acks])
        if self._batches is not None and self._batches.is_changed:
            events.on_acks_settled()
        if not others:
            return
        gone: list[Event] = []
        late: list[Ack] = []
        repeats: set[tuple[int, int, int]] = set()
        for event in others:
            kind, link, a, b, c = event
            try:
                if late and kind in (native.EVENT_FRAME, native.EVENT_READY):
                    # What a device asks for, or gets because it has room again, must not hold what it acked before.
                    acked, late = late, []
                    repeats.clear()
                    events.on_acks(acked)
                if kind == native.EVENT_FRAME:
                    self._on_frame(link, a, b, c)
                elif kind == native.EVENT_DOWN:
                    self._on_down(link, a)
                elif kind == native.EVENT_READY:
                    self._on_ready(link, a, b, c)
                elif kind == native.EVENT_LOST and c:
                    # In the order of the reactor: before the READY that sends it again, or it would seem unsent.
                    self.hold(link)
                    self._requests.on_spilled(link, a)
                    events.on_lost(a, b, spilled=True)
                elif kind == native.EVENT_TIMEOUT:
                    events.on_ack_timeout(a, b)
                elif kind == native.EVENT_ECHO:
                    if not self._queue.on_echo(link):
                        self._requests.on_echo(link)
                elif kind == native.EVENT_LATE:
                    # The reactor no longer knows which registration it was for; the delivery floor does.
                    if (link, a, c) not in repeats:
                        repeats.add((link, a, c))
                        now = self._clock()
                        numbers = events.meant(a, self._registry.bound(b), flags=c)
                        late += [Ack(a, number, 0, now, c, link) for number in numbers]
                elif kind == native.EVENT_FANNED:
                    events.on_fanned(a, link, b)
                elif kind == native.EVENT_DRAINED:
                    self._drained += 1
                    if self._drained == len(self.plane.reactors):
                        self._all_drained.set()
                else:
                    gone.append(event)
            except Exception:
                # One device's frame must not cost the others of its batch.
                _log.exception("edge_event_failed", kind=kind)
        if late:
            events.on_acks(late)
        # After the batch's logins and ends: whoever looks again sees the channel as it is now.
        for _kind, _link, seq, number, _spilled in gone:
            events.on_lost(seq, number, spilled=False)

    def _on_runs(self, runs: list[tuple[int, bytes, int]]) -> None:
        for seq, packed, at_ms in runs:
            self.events.on_acks_of(seq, array("I", packed), at_ms)

    def _on_ready(self, link: int, device: int, room: int, in_flight: list[tuple[int, int]]) -> None:
        self._held.discard(link)
        if self._registry.device_link(device) == link:
            self._ready_link, self._ready_room = link, room
            self.events.on_ready(self._registry.bound(device), in_flight)
            self._ready_link = 0

    def hold(self, link: int) -> None:
        """Send nothing new there until the reactor says what is in flight and how much room there is: at once where
        there is some."""
        if link not in self._held:
            self._held.add(link)
            self.plane.insist(self.plane.of(link).hold, link)

    def _on_frame(self, link: int, kind: int, body: bytes, device: int) -> None:
        if kind == FrameType.HELLO:
            self._on_hello(link, body)
        elif link in self._streams:
            self._on_provider_frame(link, kind, body)
        else:
            self._requests.handle(link, device, kind, body)

    def _on_provider_frame(self, link: int, kind: int, body: bytes) -> None:
        assert self._providers is not None
        try:
            self._providers.on_frame(link, kind, body)
        except GatewayError as exc:
            self.refuse(link, exc, req_of(body))

    def _echo(self, link: int) -> bool:
        return self.plane.of(link).echo(link)

    def _on_hello(self, link: int, body: bytes) -> None:
        if self._queue.is_late(link):
            self._metrics.count(Metric.LOGINS, label="late")
            return  # the reactor has ended the link, or does so now
        try:
            hello = parse_hello(body)
            if hello.role == "provider":
                self._on_provider_hello(link, hello)
                return
            accepted = self._login.decide(hello)
            if not self._flapping.admit(accepted.session.key, self._clock()):
                accepted.refuse_flapping()
        except GatewayError as exc:
            self._metrics.count(Metric.LOGINS, label=exc.name)
            if not isinstance(exc, Unauthorized | Flapping | NodeUnreachable):
                self._metrics.count(Metric.FRAMES_MALFORMED, label=exc.name)
            self.close(link, build_error(exc, versions=getattr(exc, "versions", None)))
            return
        session = accepted.session
        welcomed = self.plane.of(link).welcome(
            link, session.key, accepted.silence_ms, accepted.window, accepted.frame(self._clock())
        )
        if not self.plane.sent(welcomed):
            return  # the reactor ends the link at its login deadline
        self._metrics.count(Metric.LOGINS, label="ok")
        self._queue.welcomed(link)
        before = self._registry.bound(session.key)
        self.pages.leave(before)
        self.attendance.left(before)
        previous = self._registry.login(session.key, link)
        if previous and previous != link:
            self._floors.pop(previous, None)
            self._unbound.pop(previous, None)
            self.close(previous, build_goaway(Takeover))
        self._unbound[link] = session
        self.set_floor(link, accepted.urgency)

    def _on_provider_hello(self, link: int, hello: Hello) -> None:
        config = self._config
        if self._providers is None or len(self._streams) >= config.max_providers:
            raise Overloaded("too many provider streams are open (edge.max_providers)")
        app = self._providers.login(link, hello.key)
        heartbeat = agree_heartbeat(hello.heartbeat, config)
        welcome = ProviderWelcome(
            v=PROTOCOL_VERSION,
            app=app,
            heartbeat=heartbeat,
            heartbeat_min=config.heartbeat_min_s,
            heartbeat_max=config.heartbeat_max_s,
            window=config.provider_window,
            max_batch=config.provider_batch,
            max_frame=config.provider_frame_bytes,
            now_ms=self._clock(),
            cursor=self._providers.last_cursor(app),
        )
        frame = build_frame(FrameType.WELCOME, welcome)
        if not self.plane.sent(self.plane.of(link).welcome(link, 0, silence_ms(heartbeat), 1, frame, True)):
            self._providers.on_down(link)
            return  # the reactor ends the link at its login deadline
        self._streams.add(link)
        self._metrics.count(Metric.LOGINS, label="provider")

    def _on_down(self, link: int, device: int) -> None:
        self._queue.on_down(link)
        if link in self._streams:
            self._streams.remove(link)
            assert self._providers is not None
            self._providers.on_down(link)
            return
        session = self._unbound.pop(link, None)
        self._floors.pop(link, None)
        self._held.discard(link)
        self._requests.on_down(link)
        self.pages.on_down(link)
        key = device or (session.key if session else 0)
        if key:
            bound = self._registry.logout(key, link)
            self.pages.leave(bound)
            self.attendance.left(bound)

    # --- model.ports.Edge

    #: all links are here
    is_certain = True

    def is_connected(self, registration: int) -> bool:
        return self._registry.link(registration) != 0

    def floor_of(self, link: int) -> int:
        return self._floors.get(link, 0)

    @property
    def ready_link(self) -> int:
        """The link that said it has room, while EdgeEvents.on_ready is told so; else 0."""
        return self._ready_link

    @property
    def ready_room(self) -> int:
        return self._ready_room

    def urgency_floor(self, registration: int) -> int:
        return self._floors.get(self._registry.link(registration), 0) if self._floors else 0

    def notify(self, registration: int, frame: bytes, seq: int, ack_ms: int, *, again: bool = False) -> bool:
        link = self._registry.link(registration)
        if not link or link in self._held:
            return False
        queued = self.plane.sent(self.plane.of(link).notify(link, frame, seq, registration, ack_ms, again))
        if queued and link == self._ready_link:
            self._ready_room -= 1  # all its registrations share it
        if queued and self.tally is not None:
            self.tally.add(seq)
        return queued

    def room(self, registration: int) -> int:
        link = self._registry.link(registration)
        if not link or link in self._held:
            return 0
        return self._ready_room if link == self._ready_link else self._config.window

    def await_room(self, registration: int) -> None:
        link = self._registry.link(registration)
        if link:
            self.hold(link)

    def fanout(self, groups: Sequence[int], frame: bytes, seq: int, ack_ms: int, urgency: int) -> None:
        targets = list(groups)
        for reactor in self.plane.reactors:
            self.plane.insist(reactor.fanout, targets, frame, seq, max(1, ack_ms), urgency)

    def recall(self, registration: int, seq: int) -> None:
        link = self._registry.link(registration)
        if link:
            frame = build_frame(FrameType.RECALL, [seq])
            self.plane.insist(self.plane.of(link).cancel, link, seq, registration, frame)

    def recall_fanout(self, groups: Sequence[int], seq: int) -> None:
        frame = build_frame(FrameType.RECALL, [seq])
        for reactor in self.plane.reactors:
            self.plane.insist(reactor.fanout, list(groups), frame, seq, 0)
