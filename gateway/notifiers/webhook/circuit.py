"""Leaves an address alone after failures in a row; must never keep it shut once it answers."""

from __future__ import annotations

from gateway.notifiers.webhook.settings import Settings

#: addresses remembered; past it the oldest is forgotten, and starts with a clean slate
MAX_CIRCUITS = 1_024


class _Circuit:
    __slots__ = ("failures", "open_until_ms", "openings", "probing")

    def __init__(self) -> None:
        self.failures = 0
        self.openings = 0
        self.open_until_ms = 0
        self.probing = False


class Circuits:
    """One circuit an address. Closed: calls pass. Open: none pass. Half open: one passes and decides."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._circuits: dict[str, _Circuit] = {}

    def refused_ms(self, url: str, now_ms: int) -> int:
        """0: call it (and report the result). Else: leave it alone for so long."""
        circuit = self._circuits.get(url)
        if circuit is None or not circuit.open_until_ms:
            return 0
        if now_ms < circuit.open_until_ms:
            return circuit.open_until_ms - now_ms
        if circuit.probing:
            return int(self._settings.open_s * 1000)
        circuit.probing = True
        return 0

    def report(self, url: str, *, ok: bool, now_ms: int) -> bool:
        """Result of a call; True where this opened the circuit."""
        circuit = self._circuits.get(url)
        if ok:
            if circuit is not None:
                del self._circuits[url]
            return False
        if circuit is None:
            if len(self._circuits) >= MAX_CIRCUITS:
                del self._circuits[next(iter(self._circuits))]
            circuit = self._circuits[url] = _Circuit()
        circuit.failures += 1
        was_probe, circuit.probing = circuit.probing, False
        is_open = now_ms < circuit.open_until_ms
        if is_open or (circuit.failures < self._settings.failures and not was_probe):
            return False
        pause_s = min(self._settings.open_s * 2 ** min(circuit.openings, 16), self._settings.open_max_s)
        circuit.openings += 1
        circuit.failures = 0
        circuit.open_until_ms = now_ms + int(pause_s * 1000)
        return True
