"""A push proxy gateway of another implementation: Kannel's bearerbox, smsbox and wapbox with its fake SMSC behind them,
on free ports and in a folder of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import socket
from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import unquote_to_bytes

FAKE_SMSC = Path("/usr/lib/kannel/test/fakesmsc")
PATIENCE_S = 20.0
USER, PASSWORD = "pushgw", "s3cret-of-the-ppg"
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


def missing() -> list[str]:
    """Programs that are not there."""
    found = [name for name in ("bearerbox", "smsbox", "wapbox") if shutil.which(name, path=_path()) is None]
    return found + ([] if FAKE_SMSC.exists() else [str(FAKE_SMSC)])


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Sent(NamedTuple):
    """One short message as the fake SMSC shows it."""

    receiver: str
    header: bytes  # user data header, with its length
    body: bytes


class Kannel:
    """As a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = {name: free_port() for name in ("admin", "smsbox", "wapbox", "smsc", "sendsms", "ppg")}
        self.sent: list[Sent] = []
        self.processes: dict[str, asyncio.subprocess.Process] = {}
        self._reading: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['ppg']}/wappush"

    async def __aenter__(self) -> Self:
        config = self.folder / "kannel.conf"
        config.write_text(_CONFIG.format(**self.ports, folder=self.folder, user=USER, password=PASSWORD))
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._start("bearerbox", str(config))
                await self.answers("smsbox", "smsc")
                await self._start("smsbox", str(config))
                await self.answers("sendsms")
                await self._start("wapbox", str(config))
                await self.answers("ppg")
                await self._start_fake()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def _start(self, name: str, config: str) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = await asyncio.create_subprocess_exec(
                shutil.which(name, path=_path()) or name,
                config,
                cwd=self.folder,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    async def _start_fake(self) -> None:
        # its standard input stays open: it goes when that closes
        process = await asyncio.create_subprocess_exec(
            str(FAKE_SMSC),
            "-H",
            "127.0.0.1",
            "-r",
            str(self.ports["smsc"]),
            cwd=self.folder,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        self.processes["fakesmsc"] = process
        self._reading = asyncio.create_task(self._read(process))

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            found = _GOT.search(line)
            if found is not None:
                header, body = (unquote_to_bytes(part.replace(b"+", b" ")) for part in found.groups()[1:])
                self.sent.append(Sent(found[1].decode(), header, body))

    async def answers(self, *names: str) -> None:
        """Until these ports take connections."""
        for name in names:
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.ports[name])
                except OSError:
                    await asyncio.sleep(0.05)
                    continue
                writer.close()
                await writer.wait_closed()
                break

    async def restart(self, name: str) -> None:
        """One that was killed, until it listens again."""
        async with asyncio.timeout(PATIENCE_S):
            await self._start(name, str(self.folder / "kannel.conf"))
            await self.answers({"wapbox": "ppg", "smsbox": "sendsms"}[name])

    async def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        if process.returncode is None:
            process.kill()
        await process.wait()

    async def __aexit__(self, *_: object) -> None:
        for name in list(self.processes)[::-1]:
            await self.kill(name)
        if self._reading is not None:
            with contextlib.suppress(Exception):
                await self._reading
