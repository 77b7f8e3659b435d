"""An IRC server on loopback: Debian's ngircd, in a folder, on a free port; must never outlive who started it."""

from __future__ import annotations

import socket
from pathlib import Path

from gateway.tour.operator.programs import Programs

NEEDED = {"ngircd": "ngircd"}
PROGRAM = "/usr/sbin/ngircd"
ROOM = "#room"
_CONFIG = """[Global]
Name = irc.test.local
Info = test
Listen = 127.0.0.1
Ports = {port}
{password}
MotdPhrase = hello
[Limits]
MaxConnectionsIP = 0
MaxNickLength = 30
MaxPenaltyTime = 0
[Options]
Ident = no
PAM = no
DNS = no
IncludeDir = {folder}/inc
[Channel]
Name = {room}
[Operator]
Name = boss
Password = boss
"""


class Ngircd:
    """`password`: of the server, "" for none. An operator, `boss` with the password `boss`, may KILL. `certificate`:
    a file with it, and one with its key, for TLS on a port of its own."""

    def __init__(self, folder: Path, password: str = "", certificate: tuple[Path, Path] | None = None) -> None:
        self._folder, self._password, self._certificate = folder, password, certificate
        self._programs = Programs(folder)
        with socket.socket() as probe, socket.socket() as other:
            probe.bind(("127.0.0.1", 0))
            other.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
            self.tls_port: int = other.getsockname()[1]

    async def start(self) -> None:
        (self._folder / "inc").mkdir(parents=True, exist_ok=True)
        password = f"Password = {self._password}" if self._password else ""
        config = _CONFIG.format(port=self.port, password=password, folder=self._folder, room=ROOM)
        if self._certificate is not None:
            certificate, key = self._certificate
            config += f"[SSL]\nPorts = {self.tls_port}\nCertFile = {certificate}\nKeyFile = {key}\n"
        (self._folder / "ngircd.conf").write_text(config)
        self._programs.start(PROGRAM, "-n", "-f", str(self._folder / "ngircd.conf"))
        try:
            await self._programs.listens("ngircd", "127.0.0.1", self.port)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        await self._programs.close()
