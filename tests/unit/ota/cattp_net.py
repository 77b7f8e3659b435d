"""Two CAT_TP links and a network between them that loses, doubles and reorders; time is a number."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable

from gateway.ota.cattp import Closed, Limits, Link, Output, Received, State, Transmit
from gateway.ota.cattp_pdu import Pdu, Reason, build_refusal, parse_pdu

SERVER_PORT, CARD_PORT = 9_000, 1

FAST = Limits(
    max_pdu=60,
    max_sdu=400,
    window=4,
    flight=4,
    rto_first_ms=300,
    rto_least_ms=100,
    rto_most_ms=1_000,
    retries=40,
    opening_retries=40,
    keep_alive_ms=5_000,
    idle_ms=600_000,
    close_wait_ms=3_000,
)


class Side:
    def __init__(self, link: Link) -> None:
        self.link = link
        self.events: list[Output] = []
        self.sent: list[Pdu] = []
        self.on_event: Callable[[Output], None] = lambda _event: None

    @property
    def sdus(self) -> list[bytes]:
        return [event.sdu for event in self.events if isinstance(event, Received)]

    @property
    def closed(self) -> list[Closed]:
        return [event for event in self.events if isinstance(event, Closed)]


class Net:
    """A card and a server."""

    def __init__(
        self,
        *,
        seed: int = 1,
        loss: float = 0.0,
        twice: float = 0.0,
        delay_ms: tuple[int, int] = (10, 10),
        card: Limits = FAST,
        server: Limits = FAST,
        card_first: int = 100,
        server_first: int = 200,
        admit: Callable[[bytes], bool] = lambda _identification: True,
    ) -> None:
        self.random = random.Random(seed)
        self.loss, self.twice, self.delay_ms = loss, twice, delay_ms
        self.now_ms = 1_000
        self.card = Side(
            Link(
                card,
                CARD_PORT,
                card_first,
                remote_port=SERVER_PORT,
                identification=bytes.fromhex("98443000000000000010"),
            )
        )
        self.server = Side(Link(server, SERVER_PORT, server_first, admit=admit))
        self.server.link.listen()
        self._flying: list[tuple[int, int, Side, bytes]] = []
        self._count = 0
        #: every datagram, in the order in which they were sent: (from the card?, bytes)
        self.wire: list[tuple[bool, bytes]] = []

    def other(self, side: Side) -> Side:
        return self.server if side is self.card else self.card

    def run_outputs(self, side: Side, outputs: list[Output]) -> None:
        for output in outputs:
            if isinstance(output, Transmit):
                side.sent.append(parse_pdu(output.data))
                self._post(side, output.data)
            else:
                side.events.append(output)
                side.on_event(output)

    def _post(self, side: Side, data: bytes) -> None:
        self.wire.append((side is self.card, data))
        for _ in range(2 if self.random.random() < self.twice else 1):
            if self.random.random() >= self.loss:
                self._count += 1
                at = self.now_ms + self.random.randint(*self.delay_ms)
                heapq.heappush(self._flying, (at, self._count, self.other(side), data))

    def connect(self) -> None:
        self.run_outputs(self.card, self.card.link.connect(self.now_ms))

    def open(self) -> None:
        self.connect()
        self.until(lambda: self.card.link.state is self.server.link.state is State.OPEN)

    def send(self, side: Side, sdu: bytes) -> None:
        self.run_outputs(side, side.link.send(sdu, self.now_ms))

    def close(self, side: Side) -> None:
        self.run_outputs(side, side.link.close(self.now_ms))

    def _deliver(self, side: Side, data: bytes) -> None:
        if side.link.state is State.CLOSE:
            # what an endpoint does for a link that it does not know
            refusal = build_refusal(parse_pdu(data), Reason.UNEXPECTED_PDU)
            if refusal is not None:
                self._post(side, refusal)
            return
        self.run_outputs(side, side.link.handle(data, self.now_ms))

    def step(self) -> bool:
        """To the next datagram or timer. False: there is neither."""
        times = [due for side in (self.card, self.server) if (due := side.link.due_ms) is not None]
        if self._flying:
            times.append(self._flying[0][0])
        if not times:
            return False
        self.now_ms = max(self.now_ms, min(times))
        while self._flying and self._flying[0][0] <= self.now_ms:
            _, _, side, data = heapq.heappop(self._flying)
            self._deliver(side, data)
        for side in (self.card, self.server):
            due = side.link.due_ms
            if due is not None and due <= self.now_ms:
                self.run_outputs(side, side.link.tick(self.now_ms))
        return True

    def until(self, done: Callable[[], bool], most_steps: int = 50_000) -> None:
        for _ in range(most_steps):
            if done():
                return
            if not self.step():
                break
        assert done(), (self.card.link.state, self.server.link.state, self.card.link.counts, self.server.link.counts)

    def run_for(self, span_ms: int) -> None:
        end = self.now_ms + span_ms
        while True:
            times = [due for side in (self.card, self.server) if (due := side.link.due_ms) is not None]
            times += [self._flying[0][0]] if self._flying else []
            if not times or min(times) > end:
                self.now_ms = end
                return
            self.step()
