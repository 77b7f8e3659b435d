"""The parts of identity put together, and the app server's way in (C5, C15)."""

from __future__ import annotations

from collections.abc import Callable

from gateway.config.sections import Identity as IdentityConfig
from gateway.identity.allocator import Allocation, Allocator, Ask, Trigger
from gateway.identity.classes import Classes
from gateway.identity.hosts import Hosts
from gateway.identity.hss_mapping import HssMapping
from gateway.identity.resolver import Resolver
from gateway.metrics import Metrics
from gateway.model.errors import BadRequest, ConfigError, Forbidden, TooManyRequests
from gateway.model.ports import Subscribers
from gateway.model.subscriber import Granularity, NetworkId, Scope
from gateway.model.subscriber_records import SubscriberRecords
from gateway.model.subscribers import ExternalIds

MINUTE_MS = 60_000


class Identity:
    """`home`: the HSS, needed where `identity.mapping` is hss (C7)."""

    def __init__(
        self,
        config: IdentityConfig,
        records: SubscriberRecords,
        metrics: Metrics,
        clock: Callable[[], int],
        home: ExternalIds | None = None,
    ) -> None:
        self._clock = clock
        self._asks_per_minute = config.asks_per_minute
        self._ask_apps = frozenset(config.ask_apps)
        self._asked: dict[str, tuple[int, int]] = {}  # app → (minute, requests in it)
        self.records = records
        self.hosts = Hosts(config)
        self.classes = Classes(config.classes)
        self.allocator = Allocator(config, records, self.hosts, self.classes, metrics, clock)
        self.local = Resolver(records, self.hosts, self.classes, metrics, clock)
        self.resolver: Subscribers = self.local
        if config.mapping == "hss":
            if home is None:
                raise ConfigError("hss: diameter.peers names nobody who could be asked", field="identity.mapping")
            self.resolver = HssMapping(home, config, records, self.hosts, self.classes, metrics, clock)

    async def ask(self, app: str, network_id: NetworkId, class_name: str = "") -> Allocation:
        """An app server asks for ids with a NAI (C15): those of its own scope that are live, drawn where there is none.

        Forbidden where the operator does not let it; UnknownSubscriber in the same words and after the same look-ups
        for who is unknown and who opted out.
        """
        if app not in self._ask_apps:
            raise Forbidden("The operator does not let this app ask for ids.")
        self._count(app)
        if class_name and not self.classes.has(class_name, app):
            raise BadRequest("the app is not of this class", field="class")
        scope = Scope(Granularity.CLASS, class_name) if class_name else Scope(Granularity.APP, app)
        return await self.allocator.allocate(Ask((network_id,), Trigger.APP_SERVER, scope))

    def _count(self, app: str) -> None:
        minute = self._clock() // MINUTE_MS
        known, asked = self._asked.get(app, (minute, 0))
        asked = asked if known == minute else 0
        if asked >= self._asks_per_minute:
            after_ms = (minute + 1) * MINUTE_MS - self._clock()
            raise TooManyRequests("too many requests for ids in this minute", after_ms=after_ms)
        self._asked[app] = (minute, asked + 1)
