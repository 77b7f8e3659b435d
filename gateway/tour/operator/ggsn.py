"""A GGSN on this machine, osmo-ggsn, and mobiles that open contexts with it, sgsnemu's; what goes to a mobile goes
through a GTP tunnel to it, in a network of the mobile's own. On a loopback address, with a tun device and a pool, of
its own, so that several may run at a time; must never be reachable from anywhere but this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Self

from gateway.tour.operator.programs import Programs

#: program → Debian package
NEEDED = {"osmo-ggsn": "osmo-ggsn", "sgsnemu": "osmo-ggsn", "ip": "iproute2"}
NAME, VTY_PORT = "ggsn0", 4260
#: sgsnemu reads the IMSI as a number: one that begins with a zero is another's
IMSI, MSISDN = "240010123456789", "491700000077"
PATIENCE_S = 20.0
#: sgsnemu waits for a goodbye of the GGSN, which is gone
END_S = 0.5
_CONFIG = """log stderr
 logging filter all 1
 logging level ggsn info
ctrl
 bind {ip}
line vty
 no login
 bind {ip}
ggsn {name}
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


#: of capabilities(7): CAP_NET_ADMIN and CAP_SYS_ADMIN
_NEEDED_RIGHTS = 1 << 12 | 1 << 21


class CanNotTunnel(Exception):
    """The text says why."""


def why_not() -> str:
    """Why no tunnel can be made here; "" where one can: it takes root's rights, which a container may lack, and a
    kernel with tun devices."""
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
        status = Path("/proc/self/status").read_text()
    except OSError:
        return "no /dev/net/tun, or no root to open it"
    rights = next((int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:")), 0)
    return "" if rights & _NEEDED_RIGHTS == _NEEDED_RIGHTS else "no right to make networks here"


class Ggsn:
    """As a context manager."""

    def __init__(self, folder: Path) -> None:
        number = os.getpid() % 200 + 20
        self.ip, self.sgsn = f"127.0.{number}.2", f"127.0.{number}.3"
        self.pool = f"172.31.{number}"
        self._tun = f"tunhg{number}"
        self.namespace = f"heliograph-{os.getpid()}"
        self._folder = folder
        self._programs = Programs(folder, END_S)
        self._has_namespace = False

    async def __aenter__(self) -> Self:
        file = self._folder / "ggsn.cfg"
        file.write_text(_CONFIG.format(ip=self.ip, name=NAME, folder=self._folder, tun=self._tun, pool=self.pool))
        try:
            self._programs.start("osmo-ggsn", "-c", str(file))
            await self._programs.listens("osmo-ggsn", self.ip, VTY_PORT)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._programs.close()
        if self._has_namespace:
            with contextlib.suppress(subprocess.CalledProcessError):
                await _ip("netns", "delete", self.namespace)

    def attach(self, seconds: int) -> None:
        """A mobile that has a context for so long, and hears nothing."""
        self._start_mobile(seconds)

    def _start_mobile(self, seconds: int, *more: str) -> None:
        self._programs.start(
            *("sgsnemu", "--listen", self.sgsn, "--remote", self.ip, "--contexts", "1", "--imsi", IMSI),
            *("--msisdn", MSISDN, "--apn", "internet", "--timelimit", str(seconds), *more),
        )

    async def attach_listening(self, seconds: int, port: int) -> None:
        """A mobile in a network of its own, which has nothing but the tunnel; an app hears there. RuntimeError,
        CanNotTunnel."""
        self._has_namespace = True
        try:
            await _ip("netns", "add", self.namespace)
        except subprocess.CalledProcessError:
            raise CanNotTunnel("no right to make networks here") from None
        # a process there, up before anything can be sent to it
        inside = ("netns", "exec", self.namespace, sys.executable, "-m", "gateway.tour.operator.wake_terminal")
        self._programs.start("ip", *inside, str(port))
        for _ in range(int(PATIENCE_S / 0.05)):
            if self._heard():
                break
            await asyncio.sleep(0.05)
        else:
            raise RuntimeError("the app on the mobile does not listen")
        interface = ("--createif", "--defaultroute", "--tun-device", f"{self._tun}m", "--netns", self.namespace)
        self._start_mobile(seconds, *interface)

    @property
    def woken(self) -> list[bytes]:
        """Payloads that the app on the mobile got."""
        return [bytes.fromhex(line) for line in self._heard()[1:]]

    def _heard(self) -> list[str]:
        """Whole lines of the app: that it listens, then a payload each."""
        log = self._folder / "ip.log"
        return log.read_text().split("\n")[:-1] if log.exists() else []


async def _ip(*arguments: str) -> str:
    done = await asyncio.to_thread(subprocess.run, ["ip", *arguments], check=True, capture_output=True)
    return str(done.stdout, "utf-8", "replace")
