"""Bodies of the routes to cards. What names a card in the world, and its keys, come in by bodies alone and stand in no
answer; here a card is its id."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gateway.api.media import ErrorDetail

AbilityName = Literal["unknown", "capable", "not_capable"]
AlgorithmName = Literal["aes", "3des2", "3des3"]
DownloadStateName = Literal["held", "waiting", "active", "done", "noticed", "failed", "stopped", "expired"]
CardId = Annotated[str, Meta(description="`card_` and 32 hex digits")]
CardIdIn = Annotated[str, Meta(pattern="^card_[0-9a-f]{32}$", description="`card_` and 32 hex digits")]
HexKey = Annotated[str, Meta(pattern="^([0-9a-fA-F]{2})*$", max_length=64, description="hex; write-only")]
HexTar = Annotated[str, Meta(pattern="^[0-9a-fA-F]{6}$", description="toolkit application reference, six hex digits")]
KeySetNumber = Annotated[int, Meta(ge=1, le=15)]
CardTag = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]*$")]
Digits = Annotated[str, Meta(max_length=32, description="digits; write-only")]
UnixMs = Annotated[int, Meta(description="Unix milliseconds")]


class _In(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    def __repr__(self) -> str:
        return f"{type(self).__name__}(hidden)"


class _Out(msgspec.Struct, kw_only=True):
    pass


# --- cards ---


class KeySetIn(_In, kw_only=True):
    """One key set (ETSI TS 102 225 §5.1.2, §5.1.3)."""

    number: Annotated[KeySetNumber, Meta(description="high nibble of KIc and KID")]
    algorithm: AlgorithmName = "aes"
    kic: HexKey
    kid: HexKey
    counter: Annotated[
        int, Meta(ge=0, le=(1 << 40) - 1, description="highest one that the card has seen; ours go on behind it")
    ] = 0


class CardIn(_In, kw_only=True):
    """One card as its issuer describes it."""

    iccid: Annotated[str, Meta(min_length=1, max_length=32, description="18 to 20 digits; write-only")]
    imsi: Digits = ""
    msisdn: Annotated[str, Meta(max_length=32, description="with its country code; write-only")] = ""
    key_sets: Annotated[list[KeySetIn], Meta(min_length=1, max_length=15)]
    push_keys: (
        Annotated[KeySetNumber, Meta(description="key set that protects messages; null: the first of key_sets")] | None
    ) = None
    data_keys: (
        Annotated[
            KeySetNumber,
            Meta(
                description="key set that protects what goes over a link; null: the second of key_sets, else the first"
            ),
        ]
        | None
    ) = None
    tar: Annotated[HexTar, Meta(description="what downloads are sent to, where they name no other")]
    push_tar: Annotated[HexTar, Meta(description="what PUSH is sent to; null: tar")] | None = None
    bearer: Annotated[str, Meta(max_length=80, description="bearer description in hex; empty: ota.bearer")] = ""
    apn: Annotated[str, Meta(max_length=99, description="access point; empty: ota.apn")] = ""
    tags: Annotated[list[CardTag], Meta(max_length=100)] = []


class ImportedCard(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What became of one card of an import: its id, or why it was refused."""

    line: Annotated[int, Meta(description="which card of the body, from 1")]
    card: CardId | None = None
    error: ErrorDetail | None = None


class Imported(_Out, kw_only=True):
    imported: int
    refused: int
    cards: list[ImportedCard]


class FindBody(_In, kw_only=True):
    """Exactly one of these."""

    iccid: Digits = ""
    imsi: Digits = ""
    msisdn: Annotated[str, Meta(max_length=32, description="write-only")] = ""


class Found(_Out, kw_only=True):
    card: CardId


class EvidenceView(_Out, kw_only=True):
    at_ms: UnixMs
    what: Annotated[
        str, Meta(description="check_request, call, link_opened, terminal_result, validity_over, undelivered, …")
    ]
    state: AbilityName
    detail: str


class CapabilityView(_Out, kw_only=True):
    """Of a card's terminal: can it open a channel for the card? (E4, E5)"""

    card: CardId
    state: Annotated[AbilityName, Meta(description="unknown counts as not capable")]
    since_ms: Annotated[UnixMs, Meta(description="null where nothing was concluded yet")] | None
    until_ms: Annotated[UnixMs, Meta(description="it is believed until then; null: no end")] | None
    evidence: (
        Annotated[list[EvidenceView], Meta(description="what was seen, oldest first; for the operator's key alone")]
        | None
    ) = None


class CardView(_Out, kw_only=True):
    id: CardId
    tags: list[str]
    key_sets: Annotated[list[int], Meta(description="numbers of its key sets")]
    push_keys: int
    data_keys: int
    tar: str
    push_tar: str
    capability: CapabilityView


class CardPage(_Out, kw_only=True):
    count: Annotated[int, Meta(description="of all cards, whatever was asked for")]
    cards: list[CardId]
    after: Annotated[CardId, Meta(description="give it as `after` the next time, also where this page is short")] | None


class Asked(_Out, kw_only=True):
    asked: bool


# --- downloads ---


class DownloadCreate(_In, kw_only=True):
    card: CardIdIn
    commands: Annotated[
        list[Annotated[str, Meta(pattern="^([0-9a-fA-F]{2})*$", max_length=522)]],
        Meta(min_length=1, max_length=1_000_000, description="command APDUs in their order, each in hex"),
    ]
    tar: Annotated[HexTar, Meta(description="what they are sent to; null: the card's own")] | None = None
    notice: Annotated[
        str,
        Meta(
            max_length=160,
            description="what the user is told where it can not be done; "
            "at most 160 characters of GSM 7 bit; empty: ota.notice",
        ),
    ] = ""
    ttl_s: (
        Annotated[int, Meta(ge=1, le=31_536_000, description="it is kept trying for so long; null: ota.ttl_s")] | None
    ) = None
    at: Annotated[int, Meta(ge=0, le=32_503_680_000, description="not before then, Unix seconds")] | None = None
    idempotency_key: Annotated[str, Meta(max_length=128, description="the same key starts it once")] = ""


class DownloadAccepted(_Out, kw_only=True):
    id: str


class DownloadStepView(_Out, kw_only=True):
    at_ms: UnixMs
    what: Annotated[str, Meta(description="accepted, called, opened, transfer, message, executed, retry, noticed, …")]
    detail: str


class DownloadView(_Out, kw_only=True):
    id: str
    card: CardId
    state: Annotated[DownloadStateName, Meta(description="final: done, noticed, failed, stopped, expired")]
    created_at_ms: UnixMs
    expires_at_ms: UnixMs
    due_at_ms: Annotated[UnixMs, Meta(description="of the next try; null where there is none")] | None
    commands: Annotated[int, Meta(description="in its payload; 0: the payload is gone")]
    done: Annotated[int, Meta(description="commands that the card is known to have executed")]
    way: Annotated[Literal["", "link", "message"], Meta(description="how it goes; empty: not decided yet")]
    calls: Annotated[int, Meta(description="calls that were made")]
    tries: Annotated[int, Meta(description="tries since the last progress")]
    cause: Annotated[
        str, Meta(description="of the last trouble: undelivered, no_link, link_lost, terminal, card, smsc, …")
    ]
    campaign: Annotated[str, Meta(description="id of its campaign; null: of none")] | None
    steps: Annotated[list[DownloadStepView], Meta(description="its history, the newest kept")]


class DownloadPage(_Out, kw_only=True):
    downloads: list[DownloadView]
    after: Annotated[str, Meta(description="give it as `after` the next time; null: there are no more")] | None
