"""Cards, what is known of them and what is brought to them (E1 to E8): words and ports; nothing here may show an ICCID,
a number or a key by being printed.

A card stands for its user: capability is kept by card, never by IMEI (E5). It is named by its *handle*, a keyed hash
of its ICCID, which leads nowhere without the server's key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from typing import NamedTuple, Protocol

import msgspec

HANDLE_BYTES = 16
_CARD_PREFIX = "card_"


def build_card_id(handle: bytes) -> str:
    """As it is shown: `card_` and 32 hex digits."""
    return _CARD_PREFIX + handle.hex()


def parse_card_id(text: str) -> bytes | None:
    """None where it is none."""
    digits = text.removeprefix(_CARD_PREFIX)
    if digits == text or len(digits) != 2 * HANDLE_BYTES or digits != digits.lower():
        return None
    try:
        handle = bytes.fromhex(digits)
    except ValueError:
        return None
    return handle if len(handle) == HANDLE_BYTES else None  # fromhex skips spaces


# --- cards -------------------------------------------------------------------------------------------------------


class KeySet(msgspec.Struct, array_like=True, frozen=True):
    """One key set of a card (ETSI TS 102 225 §5.1.2, §5.1.3)."""

    number: int  # 1 to 15, high nibble of KIc and KID
    algorithm: int  # gateway.ota.packet_security.Algorithm
    kic: bytes
    kid: bytes
    #: the highest counter that the card has seen from whoever kept it before: ours go on behind it
    counter: int = 0

    def __repr__(self) -> str:
        return f"KeySet({self.number})"


class CardRecord(msgspec.Struct, array_like=True, frozen=True):
    """One card as its issuer describes it; sealed at rest."""

    iccid: str  # digits
    imsi: str  # digits; empty where it is not known
    msisdn: str  # with its plus; empty where it is not known
    key_sets: tuple[KeySet, ...]
    #: numbers of the key sets that protect messages (PUSH), and packets over a link; each has a counter of its own
    push_keys: int
    data_keys: int
    #: what PUSH is sent to, and what downloads are sent to where they name no other; three bytes each
    push_tar: bytes
    tar: bytes
    #: bearer description and access point of OPEN CHANNEL; empty: as `ota` says
    bearer: bytes = b""
    apn: str = ""
    tags: tuple[str, ...] = ()

    def key_set(self, number: int) -> KeySet | None:
        return next((each for each in self.key_sets if each.number == number), None)

    def __repr__(self) -> str:
        return "CardRecord(hidden)"


class Ability(IntEnum):
    """What is known of a card's terminal (E4, E5); stored, so never renumber."""

    #: nobody asked, or its terminal changed: treated as not capable
    UNKNOWN = 0
    CAPABLE = 1
    NOT_CAPABLE = 2


class Evidence(msgspec.Struct, array_like=True, frozen=True):
    """One line of the evidence log: what was seen, and what was concluded."""

    at_ms: int
    #: check_request, call, link_opened, terminal_result, validity_over, undelivered, terminal_changed, expired …
    what: str
    ability: int
    detail: str = ""  # never an identity: a result as `30`, a time as `4.2 s`


class Capability(msgspec.Struct, array_like=True, frozen=True):
    ability: Ability = Ability.UNKNOWN
    #: since when, and until when it may be believed, Unix ms; 0: no end
    since_ms: int = 0
    until_ms: int = 0
    #: oldest first, bounded
    evidence: tuple[Evidence, ...] = ()


class NumberTaken(ValueError):
    """A number of a record is another card's; `index`: which record of those that were put."""

    def __init__(self, index: int, field: str) -> None:
        super().__init__(f"record {index}: its {field} is another card's; remove that card, or the number from it")
        self.index = index
        self.field = field


class CardRecords(Protocol):
    """Where cards are kept (store.cards.CardStore); control thread only."""

    def handle(self, iccid: str) -> bytes: ...

    def read(self, card: bytes) -> CardRecord | None: ...

    def find(self, *, msisdn: str = "", imsi: str = "") -> bytes | None:
        """The card with this number, by keyed hash."""
        ...

    def put(self, records: Sequence[CardRecord]) -> asyncio.Future[None]:
        """Known ones are replaced and keep their counters and capability; durable with the future. StoreUnavailable
        or QueueFull at once. NumberTaken where a number is another card's.
        Some hundreds at a time: a thousand hold the loop up for 40 ms."""
        ...

    def remove(self, card: bytes) -> asyncio.Future[None]:
        """Its counters stay: the same card imported again goes on behind them."""
        ...

    def count(self) -> int: ...

    def walk(self, after: bytes, limit: int) -> list[tuple[bytes, CardRecord]]:
        """Cards in order of their handles, behind one; what is put and not durable yet may be missing."""
        ...

    def take_counters(self, card: bytes, key_set: int, count: int) -> asyncio.Future[int]:
        """The first of `count` consecutive counters that were never given out and never will be again, whatever
        crashes; durable with the future. OverflowError past 2^40."""
        ...

    def capability(self, card: bytes) -> Capability: ...

    def write_capability(self, card: bytes, capability: Capability) -> asyncio.Future[None]: ...


# --- the SMS channel ---------------------------------------------------------------------------------------------


class Fate(IntEnum):
    """What became of a message to a card."""

    #: every part is with the SMSC
    TAKEN = 0
    #: every part was delivered, by receipts
    DELIVERED = 1
    #: a part was not delivered, by its receipt, or no receipt came in time
    UNDELIVERED = 2
    #: not sent, try again (no SMSC bound, throttled, down)
    LATER = 3
    #: not sent, and will never be (no number, refused for good)
    REFUSED = 4
    #: every part was written and the SMSC did not say whether it took the last: the card may have it
    UNANSWERED = 5


class SentMessage(NamedTuple):
    fate: Fate
    retry_after_ms: int = 0
    detail: str = ""


class IncomingMessage(NamedTuple):
    """A message from a card, a part as it came."""

    source: str  # digits of the sender's number, without a plus
    user_data: bytes  # with its header, where there is one
    has_header: bool

    def __repr__(self) -> str:
        return f"IncomingMessage({len(self.user_data)} bytes)"


class CardMessages(Protocol):
    """Short messages to cards and from them (paging.sms.card_messages)."""

    #: called for each message that is not a receipt; set once, before the start
    on_incoming: Callable[[IncomingMessage], None]

    async def send(
        self,
        record: CardRecord,
        parts: Sequence[bytes],
        *,
        valid_s: int,
        on_fate: Callable[[Fate], None] | None = None,
    ) -> SentMessage:
        """User data with headers 70 or 71 (PID 7F, DCS F6), all parts on one SMSC, inside its rate. The answer is
        TAKEN, UNANSWERED, LATER or REFUSED; after the first two `on_fate` hears DELIVERED or UNDELIVERED once, where
        receipts are heard."""
        ...

    async def send_text(self, record: CardRecord, text: str, *, valid_s: int) -> SentMessage:
        """A notice for the user, an ordinary short message."""
        ...


# --- the CAT_TP server -------------------------------------------------------------------------------------------


class LinkOpened(NamedTuple):
    """The final ACK came (E4): SDUs may go."""

    link: int
    #: what the card takes, bytes
    max_pdu: int
    max_sdu: int


class LinkReceived(NamedTuple):
    link: int
    sdu: bytes

    def __repr__(self) -> str:
        return f"LinkReceived({len(self.sdu)} bytes)"


class LinkDelivered(NamedTuple):
    """So many further SDUs of ours are there, the oldest first."""

    link: int
    sdus: int


class LinkClosed(NamedTuple):
    link: int
    #: asked, peer, retries, idle, zero_window, illegal, replaced (the card came back on another), stopped, refused
    #: (the server had no memory for an SDU that it was given)
    cause: str
    reason: int  # of the RST (gateway.ota.cattp_pdu.Reason)
    undelivered: int  # SDUs of ours not known to be there


LinkEvent = LinkOpened | LinkReceived | LinkDelivered | LinkClosed


class CardLinks(Protocol):
    """The CAT_TP server (cards.links); control thread only. Events of one identification come in order."""

    def expect(self, identification: bytes, on_event: Callable[[LinkEvent], None], valid_ms: int) -> bool:
        """Take a SYN with this identification within this time. While the link lives, and until `forget`, a fresh
        SYN with it takes the link over. False: too many are expected."""
        ...

    def forget(self, identification: bytes) -> None:
        """No SYN with it any more, and no event; a link that lives is aborted."""
        ...

    def send(self, link: int, sdu: bytes) -> bool:
        """False: not taken (the link is over, or too much is queued)."""
        ...

    def close(self, link: int) -> None:
        """Once all that was sent is there; LinkClosed comes."""
        ...


# --- downloads ---------------------------------------------------------------------------------------------------


class Payload(msgspec.Struct, array_like=True, frozen=True):
    """What is brought to a card: command APDUs in their order. Kept once, however many cards get it."""

    commands: tuple[bytes, ...]

    def __repr__(self) -> str:
        return f"Payload({len(self.commands)} commands)"


class DownloadState(IntEnum):
    """Stored, so never renumber."""

    #: participant of a campaign that was not released yet
    HELD = 0
    #: due at `due_ms`: the first try, or the next
    WAITING = 1
    #: a call or a transfer is under way
    ACTIVE = 2
    # final
    DONE = 16  # every command was executed
    NOTICED = 17  # the user was told by SMS to use another way (E6, E7)
    FAILED = 18  # the card refused, or it can not be done
    STOPPED = 19
    EXPIRED = 20

    @property
    def is_final(self) -> bool:
        return self >= DownloadState.DONE


class DownloadStep(msgspec.Struct, array_like=True, frozen=True):
    """One line of a download's history."""

    at_ms: int
    #: accepted, released, called, opened, transfer, message, executed, retry, resumed, noticed, refused, stopped …
    what: str
    detail: str = ""  # never an identity or a byte of the payload


class PacketPlan(msgspec.Struct, array_like=True, frozen=True):
    """How a transfer cuts its payload, written before its first packet goes: a later one can send the packet of which
    nobody knows whether it came once more, the same bytes with the same counter."""

    #: the command it begins with; the counter of its packet (gateway.cards.transfer says those of the others)
    start: int
    counter: int
    #: bytes of commands in a packet
    room_bytes: int
    key_set: int
    #: the card took one of its packets, so what it knows of counters is what we know
    proved: bool = False
    #: empty packets that asked whether it does
    probes: int = 0


class Download(msgspec.Struct, array_like=True, frozen=True):
    """One payload for one card, as it is kept; changed by msgspec.structs.replace."""

    number: int  # sequence, unique among pushes and downloads
    app: str
    card: bytes
    payload: bytes  # digest by which it is kept
    tar: bytes  # empty: the card's own
    state: DownloadState
    created_ms: int
    expires_ms: int
    due_ms: int = 0
    #: calls that were made; tries since the last progress
    calls: int = 0
    tries: int = 0
    #: commands that the card is known to have executed: where a transfer goes on
    done: int = 0
    #: how it goes: link, message; empty: not decided yet
    way: str = ""
    #: what the last trouble was: undelivered, no_link, link_lost, terminal, card, smsc …
    cause: str = ""
    campaign: int = 0  # its number; 0: none
    notice: str = ""  # text for the user; empty: as `ota` says
    steps: tuple[DownloadStep, ...] = ()  # bounded; the newest are kept
    #: of the transfer under way, or cut off; None: none has begun
    plan: PacketPlan | None = None


class DownloadRecords(Protocol):
    """Where downloads are kept (store.card_downloads.DownloadStore); control thread only."""

    def reserve(self, count: int) -> int:
        """The first of `count` consecutive numbers. StoreUnavailable."""
        ...

    def put_payload(self, payload: Payload) -> bytes:
        """Its digest; durable with, or before, the next `add`. Kept for an hour at least, then while a download or a
        campaign that is not over needs it. StoreUnavailable, QueueFull."""
        ...

    def payload(self, digest: bytes) -> Payload | None: ...

    def add(self, downloads: Sequence[Download]) -> asyncio.Future[None]:
        """Durable with the future. StoreUnavailable (also where a payload is not there), QueueFull."""
        ...

    def change(self, download: Download) -> asyncio.Future[None]:
        """Seen at once by `read`; durable with the future, which fails with StoreUnavailable where it is written later.
        The first end holds: a change of what is over is left out."""
        ...

    def settle(self, download: Download) -> asyncio.Future[None]:
        """It is over: written, and one line of its app's receipts feed with it. As `change` otherwise."""
        ...

    def read(self, number: int) -> Download | None: ...

    def open(self) -> Iterable[Download]:
        """What a start finds WAITING or ACTIVE."""
        ...

    def of_app(
        self, app: str, before: int, limit: int, state: DownloadState | None = None
    ) -> tuple[list[Download], int]:
        """The newest first, below a number (0: from the newest); where to go on, 0: there are no more. Looks at a
        bounded number of rows, so a page may be short."""
        ...

    def of_campaign(self, campaign: int, after: int, limit: int) -> list[Download]:
        """Participants in order of their numbers, behind one."""
        ...


class Downloads(Protocol):
    """What carries downloads out (cards.downloads); control thread only."""

    #: told of each that is over, after it is durable
    on_over: Callable[[Download], None]

    def start(self, download: Download) -> None:
        """Carry it out when it is due; it is in the store already."""
        ...

    async def stop(self, number: int) -> Download | None:
        """No more tries; what runs is cut off after the command under way. None: there is no such download.
        StoreUnavailable: its end is written later."""
        ...

    @property
    def active(self) -> int: ...

    @property
    def waiting(self) -> int: ...


# --- campaigns ---------------------------------------------------------------------------------------------------


class CampaignState(IntEnum):
    """Stored, so never renumber."""

    #: participants are being written; a kill in between leaves it so, and the start goes on or ends it
    GATHERING = 0
    RUNNING = 1
    PAUSED = 2
    #: the canary share is over, and either failed or waits for a word
    CANARY_FAILED = 3
    #: somebody stopped it, and its participants are being stopped; a start goes on with it
    STOPPING = 4
    # final
    DONE = 16
    STOPPED = 17

    @property
    def is_final(self) -> bool:
        return self >= CampaignState.DONE


class Campaign(msgspec.Struct, array_like=True, frozen=True):
    """One payload for many cards, as it is kept."""

    number: int
    app: str
    name: str
    state: CampaignState
    payload: bytes
    tar: bytes
    notice: str
    created_ms: int
    expires_ms: int
    #: numbers of its participants' downloads
    first: int = 0
    participants: int = 0
    #: the next one to release, as an index into the participants
    released: int = 0
    #: releases a second, 0: as fast as they are done; most under way at once, 0: as `ota` says
    per_s: float = 0.0
    at_once: int = 0
    #: share of the participants that goes first, and the share of those that has to end DONE or NOTICED
    canary_share: float = 0.0
    canary_success: float = 0.95
    #: who takes part, as it was asked for: said again by look-ups
    query: str = ""
    #: participants that are over, by state; what is true stands in their own rows, and a start counts those
    results: dict[int, int] = {}
    ended_ms: int = 0
    why: str = ""  # of PAUSED, CANARY_FAILED, STOPPING, STOPPED, and of DONE where there is more to say
    #: numbers that are its own from `first` on
    reserved: int = 0
    #: it goes on by itself once its participants are there
    begins: bool = True
    #: it goes on whatever became of the canaries
    waived: bool = False
    #: participants that are over and not DONE, by their cause
    causes: dict[str, int] = {}
    #: canaries that are over, and those that ended DONE or NOTICED
    canaries_over: int = 0
    canaries_good: int = 0


class CampaignRecords(Protocol):
    """Where campaigns are kept (store.card_campaigns.CampaignStore); control thread only."""

    def put(self, campaign: Campaign) -> asyncio.Future[None]: ...

    def read(self, number: int) -> Campaign | None: ...

    def all(self, app: str = "") -> list[Campaign]:
        """Newest first; empty: of every app."""
        ...
