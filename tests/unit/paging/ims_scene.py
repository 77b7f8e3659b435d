"""The scene of IMS paging's tests: SIP servers and an SMSC that run here, and the gateway's whole way between them with
subscribers in a dict."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from typing import Any, Self, cast

from sms_scene import SmsScene, until

from gateway.identity.classes import Classes
from gateway.metrics import Metric
from gateway.model.errors import UnknownToken
from gateway.model.ports import Notifier, NotifierResult, Numbers
from gateway.model.registration import App
from gateway.model.subscriber import NetworkId, NetworkIdKind, SubscriberRecord
from gateway.notifiers.upstream import unix_ms
from gateway.paging.ims.called import Called
from gateway.paging.ims.calls import Parts
from gateway.paging.ims.local import LocalCscf
from gateway.paging.ims.service import ImsPaging

APP = "ims"
IMPU, MSISDN, IMSI = "sip:bob.secret@ims.example.com", "+491701234567", "001010000000001"
TOKEN = "dG9rZW4tb2YtYS10ZXN0MA"  # a token's text form


class DictRecords:
    """SubscriberRecords as far as it is asked."""

    def __init__(self) -> None:
        self.records: dict[bytes, SubscriberRecord] = {}
        self.reads = 0

    def add(self, handle: bytes, *, out: tuple[str, ...] = (), **network: str) -> None:
        pairs = tuple((int(NetworkIdKind[kind.upper()]), value) for kind, value in network.items())
        self.records[handle] = SubscriberRecord(network=pairs, out=out)

    def find(self, network_id: NetworkId) -> bytes | None:
        return next((handle for handle, each in self.records.items() if network_id.pair in each.network), None)

    def read(self, handle: bytes | None) -> SubscriberRecord | None:
        self.reads += 1
        return self.records.get(handle) if handle is not None else None


class Home:
    """ImsHome that answers from a dict, raises, or hangs."""

    def __init__(self) -> None:
        self.known: dict[str, Numbers] = {}
        self.error: Exception | None = None
        self.hangs = False
        self.asked = 0

    async def find(self, impu: str) -> Numbers | None:
        self.asked += 1
        if self.hangs:
            await asyncio.get_running_loop().create_future()
        if self.error is not None:
            raise self.error
        return self.known.get(impu)


class Accepted:
    def __init__(self, seq: int) -> None:
        self.seq = seq
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.done.set_result(None)


class House:
    """Directory, journal, acceptor and dispatcher, as far as they are asked."""

    def __init__(self) -> None:
        self.apps = {APP: App(name=APP)}
        self.pushes: list[Any] = []
        self.recalled: list[int] = []
        self.error: Exception | None = None
        self._seqs = itertools.count(100)

    def app(self, name: str) -> App | None:
        return self.apps.get(name)

    def reserve(self, count: int) -> int:
        return next(self._seqs)

    def push(self, app: App, request: Any, now_ms: int) -> Accepted:
        if self.error is not None:
            raise self.error
        if request.target.token != TOKEN:
            raise UnknownToken
        self.pushes.append(request)
        return Accepted(next(self._seqs))

    async def recall(self, app: str, seq: int) -> int:
        self.recalled.append(seq)
        return 1


class FixedPager:
    """Notifier that gives what a test says, in turn; the last one again and again."""

    secrets: frozenset[str] = frozenset()

    def __init__(self, name: str, *results: NotifierResult | Exception) -> None:
        self.name = name
        self.results = list(results)
        self.asked = 0

    async def notify(self, app: Any, registration: Any, notification: Any) -> NotifierResult:
        self.asked += 1
        result = self.results.pop(0) if len(self.results) > 1 else self.results[0]
        if isinstance(result, Exception):
            raise result
        return result

    async def close(self) -> None: ...


class ImsScene(SmsScene):
    """`ims`: settings that differ; `pagers`: beside `sms`."""

    def __init__(
        self,
        cscfs: int = 1,
        *,
        ims: dict[str, Any] | None = None,
        pagers: Mapping[str, FixedPager] | None = None,
        paging: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(1, paging={"coalesce_s": 5.0, **(paging or {})})
        self.cscfs = [LocalCscf() for _ in range(cscfs)]
        self.records = DictRecords()
        self.records.add(b"\x07" * 16, impu=IMPU, msisdn=MSISDN, imsi=IMSI)
        self.home = Home()
        self.house = House()
        self.pagers = dict(pagers or {})
        self.ims: ImsPaging
        for name, value in {
            "refuse_ms": 20,
            "retry_ms": 20,
            "answer_s": 0.5,
            "reconnect_s": 0.05,
            "reconnect_max_s": 0.1,
            "home_timeout_s": 0.2,
            **(ims or {}),
        }.items():
            setattr(self.config.ims, name, value)

    @property
    def cscf(self) -> LocalCscf:
        return self.cscfs[0]

    async def __aenter__(self) -> Self:
        ports = [await cscf.start() for cscf in self.cscfs]
        self.config.ims.servers = [f"127.0.0.1:{port}" for port in ports]
        called = Called(
            self.config.ims.app,
            cast(Any, self.records),
            Classes(()),
            self.subscribers,
            self.home,
            self.config.ims.home_timeout_s,
        )
        self.subscribers = cast(Any, called)
        await super().__aenter__()
        house = cast(Any, self.house)
        notifiers = cast("Mapping[str, Notifier]", {"sms": self.notifier, **self.pagers})
        self.ims = ImsPaging(Parts(self.config, house, house, house, house, notifiers, called, self.metrics, unix_ms))
        self.ims.start()
        await until(lambda: all(link.is_up for link in self.ims.links))
        await self.bound()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.ims.close()
        for cscf in self.cscfs:
            await cscf.close()
        await super().__aexit__()

    def count(self, result: str) -> float:
        return self.metrics.value(Metric.IMS_CALLS, result)

    def assert_strict(self) -> None:
        super().assert_strict()
        assert [cscf.faults for cscf in self.cscfs] == [[] for _ in self.cscfs]
