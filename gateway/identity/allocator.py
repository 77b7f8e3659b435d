"""The id allocator: which ids a subscriber has after a trigger (C1–C4, C12); must never answer with an id that is not
durable, nor make one from anything but random bits.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from enum import Enum
from typing import NamedTuple

from msgspec.structs import replace

from gateway.config.sections import Identity as IdentityConfig
from gateway.identity.classes import Classes
from gateway.identity.hosts import Hosts
from gateway.identity.network_ids import parse_network_id
from gateway.identity.opaque_ids import OpaqueId, draw_local, parse_opaque_id
from gateway.identity.resolver import EVERYTHING, is_out
from gateway.metrics import Metric, Metrics
from gateway.model.errors import BadRequest, Conflict, TooManyRequests, UnknownSubscriber
from gateway.model.subscriber import (
    STANDS_FOR,
    Granularity,
    IssuedId,
    NetworkId,
    NetworkIdKind,
    OpaqueKind,
    Scope,
    SubscriberRecord,
)
from gateway.model.subscriber_records import News, SubscriberChange, SubscriberRecords
from gateway.model.subscribers import Addresses

HOUR_MS = 3_600_000
HANDLE_BYTES = 16
#: an id's end comes earlier by a random part of up to a tenth: no instant at which all are renewed
JITTER_PART = 10


class Trigger(Enum):
    """What makes a terminal or server get ids (C4, C15)."""

    ATTACH = "attach"
    LOCATION = "location_update"
    SESSION = "session"
    SERVICE = "service"
    TERMINAL = "terminal"
    APP_SERVER = "app_server"
    SOURCE_IP = "source_ip"
    #: nobody's: an id that an app was told of lapses soon
    RENEWAL = "renewal"


#: these ask about a subscriber; the others tell of one, who may be new
_ASKS = frozenset({Trigger.APP_SERVER, Trigger.SOURCE_IP})
#: these say which terminal and which addresses a subscriber has now, so that earlier ones are gone
_TELLS_TERMINAL = frozenset({Trigger.ATTACH, Trigger.SESSION})
#: these change hands: they go to whom they are told of last
_LOOSE = frozenset({NetworkIdKind.IMEI, NetworkIdKind.IP, NetworkIdKind.MAC})
#: what a subscriber can be known by alone
_NAMES = (NetworkIdKind.IMSI, NetworkIdKind.IMPI, NetworkIdKind.MSISDN, NetworkIdKind.IMPU, NetworkIdKind.NAI)
NOTHING = OpaqueKind(0)


class Ask(NamedTuple):
    """One request for ids."""

    network: Sequence[NetworkId]
    trigger: Trigger
    scope: Scope = Scope()
    #: none named: all that the subscriber's network ids allow
    kinds: OpaqueKind = NOTHING
    #: fresh ids: True ends the old ones at once, False keeps them beside; None: as the trigger has it
    replace: bool | None = None
    #: one id for both where IMSI and MSISDN correspond one to one (C2)
    together: bool = False
    #: one more beside those there are (C2: 1..n)
    further: bool = False
    #: None: the operator's setting; 0: permanent (C3)
    validity_s: int | None = None
    #: network ids of another subscriber are this one's now (a number that was ported, a new card)
    move: bool = False


class Allocation(NamedTuple):
    """What the scope has now."""

    ids: list[IssuedId]
    drawn: int
    #: were older ids ended? (C4: the answer to a location update says so)
    replaced: bool


class Allocator:
    """Control thread only."""

    def __init__(
        self,
        config: IdentityConfig,
        records: SubscriberRecords,
        hosts: Hosts,
        classes: Classes,
        metrics: Metrics,
        clock: Callable[[], int],
    ) -> None:
        self._config = config
        self._records = records
        self._hosts = hosts
        self._classes = classes
        self._metrics = metrics
        self._clock = clock
        #: who has which address now, where the network tells (C15); set by who hears it
        self.addresses: Addresses | None = None

    # --- allocating -----------------------------------------------------------------------------------------

    async def allocate(self, ask: Ask) -> Allocation:
        """Durable when it returns. BadRequest, Conflict, TooManyRequests, UnknownSubscriber, StoreUnavailable."""
        try:
            allocation, written = self._allocate(ask)
        except (BadRequest, Conflict, TooManyRequests, UnknownSubscriber) as exc:
            self._metrics.count(Metric.SUBSCRIBER_REFUSED, label=exc.name)
            raise
        if written is not None:
            await written
        if allocation.drawn:
            self._metrics.count(Metric.SUBSCRIBER_IDS, allocation.drawn, label=ask.trigger.value)
        return allocation

    def _allocate(self, ask: Ask) -> tuple[Allocation, asyncio.Future[None] | None]:
        now_ms = self._clock()
        self._check_scope(ask)
        ask = self._by_address(ask)
        handle, before, losers, is_known = self._find(ask)
        record = self._merge(before or SubscriberRecord(), ask, now_ms)
        self._check_out(record, ask)
        if not is_known:  # only here, so that it takes as long as for who opted out
            raise UnknownSubscriber
        fresh, wanted = self._wanted(record, ask, now_ms)
        replaces, kept = self._retire(record, ask, fresh, wanted, now_ms)
        drawn = [self._draw(kinds, ask, now_ms) for kinds in fresh]
        record = self._count(replace(record, ids=(*kept, *drawn)), len(drawn), now_ms)
        ids = [each for each in record.ids if each.scope == ask.scope and each.kinds & wanted]
        changes = [SubscriberChange(handle, before, record, "replaced"), *losers]
        news = self._news(before, record, ask, drawn)
        written = self._records.write(changes, news) if record != before or losers else None
        return Allocation(ids, len(drawn), replaces), written

    def _check_scope(self, ask: Ask) -> None:
        scope = ask.scope
        if scope.granularity == Granularity.CLASS and not self._classes.is_known(scope.name):
            raise BadRequest("there is no such class; the setting identity.classes has them", field="class")
        if not ask.network:
            raise BadRequest("name at least one network id", field="network_ids")

    def _by_address(self, ask: Ask) -> Ask:
        """An address stands for whom the network says that it is now, whatever was told before (C15). Looked up when it
        is asked for: no report of the network writes anything, and an address is nobody's from its last moment on."""
        if ask.trigger is not Trigger.SOURCE_IP or self.addresses is None:
            return ask
        network: list[NetworkId] = []
        creates = False
        for network_id in ask.network:
            whose = self.addresses.whose(network_id.value) if network_id.kind == NetworkIdKind.IP else None
            if whose is None:
                network.append(network_id)
                continue
            names = [name for name in map(_normal, whose) if name is not None]
            if not names:
                raise UnknownSubscriber  # somebody has it, and that is not who was told of
            # the first is what the network is surest of, the IMSI where there is one
            known = [name for name in names if self._records.find(name)][:1]
            network += known or names
            creates = not known and self.addresses.creates_subscribers
        return ask._replace(network=network, trigger=Trigger.TERMINAL if creates else ask.trigger)

    def _find(self, ask: Ask) -> tuple[bytes, SubscriberRecord | None, list[SubscriberChange], bool]:
        """The subscriber, what others lose to it, and whether the trigger may go on with it."""
        owners = {network_id: self._records.find(network_id) for network_id in ask.network}
        firm = [owner for network_id, owner in owners.items() if owner and network_id.kind not in _LOOSE]
        named = any(network_id.kind in _NAMES for network_id in ask.network)
        loose = [] if named else [owner for owner in owners.values() if owner]
        handle = next(iter(firm or loose), None)
        first = next((network_id for network_id in ask.network if network_id.kind not in _LOOSE), None)
        if ask.move and first is not None and owners[first] is None:
            handle = None  # who is new gets what it names: ids of who had it before must not lead there
        record = self._records.read(handle)
        is_known = record is not None or (named and ask.trigger not in _ASKS)
        if ask.trigger in _ASKS and any(owner != handle for owner in owners.values()):
            is_known = False  # who asks can not tell us anything
        if len(set(firm)) > 1 and not ask.move:
            raise Conflict(
                "these network ids belong to several subscribers; `move: true` gives all of them to the first",
                field="network_ids",
            )
        if handle is None:
            handle = secrets.token_bytes(HANDLE_BYTES)
        losers = [
            self._lose(owner, {each for each, of in owners.items() if of == owner})
            for owner in dict.fromkeys(owners.values())
            if owner is not None and owner != handle
        ]
        return handle, record, losers, is_known

    def _lose(self, handle: bytes, lost: set[NetworkId]) -> SubscriberChange:
        before = self._records.read(handle)
        assert before is not None
        lost_pairs = {each.pair for each in lost}
        network = tuple(pair for pair in before.network if pair not in lost_pairs)
        return SubscriberChange(handle, before, _without_hollow(replace(before, network=network)), "moved")

    def _merge(self, record: SubscriberRecord, ask: Ask, now_ms: int) -> SubscriberRecord:
        """With what the trigger tells, and without what has lapsed."""
        given = [each.pair for each in dict.fromkeys(ask.network)]
        told = {kind for kind, _ in given if kind in _LOOSE} if ask.trigger in _TELLS_TERMINAL else set[int]()
        gone = {pair for pair in record.network if pair[0] in told} - set(given)
        network = tuple(dict.fromkeys([*(pair for pair in record.network if pair not in gone), *given]))
        if len(network) > self._config.network_ids_per_subscriber and len(network) > len(record.network):
            raise Conflict(
                f"a subscriber has at most identity.network_ids_per_subscriber ="
                f" {self._config.network_ids_per_subscriber} network ids",
                field="network_ids",
            )
        live = tuple(each for each in record.ids if each.is_live(now_ms))
        return _without_hollow(replace(record, network=network, ids=live))

    def _check_out(self, record: SubscriberRecord, ask: Ask) -> None:
        scope = ask.scope
        classes = frozenset({scope.name}) if scope.granularity == Granularity.CLASS else frozenset[str]()
        app = scope.name if scope.granularity == Granularity.APP else ""
        if app:
            classes = self._classes.of_app(app)
        if is_out(record, app, classes):
            if ask.trigger in _ASKS:
                raise UnknownSubscriber
            raise Conflict("the subscriber opted out of this", field="network_ids")

    # --- which ids ------------------------------------------------------------------------------------------

    def _wanted(self, record: SubscriberRecord, ask: Ask, now_ms: int) -> tuple[list[OpaqueKind], OpaqueKind]:
        """Kinds of each id to draw, and all kinds that are wanted."""
        possible = [kind for kind, stands_for in STANDS_FOR.items() if record.has_any(stands_for)]
        wanted = [kind for kind in STANDS_FOR if kind & ask.kinds] or possible
        for kind in wanted:
            if kind not in possible:
                names = " or ".join(each.name for each in STANDS_FOR[kind])
                raise BadRequest(f"{name_of(kind)} stands for {names}, and none is known", field="kinds")
        if not wanted:
            raise BadRequest("nothing is known that an id could stand for", field="network_ids")
        groups: list[OpaqueKind] = list(wanted)
        both = OpaqueKind.O_TMSI | OpaqueKind.O_TMSN
        one_to_one = record.count(NetworkIdKind.IMSI) == 1 and record.count(NetworkIdKind.MSISDN) == 1
        if ask.together and one_to_one and OpaqueKind.O_TMSI in wanted and OpaqueKind.O_TMSN in wanted:
            groups = [both, *(kind for kind in wanted if not kind & both)]
        all_wanted = NOTHING
        for kind in wanted:
            all_wanted |= kind
        rotate = ask.further or ask.replace is True or ask.trigger is Trigger.ATTACH
        return [group for group in groups if rotate or self._is_due(record, ask, group, now_ms)], all_wanted

    def _is_due(self, record: SubscriberRecord, ask: Ask, kinds: OpaqueKind, now_ms: int) -> bool:
        """Is there none, or does the last one lapse soon? (C3)"""
        ends = [each.until_ms for each in record.ids if each.scope == ask.scope and each.kinds & kinds == kinds]
        if 0 in ends:
            return False
        early_ms = self._config.renew_s * 1_000 if self._config.renewal == "overlap" else 0
        return not ends or max(ends) - early_ms <= now_ms

    def _retire(
        self, record: SubscriberRecord, ask: Ask, fresh: list[OpaqueKind], wanted: OpaqueKind, now_ms: int
    ) -> tuple[bool, list[IssuedId]]:
        """(were any ended, those that stay). Old and new live side by side, or the new replaces the old (C3)."""
        old = [each for each in record.ids if each.scope == ask.scope and each.kinds & wanted]
        if ask.further or not fresh or not old:
            return False, list(record.ids)
        is_attach = ask.trigger is Trigger.ATTACH and ask.replace is None
        if ask.replace or (is_attach and self._config.renewal == "replace"):
            return True, [each for each in record.ids if each not in old]
        if not is_attach:
            return False, list(record.ids)
        # what a terminal had before it was switched on again goes on for the overlap, but never past its end
        end_ms = now_ms + self._config.renew_s * 1_000
        shortened = {each.local: min(each.until_ms or end_ms, end_ms) for each in old}
        return False, [
            replace(each, until_ms=shortened[each.local]) if each.local in shortened else each for each in record.ids
        ]

    def _news(
        self, before: SubscriberRecord | None, record: SubscriberRecord, ask: Ask, drawn: Sequence[IssuedId]
    ) -> list[News]:
        """Whom to tell of new ids, and what they knew until now (C5): no app that the subscriber opted out of."""
        scope = ask.scope
        if scope.granularity == Granularity.TERMINAL:
            return []
        apps = {scope.name} if scope.granularity == Granularity.APP else self._classes.apps(scope.name)
        told = [app for app in sorted(apps) if not is_out(record, app, self._classes.of_app(app))]
        known = [] if before is None or ask.further else [each for each in before.ids if each.scope == scope]
        return [
            News(
                app,
                issued,
                tuple(OpaqueId(old.local, old.host).canonical for old in known if old.kinds & issued.kinds),
            )
            for app in told
            for issued in drawn
        ]

    def _draw(self, kinds: OpaqueKind, ask: Ask, now_ms: int) -> IssuedId:
        validity_s = self._config.validity_s if ask.validity_s is None else ask.validity_s
        until_ms = 0
        if validity_s:
            until_ms = now_ms + validity_s * 1_000 - secrets.randbelow(validity_s * 1_000 // JITTER_PART + 1)
        host = self._hosts.host_of(ask.scope)
        return IssuedId(draw_local(), host, int(kinds), int(ask.scope.granularity), ask.scope.name, now_ms, until_ms)

    def _count(self, record: SubscriberRecord, drawn: int, now_ms: int) -> SubscriberRecord:
        """Within the limits of a subscriber, over all apps: each id is a way to it."""
        if not drawn:
            return record
        hour = now_ms // HOUR_MS
        so_far = record.drawn if record.hour == hour else 0
        if so_far + drawn > self._config.draws_per_hour:
            raise TooManyRequests(
                "too many ids were drawn for this subscriber in this hour", after_ms=(hour + 1) * HOUR_MS - now_ms
            )
        if len(record.ids) > self._config.ids_per_subscriber:
            raise TooManyRequests(
                "this subscriber has too many ids; revoke some, or wait until some lapse", after_ms=60_000
            )
        return replace(record, hour=hour, drawn=so_far + drawn)

    def renew(self, handle: bytes) -> tuple[int, asyncio.Future[None] | None]:
        """Draw a new id beside each that an app is told of and that lapses soon (C3, C5). Returns how many, and their
        commit. TooManyRequests, StoreUnavailable, QueueFull."""
        now_ms = self._clock()
        before = self._records.read(handle)
        if before is None:
            return 0, None
        record = replace(before, ids=tuple(each for each in before.ids if each.is_live(now_ms)))
        drawn: list[IssuedId] = []
        news: list[News] = []
        for scope, kinds in dict.fromkeys((each.scope, OpaqueKind(each.kinds)) for each in record.ids):
            ask = Ask((), Trigger.RENEWAL, scope)
            if scope.granularity == Granularity.TERMINAL or not self._is_due(record, ask, kinds, now_ms):
                continue
            alike = [each for each in record.ids if each.scope == scope and each.kinds == kinds]
            old = max(alike, key=lambda each: each.until_ms)
            told = {scope.name} if scope.granularity == Granularity.APP else self._classes.apps(scope.name)
            is_told = any(not is_out(record, app, self._classes.of_app(app)) for app in told)
            validity_s = self._validity_of(old)
            if is_told and validity_s > 2 * self._config.renew_s:
                made = self._draw(kinds, ask._replace(validity_s=validity_s), now_ms)
                drawn.append(made)
                news += self._news(record, record, ask, [made])
        if not drawn:
            return 0, None
        record = self._count(replace(record, ids=(*record.ids, *drawn)), len(drawn), now_ms)
        written = self._records.write([SubscriberChange(handle, before, record, "replaced")], news)
        self._metrics.count(Metric.SUBSCRIBER_IDS, len(drawn), label=Trigger.RENEWAL.value)
        return len(drawn), written

    def _validity_of(self, issued: IssuedId) -> int:
        """The setting, or what a trigger said instead."""
        span_s, usual_s = (issued.until_ms - issued.from_ms) // 1_000, self._config.validity_s
        return usual_s if usual_s - usual_s // JITTER_PART - 1 <= span_s <= usual_s else span_s

    # --- what is there --------------------------------------------------------------------------------------

    def ids_of(self, network_id: NetworkId) -> list[IssuedId]:
        """Live ones. UnknownSubscriber."""
        _, record = self._existing(network_id)
        now_ms = self._clock()
        return [each for each in record.ids if each.is_live(now_ms)]

    def _existing(self, network_id: NetworkId) -> tuple[bytes, SubscriberRecord]:
        handle = self._records.find(network_id)
        record = self._records.read(handle)
        if handle is None or record is None:
            raise UnknownSubscriber
        return handle, record

    # --- taking away ----------------------------------------------------------------------------------------

    async def revoke(self, opaque: str) -> None:
        """One id is dead for good. UnknownSubscriber where it is not live, or is another gateway's."""
        parsed = parse_opaque_id(opaque)
        found = None if parsed is None else self._records.by_local(parsed.local)
        if parsed is None or found is None or not self._hosts.is_own(parsed.host):
            raise UnknownSubscriber
        handle, record = found
        kept = tuple(each for each in record.ids if each.local != parsed.local)
        if len(kept) == len(record.ids):
            raise UnknownSubscriber
        await self._records.write([SubscriberChange(handle, record, replace(record, ids=kept), "revoked")])

    async def revoke_all(self, network_id: NetworkId, *, forget: bool = False) -> int:
        """All ids of a subscriber; `forget`: the subscriber too, opt-outs included. Returns how many were live."""
        handle, record = self._existing(network_id)
        live = sum(each.is_live(self._clock()) for each in record.ids)
        after = None if forget else replace(record, ids=())
        await self._records.write([SubscriberChange(handle, record, after, "revoked")])
        return live

    async def opt_out(self, network_id: NetworkId, what: str, *, out: bool = True) -> tuple[str, ...]:
        """`what`: `*`, `app:<name>` or `class:<name>`. A subscriber may opt out before it has any id. Returns all it is
        out of now. Ids are kept, and are as unknown to whom it opted out of."""
        handle = self._records.find(network_id)
        before = self._records.read(handle)
        if before is None and (not out or network_id.kind not in _NAMES):
            raise UnknownSubscriber
        record = before or SubscriberRecord(network=(network_id.pair,))
        chosen = [each for each in record.out if each != what] + ([what] if out else [])
        if len(chosen) > self._config.ids_per_subscriber:
            raise Conflict("too many opt-outs of one subscriber; opt out of everything", field="app")
        after = replace(record, out=tuple(sorted(chosen)))
        if after != before:
            change = SubscriberChange(handle or secrets.token_bytes(HANDLE_BYTES), before, after)
            await self._records.write([change])
        return after.out


def _normal(network_id: NetworkId) -> NetworkId | None:
    """None where it is none of its kind: networks say this and that."""
    try:
        return parse_network_id(network_id.kind, network_id.value)
    except BadRequest:
        return None


def _without_hollow(record: SubscriberRecord) -> SubscriberRecord:
    """An id goes when nothing is left that it stands for: it must not lead to whoever is left."""
    ids = tuple(
        each for each in record.ids if any(record.has_any(STANDS_FOR[kind]) for kind in OpaqueKind if kind & each.kinds)
    )
    return record if len(ids) == len(record.ids) else replace(record, ids=ids)


def name_of(kind: OpaqueKind) -> str:
    """As in the API: `o-tmsi`."""
    return str(kind.name).lower().replace("_", "-")


def opt_out_word(app: str = "", class_name: str = "") -> str:
    """What an opt-out is kept as."""
    return f"app:{app}" if app else f"class:{class_name}" if class_name else EVERYTHING
