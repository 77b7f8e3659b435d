"""The seams of the house: what each floor may ask of the one below, and what it is told in return.

Everything here is called on the control thread (the uvloop thread) only. Nothing above `store` and `edge` knows
whether the journal is LMDB or a stream of a cluster, nor how many reactors there are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from gateway.model.broadcasts import Broadcasts as Broadcasts
from gateway.model.cohort import Cohort
from gateway.model.condition import Condition
from gateway.model.errors import GatewayError
from gateway.model.notification import Notification
from gateway.model.notifier import DeliveryReports as DeliveryReports
from gateway.model.notifier import Notifier as Notifier
from gateway.model.notifier import NotifierResult as NotifierResult
from gateway.model.outcome import Outcome, Step
from gateway.model.registration import NO_PROFILE, App, Loss, Profile, Registration, Whereabouts
from gateway.model.subscribers import Addresses as Addresses
from gateway.model.subscribers import HomeRegister as HomeRegister
from gateway.model.subscribers import ImsHome as ImsHome
from gateway.model.subscribers import Numbered as Numbered
from gateway.model.subscribers import Numbers as Numbers
from gateway.model.subscribers import Subscribers as Subscribers


class Delivery(NamedTuple):
    """One pending delivery as it stands in RAM."""

    seq: int
    registration: int
    notification: int  # sequence of its notification
    state: int  # model.outcome.State, never a final one
    hop: int  # notifiers of its chain already used up
    expires_s: int


#: flags of an ack, as in ext/plane.pxd
ACK_SHOWN = 1
ACK_WHOLE = 2  # it came light, and is there with its body


class Ack(NamedTuple):
    """One confirmation from a device, with the data plane's own clock readings (Unix ms)."""

    seq: int
    registration: int
    sent_ms: int  # 0 where the reactor no longer knew the notification (a late ack)
    acked_ms: int
    flags: int
    link: int

    @property
    def shown(self) -> bool:
        return bool(self.flags & ACK_SHOWN)

    @property
    def whole(self) -> bool:
        """The device has its body: said of what came light, elsewhere it goes without saying."""
        return bool(self.flags & ACK_WHOLE)


class BatchLimits(NamedTuple):
    """What holds for every push of a batch: bounds, and what a push that does not say gets."""

    pushes: int  # most in one batch
    push_bytes: int  # title, text and data of one
    inline_bytes: int  # a larger body goes on request, so such a push is not plain
    ttl_s: int
    most_ttl_s: int
    ack_ms: int
    notifier_ack_ms: int
    has_no_notifiers: bool  # the app's own chain is empty


class PushBatch(Protocol):
    """Pushes that were read together. Those that are ready can be accepted in one go; the others have to be looked at
    one by one."""

    @property
    def count(self) -> int: ...

    @property
    def ready(self) -> int: ...

    @property
    def places(self) -> list[int]:
        """Of each push: its place among those that are ready, or why it is not (UNKNOWN_TOKEN, FULL, APART)."""
        ...

    def raw(self, index: int) -> bytes:
        """The push as it came, packed."""
        ...


#: places of pushes that are not ready: no such token of the app; its registration has too many pending; not plain
UNKNOWN_TOKEN, FULL, APART = -1, -2, -3


class AcceptedBatch(Protocol):
    """A batch that was taken in: what was ready at place i has the sequence first + i."""

    @property
    def first(self) -> int: ...

    @property
    def odd(self) -> list[int]:
        """Pending deliveries whose first look was not plain: they are ACCEPTED, and wait to be looked at."""
        ...

    @property
    def withdrawn(self) -> list[tuple[int, int]]:
        """(sequence, registration) of those that are not accepted after all, once `done` has failed."""
        ...

    @property
    def done(self) -> asyncio.Future[None]:
        """Resolves when all is durable; StoreUnavailable where the commit failed."""
        ...


class Receipt(NamedTuple):
    """One line of the receipts feed of an app."""

    cursor: int  # rising; resume after it
    outcome: Outcome
    push: int = 0  # sequence its provider knows the push by; 0: its notification's


class Edge(Protocol):
    """The gateway's own channel. A registration without a bound link is *disconnected* (B1)."""

    def is_connected(self, registration: int) -> bool: ...

    @property
    def is_certain(self) -> bool:
        """False: who has no link here may have one all the same, for not all who take devices have told of theirs."""
        ...

    def urgency_floor(self, registration: int) -> int:
        """Below this urgency the device wants nothing now; 0 where it takes all."""
        ...

    def notify(self, registration: int, frame: bytes, seq: int, ack_ms: int, *, again: bool = False) -> bool:
        """Queue a NOTIFY on the registration's link and arm its ack timer; exactly one of EdgeEvents.on_acks,
        on_ack_timeout or on_lost follows. False: nothing was queued, for it is not connected, or others wait for room
        on its link already, or the mailbox is full; ask with `await_room` to be told.

        A notification that is in flight on that link already is not sent twice unless `again`.
        """
        ...

    def fanout(self, groups: Sequence[int], frame: bytes, seq: int, ack_ms: int, urgency: int) -> None:
        """Queue one shared frame to every link of these (app, version) groups that takes this urgency. Each link's fate
        comes back through EdgeEvents like notify's, and on_fanned says how many it was queued for (for each group and
        reactor)."""
        ...

    def room(self, registration: int) -> int:
        """How many notifications its link may take now; 0 where there is none, or others wait for room already."""
        ...

    def await_room(self, registration: int) -> None:
        """More waits for it than was sent: nothing new is sent on its link until on_ready, which is certain to come as
        long as the link is there. So what waits goes in its order, and nothing overtakes it."""
        ...

    def recall(self, registration: int, seq: int) -> None:
        """Cancel an unacked notification and tell the device to take it away."""
        ...

    def recall_fanout(self, groups: Sequence[int], seq: int) -> None: ...

    @property
    def router(self) -> Any:
        """What Journal.append_batch sends through."""
        ...


class EdgeEvents(Protocol):
    """What the edge tells the delivery floor; implemented by delivery.dispatcher.Dispatcher."""

    def on_acks(self, acks: Sequence[Ack]) -> None: ...

    def on_acks_of(self, seq: int, registrations: Sequence[int], at_ms: int) -> None:
        """Acks in time of one sequence that is no pending delivery: a broadcast, or something settled meanwhile. Each
        registration once."""
        ...

    def on_acks_settled(self) -> None:
        """The data plane has settled acks of batches by itself."""
        ...

    def meant(self, seq: int, registrations: Sequence[int], *, flags: int) -> Sequence[int]:
        """Which of a device's registrations an ack is for that its link no longer knew: one at most, but for a
        broadcast. Cheap for any number: a device may name what it likes."""
        ...

    def on_ack_timeout(self, seq: int, registration: int) -> None: ...

    def on_lost(self, seq: int, registration: int, *, spilled: bool) -> None:
        """Unacked and gone from the link: `spilled` where window or outbox was full, else the link is down."""
        ...

    def on_fanned(self, seq: int, group: int, links: int) -> None:
        """One reactor is done with a group of a fan-out, which it queued for so many links."""
        ...

    def on_ready(self, registrations: Sequence[int], in_flight: Collection[tuple[int, int]] = ()) -> None:
        """Send what waits for them, broadcasts too: there is room again, or they were bound just now. What is in flight
        on their link, (sequence, registration), is not to be sent once more: its ack may be on the way."""
        ...

    def on_fetch(self, registration: int, ids: Sequence[int]) -> tuple[int, bool]:
        """A4: send bodies now; returns (how many were queued, more wait)."""
        ...

    def revoke(self, registration: int) -> None:
        """The device gave its token up for good: what is pending for it ends."""
        ...

    def recall_all(self, registration: int) -> None:
        """Whom it was for has left this device: what is pending for it is taken back."""
        ...


class ProviderDoor(Protocol):
    """Who speaks with providers over their streams; the edge only carries the frames."""

    def login(self, link: int, key: str) -> str:
        """The app of this API key, which may stream on the link from now on. Unauthorized, Forbidden, Overloaded."""
        ...

    def last_cursor(self, app: str) -> int: ...

    def on_frame(self, link: int, kind: int, body: bytes) -> None:
        """A frame of a link that was logged in. Raises GatewayError: the edge tells the provider, and closes where the
        error is fatal."""
        ...

    def on_down(self, link: int) -> None: ...


class ImDoor(Protocol):
    """Who answers what users ask for from their devices; the edge only carries it."""

    async def ask(self, token: bytes, op: str, body: bytes) -> bytes:
        """The answer, packed. GatewayError."""
        ...


class ProviderLinks(Protocol):
    """The edge's side of it."""

    def send(self, link: int, frame: bytes) -> None: ...

    def refuse(self, link: int, error: GatewayError, req: int = 0) -> None: ...


class Journal(Protocol):
    """Accepted notifications and their pending deliveries; durable by group commit.

    The RAM part (`get`, `set_state`, `pending_of`, `due`) is exact at once; the durable part follows with the next
    commit. A commit that fails (disk full) fails the futures of the rows in it, takes those rows out of RAM again, and
    keeps settled rows to be retried.
    """

    @property
    def writable(self) -> bool:
        """False after a failed commit, until one succeeds (the journal probes by itself)."""
        ...

    @property
    def next_seq(self) -> int:
        """Whatever is accepted from now on has this number or a higher one of the same partition."""
        ...

    def reserve(self, count: int) -> int:
        """Take `count` consecutive sequence numbers; returns the first."""
        ...

    def append(self, notification: Notification, registrations: Sequence[int]) -> asyncio.Future[None]:
        """Store a notification for registrations (not a broadcast). One registration: the delivery's sequence is the
        notification's own; more: seq+1+i, reserved by the caller, and `notification.count` says how many.
        Raises StoreUnavailable at once where not writable, QueueFull where max_pending is reached."""
        ...

    def broadcast(self, notification: Notification) -> asyncio.Future[None]:
        """Store a broadcast once (A3)."""
        ...

    @property
    def is_committing(self) -> bool:
        """A commit is under way: what is accepted now is durable with the next one at the earliest."""
        ...

    def at_commit_end(self, call: Callable[[], None]) -> None:
        """`call` once, when the commit under way has ended, however it did: what it accepts is in the next one."""
        ...

    def read_batch(self, app: str, arrays: list[bytes | memoryview], limits: BatchLimits) -> PushBatch:
        """Read packed arrays of pushes and look their registrations up, one batch in this order; ValueError where one
        is none, OverflowError where they are too many."""
        ...

    def append_batch(self, batch: Any, limits: BatchLimits, router: Any, now_ms: int) -> AcceptedBatch:
        """`batch` from read_batch, `router` from Edge. Store all that is ready in one row, each its own delivery, and
        send those whose first look is plain. StoreUnavailable or QueueFull: nothing was accepted."""
        ...

    def acks_settled(self) -> None:
        """The data plane has settled acks of batches: their rows go with the next commit."""
        ...

    def notification(self, seq: int) -> Notification | None:
        """Content of a live notification or broadcast, None when settled and gone."""
        ...

    def get(self, seq: int) -> Delivery | None: ...

    def set_state(self, seq: int, state: int, hop: int) -> None: ...

    def arm(self, seq: int, at_ms: int) -> None:
        """One timer a delivery, Unix ms; expiry stays armed beside it (the earlier one fires)."""
        ...

    def due(self, now_ms: int, limit: int) -> list[int]:
        """Deliveries whose timer fired or which expired."""
        ...

    def pending_of(self, registration: int, limit: int = 0, below: int = 0) -> list[int]:
        """Ascending sequences; limit 0 = all. `below`: those from it on that count in its field are left out."""
        ...

    def collapsed_by(self, registration: int, collapse_key: str) -> list[int]:
        """Pending deliveries of the registration with this collapse key."""
        ...

    def step(self, seq: int, step: Step) -> None:
        """Add a line to the history of a pending delivery."""
        ...

    def steps_of(self, seq: int) -> list[Step]: ...

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        """Final states: rows deleted, outcomes and receipts written, with the next commit. `Outcome.steps` holds only
        the closing steps; the journal puts the earlier ones before them."""
        ...

    def amend(self, seq: int, step: Step, registration: int) -> None:
        """Add a line to an outcome already settled (SHOWN after ACK); ignored where it is another registration's."""
        ...

    def settled_for(self, seq: int) -> int:
        """Whose delivery it was, -1 where none of this number was settled."""
        ...

    def pending_count(self) -> int: ...

    def committed(self) -> asyncio.Future[None]:
        """Resolves when everything given so far is durable. StoreUnavailable where that can not be now: what was
        settled is kept and follows."""
        ...


class Schedules(Protocol):
    """Pushes that wait for their time, or for their audience to be found; durable like the journal."""

    def add(self, notification: Notification, due_ms: int) -> asyncio.Future[None]:
        """Keep it until then. QueueFull where its app has too many, StoreUnavailable."""
        ...

    def due(self, now_ms: int, limit: int) -> list[int]:
        """Sequences whose time has come; each is given out once, until `again` or the next start."""
        ...

    def again(self, seq: int, at_ms: int) -> None:
        """It could not be released: give it out again then."""
        ...

    def notification(self, seq: int) -> Notification | None: ...

    def due_ms(self, seq: int) -> int:
        """When its time comes, as it was asked for; 0 where it is not kept."""
        ...

    def of_app(self, app: str) -> list[tuple[int, int]]:
        """(sequence, Unix ms of its time) of those kept, in the order they came."""
        ...

    def released(self, seq: int, became: int) -> None:
        """It is this notification now, called in the same callback as `append`; kept still where that commit fails."""
        ...

    def taken(self, seq: int, became: int) -> None:
        """A push that several stores take over is this notification here, called in the same callback as `append`."""
        ...

    def end(self, seq: int, state: int, at_ms: int) -> None:
        """Recalled, expired, or its token is gone."""
        ...

    def became(self, seq: int) -> int:
        """The notification a kept push became, 0 where it was none or did not yet."""
        ...


class PushRecord(NamedTuple):
    """Where is my push? One notification with all that is known of its deliveries."""

    notification: Notification
    deliveries: list[Outcome]  # pending ones too: state not final
    figures: dict[str, int]  # of a broadcast, or counts by state
    state: int | None  # of a broadcast: ACCEPTED while live, else EXPIRED or RECALLED
    due_ms: int = 0  # it waits for this moment, Unix ms; 0: it does not


class Receipts(Protocol):
    """The feed of final outcomes, per app, in commit order."""

    def lookup(self, app: str, seq: int, *, offset: int = 0, limit: int = 100) -> PushRecord | None: ...

    def after(self, app: str, cursor: int, limit: int) -> list[Receipt]: ...

    def last_cursor(self, app: str) -> int:
        """Whatever of this app is settled from now on has a higher one."""
        ...

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        """`wake` is called after each commit that wrote receipts; returns the unsubscribe."""
        ...

    def saved_cursor(self, name: str) -> int: ...

    def save_cursor(self, name: str, cursor: int) -> None: ...


class Death(NamedTuple):
    """One line of the feed of dead tokens and addresses."""

    cursor: int  # rising; resume after it
    token: bytes
    at_ms: int  # Unix milliseconds
    #: revoked: the token is dead for good; gone: a notifier will never reach it at the address it had
    why: str
    channel: str  # the notifier whose address is dead; empty: the token itself


class Deaths(Protocol):
    """What providers are to forget."""

    def after(self, app: str, cursor: int, limit: int) -> list[Death]: ...

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        """`wake` is called after each commit with news; returns the unsubscribe."""
        ...


class Presence(Protocol):
    """Who keeps devices connected, and is told by the directory at once."""

    def leaving(self, registration: Registration) -> None:
        """Its token is revoked this moment; it is still known."""
        ...

    def returned(self, registration: Registration) -> None:
        """The store refused that."""
        ...

    def moved(self, number: int, *, asked: bool) -> None:
        """It is of another group from now on. `asked`: by its device, which is answered first; what waits for it is
        looked for behind that answer, else now."""
        ...


class Directory(Protocol):
    """Apps, registrations, aliases and tags; token look-up in RAM."""

    def app(self, name: str) -> App | None: ...

    def app_names(self) -> list[str]: ...

    def app_name(self, number: int) -> str | None:
        """Of the app with this number."""
        ...

    def put_app(self, app: App) -> Awaitable[App]:
        """Create or replace; returns it with its number."""
        ...

    def find(self, token: str, app: str) -> int:
        """Registration number of a live token or opaque id of this app, else -1: unknown, ended and foreign are one."""
        ...

    def reach(self, token: str, app: str) -> int:
        """`find` for a push: see model.opaque_tokens."""
        ...

    def locate(self, token: bytes) -> Whereabouts:
        """For doors where the token alone is the address: live, revoked or never there, in the same time."""
        ...

    def registration(self, number: int) -> Registration | None: ...

    def by_alias(self, app: str, alias: str) -> list[int]: ...

    def by_tag(self, app: str, tag: str) -> Sequence[int]: ...

    def by_versions(self, app: str, versions: str, where: Condition | None = None) -> Iterator[Sequence[int]]:
        """Registrations whose app version is in the specifier set; all of the app where it is empty. In parts that are
        found in one slice of the loop's time each, so a part may be empty."""
        ...

    def everybody(self) -> Iterator[Sequence[int]]:
        """Registrations of every app, in such parts."""
        ...

    def groups(self, app: str, versions: str, where: Condition | None = None) -> list[int]:
        """Group numbers of the app's cohorts that may match; all where empty. InvalidField for a bad specifier."""
        ...

    def group_cohort(self, group: int) -> Cohort: ...

    def cohort(self, number: int) -> Cohort:
        """Of a registration; of nothing known where it is gone."""
        ...

    def seen_ago_s(self, number: int) -> int:
        """Seconds since its device was connected last, exact to the hour, 0 while it is; a very large number where it
        never was."""
        ...

    def update(
        self,
        number: int,
        *,
        alias: str | None = None,
        tags: Sequence[str] | None = None,
        addresses: Mapping[str, str] | None = None,
        fallback: Sequence[str] | None = None,
        profile: Profile = NO_PROFILE,
    ) -> Awaitable[Registration]: ...

    def address_gone(self, number: int, channel: str, address: str, gone_at_ms: int) -> bool:
        """A notifier will never reach it at this address, since then (Unix ms, 0: not said): it is taken away, and its
        provider hears of it. False: it has another by now, or has registered this one since."""
        ...

    def revoke(self, number: int, reason: Loss = Loss.REVOKED) -> Awaitable[None]:
        """The token is dead for good; the next REGISTER of the triple gets another."""
        ...
