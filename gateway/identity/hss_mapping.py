"""From an opaque id to the subscriber the HSS says it stands for (C7); must never let an id through that this gateway
knows to be over, of another app, or of somebody who opted out, and never tell those from an id that is unknown.

An id is asked for as an External Identifier (TS 23.682), where its host is this gateway's own. What this gateway has
of the id itself (it may have drawn it) and of the subscriber (opt-outs) holds beside the HSS's word. An id that this
gateway drew and that ended stands for nobody as long as its history is kept, whatever the HSS has. One that is unknown
here is of a terminal: any app may use it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from gateway.config.sections import Identity as IdentityConfig
from gateway.identity.classes import Classes
from gateway.identity.hosts import Hosts
from gateway.identity.network_ids import parse_network_id
from gateway.identity.opaque_ids import HOST, MAX_CHARS, parse_opaque_id
from gateway.identity.resolver import is_in_scope, is_out
from gateway.metrics import Metric, Metrics
from gateway.model.errors import BadRequest
from gateway.model.subscriber import Granularity, NetworkId, NetworkIdKind, OpaqueKind, Subscriber
from gateway.model.subscriber_records import SubscriberRecords
from gateway.model.subscribers import ExternalIds, Numbers

#: TS 23.003 §19.7.2: the form of a NAI; what an operator gives out may have another local part than ours
_LOCAL = re.compile(r"[A-Za-z0-9._~+-]{1,64}")
HANDLE_BYTES = 16
#: looked for in the place of what the HSS did not name
_DECOY = (NetworkId(NetworkIdKind.IMSI, ""), NetworkId(NetworkIdKind.MSISDN, ""))


class ExternalId(NamedTuple):
    local: str
    host: str

    @property
    def canonical(self) -> str:
        return f"{self.local}@{self.host}"


def parse_external_id(text: str) -> ExternalId | None:
    """Our own forms of an id, and `local@host` with any local part; None where it is none of these. The host is in
    lower case; a local part that is not ours is kept as it is, for the HSS may tell letters apart."""
    parsed = parse_opaque_id(text)
    if parsed is not None:
        return ExternalId(parsed.local, parsed.host)
    local, at, host = text.partition("@")
    if len(text) > MAX_CHARS or not at or _LOCAL.fullmatch(local) is None or HOST.fullmatch(host) is None:
        return None
    return ExternalId(local, host.lower())


class _Known(NamedTuple):
    """What the HSS said of one id."""

    numbers: Numbers | None
    until_ms: int


class HssMapping:
    """model.ports.Subscribers over an HSS."""

    def __init__(
        self,
        home: ExternalIds,
        config: IdentityConfig,
        records: SubscriberRecords,
        hosts: Hosts,
        classes: Classes,
        metrics: Metrics,
        clock: Callable[[], int],
    ) -> None:
        self._home = home
        self._records = records
        self._hosts = hosts
        self._classes = classes
        self._metrics = metrics
        self._clock = clock
        self._keep_ms = int(config.mapping_cache_s * 1000)
        self._keep_unknown_ms = int(config.mapping_unknown_s * 1000)
        self._most = config.mapping_cache_entries
        #: of this process: handles and cache lead nowhere after it
        self._key = os.urandom(32)
        #: by hash of the id, oldest first
        self._cache: OrderedDict[bytes, _Known] = OrderedDict()

    async def resolve(self, opaque: str, app: str) -> Subscriber | None:
        """As the port has it; TimeoutError, OSError or ValueError where the HSS can not be asked now."""
        wanted = parse_external_id(opaque)
        subscriber = None
        # a host is in the id for all to see, so refusing one at once tells nothing
        if wanted is not None and self._hosts.is_own(wanted.host):
            # the HSS is asked whatever is known here: an id that is refused takes as long as one that is unknown
            key = self._hash(f"{app} {wanted.canonical}")
            known = self._cached(key)
            numbers = known.numbers if known is not None else await self._home.find(wanted.canonical)
            subscriber = self._check(wanted, numbers, app)
            self._keep(key, known, numbers, is_refused=subscriber is None)
        self._metrics.count(Metric.SUBSCRIBER_LOOKUPS, label="found" if subscriber is not None else "none")
        return subscriber

    def _cached(self, key: bytes) -> _Known | None:
        known = self._cache.get(key)
        is_good = known is not None and self._clock() < known.until_ms
        self._metrics.count(Metric.MAPPING_CACHE, label="hit" if is_good else "miss")
        return known if is_good else None

    def _keep(self, key: bytes, known: _Known | None, numbers: Numbers | None, *, is_refused: bool) -> None:
        """`known`: what the cache had. What is refused here is kept no longer than what the HSS does not know, or how
        soon it is asked again would tell one from the other; and an app's entries are its own, whoever else asks."""
        until_ms = self._clock() + (self._keep_unknown_ms if is_refused else self._keep_ms)
        if known is not None:
            until_ms = min(until_ms, known.until_ms)
            if until_ms == known.until_ms:
                return
        self._cache.pop(key, None)
        if until_ms <= self._clock():
            return
        if len(self._cache) >= self._most:
            self._cache.popitem(last=False)
            self._metrics.count(Metric.MAPPING_CACHE, label="full")
        self._cache[key] = _Known(numbers, until_ms)

    def _check(self, wanted: ExternalId, numbers: Numbers | None, app: str) -> Subscriber | None:
        network = _build_network_ids(numbers) if numbers is not None else ()
        _, record = self._records.by_local(wanted.local) or (b"", None)
        issued = next((each for each in record.ids if each.local == wanted.local), None) if record else None
        # an id that ended has no record any more; its history says that it was drawn here
        was_drawn = self._records.was_drawn(wanted.local)
        classes = self._classes.of_app(app)
        # always two: it does not show whether the HSS named nobody, or somebody by one number
        handles = [self._records.find(each) for each in (*network, *_DECOY)[:2]]
        records = [self._records.read(each) for each in handles]
        checks = (
            numbers is not None,
            bool(network) and bool(app),
            # drawn here: it has to be live, and this app's
            issued is None or (issued.host == wanted.host and issued.is_live(self._clock())),
            issued is None or is_in_scope(issued.scope, app, self._classes),
            issued is not None or not was_drawn,
            not any(is_out(each, app, classes) for each in (record, *records) if each is not None),
        )
        if sum(checks) != len(checks):
            return None
        # the same for all ids of a subscriber, so that limits over all of them hold: as records have it, else a hash
        known = next((pair for pair in zip(handles, records, strict=True) if pair[1] is not None), (None, None))
        handle = known[0] or self._hash(f"{network[0].kind.name}:{network[0].value}")
        kinds = OpaqueKind(issued.kinds) if issued is not None else OpaqueKind.O_TMSI | OpaqueKind.O_TMSN
        selected = app if issued is not None and issued.granularity == Granularity.APP else ""
        # an External Identifier has the form of a NAI: device triggers may name the device by it (trigger.identify)
        external = NetworkId(NetworkIdKind.NAI, wanted.canonical)
        others = known[1].network_ids() if known[1] is not None else ()
        return Subscriber(handle, (*network, external, *others), kinds, selected)

    def _hash(self, text: str) -> bytes:
        return hashlib.blake2b(text.encode(), key=self._key, digest_size=HANDLE_BYTES).digest()


def _build_network_ids(numbers: Numbers) -> tuple[NetworkId, ...]:
    """In their normal form, as records have them, the IMSI first; what has none is kept as the HSS said it."""
    found = []
    for kind, text in ((NetworkIdKind.IMSI, numbers.imsi), (NetworkIdKind.MSISDN, numbers.msisdn)):
        if text:
            try:
                found.append(parse_network_id(kind, text))
            except BadRequest:
                found.append(NetworkId(kind, text))
    return tuple(found)
