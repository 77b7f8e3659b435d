"""The scene of the IP pager's tests: a terminal, a GGSN and a NAS that run here, and a notifier among them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from pager_push import push_through

from gateway.config.sections import Config
from gateway.delivery.push_ids import PushIds
from gateway.metrics import Metric, Metrics
from gateway.model.ports import NotifierResult
from gateway.model.subscriber import NetworkId, NetworkIdKind, OpaqueKind, Subscriber
from gateway.notifiers.upstream import unix_ms
from gateway.paging.guard import Guard
from gateway.paging.ip.accounting import START
from gateway.paging.ip.client import IpNotifier, build_ip
from gateway.paging.ip.local import LocalTerminal
from gateway.paging.ip.local_ggsn import LocalGgsn
from gateway.paging.ip.local_nas import SECRET, LocalNas
from gateway.paging.pager import Parts
from gateway.paging.waiting import Waiting

IDS = PushIds(b"k" * 16)
IMSI, MSISDN, NAI = "001010000000001", "491701234567", "ann@example.com"
OPAQUE = "q7zk3mduc4efhv2r6tnsapwxyj"
HERE = "127.0.0.1"


def subscriber(handle: bytes = b"\x01" * 16, **network: str) -> Subscriber:
    """`imsi=…, msisdn=…`."""
    ids = [NetworkId(NetworkIdKind[kind.upper()], value) for kind, value in network.items()]
    return Subscriber(handle, ids, OpaqueKind.O_TMSI, "shop")


class FixedSubscribers:
    """Subscribers port: one table."""

    def __init__(self) -> None:
        self.known: dict[str, Subscriber] = {OPAQUE: subscriber(imsi=IMSI, msisdn="+" + MSISDN)}

    async def resolve(self, opaque: str, app: str) -> Subscriber | None:
        return self.known.get(opaque)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.005)


class IpScene:
    """As a context manager. `ip`, `radius`: settings; `ggsn`, `listens`: which of both there is."""

    def __init__(
        self,
        folder: Path,
        *,
        listens: bool = True,
        ggsn: bool = False,
        ip: dict[str, Any] | None = None,
        radius: dict[str, Any] | None = None,
    ) -> None:
        self.config = config = Config()
        config.delivery.notifier_failures = 1_000
        config.paging.subscriber_per_hour = config.paging.coalesce_s = config.paging.jitter_s = 0
        secret = folder / "radius-secret"
        secret.write_bytes(SECRET)
        secret.chmod(0o600)
        config.radius.secret_file = str(secret)
        config.radius.clients = [f"{HERE}/32"]
        config.radius.port = 0 if listens else -1
        config.ip.loopback = True
        config.ip.networks = ["127.0.0.0/8"]
        config.ip.ack_s = 0.1
        config.ip.online_cache_s = 0
        config.ip.requery_s = 0.05
        for section, values in ((config.ip, ip), (config.radius, radius)):
            for name, value in (values or {}).items():
                setattr(section, name, value)
        self._has_ggsn = ggsn
        self.terminal = LocalTerminal()
        self.ggsn = LocalGgsn()
        self.metrics = Metrics(process=False)
        self.subscribers = FixedSubscribers()
        self.waiting = Waiting(config.paging, self.metrics)
        self.backs: list[int] = []
        self.waiting.on_back = self.backs.append
        self.settings: dict[str, str] = {}
        self.moved_ms = 0
        self.notifier: IpNotifier
        self.nas: LocalNas

    def clock(self) -> int:
        return unix_ms() + self.moved_ms

    async def __aenter__(self) -> Self:
        for port in range(16_000, 17_000):
            try:
                await self.terminal.start(port)
                break
            except OSError:
                continue
        self.config.ip.port = self.terminal.port
        if self._has_ggsn:
            self.config.ip.ggsn = f"{HERE}:{await self.ggsn.start()}"
        parts = Parts(
            self.config,
            self.metrics,
            IDS,
            Guard(self.config.paging, self.subscribers, self.waiting, self.metrics, self.clock),
            self.waiting,
            None,
            None,
            self.clock,
        )
        notifier = build_ip(parts)
        assert notifier is not None
        self.notifier = notifier
        notifier.start()
        if notifier.listener is not None:
            self.nas = await LocalNas(notifier.listener.port).__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.notifier.listener is not None:
            await self.nas.__aexit__()
        await self.notifier.close()
        await self.ggsn.close()
        self.terminal.close()

    async def on_line(self, **said: Any) -> None:
        """An Accounting-Start, answered."""
        await self.nas.tell(START, **{"ip": HERE, "imsi": IMSI, "msisdn": MSISDN, **said})

    async def push(self, *, address: str = OPAQUE, number: int = 3, **changes: Any) -> NotifierResult:
        now_s = int(time.time())
        return await push_through(self.notifier, self.settings, address, now_s=now_s, number=number, **changes)

    def requests(self, result: str) -> float:
        return self.metrics.value(Metric.RADIUS_REQUESTS, result)

    def assert_strict(self) -> None:
        """Neither terminal nor GGSN found anything wrong."""
        assert self.terminal.faults == []
        assert self.ggsn.faults == []
