"""The scene of the Diameter tests: peers that run here, a node connected to them, and whom they know."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

from gateway.diameter.local import LocalDiameter, Subscription
from gateway.diameter.node import Node
from gateway.diameter.peer import PeerSettings
from gateway.metrics import Metric, Metrics

IMPU = "sip:+491701234567@ims.mnc001.mcc001.3gppnetwork.org"
MSISDN, IMSI = "491701234567", "001010000000001"
EXTERNAL_ID = "q7zk3mduc4efhv2r6tnsapwxyj@push.example.com"
KNOWN = Subscription(MSISDN, IMSI)
SECRETS = (MSISDN, IMSI, IMPU, EXTERNAL_ID, EXTERNAL_ID.partition("@")[0])
PATIENCE_S = 60.0
QUICK = PeerSettings(
    "local",
    "127.0.0.1",
    0,
    origin_host="pushgw.example.net",
    origin_realm="example.net",
    connect_s=2.0,
    watchdog_s=5.0,
    reconnect_s=0.05,
    reconnect_max_s=0.1,
)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(0.005)


class DiameterScene:
    """As a context manager. `peer`: changes to the settings of each peer."""

    def __init__(
        self,
        peers: int = 1,
        *,
        answer_s: float = 2.0,
        most_outstanding: int = 64,
        server_tls: ssl.SSLContext | None = None,
        is_up: bool = True,
        **peer: Any,
    ) -> None:
        self.peers = [LocalDiameter(tls=server_tls, host=f"hss{n}.example.net") for n in range(peers)]
        for local in self.peers:
            local.by_impu[IMPU] = KNOWN
            local.by_external_id[EXTERNAL_ID] = KNOWN
        self.metrics = Metrics(process=False)
        self._answer_s = answer_s
        self._most = most_outstanding
        self._is_up = is_up
        self._peer = peer
        self.node: Node

    @property
    def hss(self) -> LocalDiameter:
        return self.peers[0]

    async def __aenter__(self) -> Self:
        ports = [await local.start() for local in self.peers]
        settings = [replace(replace(QUICK, **self._peer), name=f"peer{n}", port=port) for n, port in enumerate(ports)]
        self.node = Node(
            settings,
            self.metrics,
            destination_realm="example.net",
            answer_s=self._answer_s,
            most_outstanding=self._most,
        )
        self.node.start()
        if self._is_up:
            await until(lambda: self.node.open_peers == len(self.peers))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.node.close()
        for local in self.peers:
            await local.close()

    def count(self, metric: Metric, label: str = "") -> float:
        return self.metrics.counters.get((metric, label), 0)
