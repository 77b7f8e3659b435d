"""An operator's network on this machine: osmo-hlr, osmo-stp and osmo-msc with its SMSC, and an MME of our own with one
terminal that takes short messages. On a loopback address of its own, so that several may run at a time.

The MME speaks SGsAP (3GPP TS 29.118 §8, §9) to the MSC and answers for the terminal (TS 24.011: CP and RP layer).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple, Self

import pytest

from gateway.paging.sms.hlr import build_frame, parse_frame

SERVERS = ("osmo-hlr", "osmo-stp", "osmo-msc")
IMSI, MSISDN = "001010000000001", "491701234567"
PATIENCE_S = 20.0

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


def is_missing(*programs: str) -> bool:
    return any(shutil.which(program) is None for program in programs)


#: one line each, so that what is not tested is said with its remedy
NEEDED = (*SERVERS, "gcc")
NETWORK = pytest.mark.skipif(is_missing(*NEEDED), reason="NOT TESTED: apt install osmo-hlr osmo-stp osmo-msc gcc")


class Delivered(NamedTuple):
    """An SMS-DELIVER as the terminal got it (TS 23.040 §9.2.2.1)."""

    has_header: bool
    protocol_id: int
    coding: int
    length: int  # septets or bytes
    data: bytes


def parse_deliver(tpdu: bytes) -> Delivered:
    digits = tpdu[1]
    at = 3 + (digits + 1) // 2
    return Delivered(bool(tpdu[0] & 0x40), tpdu[at], tpdu[at + 1], tpdu[at + 9], tpdu[at + 10 :])


def build_ie(tag: int, value: bytes) -> bytes:
    return bytes((tag, len(value))) + value


def build_identity(imsi: str) -> bytes:
    """Mobile identity of type IMSI (TS 24.008 §10.5.1.4)."""
    nibbles = [1 | (8 if len(imsi) % 2 else 0), *map(int, imsi)]
    # the first digit shares its byte with the type
    nibbles = [nibbles[0], nibbles[1], *nibbles[2:]]
    out = [nibbles[1] << 4 | nibbles[0]]
    rest = nibbles[2:] + ([0xF] if len(nibbles) % 2 else [])
    out += [high << 4 | low for low, high in zip(rest[::2], rest[1::2], strict=True)]
    return bytes(out)


def parse_elements(message: bytes) -> dict[int, bytes]:
    found, at = {}, 1
    while at + 2 <= len(message):
        found[message[at]] = message[at + 2 : at + 2 + message[at + 1]]
        at += 2 + message[at + 1]
    return found


class Terminal:
    """One MME with one terminal, attached for SMS."""

    def __init__(self, ip: str) -> None:
        self.delivered: list[Delivered] = []
        self.pagings = 0
        self._ip = ip
        self._attached = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.detach()

    async def attach(self) -> None:
        self._reader, self._writer = await asyncio.open_connection(self._ip, 29118)
        labels = ("mmec01", "mmegi0001", "mme", "epc", "mnc001", "mcc001", "3gppnetwork", "org")
        name = b"".join(bytes((len(label),)) + label.encode() for label in labels)
        lai = bytes.fromhex("00f1100001")
        self._send(0x09, build_ie(9, name) + build_ie(0x0A, b"\x01") + build_ie(4, lai))  # LOCATION-UPDATE-REQUEST
        self._task = asyncio.create_task(self._serve())
        async with asyncio.timeout(PATIENCE_S):
            await self._attached.wait()

    def _send(self, kind: int, elements: bytes) -> None:
        self._writer.write(bytes((kind,)) + build_ie(1, build_identity(IMSI)) + elements)

    async def _serve(self) -> None:
        while data := await self._reader.read(4096):
            kind, elements = data[0], parse_elements(data)
            if kind == 0x0A:  # LOCATION-UPDATE-ACCEPT
                self._send(0x0C, b"")  # TMSI-REALLOCATION-COMPLETE
                self._attached.set()
            elif kind == 0x01:  # PAGING-REQUEST
                self.pagings += 1
                self._send(0x06, build_ie(0x20, b"\x02"))  # SERVICE-REQUEST for SMS
            elif kind == 0x07 and 0x16 in elements:  # DOWNLINK-UNITDATA
                await self._take(elements[0x16])

    async def _take(self, nas: bytes) -> None:
        answer = nas[0] ^ 0x80  # the other side of the same transaction
        if nas[1] != 0x01 or nas[3] & 7 != 1:
            return  # no CP-DATA with an RP-DATA in it
        reference, at = nas[4], 5
        at += 1 + nas[at]  # originator
        at += 1 + nas[at]  # destination
        self.delivered.append(parse_deliver(nas[at + 1 : at + 1 + nas[at]]))
        self._send(0x08, build_ie(0x16, bytes((answer, 0x04))))  # CP-ACK
        await asyncio.sleep(0.1)
        self._send(0x08, build_ie(0x16, bytes((answer, 0x01, 0x02, 0x02, reference))))  # CP-DATA: RP-ACK

    async def detach(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._writer.close()
            await asyncio.sleep(0)  # the transport closes in the next turn


class Operator:
    """HLR, STP and MSC; `async with`. Their logs lie in the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        pid = os.getpid()
        self.ip = f"127.{64 + pid % 64}.{pid // 250 % 250 + 1}.{pid % 250 + 1}"
        self._running: list[subprocess.Popen[bytes]] = []

    async def __aenter__(self) -> Self:
        shim = self.folder / "sctp_over_tcp.so"
        source = Path(__file__).with_name("sctp_over_tcp.c")
        build = ["gcc", "-shared", "-fPIC", "-O1", "-o", str(shim), str(source), "-ldl"]
        subprocess.run(build, check=True, capture_output=True)
        try:
            self._start("osmo-hlr", HLR, "-l", "hlr.db")
            await self._listens(4259, "osmo-hlr")
            assert (await self.ctrl(f"SET 1 subscriber.create {IMSI}")).startswith("SET_REPLY")
            assert (await self.ctrl(f"SET 2 subscriber.by-imsi-{IMSI}.msisdn {MSISDN}")).startswith("SET_REPLY")
            self._start("osmo-stp", STP)
            await self._listens(5000, "osmo-stp")
            self._start("osmo-msc", MSC, preload=str(shim))
            await self._listens(2775, "osmo-msc")
            await self._listens(29118, "osmo-msc")
        except BaseException:
            await self.__aexit__()
            raise
        return self

    def _start(self, program: str, config: str, *arguments: str, preload: str = "") -> None:
        file = self.folder / f"{program}.cfg"
        file.write_text(config.format(ip=self.ip))
        environment = {**os.environ, "LD_PRELOAD": preload} if preload else dict(os.environ)
        with (self.folder / f"{program}.log").open("wb") as log:
            self._running.append(
                subprocess.Popen(
                    [program, "-c", str(file), *arguments],
                    cwd=self.folder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            )

    async def _listens(self, port: int, program: str) -> None:
        for _ in range(int(PATIENCE_S / 0.05)):
            try:
                _, writer = await asyncio.open_connection(self.ip, port)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            writer.close()
            return
        log = (self.folder / f"{program}.log").read_text(errors="replace")
        raise AssertionError(f"{program} does not listen on {port}:\n{log[-2000:]}")

    async def ctrl(self, command: str) -> str:
        """A command to the HLR; its answer."""
        reader, writer = await asyncio.open_connection(self.ip, 4259)
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
        for process in reversed(self._running):
            process.terminate()
        for process in self._running:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
