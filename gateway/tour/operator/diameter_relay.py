"""A relay that speaks Diameter on this machine, freeDiameterd, with an HSS behind it; on free ports of loopback and in
a folder of its own; must never be reachable from anywhere but this machine.
"""

from __future__ import annotations

import asyncio
import re
import socket
from pathlib import Path
from typing import Self

from gateway.notifiers.local_tls import Authority

PROGRAM = "freeDiameterd"
#: program → Debian package
NEEDED = {PROGRAM: "freediameter"}
REALM = "example.net"
RELAY_HOST, HSS_HOST, GATEWAY_HOST = (f"{name}.{REALM}" for name in ("dra", "hss", "pushgw"))
PATIENCE_S = 20.0
_MET_HSS = re.compile(rf"-> 'STATE_OPEN'\s+'{re.escape(HSS_HOST)}'")
_CONFIGURATION = """
Identity = "{relay}";
Realm = "{realm}";
Port = {port};
SecPort = {tls_port};
No_SCTP;
No_IPv6;
ListenOn = "127.0.0.1";
TcTimer = 5;
TwTimer = 6;
AppServThreads = 1;
TLS_Cred = "{folder}/relay.pem", "{folder}/relay.key";
TLS_CA = "{folder}/authority.pem";
LoadExtension = "{extensions}/dict_nasreq.fdx";
LoadExtension = "{extensions}/dict_dcca.fdx";
LoadExtension = "{extensions}/acl_wl.fdx" : "{folder}/acl.conf";
ConnectPeer = "{hss}" {{ ConnectTo = "127.0.0.1"; Port = {hss_port}; No_TLS; No_SCTP; }};
"""


def free_ports(count: int) -> list[int]:
    """Bound together, so that they differ, and let go."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


class Relay:
    """As a context manager; the HSS listens already, on this port."""

    def __init__(self, folder: Path, hss_port: int) -> None:
        self.folder = folder
        self.port, self.tls_port = free_ports(2)
        self._hss_port = hss_port
        self.authority = Authority()
        self._relay: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._relay is not None and self._relay.returncode is None:  # nothing waits for its goodbyes any more
            self._relay.kill()
            await self._relay.wait()

    async def start(self) -> None:
        """Until it has met the HSS."""
        folder = self.folder
        issued = self.authority.issue(RELAY_HOST, "127.0.0.1")
        self.authority.write(folder)
        (folder / "relay.pem").write_text(issued.certificate)
        (folder / "relay.key").write_text(issued.key)
        (folder / "acl.conf").write_text(f"ALLOW_IPSEC {GATEWAY_HOST}\nALLOW_OLD_TLS {GATEWAY_HOST}\n")
        file, log_file = folder / "relay.conf", folder / "relay.log"
        file.write_text(
            _CONFIGURATION.format(
                relay=RELAY_HOST,
                realm=REALM,
                port=self.port,
                tls_port=self.tls_port,
                folder=folder,
                extensions="/usr/lib/freeDiameter",
                hss=HSS_HOST,
                hss_port=self._hss_port,
            )
        )
        with log_file.open("wb") as log:
            self._relay = await asyncio.create_subprocess_exec(
                PROGRAM, "-c", str(file), stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
            )
        async with asyncio.timeout(PATIENCE_S):
            while _MET_HSS.search(log_file.read_text()) is None:
                if self._relay.returncode is not None:
                    raise RuntimeError(f"{PROGRAM} ended:\n{log_file.read_text(errors='replace')[-2000:]}")
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """As its operator would."""
        if self._relay is None or self._relay.returncode is not None:
            return
        self._relay.terminate()
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._relay.wait()
        except TimeoutError:
            self._relay.kill()
            await self._relay.wait()
        self._relay = None
