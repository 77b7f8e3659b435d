"""An MME of our own with one terminal that takes short messages, before an MSC.

It speaks SGsAP (3GPP TS 29.118 §8, §9) to the MSC and answers for the terminal (TS 24.011: CP and RP layer).
Each message has its length before it, as sctp_over_tcp.c has it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import NamedTuple, Self

IMSI, MSISDN = "001010000000001", "491701234567"
PATIENCE_S = 20.0
#: a message of the terminal is said again, where nothing is heard (TS 24.011 §5.3.2.1)
_AGAIN_S = 1.0


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
    """One MME with one terminal, attached for SMS. `on_deliver` gets each SMS-DELIVER as it came."""

    def __init__(self, ip: str, on_deliver: Callable[[bytes], None] = lambda _tpdu: None) -> None:
        self.delivered: list[Delivered] = []
        #: what the network said to short messages of the terminal: RP-ACK, or a cause (TS 24.011 §8.2.5.4)
        self.refused: list[int] = []
        self._on_deliver = on_deliver
        self._said, self._heard = asyncio.Event(), asyncio.Event()
        self._turn = asyncio.Lock()
        self._reference = 0
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
        message = bytes((kind,)) + build_ie(1, build_identity(IMSI)) + elements
        self._writer.write(len(message).to_bytes(2, "big") + message)

    async def _serve(self) -> None:
        while True:
            try:
                data = await self._reader.readexactly(int.from_bytes(await self._reader.readexactly(2), "big"))
            except asyncio.IncompleteReadError:
                return
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
        if nas[0] & 0x80:  # a transaction that the terminal began
            self._heard.set()
        if nas[1] == 0x01 and nas[3] & 7 in (3, 5):  # RP-ACK, RP-ERROR: to a message of the terminal
            self._send(0x08, build_ie(0x16, bytes((answer, 0x04))))
            if nas[3] & 7 == 5:
                self.refused.append(nas[6] & 0x7F)
            self._said.set()
        if nas[1] != 0x01 or nas[3] & 7 != 1:
            return  # no CP-DATA with an RP-DATA in it
        reference, at = nas[4], 5
        at += 1 + nas[at]  # originator
        at += 1 + nas[at]  # destination
        tpdu = nas[at + 1 : at + 1 + nas[at]]
        self.delivered.append(parse_deliver(tpdu))
        self._on_deliver(tpdu)
        self._send(0x08, build_ie(0x16, bytes((answer, 0x04))))  # CP-ACK
        await asyncio.sleep(0.1)
        self._send(0x08, build_ie(0x16, bytes((answer, 0x01, 0x02, 0x02, reference))))  # CP-DATA: RP-ACK

    async def submit(self, tpdu: bytes, centre: bytes = bytes.fromhex("9194710100")) -> None:
        """A SMS-SUBMIT of the terminal, one at a time; TimeoutError where the network says nothing."""
        async with self._turn:
            self._said.clear()
            self._heard.clear()
            self._reference = self._reference + 1 & 0xFF
            rp = bytes((0x00, self._reference, 0x00, len(centre))) + centre + bytes((len(tpdu),)) + tpdu  # RP-DATA
            async with asyncio.timeout(PATIENCE_S):
                while not self._heard.is_set():  # what crosses the end of another connection is lost (TC1*)
                    self._send(0x08, build_ie(0x16, bytes((0x09, 0x01, len(rp))) + rp))
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._heard.wait(), _AGAIN_S)
                await self._said.wait()

    async def detach(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._writer.close()
            await asyncio.sleep(0)  # the transport closes in the next turn
