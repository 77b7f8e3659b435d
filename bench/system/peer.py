"""The peer: mosquitto with nothing durable and no limits, where the machine has it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import tempfile
import time
from pathlib import Path
from typing import Self

from bench.system.stage import BenchFailed, Process

PLACES = ("/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto")
NOT_THERE = "mosquitto is not installed, so the ratio to the peer was not taken (on Debian: apt install mosquitto)"
START_S = 10.0
#: what a user would set who wants it fast: nothing on disk, nothing logged, nothing dropped, small writes at once
CONFIGURATION = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence false
log_type none
log_dest none
max_connections -1
max_inflight_messages 0
max_queued_messages 0
set_tcp_nodelay true
user {user}
"""


def find() -> str | None:
    """The program, or None where it is not installed."""
    return shutil.which("mosquitto") or next((place for place in PLACES if Path(place).exists()), None)


class Mosquitto:
    """`async with Mosquitto() as peer`; `find` says whether it can be."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="heliograph-peer-"))
        self._process = Process("mosquitto", self._folder)
        self.port = 0

    @property
    def pid(self) -> int:
        return self._process.pid

    async def __aenter__(self) -> Self:
        program = find()
        try:
            if program is None:
                raise BenchFailed(NOT_THERE)
            self.port = free_port()
            configuration = self._folder / "mosquitto.conf"
            # as root it would become another user, who may open fewer files
            configuration.write_text(CONFIGURATION.format(port=self.port, user="root"))
            await self._process.start([program, "-c", str(configuration)])
            await self._listening()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def _listening(self) -> None:
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            self._process.check()
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            await asyncio.sleep(0.02)
        raise BenchFailed(f"mosquitto does not listen after {START_S:g} s: {self._process.said()}")

    async def __aexit__(self, *_: object) -> None:
        await self._process.stop()
        shutil.rmtree(self._folder, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
