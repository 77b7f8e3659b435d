"""Bodies of the routes to campaigns; here a card is its id, and nothing shows what is sent."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gateway.api.cards.wire import CardId, DownloadStateName, HexTar, UnixMs

CampaignStateName = Literal["gathering", "running", "paused", "canary_failed", "stopping", "done", "stopped"]
Share = Annotated[float, Meta(ge=0.000001, le=1)]


class _In(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    def __repr__(self) -> str:
        return f"{type(self).__name__}(hidden)"


class _Out(msgspec.Struct, kw_only=True):
    pass


class CanaryIn(_In, kw_only=True):
    """A share that goes first; the rest follows where enough of it ended well."""

    share: Annotated[Share, Meta(description="of the participants, rounded up")]
    success: Annotated[float, Meta(ge=0, le=1, description="share of the canaries that has to end done or noticed")] = (
        0.95
    )


class CampaignCreate(_In, kw_only=True):
    """`commands` or `commands_text`; `query`, `cards`, or neither where a list follows."""

    name: Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$")]
    commands: Annotated[
        list[Annotated[str, Meta(pattern="^([0-9a-fA-F]{2})*$", max_length=522)]],
        Meta(max_length=1_000_000, description="command APDUs in their order, each in hex"),
    ] = []
    commands_text: Annotated[
        str, Meta(max_length=1 << 28, description="the same, one a line; # begins a comment, spaces do not count")
    ] = ""
    tar: Annotated[HexTar, Meta(description="what they are sent to; null: each card's own")] | None = None
    notice: Annotated[str, Meta(max_length=160, description="as for a download; empty: ota.notice")] = ""
    query: (
        Annotated[
            str,
            Meta(
                max_length=1_024,
                description="who takes part: `tag:batch-7 and not capable`; words: all, capable, not_capable, unknown, "
                'tag:NAME, tag:"NAME", and, or, not, ( )',
            ),
        ]
        | None
    ) = None
    cards: Annotated[list[Annotated[str, Meta(max_length=64)]], Meta(description="ids of cards")] | None = None
    per_s: Annotated[
        float, Meta(ge=0, le=1_000_000, description="releases a second, fractions too; 0: as fast as they are done")
    ] = 0.0
    at_once: Annotated[int, Meta(ge=0, le=1_000_000, description="most under way at once; 0: as ota.at_once says")] = 0
    canary: CanaryIn | None = None
    ttl_s: Annotated[int, Meta(ge=1, le=31_536_000, description="it is over by then; null: ota.ttl_s")] | None = None
    start: Annotated[bool, Meta(description="false: it is paused until it is resumed")] = True
    idempotency_key: Annotated[str, Meta(max_length=128, description="the same key makes it once")] = ""


class BadLineView(_Out, kw_only=True):
    line: Annotated[int, Meta(description="from 1")]
    error: str


class ListTaken(_Out, kw_only=True):
    """What became of a list of cards."""

    participants: int
    duplicates: Annotated[int, Meta(description="lines that name a card again")]
    refused: Annotated[int, Meta(description="lines that are no card id, or of no card that is known")]
    lines: Annotated[list[BadLineView], Meta(description="the first hundred of those")]


class CampaignAccepted(_Out, kw_only=True):
    id: str
    state: CampaignStateName
    participants: Annotated[int, Meta(description="so far: cards of a query are gathered behind the answer")]
    taken: Annotated[ListTaken, Meta(description="null: it named no cards, or is an answer given again")] | None


class CanaryView(_Out, kw_only=True):
    share: float
    success: float
    cards: int
    over: int
    good: Annotated[int, Meta(description="that ended done or noticed")]


class CampaignView(_Out, kw_only=True):
    id: str
    name: str
    state: Annotated[CampaignStateName, Meta(description="final: done, stopped")]
    why: Annotated[str, Meta(description="of its state, where there is more to say")]
    query: Annotated[str, Meta(description="null: it was a list")] | None
    participants: int
    counted: Annotated[bool, Meta(description="false after a start, until its participants were counted again")]
    held: Annotated[int, Meta(description="not released yet")]
    out: Annotated[int, Meta(description="released and not over, also such as wait for another try")]
    under_way: Annotated[int, Meta(description="of those, the ones that do not wait for another try")]
    over: int
    results: Annotated[dict[str, int], Meta(description="participants that are over, by state")]
    causes: Annotated[dict[str, int], Meta(description="those that are not done, by cause")]
    per_s: float
    at_once: int
    canary: CanaryView | None
    created_at_ms: UnixMs
    expires_at_ms: UnixMs
    ended_at_ms: Annotated[UnixMs, Meta(description="null where it is not over")] | None
    rate: Annotated[float, Meta(description="participants that were over, a second, lately")]
    left_s: Annotated[float, Meta(description="estimate of the time to its end; null: nothing can be said")] | None


class CampaignPage(_Out, kw_only=True):
    campaigns: list[CampaignView]
    after: Annotated[str, Meta(description="give it as `after` the next time; null: there are no more")] | None


class ParticipantView(_Out, kw_only=True):
    card: CardId
    download: Annotated[str, Meta(description="its id: GET /v1/downloads/{id} has its history")]
    state: DownloadStateName
    done: Annotated[int, Meta(description="commands that the card is known to have executed")]
    way: str
    calls: int
    tries: int
    cause: str


class ParticipantPage(_Out, kw_only=True):
    cards: list[ParticipantView]
    after: Annotated[int, Meta(description="give it as `after` the next time; null: there are no more")] | None
