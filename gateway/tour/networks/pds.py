"""A Bluesky PDS on loopback, with the directory of identities it needs: npm's @atproto/pds and @did-plc/server, as
.ci/im puts them into the cache folder; must never outlive who started it."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
from pathlib import Path

from gateway.tour.operator.programs import Programs

NEEDED = {"node": "nodejs"}
PACKAGES = (
    Path(
        os.environ.get("HELIOGRAPH_SERVERS")
        or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "heliograph"
    )
    / "pds"
)
_SCRIPT = Path(__file__).with_name("pds.mjs")


class Pds:
    """`appview`: where it asks for timelines; nobody is there by default, as in a small network of one's own."""

    def __init__(self, folder: Path, appview: str = "http://localhost:1", *, has_rate_limits: bool = False) -> None:
        self._folder = folder
        self._plc, self._pds = Programs(folder), Programs(folder)
        self._plc_port, self.port = _free_ports(2)
        self._has_plc = False
        self._environment = {
            "PACKAGES": str(PACKAGES / "node_modules"),
            "FOLDER": str(folder),
            "PLC_PORT": str(self._plc_port),
            "PDS_PORT": str(self.port),
            "ROTATION_KEY": secrets.token_hex(32),
            "APPVIEW_URL": appview,
            "RATE_LIMITS": "yes" if has_rate_limits else "no",
            "NODE_ENV": "production",
            "LOG_ENABLED": "false",
        }

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    async def start(self) -> None:
        """The directory is started once: it forgets all when it ends."""
        node = shutil.which("node") or "node"
        if not self._has_plc:
            self._has_plc = True
            self._plc.start(node, str(_SCRIPT), "plc", **self._environment)
            await self._plc.listens(node, "localhost", self._plc_port)
        self._pds.start(node, str(_SCRIPT), "pds", **self._environment)
        await self._pds.listens(node, "localhost", self.port)

    async def stop(self) -> None:
        """The server alone, as if its machine had gone."""
        await self._pds.close()

    async def close(self) -> None:
        await self._pds.close()
        await self._plc.close()


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports
