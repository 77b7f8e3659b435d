"""An HSS and MTC-IWF of our own, strict, and freeDiameterd between them and the gateway where it is installed; must
never be reachable from anywhere but this machine.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Self

from gateway.diameter.local import LocalDiameter
from gateway.tour.operator.diameter_relay import GATEWAY_HOST, NEEDED, REALM, Relay, free_ports
from gateway.tour.operator.programs import missing


class Home:
    """As a context manager. Until `start` there is nobody at its port."""

    def __init__(self) -> None:
        self._packages = missing(NEEDED)
        self._folder = tempfile.TemporaryDirectory(prefix="heliograph-tour-")
        self._relay: Relay | None = None
        self._is_started = False
        self._port = 0
        self.hss = LocalDiameter(behind_relay=not self._packages)

    async def __aenter__(self) -> Self:
        try:
            if self._packages:
                (self._port,) = free_ports(1)
            else:
                self._relay = Relay(Path(self._folder.name), await self.hss.start())
                self._port = self._relay.port
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._relay is not None and self._is_started:
            await self._relay.__aexit__()
        await self.hss.close()
        self._folder.cleanup()

    async def start(self) -> None:
        """Up, and able to answer."""
        if self._relay is None:
            await self.hss.start(self._port)
        else:
            self._is_started = True
            await self._relay.__aenter__()

    @property
    def settings(self) -> tuple[str, ...]:
        """By which a gateway finds it."""
        return (
            f"diameter.peers=127.0.0.1:{self._port}",
            f"diameter.origin_host={GATEWAY_HOST}",
            f"diameter.origin_realm={REALM}",
            "diameter.reconnect_s=0.1",
            "diameter.reconnect_max_s=0.2",
        )

    @property
    def by_what(self) -> str:
        """For the row: through what it was asked."""
        if self._packages:
            return f"asked directly; for a relay between: apt install {self._packages}"
        return "freeDiameter between"
