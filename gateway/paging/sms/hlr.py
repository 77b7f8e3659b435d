"""Asks an HLR for a subscriber before a message is sent (C8); must never log or repeat what it asked or was told.

What is spoken is osmo-hlr's control interface (OsmoHLR user manual, "Control interface"; osmo-libs' "Osmocom Control
Interface", §"Protocol"): IPA frames `length16 EE 00 text`, `GET id variable` answered by `GET_REPLY id variable value`
or `ERROR id reason`. A production HLR or HSS is asked by Diameter S6c (3GPP TS 29.338): another class behind the same
port.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from gateway.model.ports import Numbered, Numbers

_PROTO_OSMO, _EXT_CTRL = 0xEE, 0x00
#: look-ups at once, each a connection of its own
AT_ONCE = 16
#: frames of other kinds (traps, IPA keep-alives) before the answer
MOST_OTHERS = 32


class CtrlAnswer(NamedTuple):
    kind: str  # GET_REPLY, ERROR
    id: str
    text: str  # behind the id

    def __repr__(self) -> str:
        return f"CtrlAnswer({self.kind!r})"


def build_frame(text: str) -> bytes:
    data = bytes((_EXT_CTRL,)) + text.encode("ascii")
    return len(data).to_bytes(2, "big") + bytes((_PROTO_OSMO,)) + data


def parse_frame(proto: int, data: bytes) -> CtrlAnswer | None:
    """None where it is a frame of another kind. ValueError where it is no answer at all."""
    if proto != _PROTO_OSMO or data[:1] != bytes((_EXT_CTRL,)):
        return None
    kind, _, rest = data[1:].decode("ascii", "replace").partition(" ")
    number, _, text = rest.partition(" ")
    if kind == "TRAP":
        return None
    if kind not in ("GET_REPLY", "SET_REPLY", "ERROR") or not number:
        raise ValueError("no answer of a control interface")
    return CtrlAnswer(kind, number, text)


def parse_info(text: str) -> dict[str, str]:
    """The lines of `subscriber.*.info`, each a name and a value; the variable's own name stands before the first."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2:
            found.setdefault(words[-2], words[-1])
    return found


class OsmoHlr:
    """HomeRegister port."""

    def __init__(self, host: str, port: int, timeout_s: float) -> None:
        self._host, self._port = host, port
        self._timeout_s = timeout_s
        self._places = asyncio.Semaphore(AT_ONCE)

    async def look_up(self, subscriber: Numbered) -> Numbers | None:
        msisdn = subscriber.msisdn.lstrip("+")
        by = f"by-msisdn-{msisdn}" if msisdn else f"by-imsi-{subscriber.imsi}"
        if not by.rpartition("-")[2].isdigit():
            return None  # it would be another command
        async with self._places, asyncio.timeout(self._timeout_s):
            answer = await self._ask(f"GET 1 subscriber.{by}.info")
        if answer.kind == "ERROR":
            if "no such subscriber" in answer.text.lower():
                return None
            raise ValueError("the register refuses the question")
        info = parse_info(answer.text)
        return Numbers(
            subscriber.msisdn or info.get("msisdn", ""),
            subscriber.imsi or info.get("imsi", ""),
            # purged from circuit switching and from packet switching: neither MSC nor MME would find it
            is_away=info.get("ms_purged_cs") == "1" and info.get("ms_purged_ps") == "1",
        )

    async def _ask(self, command: str) -> CtrlAnswer:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            writer.write(build_frame(command))
            for _ in range(MOST_OTHERS):
                head = await reader.readexactly(3)
                answer = parse_frame(head[2], await reader.readexactly(int.from_bytes(head[:2], "big")))
                if answer is not None:
                    return answer
            raise ValueError("the register speaks of other things")
        except asyncio.IncompleteReadError as error:
            raise ConnectionError("the register closed") from error
        finally:
            writer.close()

    async def close(self) -> None:
        """Nothing is kept between look-ups."""
