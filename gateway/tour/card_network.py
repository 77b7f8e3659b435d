"""A network of cards on this machine: an SMSC behind which terminals live, each with a card in it and real UDP sockets
for its channels (E1 to E8); must never be reachable from anywhere else.

What the gateway submits for a number becomes a SMS-DELIVER for the terminal of its card, and what a card sends by SEND
SHORT MESSAGE comes to the gateway as deliver_sm (3GPP TS 23.040 §9.2, SMPP 3.4 §4.6). Receipts say what became of a
message: delivered when the terminal has it; for a terminal that is off, when it is on again, or expired; for a number
that nobody has, undeliverable.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gateway.ota.cattp import Limits
from gateway.ota.malformed import Malformed
from gateway.ota.sim.card import Card
from gateway.ota.sim.terminal import Behaviour, Terminal
from gateway.ota.sms_pp import (
    PID_DOWNLOAD,
    Deliver,
    build_address,
    build_deliver,
    parse_submit,
)
from gateway.paging.gsm7 import parse_septets
from gateway.paging.segments import GSM7, UCS2
from gateway.paging.sms import local as smsc
from gateway.paging.sms.pdu import ESM_UDHI, NPI_E164, TON_INTERNATIONAL, Address, ShortMessage
from gateway.paging.sms.receipt import MessageState
from gateway.paging.ucs2 import parse_units
from gateway.paging.udh import BadHeader, parse_header
from gateway.tour.card_issue import IssuedCard, build_imei

#: where cards send their messages, and the centre they send them through
SERVER, CENTRE = "4999", "9991000"
#: messages on their way to the gateway at a time, and how long each is waited for
_WINDOW, _ANSWER_S = 10, 5.0
#: an SMSC keeps no more for one terminal that is off; a further one is undeliverable
MOST_HELD = 100
_RELATIVE = re.compile(r"(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)000R")
_DAY_S = 86_400
#: what a message is kept for that does not say
_VALIDITY_S = 3 * _DAY_S


@dataclass(slots=True, eq=False)
class _Kept:
    """A message for a terminal that is off."""

    submission: smsc.Submission
    expiry: asyncio.TimerHandle


@dataclass(slots=True, eq=False)
class Holder:
    """One card and the terminal it is in."""

    issued: IssuedCard
    card: Card
    terminal: Terminal
    is_on: bool = False
    #: texts that its user got
    inbox: list[str] = field(default_factory=list)
    #: messages of the card that went out
    said: int = 0
    kept: deque[_Kept] = field(default_factory=deque)


class CardNetwork:
    """From `start` to `close`. `behave`: what the terminal of each card is like. `limits`: of the cards' links.
    `know_terminals`: the cards were in their terminals before, so they have nothing to say (E1).
    `on_event` hears (card, word, detail); `on_apdu` and `on_datagram` every APDU and every datagram of a channel."""

    def __init__(
        self,
        cards: Sequence[IssuedCard],
        *,
        behave: Callable[[int], Behaviour] = lambda number: Behaviour(seed=number),
        limits: Limits = Limits(),  # noqa: B008 - it is frozen
        seed: int = 1,
        know_terminals: bool = False,
        on_event: Callable[[int, str, str], None] = lambda _number, _word, _detail: None,
        on_apdu: Callable[[int, bytes], None] = lambda _number, _apdu: None,
        on_datagram: Callable[[int, bytes, bool], None] = lambda _number, _datagram, _is_out: None,
    ) -> None:
        self.smsc = smsc.LocalSmsc()
        self.counts: Counter[str] = Counter()
        #: say nothing of what became of messages
        self.receipts = True
        self._on_event, self._on_apdu, self._on_datagram = on_event, on_apdu, on_datagram
        self._random = random.Random(seed)  # noqa: S311 - first numbers of links
        self._centre, self._server = build_address(CENTRE), build_address(SERVER, 0x81)
        self._terminals = len(cards)
        self.holders = [self._hold(issued, behave(issued.number), limits) for issued in cards]
        if know_terminals:
            for holder in self.holders:
                holder.card.profile.imei = build_imei(holder.issued.number)
        self._by_number: dict[str, Holder] = {}
        for holder in self.holders:
            self._by_number[holder.issued.msisdn.lstrip("+")] = holder
            self._by_number[holder.issued.imsi] = holder
        self._outgoing: deque[tuple[ShortMessage, str]] = deque()
        self._going: set[asyncio.Task[None]] = set()
        self._is_there = asyncio.Event()
        self._sender: asyncio.Task[None] | None = None
        self.smsc.on_submission = self._on_submission
        # its receipts are made here
        self.smsc.behaviour = smsc.Behaviour(receipts=())

    def _hold(self, issued: IssuedCard, behaviour: Behaviour, limits: Limits) -> Holder:
        card = Card(issued.profile(self._centre, self._server, limits), lambda: self._random.randrange(0x10000))
        return Holder(issued, card, self._insert(issued, card, build_imei(issued.number), behaviour))

    def _insert(self, issued: IssuedCard, card: Card, imei: bytes, behaviour: Behaviour) -> Terminal:
        number = issued.number
        return Terminal(
            card,
            imei,
            self._centre,
            behaviour,
            lambda tpdu: self._on_submit(number, issued, tpdu),
            lambda apdu: self._on_apdu(number, apdu),
            lambda datagram, is_out: self._on_datagram(number, datagram, is_out),
        )

    async def start(self, port: int = 0) -> int:
        """The SMSC's port; terminals are off."""
        self._sender = asyncio.create_task(self._send(), name="card-messages")
        return await self.smsc.start(port)

    async def close(self) -> None:
        for holder in self.holders:
            await self.power_off(holder)
            for kept in holder.kept:
                kept.expiry.cancel()
        tasks = [*self._going, *([self._sender] if self._sender is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.smsc.close()

    # --- what happens to terminals

    async def power_on(self, holder: Holder) -> None:
        """Its card looks where it is (E1), and gets what was kept for it."""
        if holder.is_on:
            return
        holder.is_on = True
        await holder.terminal.power_on()
        while holder.kept:
            kept = holder.kept.popleft()
            kept.expiry.cancel()
            self._hand_over(holder, kept.submission)

    async def power_off(self, holder: Holder) -> None:
        holder.is_on = False
        await holder.terminal.power_off()

    async def move(self, holder: Holder, behaviour: Behaviour | None = None, *, imei: bytes = b"") -> None:
        """Its card goes into another terminal, which is on; `imei` empty: one that nobody had."""
        await self.power_off(holder)
        if not imei:
            self._terminals += 1
            imei = build_imei(self._terminals)
        like = holder.terminal.behaviour if behaviour is None else behaviour
        holder.terminal = self._insert(holder.issued, holder.card, imei, like)
        await self.power_on(holder)

    # --- from the gateway

    def _on_submission(self, submission: smsc.Submission) -> None:
        self.smsc.submissions.clear()
        self.counts["submitted"] += 1
        holder = self._by_number.get(submission.message.destination.digits)
        if holder is None:
            self._report(submission, MessageState.UNDELIVERABLE)
        elif holder.is_on:
            self._hand_over(holder, submission)
        elif len(holder.kept) >= MOST_HELD:
            self._report(submission, MessageState.UNDELIVERABLE)
        else:
            self._keep(holder, submission)

    def _keep(self, holder: Holder, submission: smsc.Submission) -> None:
        self.counts["kept"] += 1
        valid_s = parse_validity(submission.message.validity)
        kept: _Kept

        def expire() -> None:
            holder.kept.remove(kept)
            self._on_event(holder.issued.number, "expired", "")
            self._report(submission, MessageState.EXPIRED)

        kept = _Kept(submission, asyncio.get_running_loop().call_later(valid_s, expire))
        holder.kept.append(kept)

    def _hand_over(self, holder: Holder, submission: smsc.Submission) -> None:
        sm, number = submission.message, holder.issued.number
        has_header = bool(sm.esm_class & ESM_UDHI)
        if sm.protocol_id == PID_DOWNLOAD:
            deliver = Deliver(
                build_address(sm.source.digits or SERVER, 0x81), sm.message, has_header, sm.protocol_id, sm.data_coding
            )
            holder.terminal.deliver(build_deliver(deliver))
            self._on_event(number, "message", f"{len(sm.message)} bytes")
        else:
            holder.inbox.append(read_text(sm))
            self._on_event(number, "text", holder.inbox[-1])
        self._report(submission, MessageState.DELIVERED)

    def _report(self, submission: smsc.Submission, state: MessageState) -> None:
        self.counts[state.name.lower()] += 1
        if self.receipts and submission.message.registered_delivery & 1:
            receipt = smsc.build_receipt(submission.message, submission.message_id, state, self.smsc.behaviour)
            # behind the answer to the submission, as in the field
            asyncio.get_running_loop().call_soon(self._post, receipt, "receipt")

    # --- to the gateway

    def _on_submit(self, number: int, issued: IssuedCard, tpdu: bytes) -> None:
        """A SMS-SUBMIT of a card."""
        try:
            submit = parse_submit(tpdu)
            destination = submit.destination.digits
        except Malformed:
            self.counts["malformed"] += 1
            return
        holder = self._by_number[issued.imsi]
        holder.said += 1
        self._on_event(number, "answer" if submit.has_header else "check request", f"{len(submit.user_data)} bytes")
        self._post(
            ShortMessage(
                source=Address(TON_INTERNATIONAL, NPI_E164, issued.msisdn.lstrip("+")),
                destination=Address(0, NPI_E164, destination),
                message=submit.user_data,
                esm_class=ESM_UDHI if submit.has_header else 0,
                protocol_id=submit.pid,
                data_coding=submit.dcs,
            ),
            "said",
        )

    def _post(self, sm: ShortMessage, what: str) -> None:
        self._outgoing.append((sm, what))
        self._is_there.set()

    async def _send(self) -> None:
        """In order, some at a time; what the gateway does not answer is said again."""
        room = asyncio.Semaphore(_WINDOW)

        async def deliver(sm: ShortMessage, what: str) -> None:
            try:
                async with asyncio.timeout(_ANSWER_S):
                    status = await self.smsc.deliver(sm)
                self.counts[f"{what}_taken" if not status else f"{what}_refused"] += 1
            except (TimeoutError, RuntimeError):  # nobody answered; or nobody is bound any more
                self.counts["again"] += 1
                self._post(sm, what)
            finally:
                room.release()

        while True:
            await self._is_there.wait()
            if not self._outgoing:
                self._is_there.clear()
                continue
            if not self.smsc.is_bound:
                await asyncio.sleep(0.05)
                continue
            await room.acquire()
            task = asyncio.create_task(deliver(*self._outgoing.popleft()))
            self._going.add(task)
            task.add_done_callback(self._going.discard)


def parse_validity(text: str) -> float:
    """Seconds of a relative time (SMPP 3.4 §7.1.1.2); else the centre's own."""
    found = _RELATIVE.fullmatch(text)
    if found is None:
        return _VALIDITY_S
    years, months, days, hours, minutes, seconds = map(int, found.groups())
    return (years * 365 + months * 30 + days) * _DAY_S + hours * 3_600 + minutes * 60 + seconds


def read_text(sm: ShortMessage) -> str:
    """What a user reads."""
    body = sm.message
    if sm.esm_class & ESM_UDHI:
        try:
            _, body = parse_header(sm.message)
        except BadHeader:
            return "?"
    if sm.data_coding == GSM7:
        return parse_septets(body)
    return parse_units(body) if sm.data_coding == UCS2 else f"{len(body)} bytes"
