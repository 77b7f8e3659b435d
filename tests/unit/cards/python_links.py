"""`CardLinks` in Python, on a real UDP socket: the state machine of gateway.ota, a link for each peer address."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from gateway.model.cards import LinkClosed, LinkDelivered, LinkEvent, LinkOpened, LinkReceived
from gateway.ota.cattp import Closed, Delivered, Limits, Link, Opened, Output, Received, Refused, State, Transmit
from gateway.ota.cattp_pdu import Reason, build_refusal, parse_pdu
from gateway.ota.malformed import Malformed

_Peer = tuple[str, int]


@dataclass
class _Expected:
    on_event: Callable[[LinkEvent], None]
    until_ms: int
    #: number of its link that is open
    link: int = 0


@dataclass
class _Served:
    number: int
    peer: _Peer
    link: Link
    identification: bytes = b""
    timer: asyncio.TimerHandle | None = field(default=None, repr=False)


class PythonLinks(asyncio.DatagramProtocol):
    def __init__(self, limits: Limits, cattp_port: int = 9_000, seed: int = 1) -> None:
        self.counts: Counter[str] = Counter()
        self._limits, self._port = limits, cattp_port
        self._random = random.Random(seed)
        self._expected: dict[bytes, _Expected] = {}
        self._served: dict[int, _Served] = {}
        self._by_peer: dict[tuple[_Peer, int], _Served] = {}
        self._next = 1
        self._transport: asyncio.DatagramTransport | None = None

    @classmethod
    async def open(cls, limits: Limits) -> PythonLinks:
        loop = asyncio.get_running_loop()
        _, links = await loop.create_datagram_endpoint(lambda: cls(limits), local_addr=("127.0.0.1", 0))
        return links

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    @property
    def port(self) -> int:
        return self._transport.get_extra_info("sockname")[1]

    @staticmethod
    def _now_ms() -> int:
        return int(asyncio.get_running_loop().time() * 1_000)

    # --- the port ----------------------------------------------------------------------------------------------------

    def expect(self, identification: bytes, on_event: Callable[[LinkEvent], None], valid_ms: int) -> bool:
        self._expected[identification] = _Expected(on_event, self._now_ms() + valid_ms)
        return True

    def forget(self, identification: bytes) -> None:
        expected = self._expected.pop(identification, None)
        if expected is not None and expected.link in self._served:
            served = self._served[expected.link]
            self._run(served, served.link.abort(Reason.NORMAL, self._now_ms()))

    def send(self, link: int, sdu: bytes) -> bool:
        served = self._served.get(link)
        if served is None:
            return False
        try:
            self._run(served, served.link.send(sdu, self._now_ms()))
        except Refused:
            return False
        return True

    def close(self, link: int) -> None:
        served = self._served.get(link)
        if served is not None:
            self._run(served, served.link.close(self._now_ms()))

    def stop(self) -> None:
        """As a process that is killed: nobody hears of it."""
        for served in list(self._served.values()):
            self._drop(served)
        self._transport.close()

    @property
    def open_links(self) -> int:
        return len(self._served)

    # --- datagrams ---------------------------------------------------------------------------------------------------

    def datagram_received(self, data: bytes, addr: _Peer) -> None:
        try:
            pdu = parse_pdu(data)
        except Malformed:
            self.counts["malformed"] += 1
            return
        key = (addr, pdu.source)
        served = self._by_peer.get(key)
        if served is None:
            if pdu.opening is None:
                refusal = build_refusal(pdu, Reason.UNEXPECTED_PDU)
                if refusal is not None:
                    self._transport.sendto(refusal, addr)
                return
            if not self._admit(pdu.opening.identification):
                self.counts["not_admitted"] += 1
                return
            link = Link(self._limits, self._port, self._random.randrange(0x1_0000), admit=self._admit)
            link.listen()
            served = self._by_peer[key] = _Served(self._next, addr, link, pdu.opening.identification)
            self._served[self._next] = served
            self._next += 1
        self._run(served, served.link.handle_pdu(pdu, self._now_ms()))

    def _admit(self, identification: bytes) -> bool:
        expected = self._expected.get(identification)
        return expected is not None and (expected.link != 0 or expected.until_ms > self._now_ms())

    def _run(self, served: _Served, outputs: list[Output]) -> None:
        for output in outputs:
            if isinstance(output, Transmit):
                self._transport.sendto(output.data, served.peer)
            else:
                self._tell(served, output)
        if served.timer is not None:
            served.timer.cancel()
            served.timer = None
        due = served.link.due_ms
        if due is not None:
            late_s = max(0, due - self._now_ms()) / 1_000
            served.timer = asyncio.get_running_loop().call_later(
                late_s, lambda: self._run(served, served.link.tick(self._now_ms()))
            )
        elif served.link.state is State.CLOSE:
            self._drop(served)

    def _drop(self, served: _Served) -> None:
        if served.timer is not None:
            served.timer.cancel()
        self._served.pop(served.number, None)
        for key in [key for key, other in self._by_peer.items() if other is served]:
            del self._by_peer[key]

    def _tell(self, served: _Served, output: Output) -> None:
        expected = self._expected.get(served.identification)
        if expected is None:
            if isinstance(output, Opened):  # forgotten while it opened
                asyncio.get_running_loop().call_soon(
                    lambda: self._run(served, served.link.abort(Reason.NORMAL, self._now_ms()))
                )
            return
        match output:
            case Opened(opening):
                older = self._served.get(expected.link)
                if older is not None and older is not served:
                    expected.on_event(LinkClosed(older.number, "replaced", 0, 0))
                    self._drop(older)
                expected.link = served.number
                expected.on_event(LinkOpened(served.number, opening.max_pdu, opening.max_sdu))
            case _ if expected.link != served.number:
                return
            case Received(sdu):
                expected.on_event(LinkReceived(served.number, sdu))
            case Delivered(sdus):
                expected.on_event(LinkDelivered(served.number, sdus))
            case Closed(cause, reason, undelivered):
                expected.on_event(LinkClosed(served.number, cause.value, reason, undelivered))
