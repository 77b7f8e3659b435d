"""Identity over records in a dict, a clock that only tests move, and subscribers to play with."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from gateway.config.sections import Identity as IdentityConfig
from gateway.identity import Identity
from gateway.identity.allocator import Allocation, Ask, Trigger
from gateway.identity.network_ids import parse_network_id
from gateway.identity.opaque_ids import OpaqueId
from gateway.metrics import Metrics
from gateway.model.subscriber import (
    IssuedId,
    NetworkId,
    NetworkIdKind,
    PastId,
    Scope,
    SubscriberRecord,
)
from gateway.model.subscriber_records import News, NewsLine, SubscriberChange

START_MS = 1_800_000_000_000
HOST = "push.example.com"
IMSI = NetworkId(NetworkIdKind.IMSI, "001010123456789")
IMSI_2 = NetworkId(NetworkIdKind.IMSI, "001010000000002")
MSISDN = NetworkId(NetworkIdKind.MSISDN, "+491511234567")
MSISDN_2 = NetworkId(NetworkIdKind.MSISDN, "+491517654321")
NAI = NetworkId(NetworkIdKind.NAI, "ann@example.com")
IP = NetworkId(NetworkIdKind.IP, "10.0.0.7")
IMEI = NetworkId(NetworkIdKind.IMEI, "490154203237518")
TERMINAL = Scope()
ALL = (IMSI, IMSI_2, MSISDN, MSISDN_2, NAI, IP, IMEI)


class Records:
    """model.subscriber_records.SubscriberRecords, as long as the test."""

    def __init__(self) -> None:
        self.records: dict[bytes, SubscriberRecord] = {}
        self.owners: dict[NetworkId, bytes] = {}
        self.locals: dict[str, bytes] = {}
        self.drawn: dict[str, PastId] = {}
        self.error: Exception | None = None
        self.whys: list[str] = []
        self.told: list[News] = []

    def find(self, network_id: NetworkId) -> bytes | None:
        return self.owners.get(network_id)

    def read(self, handle: bytes | None) -> SubscriberRecord | None:
        return None if handle is None else self.records.get(handle)

    def by_local(self, local: str) -> tuple[bytes, SubscriberRecord] | None:
        handle = self.locals.get(local)
        record = self.read(handle)
        return None if handle is None or record is None else (handle, record)

    def write(self, changes: Sequence[SubscriberChange], news: Sequence[News] = ()) -> asyncio.Future[None]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.error is not None:
            done.set_exception(self.error)
            return done
        for change in changes:
            kept = set(change.after.network_ids()) if change.after else set()
            for network_id in change.before.network_ids() if change.before else ():
                if network_id not in kept:
                    del self.owners[network_id]
        for handle, before, after, why in changes:
            self.whys.append(why)
            kept_ids = {issued.local for issued in after.ids} if after else set[str]()
            for issued in before.ids if before else ():
                if issued.local not in kept_ids:
                    self.locals.pop(issued.local, None)  # as the store has it: nothing leads to it any more
            if after is None:
                del self.records[handle]
                continue
            self.records[handle] = after
            self.owners |= dict.fromkeys(after.network_ids(), handle)
            self.locals |= {issued.local: handle for issued in after.ids}
            for issued in after.ids:
                self.drawn[issued.local] = PastId(after.network_ids(), issued.from_ms, issued.until_ms, "")
        self.told += news
        done.set_result(None)
        return done

    def news(self, app: str, after: int, limit: int) -> list[NewsLine]:
        lines = [NewsLine(n, *each[1:]) for n, each in enumerate(self.told, 1) if each.app == app and n > after]
        return lines[:limit]

    def ending(self, after: bytes, from_s: int, until_s: int, limit: int) -> list[tuple[bytes, bytes]]:
        ends = [
            ((each.until_ms // 1_000 + 1).to_bytes(4, "big") + each.local.encode(), handle)
            for handle, record in self.records.items()
            for each in record.ids
            if each.until_ms
        ]
        bounds = max(after + b"\0", from_s.to_bytes(4, "big")), (until_s + 1).to_bytes(4, "big")
        return sorted(end for end in ends if bounds[0] <= end[0] < bounds[1])[:limit]

    def was_drawn(self, local: str) -> bool:
        return local in self.drawn

    def past(self, local: str, limit: int) -> list[PastId]:
        return [self.drawn[local]][:limit] if local in self.drawn else []


class Scene:
    def __init__(self, **settings: Any) -> None:
        self.now_ms = START_MS
        self.records = Records()
        self.metrics = Metrics(process=False)
        self.config = IdentityConfig(
            **{
                "host": HOST,
                "domains": ["push.other.net"],
                "classes": ["apn:internet=chat", "apn:internet=mail", "service:news=news"],
                "ask_apps": ["chat"],
                **settings,
            }
        )
        self.identity = Identity(self.config, self.records, self.metrics, lambda: self.now_ms)
        self.allocator = self.identity.allocator

    async def trigger(
        self, *network: NetworkId, trigger: Trigger = Trigger.SERVICE, scope: Scope = TERMINAL, **more: Any
    ) -> Allocation:
        return await self.allocator.allocate(Ask(network, trigger, scope, **more))

    async def one(self, *network: NetworkId, **more: Any) -> str:
        """The only id, canonical."""
        (issued,) = (await self.trigger(*network, **more)).ids
        return canonical(issued)

    def resolves(self, opaque: str, app: str = "chat") -> bool:
        return self.identity.local.find(opaque, app) is not None


def canonical(issued: IssuedId) -> str:
    return OpaqueId(issued.local, issued.host).canonical


def check_rig() -> None:
    """What the rig calls normal is normal."""
    for each in ALL:
        assert parse_network_id(each.kind, each.value) == each
