"""Answers to packets in short messages, matched to the packets that wait for them; must never take one for true whose
check is missing or wrong, nor one from another card's number.

An answer is looked for among the packets that its sender was sent and that wait: few, for a card is called by one at a
time. A bare error (no key that both trust) and a wrong check are noted with what waits, as hints; they settle nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from gateway.metrics import Metric, Metrics
from gateway.ota.malformed import Malformed
from gateway.ota.packet_security import Keys
from gateway.ota.secured_packet import Command, PacketAnswer, Status, Transport, Untrusted, WrongCheck, parse_answer


@dataclass(slots=True, eq=False)
class Awaited:
    """A packet whose answer is waited for."""

    command: Command
    keys: Keys
    answer: asyncio.Future[PacketAnswer] = field(repr=False)
    #: status of an answer without a check; -1: none came
    bare: int = -1
    #: there was an answer with a check of other keys, or one that was changed on the way
    wrong_check: bool = False
    #: the card said that its answer comes later (ETSI TS 102 225 §5.2)
    more_time: bool = False


class Answers:
    """Control thread only."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._waiting: dict[bytes, list[Awaited]] = {}

    @contextmanager
    def expect(self, card: bytes, command: Command, keys: Keys) -> Iterator[Awaited]:
        awaited = Awaited(command, keys, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(card, []).append(awaited)
        try:
            yield awaited
        finally:
            waiting = self._waiting[card]
            waiting.remove(awaited)
            if not waiting:
                del self._waiting[card]
            awaited.answer.cancel()

    def handle(self, card: bytes, packet: bytes) -> None:
        """A response packet from this card's number. Anything may be in it."""
        label = "unexpected"
        for awaited in self._waiting.get(card, ()):
            try:
                answer = parse_answer(packet, awaited.command, awaited.keys, Transport.SMS)
            except Malformed:
                label = "malformed"
                break
            except Untrusted as error:
                awaited.wrong_check |= isinstance(error, WrongCheck)
                label = "untrusted"
                continue
            if not answer.authentic:
                awaited.bare = answer.status
                label = "bare"
                continue
            if awaited.answer.done():
                label = "again"
                break
            if answer.status == Status.MORE_TIME:
                awaited.more_time = True
                label = "more_time"
                break
            awaited.answer.set_result(answer)
            label = "answer"
            break
        self._metrics.count(Metric.OTA_INCOMING, label=label)
