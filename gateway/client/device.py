"""The device SDK: one connection to the gateway for all apps of a device, kept up by itself; asyncio, one loop.

All protocol decisions are in session.py and below; here are the socket, the timer, the tasks and the futures. A Device
has one task while it runs, and one more for each registration whose callback is at work just then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random as _random
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from types import TracebackType
from typing import TypeVar

from gateway.client.addresses import Addresses, parse_node
from gateway.client.backoff import GOOD_LINK_S, Backoff
from gateway.client.content import AckPolicy, Counters, Notification, Recall, Tip
from gateway.client.credentials import Credentials, CredentialStore, MemoryCredentials, build_hello
from gateway.client.errors import DeviceClosed, LinkLost
from gateway.client.events import (
    Answered,
    Arrived,
    Binding,
    Bound,
    Closed,
    Complained,
    Ended,
    Event,
    Fetched,
    Issued,
    Online,
    Paged,
    Request,
    Resumed,
    Told,
)
from gateway.client.futures import resolve
from gateway.client.heartbeat import AdaptiveHeartbeat
from gateway.client.link import Complaints, Link, build_tls, is_checked
from gateway.client.registration import Registration, build_handlers, ended
from gateway.client.requests import Phase
from gateway.client.seen import Seen, SeenStore
from gateway.client.service_pages import ServicePages
from gateway.client.session import Session, Wishes
from gateway.client.states import Connection, DeviceState, Observer
from gateway.model.errors import Draining
from gateway.model.registration import NO_PROFILE, Profile

_log = logging.getLogger("gateway.client")

_T = TypeVar("_T")

#: on close callbacks get this long to finish, then they are cancelled
CLOSE_S = 2.0


class Device:
    """`async with Device(host, port, store=FileCredentials(path)) as device: ...`

    tls=True: inside TLS, the gateway's certificate checked against the system's authorities and `host`; an
    ssl.SSLContext where they are others, or the device has a certificate of its own. server_name: the name in the
    gateway's certificate where it is not `host`. nodes: more gateways of the fleet as host:port, tried in turn; a
    gateway that names another when it sends the device away is followed (see addresses.py).

    store keeps the id and secret the gateway issues; without one they live as long as this object, and the next start
    is another device with other tokens. label is part of that id (A-Z a-z 0-9 . _ -, at most 64). jwt is asked for a
    token before each login. heartbeat is the interval to begin with, seconds, 0 = the gateway's choice; it adapts
    between heartbeat_min and heartbeat_max inside the gateway's own bounds. window: unacked notifications at a time,
    0 = the gateway's choice. urgency: the least to be sent here, see Urgency. queue: items that wait for one
    registration's app; past it reading stops. dedupe: notifications remembered; seen: where to keep them over a
    restart. pages: starts apps that do not run (C13). on_state is called at each change, states() is the same to
    iterate over. sleep and random are there to be replaced in tests.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        nodes: Sequence[str] = (),
        tls: bool | ssl.SSLContext = False,
        server_name: str = "",
        store: CredentialStore | None = None,
        label: str = "",
        jwt: Callable[[], str | Awaitable[str]] | None = None,
        heartbeat: int = 0,
        heartbeat_min: int = 1,
        heartbeat_max: int = 86_400,
        window: int = 0,
        urgency: int = 0,
        queue: int = 64,
        dedupe: int = 1024,
        seen: SeenStore | None = None,
        on_state: Callable[[DeviceState], None] | None = None,
        pages: ServicePages | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] = _random.random,
    ) -> None:
        if queue < 1 or dedupe < 1:
            raise ValueError("queue and dedupe must be at least 1")
        self._addresses = Addresses([(host, port), *map(parse_node, nodes)], random)
        self._elsewhere = False
        self._tls = build_tls(tls)
        self._server_name = server_name
        self._store = store or MemoryCredentials()
        self._label = label
        self._jwt = jwt
        self._queue = queue
        self._on_state = on_state
        self._pages = pages
        self._sleep = sleep
        self.counters = Counters()
        self._complaints = Complaints()
        self._session = Session(
            heartbeat=AdaptiveHeartbeat(heartbeat, heartbeat_min, heartbeat_max),
            seen=Seen(dedupe, seen, self.counters),
            counters=self.counters,
            random=random,
            wishes=Wishes(window=window, urgency=urgency),
        )
        self._backoff = Backoff(random)
        self._credentials: Credentials | None = None
        self._credentials_new = False
        self._registrations: dict[Binding, Registration] = {}
        self._binding: dict[Binding, list[asyncio.Future[None]]] = {}
        self._answers: dict[Request, asyncio.Future[Fetched | bytes | None]] = {}
        self._full: set[Registration] = set()
        self._workers: set[asyncio.Task[None]] = set()  # callbacks at work
        self._paused = False
        self._pumping = False
        self._flush_handle: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._link: Link | None = None
        self._link_event = asyncio.Event()
        self._online_at = 0.0
        self._hello = ("", b"", "")
        self._task: asyncio.Task[None] | None = None
        self._observers: set[Observer] = set()
        self.state = DeviceState(Connection.IDLE)
        #: why the device stopped: Takeover, Unauthorized, DeviceClosed, …
        self.error: Exception | None = None

    # --- life ------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Device:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def start(self) -> None:
        """Connect in the background, and again after each cut, until the gateway says not to or aclose is called."""
        if self._task is not None:
            raise RuntimeError("a Device is started once")
        self._task = asyncio.create_task(self._run())

    async def aclose(self) -> None:
        """Leave the gateway. What was confirmed is still handed out, for CLOSE_S; then callbacks are cancelled."""
        link = self._link
        self._stop(DeviceClosed("The device was closed."))
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
            await asyncio.wait([self._task])
        if link is not None and not link.gone.done():
            await asyncio.wait([link.gone], timeout=CLOSE_S)
            link.abort()
        workers = self._workers - {asyncio.current_task()}
        if workers:
            _, late = await asyncio.wait(workers, timeout=CLOSE_S)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    @property
    def id(self) -> str:
        """The device id the gateway knows; empty before the first login."""
        return self._credentials.device if self._credentials else ""

    @property
    def heartbeat(self) -> int:
        """The interval agreed now, seconds (A6)."""
        return self._session.heartbeat.agreed

    async def connected(self) -> None:
        """Wait until logged in; raises what stopped the device."""
        async with contextlib.aclosing(self.states()) as states:
            async for state in states:
                if state.connection is Connection.ONLINE:
                    return
        raise self.error or DeviceClosed("The device was closed.")

    def cut(self) -> None:
        """Drop the connection without a word, as a network does; the device reconnects by itself. For tests."""
        if self._link is not None:
            self._link.abort()

    async def states(self) -> AsyncGenerator[DeviceState, None]:
        """The state now and each change, up to STOPPED. A slow observer misses the oldest."""
        observer = Observer(self.state)
        self._observers.add(observer)
        try:
            while True:
                state = await observer.next()
                yield state
                if state.connection is Connection.STOPPED:
                    return
        finally:
            self._observers.discard(observer)

    # --- what apps ask ---------------------------------------------------------------------------------------

    async def register(
        self,
        app: str,
        version: str,
        *,
        account: str = "",
        keep: bool = False,
        alias: str | None = None,
        tags: list[str] | None = None,
        addresses: dict[str, str] | None = None,
        fallback: list[str] | None = None,
        profile: Profile = NO_PROFILE,
        vapid_key: str | None = None,
        foreground: bool = True,
        ack: AckPolicy = AckPolicy.RECEIPT,
        on_message: Callable[[Notification], Awaitable[None] | None] | None = None,
        on_tip: Callable[[Tip], Awaitable[None] | None] | None = None,
        on_recall: Callable[[Recall], Awaitable[None] | None] | None = None,
        on_token: Callable[[str], None] | None = None,
    ) -> Registration:
        """Bind an app and account here and wait for its token (A1). Off line it waits for the link.

        keep=False: other accounts of this app on this device end with it (A5). The same app and account again changes
        the registration there is. profile: OS, locale, time zone and quiet hours, which choose language and time of
        what comes. vapid_key: only the Web Push sender with this public key (base64url) may push to the token, "" lifts
        that, None leaves it. on_token hears of a token that took the place of an earlier one. Raises the gateway's
        refusal, or what stopped the device; a refusal that says to retry is retried.
        """
        self._check_running()
        handlers = build_handlers(on_message, on_tip, on_recall)
        binding = self._session.bindings.find(app, account)
        fresh = binding is None
        if binding is None:
            binding = Binding(app, version, account, foreground=foreground)
            self._registrations[binding] = Registration(self, binding, self._queue, handlers)
        registration = self._registrations[binding]
        if handlers is not None:
            registration._handlers = handlers
        registration._on_token = on_token or registration._on_token
        binding.version, binding.keep, binding.ack = version, keep, ack
        binding.alias, binding.tags, binding.addresses, binding.fallback = alias, tags, addresses, fallback
        binding.profile, binding.vapid_key, binding.pages = profile, vapid_key, self._pages is not None
        bound: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._binding.setdefault(binding, [])
        waiting.append(bound)
        self._session.register(binding)
        if not fresh:
            self._set_foreground(binding, foreground)
        self._go_on()
        try:
            await bound
        except asyncio.CancelledError:
            if fresh and waiting == [bound] and self._binding.get(binding) is waiting:
                self._session.abandon(binding)
            raise
        finally:
            if bound in waiting:
                waiting.remove(bound)
            if not waiting and self._binding.get(binding) is waiting:
                del self._binding[binding]
            self._go_on()
        return registration

    async def fetch(self, registration: Registration) -> Fetched:
        """A4: have everything sent that waits for the token and for its app and version; the items come as always."""
        self._check_running()
        if not registration.active or registration._device is not self:
            raise ended(registration)
        result = await self._answer(self._session.fetch(registration._binding))
        assert isinstance(result, Fetched)
        return result

    async def set_urgency(self, floor: int) -> None:
        """Notifications below this urgency wait in the gateway, now and after each login (RFC 8030 §5.3)."""
        self._check_running()
        await self._answer(self._session.set_urgency(floor))

    def set_foreground(self, app: str, foreground: bool) -> None:
        """B6, for all accounts of an app."""
        for binding in self._session.bindings:
            if binding.app == app:
                self._set_foreground(binding, foreground)

    # --- for Registration ------------------------------------------------------------------------------------

    def _set_foreground(self, binding: Binding, foreground: bool) -> None:
        self._session.set_foreground(binding, foreground, self._now())
        self._go_on()

    async def _unregister(self, registration: Registration, *, forget: bool) -> None:
        if not registration.active:
            return
        self._check_running()
        request = self._session.unregister(registration._binding, forget=forget)
        if request is None:
            self._go_on()
        else:
            await self._answer(request)

    def _confirm(self, binding: Binding, item: Notification | Tip) -> None:
        self._session.confirm(binding, item)
        self._flush_soon()

    def _room(self, registration: Registration) -> None:
        """An item was taken out of its queue."""
        if registration in self._full and not registration._is_full:
            self._full.discard(registration)
            self._go_on()

    # --- the connection --------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            self._credentials = await self._store.load()
            while self.error is None:
                verdict = await self._one_link()
                if not verdict.retry:
                    self._stop(verdict.error)
                    return
                delay = self._backoff.next_delay(verdict.after_ms, verdict.jitter_ms, elsewhere=self._elsewhere)
                self._set_state(DeviceState(Connection.WAITING, verdict.error, delay))
                await self._sleep(delay)
        except Exception as exc:
            # The credential store can not be read: logging in as a new device would hide that.
            self._stop(exc)

    async def _one_link(self) -> Closed:
        """Connect, log in, live until the end; why it ended."""
        self._set_state(DeviceState(Connection.CONNECTING, self.state.error))
        try:
            self._hello = await build_hello(self._jwt, self._credentials or Credentials(self._label))
        except Exception:
            self.counters.callback_errors += 1
            _log.exception("the jwt provider failed")
            return Closed(LinkLost("The jwt provider failed."), retry=True)
        link = Link(self)
        try:
            await link.connect(self._addresses.next(self._now()), self._tls, self._server_name)
            while not link.gone.done() and not link.closing:
                await self._link_event.wait()
                self._link_event.clear()
                await self._save_credentials()
            if not link.gone.done():
                await asyncio.wait([link.gone], timeout=CLOSE_S)
        except (OSError, TimeoutError) as exc:
            return Closed(LinkLost(self._complaints.note(exc)), retry=True)
        finally:
            verdict = self._end_link(link)
        return verdict

    async def _save_credentials(self) -> None:
        if not self._credentials_new or self._credentials is None:
            return
        self._credentials_new = False
        try:
            await self._store.save(self._credentials)
        except Exception:
            # It stays the same device as long as it runs; the next start logs in as a new one.
            self.counters.credentials_unsaved += 1
            _log.exception("the credentials could not be saved")

    def _end_link(self, link: Link) -> Closed:
        link.abort()
        self._link = None
        now = self._now()
        logged_in, good = self._online_at > 0, bool(self._online_at) and now - self._online_at >= GOOD_LINK_S
        if good:
            self._backoff.reset()
        self._online_at = 0.0
        self._paused = False
        self._disarm()
        verdict = self._session.lost(now, self._complaints.note_cut(link.error))
        believed = verdict.logged_in or is_checked(self._tls)
        self._addresses.sent_to(verdict.to, now, tls=self._tls is not None, believed=believed)
        sent_away = isinstance(verdict.error, Draining)
        self._elsewhere = self._addresses.ended(logged_in=logged_in, good=good, sent_away=sent_away)
        if self.error is None:
            self._go_on()
        return verdict

    def on_connected(self, link: Link) -> None:
        self._link = link
        device, secret, jwt = self._hello
        known = device if not jwt else self.id or None  # who says nothing of itself in HELLO is named by its jwt
        self._session.start(self._now(), device=device, secret=secret, jwt=jwt, known=known)
        self._set_state(DeviceState(Connection.LOGIN, self.state.error))
        self._flush()

    def on_data(self, link: Link, data: bytes) -> None:
        if link is self._link:
            self._session.receive(data, self._now())
            self._go_on()

    def on_gone(self, link: Link) -> None:
        if link is self._link:
            self._link_event.set()

    def _on_timer(self) -> None:
        self._timer = None
        self._session.tick(self._now())
        self._go_on()

    # --- events and bytes ------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Something changed: handle what is there to handle, write what is there to write, set pause and timer."""
        if self._pumping:
            return  # a callee of the loop below: it goes on by itself
        self._pumping = True
        try:
            while not self._is_blocked:
                event = self._session.next_event(self._now())
                if event is None:
                    break
                self._handle(event)
        finally:
            self._pumping = False
        self._set_pause(self._is_blocked)
        self._flush_soon()

    @property
    def _is_blocked(self) -> bool:
        """An app's queue is full. Who waits for an answer must not wait for the app, that may be the one waiting."""
        if not self._full:
            return False
        return not (self._answers or self._binding) or any(r._is_overfull for r in self._full)

    def _handle(self, event: Event) -> None:
        if self._pages is not None and self._pages.hear(event) and isinstance(event, Paged):
            self._session.paged(event.req)
        match event:
            case Arrived(binding, item):
                self._hand_out(binding, item)
            case Bound(binding, changed):
                for future in self._binding.pop(binding, []):
                    resolve(future, None)
                registration = self._registrations[binding]
                if changed and registration._token_before and registration._on_token is not None:
                    self._tell(registration._on_token, binding.token)
                registration._token_before = binding.token
            case Ended(binding, error):
                registration = self._registrations.pop(binding)
                self.counters.discarded += registration._discard()
                self._full.discard(registration)
                for future in self._binding.pop(binding, []):
                    resolve(future, None, error=error or ended(registration))
            case Resumed(binding):
                self._registrations[binding]._wake()
            case Answered(request, error, result):
                answer = self._answers.pop(request, None)
                if answer is not None:
                    resolve(answer, result, error=error)
            case Told(binding, body):
                self._registrations[binding]._told(body)
            case Online():
                self._online_at = self._now()
                self._set_state(DeviceState(Connection.ONLINE))
            case Issued(device, secret):
                self._keep_credentials(device, secret)
            case Complained(error):
                _log.warning("the gateway reports %s", error.name)
            case Closed():
                if self._link is not None:
                    self._link.close(self._session.data_to_send(self._now()))
                    self._link_event.set()

    def _hand_out(self, binding: Binding, item: Notification | Tip | Recall) -> None:
        registration = self._registrations.get(binding)
        if registration is None or binding.is_over:
            self.counters.discarded += self._session.forget(item)
            return
        if not isinstance(item, Recall):
            notification = item.notification if isinstance(item, Tip) else item
            notification.on_shown = lambda shown: self._shown(binding, shown)
        registration._put(item)
        if registration._is_full:
            self._full.add(registration)

    def _shown(self, binding: Binding, notification: Notification) -> None:
        self._session.confirm_shown(binding, notification)
        self._flush_soon()

    def _keep_credentials(self, device: str, secret: bytes) -> None:
        known = self._credentials
        if not secret and known is not None and known.device == device:
            secret = known.secret
        if known != Credentials(device, secret):
            self._credentials = Credentials(device, secret)
            self._credentials_new = True
            self._link_event.set()

    async def _answer(self, request: Request) -> Fetched | bytes | None:
        future: asyncio.Future[Fetched | bytes | None] = asyncio.get_running_loop().create_future()
        self._answers[request] = future
        self._go_on()
        try:
            return await future
        finally:
            if self._answers.pop(request, None) is not None:
                self._session.give_up(request)
            self._go_on()

    def _flush_soon(self) -> None:
        """Once a loop turn, so that the acks of a turn are one frame."""
        if self._flush_handle is None and self._link is not None:
            self._flush_handle = asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        if self._flush_handle is not None:
            self._flush_handle.cancel()
            self._flush_handle = None
        if self._link is not None and self._session.phase in (Phase.LOGIN, Phase.ONLINE):
            self._link.write(self._session.data_to_send(self._now()))
        self._arm()

    def _set_pause(self, paused: bool) -> None:
        if paused == self._paused or self._link is None:
            return
        self._paused = paused
        self.counters.pauses += paused
        self._session.pause(paused, self._now())
        self._link.pause(paused)

    def _arm(self) -> None:
        due = self._session.deadline() if self._link is not None else None
        if due is None:
            self._disarm()
        elif self._timer is None or self._timer.when() > due:
            # A timer that fires too early looks again; only one that would be late is replaced.
            self._disarm()
            self._timer = asyncio.get_running_loop().call_at(due, self._on_timer)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- states and ends -------------------------------------------------------------------------------------

    def _stop(self, error: Exception) -> None:
        """For good. Fails whoever waits; the socket is closed behind what is still to be written."""
        if self.error is not None:
            return
        self.error = error
        if self._link is not None:
            self._link.close(self._session.data_to_send(self._now()))
        self._disarm()
        for bound in [future for futures in self._binding.values() for future in futures]:
            resolve(bound, None, error=error)
        for answer in self._answers.values():
            resolve(answer, None, error=error)
        self._binding.clear()
        self._answers.clear()
        for registration in self._registrations.values():
            registration._close()
        self._set_state(DeviceState(Connection.STOPPED, error))

    def _set_state(self, state: DeviceState) -> None:
        if self.state.connection is Connection.STOPPED:
            return
        self.state = state
        for observer in self._observers:
            observer.put(state)
        if self._on_state is not None:
            self._tell(self._on_state, state)

    def _tell(self, callback: Callable[[_T], None], what: _T) -> None:
        try:
            callback(what)
        except Exception:
            self.counters.callback_errors += 1
            _log.exception("a callback failed")

    def _check_running(self) -> None:
        if self._task is None:
            raise RuntimeError("the Device is not started: use `async with`, or start()")
        if self.error is not None:
            raise self.error

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
