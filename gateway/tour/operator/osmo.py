"""An operator's network on this machine: osmo-hlr, osmo-stp and osmo-msc with its SMSC. On a loopback address of its
own, so that several may run at a time.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path
from typing import Self

from gateway.paging.sms.hlr import build_frame, parse_frame
from gateway.tour.operator.programs import Programs
from gateway.tour.operator.terminal import IMSI, MSISDN

#: program → Debian package
NEEDED = {"osmo-hlr": "osmo-hlr", "osmo-stp": "osmo-stp", "osmo-msc": "osmo-msc", "gcc": "gcc"}
#: what osmo-msc's `esme` logs in with
SYSTEM_ID, PASSWORD = "pushgw", "secret"
SMPP_PORT, CTRL_PORT, SGS_PORT = 2775, 4259, 29118

STP = """
log stderr
 logging level set-all notice
line vty
 no login
 bind {ip}
cs7 instance 0
 xua rkm routing-key-allocation dynamic-permitted
 listen ipa 5000
  local-ip {ip}
  accept-asp-connections dynamic-permitted
"""
HLR = """
log stderr
 logging level main info
line vty
 bind {ip}
ctrl
 bind {ip}
hlr
 gsup
  bind ip {ip}
"""
MSC = """
log stderr
 logging level smpp info
line vty
 no login
 bind {ip}
ctrl
 bind {ip}
cs7 instance 0
 point-code 0.23.1
 asp asp-clnt-OsmoMSC-A 5000 0 ipa
  remote-ip {ip}
  role asp
  sctp-role client
 as as-clnt-OsmoMSC-A ipa
  asp asp-clnt-OsmoMSC-A
  routing-key 0 0.23.1
network
 network country code 001
 mobile network code 01
 short name OsmoMSC
 long name OsmoMSC
 encryption a5 0
 mm info 1
msc
 mgw remote-ip {ip}
 mgw remote-port 2427
 mgw local-port 2728
 assign-tmsi
 auth-tuple-max-reuse-count 3
 auth-tuple-reuse-on-error 1
hlr
 remote-ip {ip}
sgs
 local-ip {ip}
 local-port 29118
smsc
 database sms.db
smpp
 local-tcp-ip {ip} 2775
 system-id OSMOMSC
 policy closed
 esme pushgw
  password secret
  osmocom-extensions
  default-route
  alert-notifications
"""


class Operator:
    """HLR, STP and MSC with one subscriber; `async with`. Their logs lie in the folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        pid = os.getpid()
        self.ip = f"127.{64 + pid % 64}.{pid // 250 % 250 + 1}.{pid % 250 + 1}"
        self._programs = Programs(folder)

    async def __aenter__(self) -> Self:
        # The kernel may have no SCTP, and osmo-msc wants it between MSC and MME: TCP carries it here.
        shim = self._folder / "sctp_over_tcp.so"
        source = Path(__file__).with_name("sctp_over_tcp.c")
        build = ["gcc", "-shared", "-fPIC", "-O1", "-o", str(shim), str(source), "-ldl"]
        await asyncio.to_thread(subprocess.run, build, check=True, capture_output=True)
        try:
            self._start("osmo-hlr", HLR, "-l", "hlr.db")
            await self._programs.listens("osmo-hlr", self.ip, CTRL_PORT)
            for command in (f"SET 1 subscriber.create {IMSI}", f"SET 2 subscriber.by-imsi-{IMSI}.msisdn {MSISDN}"):
                answer = await self.ctrl(command)
                if not answer.startswith("SET_REPLY"):
                    raise RuntimeError(f"osmo-hlr refuses: {answer}")
            self._start("osmo-stp", STP)
            await self._programs.listens("osmo-stp", self.ip, 5000)
            self._start("osmo-msc", MSC, preload=str(shim))
            await self._programs.listens("osmo-msc", self.ip, SMPP_PORT)
            await self._programs.listens("osmo-msc", self.ip, SGS_PORT)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    def _start(self, program: str, config: str, *arguments: str, preload: str = "") -> None:
        file = self._folder / f"{program}.cfg"
        file.write_text(config.format(ip=self.ip))
        self._programs.start(program, "-c", str(file), *arguments, **({"LD_PRELOAD": preload} if preload else {}))

    async def ctrl(self, command: str) -> str:
        """A command to the HLR; its answer."""
        reader, writer = await asyncio.open_connection(self.ip, CTRL_PORT)
        try:
            writer.write(build_frame(command))
            while True:
                head = await reader.readexactly(3)
                data = await reader.readexactly(int.from_bytes(head[:2], "big"))
                answer = parse_frame(head[2], data)
                if answer is not None:
                    return f"{answer.kind} {answer.id} {answer.text}"
        finally:
            writer.close()

    async def __aexit__(self, *_: object) -> None:
        await self._programs.close()
