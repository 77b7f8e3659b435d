"""osmo-ggsn with a context that sgsnemu opens: who has one is on line at its address, and off line when it is gone
(C11)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
from collections.abc import AsyncIterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from ip_scene import OPAQUE, IpScene, subscriber, until
from needs import needs

from gateway.metrics import Metric
from gateway.paging.ip.ggsn import OsmoGgsn
from gateway.paging.ip.online import OFF_LINE


def can_not_tunnel() -> bool:
    """osmo-ggsn opens a tun device, which takes root and a kernel that has it."""
    with contextlib.suppress(OSError):
        os.close(os.open("/dev/net/tun", os.O_RDWR))
        return False
    return True


GGSN = needs({"osmo-ggsn": "osmo-ggsn", "sgsnemu": "osmo-ggsn"})
TUN = pytest.mark.skipif(can_not_tunnel(), reason="NOT TESTED: no root or no /dev/net/tun beside apt install osmo-ggsn")
pytestmark = [pytest.mark.slow, GGSN, TUN]
#: sgsnemu reads the IMSI as a number: one that begins with a zero is another's
IMSI = "240010123456789"
CONFIG = """log stderr
 logging filter all 1
 logging level ggsn info
ctrl
 bind {ip}
line vty
 no login
 bind {ip}
ggsn ggsn0
 gtp state-dir {folder}
 gtp bind-ip {ip}
 apn internet
  gtpu-mode tun
  tun-device {tun}
  type-support v4
  ip prefix dynamic {pool}.0/24
  ip dns 0 127.0.0.1
  ip ifconfig {pool}.1/24
  no shutdown
 default-apn internet
 no shutdown ggsn
"""


class Ggsn:
    """osmo-ggsn on a loopback address, with a tun device and a pool, of its own."""

    def __init__(self, folder: Path) -> None:
        number = os.getpid() % 200 + 20
        self.ip, self.sgsn = f"127.0.{number}.2", f"127.0.{number}.3"
        self.pool = f"172.31.{number}"
        self._tun = f"tunhg{number}"
        self._folder = folder
        self._processes: list[asyncio.subprocess.Process] = []

    async def run(self, *command: str) -> asyncio.subprocess.Process:
        with (self._folder / f"{command[0]}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(*command, cwd=self._folder, stdout=log, stderr=log)
        self._processes.append(process)
        return process

    async def start(self) -> None:
        file = self._folder / "ggsn.cfg"
        file.write_text(CONFIG.format(ip=self.ip, folder=self._folder, tun=self._tun, pool=self.pool))
        process = await self.run("osmo-ggsn", "-c", str(file))
        async with asyncio.timeout(20):
            while True:
                assert process.returncode is None, (self._folder / "osmo-ggsn.log").read_text()
                with contextlib.suppress(OSError), socket.create_connection((self.ip, 4260), 1):
                    return
                await asyncio.sleep(0.05)

    async def attach(self, seconds: int) -> None:
        """A terminal that has a context for so long."""
        await self.run(
            *("sgsnemu", "--listen", self.sgsn, "--remote", self.ip, "--contexts", "1", "--imsi", IMSI),
            *("--msisdn", "491700000077", "--apn", "internet", "--timelimit", str(seconds)),
        )

    async def close(self) -> None:
        for process in reversed(self._processes):
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
                try:
                    await asyncio.wait_for(process.wait(), 1)
                except TimeoutError:
                    process.kill()
                    await process.wait()


@pytest.fixture
async def ggsn(tmp_path: Path) -> AsyncIterator[Ggsn]:
    made = Ggsn(tmp_path)
    try:
        await made.start()
        yield made
    finally:
        await made.close()


async def test_on_line_with_its_address_and_off_line_again(ggsn: Ggsn) -> None:
    register = OsmoGgsn(ggsn.ip, 4260, "ggsn0", 5.0)
    who = subscriber(imsi=IMSI)
    assert await register.look_up(who) == OFF_LINE
    await ggsn.attach(3)
    async with asyncio.timeout(20):
        while (where := await register.look_up(who)) == OFF_LINE:
            await asyncio.sleep(0.05)
    assert where is not None
    assert re.fullmatch(rf"{ggsn.pool}\.\d+", str(where.addresses[0]))
    assert await OsmoGgsn(ggsn.ip, 4260, "ggsn0", 5.0, ["ims"]).look_up(who) == (True, ())
    assert await register.look_up(subscriber(imsi="240010123456780")) == OFF_LINE
    assert await register.look_up(subscriber(msisdn="+491700000077")) is None
    with pytest.raises(ValueError, match="refuses"):
        await OsmoGgsn(ggsn.ip, 4260, "another", 5.0).look_up(who)
    async with asyncio.timeout(30):
        while await register.look_up(who) != OFF_LINE:
            await asyncio.sleep(0.1)


async def test_who_is_off_line_is_asked_for_until_the_context_is_there(ggsn: Ggsn, tmp_path: Path) -> None:
    settings = {"ggsn": f"{ggsn.ip}:4260", "networks": [f"{ggsn.pool}.0/24"], "loopback": False, "ack_s": 0.3}
    async with IpScene(tmp_path, listens=False, ip=settings) as scene:
        scene.subscribers.known[OPAQUE] = subscriber(imsi=IMSI)
        assert (await scene.push()).detail == "later"
        await until(lambda: scene.metrics.value(Metric.IP_REQUERIES, "off_line") >= 1)
        await ggsn.attach(6)
        await until(lambda: scene.backs == [3])
        # it is sent to the address in the pool; sgsnemu is no terminal that listens there
        result = await scene.push()
        assert (result.ok, result.detail) == (False, "no_ack")
        assert scene.metrics.value(Metric.IP_DATAGRAMS) == 2
    assert ip_address(f"{ggsn.pool}.1").is_private
