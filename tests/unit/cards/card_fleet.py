"""Cards in terminals, an SMSC for them that can be down, lose and report, and all that the gateway does for cards."""

from __future__ import annotations

import asyncio
import ipaddress
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from python_links import PythonLinks
from ram_records import RamCards, RamDownloads

from gateway.cards.answers import Answers
from gateway.cards.calls import Calls
from gateway.cards.capability import Capabilities
from gateway.cards.downloads import DownloadEngine
from gateway.cards.incoming import Incoming
from gateway.cards.links import CattpLinks
from gateway.cards.settings import Reach
from gateway.config.ota_section import Ota
from gateway.metrics import Metrics
from gateway.model.cards import (
    Ability,
    Capability,
    CardRecord,
    CardRecords,
    Download,
    DownloadRecords,
    DownloadState,
    Evidence,
    Fate,
    IncomingMessage,
    KeySet,
    Payload,
    SentMessage,
)
from gateway.ota.cattp import Limits
from gateway.ota.check_request import build_check_request, build_iccid
from gateway.ota.packet_security import Algorithm, Keys
from gateway.ota.sim.card import Card, Profile
from gateway.ota.sim.terminal import Behaviour, Terminal
from gateway.ota.sms_pp import Deliver, build_address, build_deliver, parse_submit

TAR = bytes.fromhex("b00011")
SERVER = build_address("4999", 0x81)
CENTRE = build_address("12345678901")
IMEI, OTHER_IMEI = bytes.fromhex("5384090214365807"), bytes.fromhex("5384090214365808")
PUSH_KEYS, DATA_KEYS = 2, 3
PATIENCE_S = 60.0

FAST = Limits(
    max_pdu=400,
    max_sdu=2_000,
    rto_first_ms=60,
    rto_least_ms=20,
    rto_most_ms=200,
    retries=60,
    opening_retries=60,
    close_wait_ms=200,
)
SETTINGS = Ota(
    port=0,
    validity_s=1.0,
    retry_s=0.02,
    retry_max_s=0.1,
    smsc_retry_s=0.02,
    answer_s=5.0,
    packet_bytes=300,
)
#: two tries, and little time for each
FEW = replace(SETTINGS, attempts=2, validity_s=0.2)


def build_ota(settings: Ota, limits: Limits) -> Ota:
    """For the compiled server: these limits."""
    return replace(
        settings,
        max_pdu_bytes=limits.max_pdu,
        max_sdu_bytes=limits.max_sdu,
        window=limits.window,
        flight=limits.flight,
        rto_first_ms=limits.rto_first_ms,
        rto_least_ms=limits.rto_least_ms,
        rto_most_ms=limits.rto_most_ms,
        retries=limits.retries,
        opening_retries=limits.opening_retries,
        close_wait_s=limits.close_wait_ms / 1_000,
    )


def apdu(number: int, size: int = 20) -> bytes:
    """UPDATE BINARY, different for each number."""
    return bytes((0x00, 0xD6)) + number.to_bytes(2, "big") + bytes((size,)) + bytes((number & 0xFF,)) * size


def commands(count: int, size: int = 20) -> tuple[bytes, ...]:
    return tuple(apdu(number, size) for number in range(count))


def steps(download: Download) -> list[str]:
    """Of its history."""
    return [step.what for step in download.steps]


@dataclass
class Phone:
    """A card in a terminal, and what its network does with messages to it."""

    record: CardRecord
    card: Card
    terminal: Terminal
    behaviour: Behaviour
    #: messages to it: delivered, or this is their fate; None: nobody ever hears
    fate: Fate | None = Fate.DELIVERED
    reports: bool = True
    #: messages of the card that get lost
    is_mute: bool = False
    received: list[list[bytes]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


class Smsc:
    """model.cards.CardMessages."""

    def __init__(self) -> None:
        self.on_incoming: Callable[[IncomingMessage], None] = lambda _message: None
        self.phones: dict[str, Phone] = {}
        self.is_down = False
        self.refuses = False
        self.counts: Counter[str] = Counter()
        #: changes what comes in from cards, by number: (from, user data) → None loses it
        self.forge: Callable[[str, bytes], bytes | None] = lambda _source, data: data

    def _answer(self, fate_if_up: Fate) -> SentMessage:
        if self.is_down:
            return SentMessage(Fate.LATER, 10, "no smsc")
        return SentMessage(Fate.REFUSED, 0, "refused") if self.refuses else SentMessage(fate_if_up)

    async def send(
        self,
        record: CardRecord,
        parts: Sequence[bytes],
        *,
        valid_s: int,
        on_fate: Callable[[Fate], None] | None = None,
    ) -> SentMessage:
        await asyncio.sleep(0)
        answer = self._answer(Fate.TAKEN)
        if answer.fate is not Fate.TAKEN:
            self.counts["refused"] += 1
            return answer
        self.counts["messages"] += 1
        self.counts["parts"] += len(parts)
        phone = self.phones[record.msisdn]
        phone.received.append(list(parts))
        loop = asyncio.get_running_loop()
        if phone.fate is Fate.DELIVERED:
            for part in parts:
                loop.call_soon(phone.terminal.deliver, build_deliver(Deliver(SERVER, part)))
        if phone.fate is not None and phone.reports and on_fate is not None:
            loop.call_later(0.005, on_fate, phone.fate)
        return answer

    async def send_text(self, record: CardRecord, text: str, *, valid_s: int) -> SentMessage:
        await asyncio.sleep(0)
        answer = self._answer(Fate.TAKEN)
        if answer.fate is Fate.TAKEN:
            self.phones[record.msisdn].texts.append(text)
        return answer

    def on_submit(self, phone: Callable[[], Phone], tpdu: bytes) -> None:
        submit = parse_submit(tpdu)
        if not phone().is_mute:
            self.say(phone().record.msisdn, submit.user_data, has_header=submit.has_header)

    def say(self, msisdn: str, user_data: bytes, *, has_header: bool) -> None:
        """Comes in as a message from this number."""
        data = self.forge(msisdn, user_data)
        if data is not None:
            self.on_incoming(IncomingMessage(msisdn.removeprefix("+"), data, has_header))


def build_keys(number: int, key_set: int) -> Keys:
    seed = random.Random(f"{number}/{key_set}")
    return Keys(key_set, Algorithm.AES, seed.randbytes(16), seed.randbytes(16))


class Fleet:
    """`restart` drops all of the gateway but what is in the store."""

    def __init__(
        self,
        settings: Ota = SETTINGS,
        *,
        data_keys: int = DATA_KEYS,
        limits: Limits = FAST,
        is_native: bool = False,
        cards: CardRecords | None = None,
        downloads: DownloadRecords | None = None,
    ) -> None:
        self.settings, self.data_keys, self.limits, self.is_native = settings, data_keys, limits, is_native
        self.smsc = Smsc()
        self.cards = cards or RamCards()
        self.downloads = downloads or RamDownloads()
        self.metrics = Metrics(process=False)
        self.over: list[Download] = []
        self.phones: list[Phone] = []
        #: added to the clock, for what takes days
        self.later_ms = 0

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.engine.close()
        await self.capabilities.close()
        await self._stop_links()
        for phone in self.phones:
            await phone.terminal.power_off()

    async def _start_links(self) -> PythonLinks | CattpLinks:
        if not self.is_native:
            return await PythonLinks.open(self.limits)
        links = CattpLinks(build_ota(self.settings, self.limits), self.metrics)
        links.start(asyncio.get_running_loop())
        return links

    async def _stop_links(self) -> None:
        stopping = self.links.stop()
        if stopping is not None:
            await stopping

    def now_ms(self) -> int:
        return int(time.time() * 1_000) + self.later_ms

    async def _start(self) -> None:
        self.links = await self._start_links()
        self.answers = Answers(self.metrics)
        reach = Reach(ipaddress.ip_address("127.0.0.1"), self.links.port, 9_000, b"\3", "internet", 1_400)
        self.calls = Calls(
            records=self.cards,
            messages=self.smsc,
            links=self.links,
            answers=self.answers,
            reach=reach,
            settings=self.settings,
            metrics=self.metrics,
        )
        self.capabilities = Capabilities(
            records=self.cards,
            calls=self.calls,
            settings=self.settings,
            metrics=self.metrics,
            clock=self.now_ms,
            random_=random.Random(1),
        )
        self.incoming = Incoming(
            records=self.cards,
            answers=self.answers,
            on_check_request=self.capabilities.on_check_request,
            settings=self.settings,
            metrics=self.metrics,
            clock=self.now_ms,
        )
        self.smsc.on_incoming = self.incoming.handle
        self.engine = DownloadEngine(
            records=self.cards,
            downloads=self.downloads,
            calls=self.calls,
            capabilities=self.capabilities,
            messages=self.smsc,
            settings=self.settings,
            metrics=self.metrics,
            clock=self.now_ms,
            random_=random.Random(2),
        )
        self.engine.on_over = self.over.append

    async def kill(self) -> None:
        """The process is gone in this moment: nothing more is written, no card hears of it."""
        downloads, cards = self.downloads, self.cards
        self.downloads, self.cards = RamDownloads(), RamCards()
        self.downloads.__dict__.update(
            {**downloads.__dict__, "downloads": dict(downloads.downloads), "settled": list(downloads.settled)}
        )
        self.cards.__dict__.update(
            {
                **cards.__dict__,
                "counters": dict(cards.counters),
                "capabilities": dict(cards.capabilities),
            }
        )
        await self._stop_links()
        self.smsc.on_incoming = lambda _message: None
        await self.engine.close()
        await self.capabilities.close()

    async def restart(self) -> None:
        await self.kill()
        await self._start()
        await self.engine.resume()

    # --- cards -------------------------------------------------------------------------------------------------------

    async def add(
        self,
        behaviour: Behaviour = Behaviour(),  # noqa: B008 - it is frozen
        *,
        ability: Ability = Ability.CAPABLE,
        imei: bytes = IMEI,
        limits: Limits | None = None,
    ) -> Phone:
        """Powered on, in the terminal that its card knows unless `imei` is another."""
        number = len(self.phones) + 1
        iccid, msisdn = f"8944000000{number:09d}", f"+44770090{number:04d}"
        sets = tuple(build_keys(number, key_set) for key_set in (PUSH_KEYS, DATA_KEYS))
        record = CardRecord(
            iccid,
            f"23415{number:010d}",
            msisdn,
            tuple(KeySet(keys.key_set, keys.algorithm, keys.kic, keys.kid) for keys in sets),
            PUSH_KEYS,
            self.data_keys,
            TAR,
            TAR,
        )
        await self.cards.put([record])
        profile = Profile(
            iccid=build_iccid(iccid),
            keys=sets[0],
            tar=TAR,
            centre=CENTRE,
            server=SERVER,
            check_request=build_check_request(iccid, sets[0]),
            imei=IMEI,
            limits=limits or replace(FAST, window=4),
            more_keys=sets[1:],
        )
        card = Card(profile, lambda: 65_533)
        terminal = Terminal(card, imei, CENTRE, behaviour, lambda tpdu: self.smsc.on_submit(lambda: phone, tpdu))
        phone = Phone(record, card, terminal, behaviour)
        self.phones.append(phone)
        self.smsc.phones[msisdn] = phone
        if ability is not Ability.UNKNOWN:
            await self.cards.write_capability(self.handle(phone), Capability(ability, 1, 0, ()))
        await terminal.power_on()
        await terminal.settle()
        return phone

    def handle(self, phone: Phone) -> bytes:
        return self.cards.handle(phone.record.iccid)

    def capability(self, phone: Phone) -> Capability:
        return self.capabilities.read(self.handle(phone))

    def evidence(self, phone: Phone) -> list[str]:
        return [line.what for line in self.evidence_lines(phone)]

    def evidence_lines(self, phone: Phone) -> tuple[Evidence, ...]:
        return self.capability(phone).evidence

    # --- downloads ---------------------------------------------------------------------------------------------------

    def build(self, phone: Phone, what: Sequence[bytes], *, ttl_ms: int = 60_000, notice: str = "") -> Download:
        now_ms = self.now_ms()
        return Download(
            self.downloads.reserve(1),
            "app",
            self.handle(phone),
            self.downloads.put_payload(Payload(tuple(what))),
            b"",
            DownloadState.WAITING,
            now_ms,
            now_ms + ttl_ms,
            now_ms,
            notice=notice,
        )

    async def start(self, phone: Phone, what: Sequence[bytes], *, ttl_ms: int = 60_000, notice: str = "") -> int:
        download = self.build(phone, what, ttl_ms=ttl_ms, notice=notice)
        await self.downloads.add([download])
        self.engine.start(download)
        return download.number

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not done():
                await asyncio.sleep(0.002)

    async def end(self, number: int) -> Download:
        await self.until(lambda: self.downloads.downloads[number].state.is_final)
        return self.downloads.downloads[number]

    async def run(self, phone: Phone, what: Sequence[bytes], *, ttl_ms: int = 60_000, notice: str = "") -> Download:
        return await self.end(await self.start(phone, what, ttl_ms=ttl_ms, notice=notice))
