"""An SMSC that does no more than a campaign needs, so that it takes little of the machine: binds, takes submit_sm,
sends receipts and cards' messages; must never be taken for a check of the SMPP that it is sent, as
`gateway.paging.sms.local` is.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from gateway.paging.sms.pdu import (
    ESM_RECEIPT,
    ESM_UDHI,
    NPI_E164,
    RESPONSE,
    TON_INTERNATIONAL,
    Address,
    Command,
    Frames,
    Malformed,
    Pdu,
    ShortMessage,
    Tag,
    build_message,
    build_pdu,
    build_text,
    build_tlv,
    parse_message,
)

DELIVERED = 2
PID_DOWNLOAD, DCS_CLASS2 = 0x7F, 0xF6
_BINDS = (Command.BIND_TRANSCEIVER, Command.BIND_TRANSMITTER)


class CardSmsc(asyncio.Protocol):
    """One connection: the last that bound gets what cards say. `on_message(digits, user_data)` is told of each message
    that was taken, after its answer and its receipt."""

    def __init__(self, smsc: Smsc) -> None:
        self._smsc = smsc
        self._frames = Frames()
        self._sequence = 0
        self._out: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, _why: Exception | None) -> None:
        if self._smsc.bound is self:
            self._smsc.bound = None

    def data_received(self, data: bytes) -> None:
        try:
            for pdu in self._frames.feed(data):
                self._handle(pdu)
        except Malformed:
            self._smsc.counts["malformed"] += 1
            self._transport.close()
        self.flush()

    def flush(self) -> None:
        """What was said in this turn goes in one write."""
        if self._out:
            self._transport.write(b"".join(self._out))  # type: ignore[attr-defined]
            self._out.clear()

    def close(self) -> None:
        self._transport.close()

    def _handle(self, pdu: Pdu) -> None:
        if pdu.command == Command.SUBMIT_SM:
            self._on_submit(pdu)
        elif pdu.command & RESPONSE:
            self._smsc.counts["refused"] += bool(pdu.status)
        elif pdu.command in _BINDS:
            self._smsc.bound = self
            self._smsc.counts["binds"] += 1
            self._answer(pdu, build_text("cards", 16))
        else:
            self._answer(pdu)
            if pdu.command == Command.UNBIND:
                self.flush()
                self._transport.close()

    def _answer(self, pdu: Pdu, body: bytes = b"") -> None:
        self._out.append(build_pdu(pdu.command | RESPONSE, pdu.sequence, body))

    def _on_submit(self, pdu: Pdu) -> None:
        sm = parse_message(pdu.body)
        smsc = self._smsc
        smsc.counts["submitted"] += 1
        message_id = f"{smsc.counts['submitted']:x}"
        self._answer(pdu, build_text(message_id, 65))
        if sm.registered_delivery & 1:
            self.say(build_receipt(sm, message_id))
        smsc.on_message(sm)

    def say(self, body: bytes) -> None:
        self._sequence += 1
        self._smsc.counts["said"] += 1
        self._out.append(build_pdu(Command.DELIVER_SM, self._sequence, body))


class Smsc:
    """`answer` sends a card's message to who is bound."""

    def __init__(self, on_message: Callable[[ShortMessage], None]) -> None:
        self.on_message = on_message
        self.counts: Counter[str] = Counter()
        self.bound: CardSmsc | None = None
        self._server: asyncio.Server | None = None
        self._flushes = False

    async def start(self) -> int:
        """Its port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: CardSmsc(self), "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        if self.bound is not None:
            self.bound.close()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    def answer(self, digits: str, to: str, user_data: bytes) -> None:
        if self.bound is None:
            self.counts["nobody_bound"] += 1
            return
        self.bound.say(
            build_message(
                ShortMessage(
                    source=Address(TON_INTERNATIONAL, NPI_E164, digits),
                    destination=Address(TON_INTERNATIONAL, NPI_E164, to),
                    message=user_data,
                    esm_class=ESM_UDHI,
                    protocol_id=PID_DOWNLOAD,
                    data_coding=DCS_CLASS2,
                )
            )
        )
        if not self._flushes:
            self._flushes = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushes = False
        if self.bound is not None:
            self.bound.flush()


def build_receipt(sm: ShortMessage, message_id: str) -> bytes:
    """Delivered; addresses the other way round."""
    text = f"id:{message_id} sub:001 dlvrd:001 submit date:2611222300 done date:2611222300 stat:DELIVRD err:000 text:"
    receipt = ShortMessage(source=sm.destination, destination=sm.source, message=text.encode(), esm_class=ESM_RECEIPT)
    return (
        build_message(receipt)
        + build_tlv(Tag.RECEIPTED_MESSAGE_ID, message_id.encode() + b"\0")
        + build_tlv(Tag.MESSAGE_STATE, bytes((DELIVERED,)))
    )
