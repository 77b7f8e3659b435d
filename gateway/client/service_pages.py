"""The terminal's side of service paging (C13): checks what comes, looks the AID or the id up in the callback table, and
starts the app; must never act on a page that its gateway has not signed, nor twice on one.

Pages come over the device's link (Device(pages=…) gives them here) or by any other way: a short message to the app port
goes into `take` as it is. Why one was refused is told to the terminal alone: whoever sent it hears nothing.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from gateway.client.events import Bound, Ended, Event, Online, Paged
from gateway.client.page_store import KnownPage, PageStore
from gateway.model.registration import build_token, parse_token
from gateway.model.service_access import AccessRequest, build_access, is_server
from gateway.model.service_page import (
    KEY_BYTES,
    MOST_AID,
    MOST_SERVERS,
    BadPage,
    ServicePage,
    hash_aid,
    hash_id,
    is_signed,
    parse_page,
)

_log = logging.getLogger("gateway.client")

#: pages of one registration remembered; one older than all of them is refused like one that was seen
WINDOW = 64
#: registrations and callbacks known at once, and callbacks at work
MOST_KNOWN, MOST_CALLBACKS, MOST_AT_WORK = 256, 1_024, 64
#: a store that takes longer is not waited for
SAVE_S = 5.0


class Outcome(StrEnum):
    STARTED = "started"
    REPEATED = "repeated"  # this invitation started its app before: the gateway had not heard of it
    # refused:
    GARBAGE = "garbage"  # no page of this version
    UNKNOWN_ID = "unknown_id"  # for no registration of this terminal
    FORGED = "forged"
    EXPIRED = "expired"  # by this clock and, where it was heard, the gateway's: one that runs ahead costs no page
    REPLAYED = "replayed"
    UNKNOWN_AID = "unknown_aid"  # nothing in the table
    NO_SERVER = "no_server"  # the app has no such server
    BUSY = "busy"  # MOST_AT_WORK callbacks are at work


@dataclass(frozen=True, slots=True, repr=False)
class Invitation:
    """What the app is started with. `server`: where to connect; empty where the app named no servers."""

    app: str
    aid: str
    server: str
    params: bytes
    expires_s: int
    #: to be sent there (gateway.client.service_access does it)
    request: AccessRequest = field(repr=False)

    def __repr__(self) -> str:
        return f"Invitation(app={self.app!r}, aid={self.aid!r})"


OnPage = Callable[[Invitation], Awaitable[None] | None]


@dataclass(slots=True, frozen=True)
class _Entry:
    aid: str
    callback: OnPage
    servers: tuple[str, ...]


class ServicePages:
    """One for a terminal. On one loop. `clock`: Unix seconds."""

    def __init__(self, store: PageStore | None = None, *, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._known: dict[bytes, KnownPage] = {}
        #: by app and AID
        self._table: dict[tuple[str, str], _Entry] = {}
        #: what the gateway's clock is ahead by
        self._ahead_s = 0.0
        self._at_work: set[asyncio.Task[None]] = set()
        self._saving: asyncio.Task[None] | None = None
        self._dirty = False
        #: how many of each Outcome, and of "unsaved" and "callback_errors"
        self.counters: Counter[str] = Counter()

    @classmethod
    async def open(cls, store: PageStore, *, clock: Callable[[], float] = time.time) -> ServicePages:
        """With what was kept. Raises what the store raises."""
        self = cls(store, clock=clock)
        for known in await store.load():
            if len(known.key) == KEY_BYTES and len(self._known) < MOST_KNOWN:
                self._known[hash_id(known.token)] = known
        return self

    # --- the callback table

    def on_page(self, app: str, callback: OnPage, *, aid: str | None = None, servers: Sequence[str] = ()) -> None:
        """What to start for pages of this app that name `aid`; None: the app's name; empty: those that name the id
        alone. servers: where it may be sent, in the order the app's server knows; none: the list that came from the
        gateway. The same AID again replaces its entry."""
        aid = app if aid is None else aid
        aid.encode()  # a UnicodeEncodeError here, which is a ValueError, and not when a page comes
        if len(aid) > MOST_AID or len(servers) > MOST_SERVERS or not all(map(is_server, servers)):
            raise ValueError(f"an AID has {MOST_AID} characters at most, and there are {MOST_SERVERS} https servers")
        key = (app, aid)
        if key not in self._table and len(self._table) >= MOST_CALLBACKS:
            raise ValueError(f"there are {MOST_CALLBACKS} callbacks at most")
        self._table[key] = _Entry(aid, callback, tuple(servers))

    def forget(self, app: str, aid: str | None = None) -> None:
        """The app was removed from the terminal."""
        self._table.pop((app, app if aid is None else aid), None)

    # --- registrations

    def bind(self, token: str, app: str, key: bytes, servers: Sequence[str] = ()) -> None:
        """A registration, with what TOKEN brought."""
        raw = parse_token(token)
        if raw is None or len(key) != KEY_BYTES:
            return  # a gateway that signs no pages
        id_ = hash_id(raw)
        known = self._known.pop(id_, None)
        if known is None or known.key != key:
            known = KnownPage(raw, app, key, [], {})
        if len(self._known) >= MOST_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[id_] = known
        known.servers = list(servers)[:MOST_SERVERS]
        self._save_soon()

    def unbind(self, token: str) -> None:
        """Nothing is started for it any more (A5)."""
        raw = parse_token(token)
        if raw is not None and self._known.pop(hash_id(raw), None) is not None:
            self._save_soon()

    def hear(self, event: Event) -> bool:
        """What the device's session tells; True where the gateway is to hear that an app was started."""
        match event:
            case Bound(binding, _):
                self.bind(binding.token, binding.app, binding.page_key, binding.servers)
            case Ended(binding, _):
                self.unbind(binding.token)
            case Online(welcome):
                self._ahead_s = welcome.now_ms / 1000 - self._clock()
            case Paged(_, page):
                return self.take(page) in (Outcome.STARTED, Outcome.REPEATED)
        return False

    # --- pages

    def take(self, data: bytes) -> Outcome:
        """A page, from whatever way. Never raises; the callback runs in a task of its own."""
        outcome = self._take(data)
        self.counters[outcome] += 1
        return outcome

    def _take(self, data: bytes) -> Outcome:
        try:
            page = parse_page(data)
        except BadPage:
            return Outcome.GARBAGE
        known = self._known.get(page.id)
        if known is None:
            return Outcome.UNKNOWN_ID
        if not is_signed(data, known.key):
            return Outcome.FORGED
        if page.expires_s <= min(self._clock(), self._clock() + self._ahead_s):
            return Outcome.EXPIRED
        if page.counter in known.seen or (len(known.seen) >= WINDOW and page.counter < min(known.seen)):
            return Outcome.REPLAYED
        if page.ticket in known.seen.values():
            self._remember(known, page)
            return Outcome.REPEATED
        entry = self._find(known, page.aid)
        if entry is None:
            return Outcome.UNKNOWN_AID
        server = _choose(entry.servers or known.servers, page.server)
        if server is None:
            return Outcome.NO_SERVER
        if len(self._at_work) >= MOST_AT_WORK:
            return Outcome.BUSY
        self._remember(known, page)
        request = build_access(known.key, build_token(known.token), entry.aid, page.ticket, page.server, page.params)
        invitation = Invitation(known.app, entry.aid, server, page.params, page.expires_s, request)
        task = asyncio.get_running_loop().create_task(self._start(entry.callback, invitation))
        self._at_work.add(task)
        task.add_done_callback(self._at_work.discard)
        return Outcome.STARTED

    def _find(self, known: KnownPage, aid: bytes) -> _Entry | None:
        """Of the same app alone: whoever may page one app may not start another."""
        entries = (entry for (app, _), entry in self._table.items() if app == known.app)
        return next((entry for entry in entries if hash_aid(entry.aid, known.key) == aid), None)

    def _remember(self, known: KnownPage, page: ServicePage) -> None:
        known.seen[page.counter] = page.ticket
        if len(known.seen) > WINDOW:
            del known.seen[min(known.seen)]
        self._save_soon()

    async def _start(self, callback: OnPage, invitation: Invitation) -> None:
        """Kept first, so that nothing makes it start twice. The push behind it is still the gateway's to deliver."""
        if self._saving is not None:
            await asyncio.wait([self._saving], timeout=SAVE_S)
        try:
            result = callback(invitation)
            if inspect.isawaitable(result):
                await result
        except Exception:
            self.counters["callback_errors"] += 1
            _log.exception("a page callback of app %s failed", invitation.app)

    # --- keeping

    def _save_soon(self) -> None:
        if self._store is None:
            return
        self._dirty = True
        if self._saving is None:
            self._saving = asyncio.get_running_loop().create_task(self._save(self._store))

    async def _save(self, store: PageStore) -> None:
        try:
            while self._dirty:
                self._dirty = False
                await store.save([_copy(known) for known in self._known.values()])
        except Exception:
            # What was seen is known as long as this runs; the gateway takes each invitation once all the same.
            self.counters["unsaved"] += 1
            _log.exception("the page keys could not be saved")
        finally:
            self._saving = None

    async def aclose(self) -> None:
        """Callbacks at work are cancelled; what is to be kept is kept."""
        for task in list(self._at_work):
            task.cancel()
        await asyncio.gather(*self._at_work, return_exceptions=True)
        if self._saving is not None:
            await asyncio.wait([self._saving], timeout=SAVE_S)


def _copy(known: KnownPage) -> KnownPage:
    """As it is now: the store may write it while more pages come."""
    return KnownPage(known.token, known.app, known.key, list(known.servers), dict(known.seen))


def _choose(servers: Sequence[str], place: int) -> str | None:
    """Empty where there is no list and the first one is meant; None where there is none."""
    if not servers:
        return "" if place == 0 else None
    return servers[place] if place < len(servers) and is_server(servers[place]) else None
