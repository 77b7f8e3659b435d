"""A circuit for each host: after so many failures in a row one account at a time tries it, and all others wait for its
word; must hold nothing of a host that is well."""

from __future__ import annotations

import asyncio
from collections import deque

#: hosts with failures that are remembered
MOST_CIRCUITS = 10_000


class _Circuit:
    __slots__ = ("failures", "is_probed", "open_until", "timer", "waiters")

    def __init__(self) -> None:
        self.failures = 0
        #: by the loop's clock; 0: closed
        self.open_until = 0.0
        self.is_probed = False
        self.waiters: deque[asyncio.Future[bool]] = deque()
        self.timer: asyncio.TimerHandle | None = None


class Breakers:
    """`enter` before a connect, and then exactly one of `succeeded`, `failed` and `abandoned`."""

    def __init__(self, failures: int, rest_s: float) -> None:
        self._failures = failures
        self._rest_s = rest_s
        self._circuits: dict[str, _Circuit] = {}

    @property
    def resting(self) -> int:
        return sum(1 for circuit in self._circuits.values() if circuit.is_probed or circuit.waiters)

    def is_open(self, host: str) -> bool:
        circuit = self._circuits.get(host)
        return circuit is not None and circuit.open_until > 0

    async def enter(self, host: str) -> bool:
        """Wait until this account may try the host; True: it is the probe."""
        circuit = self._circuits.get(host)
        if circuit is None or not circuit.open_until:
            return False
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        circuit.waiters.append(future)
        self._probe_when_due(host, circuit)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.result():
                self.abandoned(host, is_probe=True)
            else:
                # a waiter that is gone stays in the queue until the next word; the queue is bounded all the same
                self._drop_the_gone(circuit)
            raise

    def succeeded(self, host: str) -> None:
        """The host answered, whatever it said of the account."""
        circuit = self._circuits.pop(host, None)
        if circuit is None:
            return
        if circuit.timer is not None:
            circuit.timer.cancel()
        for waiter in circuit.waiters:
            if not waiter.done():
                waiter.set_result(False)

    def failed(self, host: str, *, is_probe: bool) -> None:
        circuit = self._circuits.get(host)
        if circuit is None:
            self._make_room()
            circuit = self._circuits[host] = _Circuit()
        circuit.failures += 1
        if is_probe:
            circuit.is_probed = False
        elif circuit.open_until:
            return  # begun before it opened: says nothing new
        if circuit.failures >= self._failures:
            circuit.open_until = asyncio.get_running_loop().time() + self._rest_s
            self._probe_when_due(host, circuit)

    def abandoned(self, host: str, *, is_probe: bool) -> None:
        """Nothing was learnt."""
        circuit = self._circuits.get(host)
        if circuit is not None and is_probe:
            circuit.is_probed = False
            self._probe_when_due(host, circuit)

    def close(self) -> None:
        for circuit in self._circuits.values():
            if circuit.timer is not None:
                circuit.timer.cancel()
        self._circuits.clear()

    def _probe_when_due(self, host: str, circuit: _Circuit) -> None:
        if circuit.is_probed or circuit.timer is not None:
            return
        loop = asyncio.get_running_loop()
        if loop.time() < circuit.open_until:
            circuit.timer = loop.call_at(circuit.open_until, self._on_timer, host, circuit)
            return
        while circuit.waiters:
            waiter = circuit.waiters.popleft()
            if not waiter.done():
                circuit.is_probed = True
                waiter.set_result(True)
                return

    def _on_timer(self, host: str, circuit: _Circuit) -> None:
        circuit.timer = None
        self._probe_when_due(host, circuit)

    def _make_room(self) -> None:
        """Hosts are users' words: past so many the oldest that nobody waits for is forgotten, with its failures."""
        if len(self._circuits) < MOST_CIRCUITS:
            return
        for host, circuit in self._circuits.items():
            if not circuit.is_probed and not circuit.waiters:
                del self._circuits[host]
                return

    @staticmethod
    def _drop_the_gone(circuit: _Circuit) -> None:
        gone = sum(1 for waiter in circuit.waiters if waiter.done())
        if gone > 64 and gone * 2 > len(circuit.waiters):
            circuit.waiters = deque(waiter for waiter in circuit.waiters if not waiter.done())
