"""Messages from cards: put together, known by their sender's number, given to whom they are for; must never believe a
message for whose number it came from alone.

A number only says among which keys to look: an answer has its check, a check request (E1) has its own, and is of the
card whose number sent it or of none.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.cards.answers import Answers
from gateway.cards.card_keys import Unusable, find_keys
from gateway.config.ota_section import Ota
from gateway.metrics import Metric, Metrics
from gateway.model.cards import CardRecords, IncomingMessage
from gateway.ota.check_request import parse_check_request
from gateway.ota.malformed import Malformed
from gateway.ota.sms_pp import ANSWER_PACKET, Assembly, parse_user_data


class Incoming:
    """Control thread only. `clock`: ms that never go back."""

    def __init__(
        self,
        *,
        records: CardRecords,
        answers: Answers,
        on_check_request: Callable[[bytes], None],
        settings: Ota,
        metrics: Metrics,
        clock: Callable[[], int],
    ) -> None:
        self._records, self._answers, self._on_check_request = records, answers, on_check_request
        self._metrics, self._clock = metrics, clock
        self._assembly = Assembly(settings.assemblies, int(settings.assembly_s * 1_000))
        metrics.add_source(lambda: [(Metric.OTA_INCOMING, f"parts_{n}", c) for n, c in self._assembly.counts.items()])

    def handle(self, message: IncomingMessage) -> None:
        """CardMessages.on_incoming. Never raises for what is in it."""
        card = self._records.find(msisdn="+" + message.source) if message.source else None
        if card is None:
            self._count("unknown_sender")
            return
        try:
            if message.has_header:
                self._handle_packet(card, message.user_data)
            else:
                self._handle_check_request(card, message.user_data)
        except Malformed:
            self._count("malformed")

    def _handle_packet(self, card: bytes, user_data: bytes) -> None:
        packet = self._assembly.add(card, parse_user_data(user_data), self._clock())
        if packet is None:
            self._count("part")
        elif packet.kind != ANSWER_PACKET:
            self._count("not_an_answer")
        else:
            self._answers.handle(card, packet.packet)

    def _handle_check_request(self, card: bytes, user_data: bytes) -> None:
        request = parse_check_request(user_data)
        record = self._records.read(card)
        if record is None or self._records.handle(request.iccid) != card:
            self._count("of_another_card")
            return
        try:
            keys = find_keys(record, record.push_keys)
        except Unusable:
            self._count("no_keys")
            return
        if not request.is_genuine(keys):
            self._count("forged")
            return
        self._count("check_request")
        self._on_check_request(card)

    def _count(self, kind: str) -> None:
        self._metrics.count(Metric.OTA_INCOMING, label=kind)
