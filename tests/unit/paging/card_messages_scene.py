"""The scene of the tests of messages to cards: the SMS pager's, with what is done for cards on the same links."""

from __future__ import annotations

from typing import Any, Self

from sms_scene import IMSI, MSISDN, SmsScene, until

from gateway.model.cards import CardRecord, Fate, IncomingMessage, KeySet, SentMessage
from gateway.notifiers.upstream import unix_ms
from gateway.ota.sms_pp import segment
from gateway.paging.sms.card_messages import SmsCardMessages
from gateway.paging.sms.pdu import NPI_E164, TON_INTERNATIONAL, Address, ShortMessage

CARD = CardRecord(
    iccid="8944000000000000001",
    imsi=IMSI,
    msisdn="+" + MSISDN,
    key_sets=(KeySet(2, 2, bytes(range(16)), bytes(range(16, 32))),),
    push_keys=2,
    data_keys=2,
    push_tar=bytes.fromhex("b20107"),
    tar=bytes.fromhex("b00011"),
)
#: one message, and one in three parts
PACKET, LONG_PACKET = bytes(range(90)), bytes(range(250)) + bytes(130)


class CardMessagesScene(SmsScene):
    """`ota`: changes to that section."""

    def __init__(self, smscs: int = 1, *, ota: dict[str, Any] | None = None, **rest: Any) -> None:
        super().__init__(smscs, **rest)
        for name, value in {"port": 0, "smsc_rate": 0.0, **(ota or {})}.items():
            setattr(self.config.ota, name, value)
        self.fates: list[Fate] = []
        self.messages: list[IncomingMessage] = []

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self.cards = SmsCardMessages(self.config, self.bearer, self.metrics, clock=lambda: unix_ms() + self.moved_ms)
        self.cards.on_incoming = self.messages.append
        return self

    async def send(
        self, packet: bytes = PACKET, *, record: CardRecord = CARD, valid_s: int = 60, reference: int = 1
    ) -> SentMessage:
        parts = segment(packet, reference)
        return await self.cards.send(record, parts, valid_s=valid_s, on_fate=self.fates.append)

    async def fate(self) -> Fate:
        await until(lambda: bool(self.fates))
        assert len(self.fates) == 1
        return self.fates[0]

    async def say(self, message: bytes, source: Address | None = None, **fields: Any) -> int:
        """A message from a card."""
        await self.bound()
        where = Address(TON_INTERNATIONAL, NPI_E164, MSISDN) if source is None else source
        sm = ShortMessage(source=where, destination=Address(0, 1, "4999"), message=message, **fields)
        return await self.smsc.deliver(sm)
