"""A push proxy gateway of another implementation: Kannel's bearerbox, smsbox and wapbox with its fake SMSC behind them,
on free ports of loopback and in a folder of its own; must never be reachable from anywhere but this machine.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import unquote_to_bytes

from gateway.tour.operator.programs import Programs

_BOXES, _FAKE_SMSC = "/usr/sbin", "/usr/lib/kannel/test/fakesmsc"
#: program → Debian package; where Debian has them, for they are in no user's PATH
NEEDED = {f"{_BOXES}/{box}": "kannel" for box in ("bearerbox", "smsbox", "wapbox")} | {_FAKE_SMSC: "kannel-extras"}
USER, PASSWORD = "pushgw", "s3cret-of-the-ppg"
#: of each box: the port by which it is known to be up
_PORTS = {"bearerbox": "smsc", "smsbox": "sendsms", "wapbox": "ppg"}
_CONFIG = """\
group = core
admin-port = {admin}
admin-password = {password}
admin-interface = "127.0.0.1"
smsbox-port = {smsbox}
wapbox-port = {wapbox}
wdp-interface-name = "127.0.0.1"
box-allow-ip = "127.0.0.1"
dlr-storage = internal
store-type = file
store-location = "{folder}/kannel.store"

group = smsc
smsc = fake
smsc-id = fake
host = 127.0.0.1
port = {smsc}
connect-allow-ip = 127.0.0.1
preferred-smsc-id = fake

group = smsbox
bearerbox-host = 127.0.0.1
sendsms-port = {sendsms}
sendsms-interface = "127.0.0.1"
global-sender = 13013

group = sendsms-user
username = tester
password = {password}
concatenation = true
max-messages = 10

group = sms-service
keyword = default
text = "No service specified"
max-messages = 0

group = wapbox
bearerbox-host = 127.0.0.1
timer-freq = 10

group = ppg
ppg-url = /wappush
ppg-port = {ppg}
ppg-deny-ip = ""
ppg-allow-ip = "127.0.0.1"
concurrent-pushes = 100
users = 1024
trusted-pi = false
service-name = ppg
global-sender = 13013

group = wap-push-user
wap-push-user = {user}
ppg-username = {user}
ppg-password = {password}
allow-ip = "127.0.0.1"
country-prefix = "49"
default-smsc = fake

group = sms-service
keyword = ppg
catch-all = true
text = ""
"""
_GOT = re.compile(rb"Got message \d+: <\S* (\S+) udh (\S*) data (\S*)>")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Sent(NamedTuple):
    """One short message as the fake SMSC shows it."""

    receiver: str
    header: bytes  # user data header, with its length
    body: bytes

    def __repr__(self) -> str:
        return f"Sent({len(self.header)}+{len(self.body)} bytes)"


class Kannel:
    """As a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = {name: _free_port() for name in ("admin", "smsbox", "wapbox", "smsc", "sendsms", "ppg")}
        self._programs = Programs(folder)
        self._pids: dict[str, int] = {}
        self._smsc: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        #: what reached the SMSC
        self.sent: list[Sent] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._ports['ppg']}/wappush"

    async def __aenter__(self) -> Self:
        config = _CONFIG.format(**self._ports, folder=self._folder, user=USER, password=PASSWORD)
        (self._folder / "kannel.conf").write_text(config)
        try:
            for box in _PORTS:
                await self.start(box)
            # its standard input stays open: it goes when that closes
            self._smsc = await asyncio.create_subprocess_exec(
                *(_FAKE_SMSC, "-H", "127.0.0.1", "-r", str(self._ports["smsc"])),
                cwd=self._folder,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            self._reading = asyncio.create_task(self._read(self._smsc))
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def start(self, box: str) -> None:
        """Also one that was killed; returns when it listens."""
        program = f"{_BOXES}/{box}"
        self._pids[box] = self._programs.start(program, str(self._folder / "kannel.conf"))
        await self._programs.listens(program, "127.0.0.1", self._ports[_PORTS[box]])

    async def kill(self, box: str) -> None:
        """As a crash would end it; returns when it does not listen any more."""
        os.kill(self._pids.pop(box), signal.SIGKILL)
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self._ports[_PORTS[box]])
            except OSError:
                return
            writer.close()
            await asyncio.sleep(0.02)

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            found = _GOT.search(line)
            if found is not None:
                header, body = (unquote_to_bytes(part.replace(b"+", b" ")) for part in found.groups()[1:])
                self.sent.append(Sent(found[1].decode(), header, body))

    async def __aexit__(self, *_: object) -> None:
        if self._smsc is not None:
            if self._smsc.returncode is None:
                self._smsc.kill()
            await self._smsc.wait()
        if self._reading is not None:
            await asyncio.gather(self._reading, return_exceptions=True)
        await self._programs.close()
