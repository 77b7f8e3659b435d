"""Campaigns over cards, as apps ask for them: made once, looked at, paused, resumed, stopped (E6, E7); must never say
201 before a campaign, and the list it came with, are safe."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any, cast

import msgspec
from starlette.responses import Response

from gateway.api.call import Call
from gateway.api.cards.bodies import parse_hidden
from gateway.api.cards.campaign_wire import (
    BadLineView,
    CampaignAccepted,
    CampaignCreate,
    CampaignPage,
    CampaignStateName,
    CampaignView,
    CanaryView,
    ListTaken,
    ParticipantPage,
    ParticipantView,
)
from gateway.api.cards.downloads import check_notice, parse_commands
from gateway.api.cards.ports import need, need_campaigns
from gateway.api.cards.views import STATES
from gateway.api.cards.wire import DownloadStateName
from gateway.api.media import PIECE_S
from gateway.api.once import Once, Push, choose_key, settle
from gateway.api.ports import Backend
from gateway.api.route import PROVIDER, Query, Route
from gateway.cards.campaigns import Campaigns, Progress, Wanted
from gateway.cards.card_lists import CardList
from gateway.config.ota_section import Ota
from gateway.model.cards import CampaignState, Download, DownloadState, Payload, build_card_id
from gateway.model.errors import (
    AcceptTimeout,
    BadRequest,
    Conflict,
    NotConfigured,
    PayloadTooLarge,
    QueueFull,
    RequestTimeout,
    StoreUnavailable,
    TooManyRequests,
    UnknownCampaign,
    UnsupportedMedia,
)

PAGE = 100
MAX_PAGE = 1_000
#: participants looked at for one page, and in one turn of the loop
MAX_LOOKED = 10_000
LOOKED_AT_A_TIME = 500
#: a list in the body of the campaign itself; a longer one has a request of its own
LIST_BYTES = 4_194_304
_PER_COMMAND_BYTES, _REST_BYTES = 8, 65_536
#: of a list, looked up in one turn of the loop
_LIST_AT_A_TIME = 256
_PIECE_BYTES = 8_192
#: lists that are read at once: each holds up to 80 bytes for each of its cards until it is written
_LISTS_AT_ONCE = 4
#: a list that comes slower than this, behind so many seconds, is given up: it holds one of those places
_LIST_S, _LIST_BYTES_A_SECOND = 60.0, 16_384
#: participants that are written in the time of one acceptance (api.accept_timeout_s), also by a slow disk
_WRITTEN_AT_A_TIME = 10_000
_MEDIA = ("text/plain", "application/x-ndjson", "application/ndjson", "application/jsonl")
_canonical = msgspec.msgpack.Encoder(order="deterministic")
MAX_INDEX = 1 << 40


def read_commands(text: str) -> list[str]:
    """One APDU a line; BadRequest names the line and shows nothing of it."""
    found: list[str] = []
    for line, raw in enumerate(text.splitlines(), 1):
        digits = "".join(raw.partition("#")[0].split())
        if not digits:
            continue
        try:
            bytes.fromhex(digits)
        except ValueError:
            raise BadRequest(f"line {line} is no hex", field="commands_text") from None
        found.append(digits)
    return found


def _commands(wanted: CampaignCreate, config: Ota) -> tuple[bytes, ...]:
    if bool(wanted.commands) == bool(wanted.commands_text):
        raise BadRequest("give either commands or commands_text", field="commands")
    given = wanted.commands or read_commands(wanted.commands_text)
    if not given:
        raise BadRequest("there is no command in it", field="commands_text")
    return parse_commands(given, config)


def view_campaign(progress: Progress, campaign_id: str) -> CampaignView:
    campaign = progress.campaign
    canary = None
    if campaign.canary_share > 0:
        canary = CanaryView(
            share=campaign.canary_share,
            success=campaign.canary_success,
            cards=progress.canaries,
            over=campaign.canaries_over,
            good=campaign.canaries_good,
        )
    return CampaignView(
        id=campaign_id,
        name=campaign.name,
        state=state_name(campaign.state),
        why=campaign.why,
        query=campaign.query or None,
        participants=campaign.participants,
        counted=progress.is_counted,
        held=progress.held,
        out=progress.out,
        under_way=progress.under_way,
        over=sum(campaign.results.values()),
        results={DownloadState(state).name.lower(): count for state, count in sorted(campaign.results.items())},
        causes=dict(sorted(campaign.causes.items())),
        per_s=campaign.per_s,
        at_once=campaign.at_once,
        canary=canary,
        created_at_ms=campaign.created_ms,
        expires_at_ms=campaign.expires_ms,
        ended_at_ms=campaign.ended_ms or None,
        rate=round(progress.per_s, 3),
        left_s=round(progress.left_s, 1) if progress.left_s else None,
    )


def state_name(state: CampaignState) -> CampaignStateName:
    return cast(CampaignStateName, CampaignState(state).name.lower())


def view_list(listed: CardList) -> ListTaken:
    return ListTaken(
        participants=len(listed),
        duplicates=listed.duplicates,
        refused=listed.bad_count,
        lines=[BadLineView(line=bad.line, error=bad.why) for bad in listed.bad],
    )


class CampaignRoutes:
    def __init__(self, backend: Backend, once: Once) -> None:
        self._backend = backend
        self._once = once
        self._lists = 0

    # --- making one -----------------------------------------------------------------------------------------

    async def create(self, call: Call) -> Response:
        config, campaigns = need(self._backend).config, need_campaigns(self._backend)
        limit = 2 * config.payload_bytes + _PER_COMMAND_BYTES * config.payload_commands + _REST_BYTES + LIST_BYTES
        wanted = await parse_hidden(call, CampaignCreate, limit)
        key = choose_key(call.request.headers.get("idempotency-key"), wanted.idempotency_key)
        commands = _commands(wanted, config)
        check_notice(wanted.notice)
        if wanted.query is not None and wanted.cards is not None:
            raise BadRequest("give either a query or cards", field="cards")
        listed = None if wanted.cards is None else await _fill(campaigns.new_list(), wanted.cards)
        provider = call.provider
        assert provider is not None

        def begin() -> Push:
            asked = self._build(call.app.name, wanted, commands, config)
            campaign, accepted = campaigns.create(asked, listed)
            return Push(campaign.number, accepted)

        with self._backend.quotas.counted(provider.app, provider.key_id, self._backend.now_ms()):
            if key:
                bare = msgspec.structs.replace(wanted, idempotency_key="")
                body = hashlib.sha256(b"campaign" + _canonical.encode(bare)).digest()
                push = self._once.start_keyed(call.app, key, body, begin=begin, find=lambda seq: Push(seq, None))
            else:
                push = begin()
            await settle(push, self._backend.config.accept_timeout_s * _times(listed))
        campaign_id = self._backend.push_ids.campaigns.build(call.app.name, push.seq)
        campaign = campaigns.read(call.app.name, push.seq).campaign
        answer = CampaignAccepted(
            id=campaign_id,
            state=state_name(campaign.state),
            participants=campaign.participants,
            taken=None if listed is None or push.replayed else view_list(listed),
        )
        headers = {"location": f"/v1/campaigns/{campaign_id}"}
        if push.replayed:
            headers["idempotent-replay"] = "true"
        return call.answer(answer, status=200 if push.replayed else 201, headers=headers)

    def _build(self, app: str, wanted: CampaignCreate, commands: tuple[bytes, ...], config: Ota) -> Wanted:
        return Wanted(
            app=app,
            name=wanted.name,
            payload=Payload(commands),
            expires_ms=self._backend.now_ms() + 1_000 * (wanted.ttl_s or config.ttl_s),
            query=wanted.query,
            tar=bytes.fromhex(wanted.tar or ""),
            notice=wanted.notice,
            per_s=wanted.per_s,
            at_once=wanted.at_once,
            canary_share=wanted.canary.share if wanted.canary is not None else 0.0,
            canary_success=wanted.canary.success if wanted.canary is not None else 0.95,
            begins=wanted.start,
        )

    async def add_cards(self, call: Call) -> Response:
        config, campaigns = need(self._backend).config, need_campaigns(self._backend)
        number = self._number(call)
        campaigns.read(call.app.name, number)
        media = call.request.headers.get("content-type", _MEDIA[0]).partition(";")[0].strip().lower()
        if media not in _MEDIA:
            raise UnsupportedMedia(f"Send the list as {_MEDIA[0]} or {_MEDIA[1]}, one card a line.")
        if self._lists >= _LISTS_AT_ONCE:
            raise TooManyRequests("Other lists are being read; come back.")
        self._lists += 1
        try:
            listed = campaigns.new_list()
            await _read_list(call, listed, config.campaign_list_bytes)
        finally:
            self._lists -= 1
        campaigns.add_list(call.app.name, number, listed)
        call.timeout_s *= _times(listed)  # one commit after the other
        await call.committed(campaigns.gathered(number))
        return call.answer(view_list(listed))

    # --- looking --------------------------------------------------------------------------------------------

    async def show(self, call: Call) -> Response:
        return self._answer(call, need_campaigns(self._backend).read(call.app.name, self._number(call)))

    async def list_campaigns(self, call: Call) -> Response:
        limit = call.query("limit", PAGE, 1, MAX_PAGE)
        campaigns = need_campaigns(self._backend)
        ids, text = self._backend.push_ids.campaigns, call.request.query_params.get("after", "")
        before = ids.parse(text, call.app.name) if text else MAX_INDEX << 20
        if before is None:
            raise BadRequest("expected the id of a campaign", field="after")
        found = [each for each in campaigns.all(call.app.name) if each.campaign.number < before]
        views = [view_campaign(each, ids.build(call.app.name, each.campaign.number)) for each in found[:limit]]
        return call.answer(CampaignPage(campaigns=views, after=views[-1].id if len(found) > limit else None))

    async def cards(self, call: Call) -> Response:
        campaigns, app, number = need_campaigns(self._backend), call.app.name, self._number(call)
        limit = call.query("limit", PAGE, 1, MAX_PAGE)
        after = call.query("after", 0, 0, MAX_INDEX)
        state = call.request.query_params.get("state", "")
        if state and state not in STATES:
            raise BadRequest(f"expected one of {', '.join(STATES)}", field="state")
        wanted = DownloadState[state.upper()] if state else None
        found, following = await self._page(campaigns, app, number, after, limit, wanted)
        ids = self._backend.push_ids.downloads
        views = [
            ParticipantView(
                card=build_card_id(row.card),
                download=ids.build(app, row.number),
                state=cast(DownloadStateName, DownloadState(row.state).name.lower()),
                done=row.done,
                way=row.way,
                calls=row.calls,
                tries=row.tries,
                cause=row.cause,
            )
            for row in found
        ]
        return call.answer(ParticipantPage(cards=views, after=following))

    async def _page(
        self, campaigns: Campaigns, app: str, number: int, after: int, limit: int, state: DownloadState | None
    ) -> tuple[list[Download], int | None]:
        """`after`: how many of the campaign's participants are behind us."""
        found: list[Download] = []
        looked = 0
        while looked < MAX_LOOKED:
            first = campaigns.read(app, number).campaign.first
            rows = campaigns.participants(app, number, after - 1, LOOKED_AT_A_TIME)
            for row in rows:
                after = row.number - first + 1
                looked += 1
                if state in (None, row.state):
                    found.append(row)
                    if len(found) == limit:
                        return found, after
            if len(rows) < LOOKED_AT_A_TIME:
                return found, None
            await asyncio.sleep(0)
        return found, after

    # --- words ----------------------------------------------------------------------------------------------

    async def pause(self, call: Call) -> Response:
        campaigns = need_campaigns(self._backend)
        return self._answer(call, await call.committed(campaigns.pause(call.app.name, self._number(call))))

    async def resume(self, call: Call) -> Response:
        campaigns = need_campaigns(self._backend)
        return self._answer(call, await call.committed(campaigns.resume(call.app.name, self._number(call))))

    async def stop(self, call: Call) -> Response:
        campaigns = need_campaigns(self._backend)
        return self._answer(call, await call.committed(campaigns.stop(call.app.name, self._number(call))))

    def _number(self, call: Call) -> int:
        number = self._backend.push_ids.campaigns.parse(call.path("id"), call.app.name)
        if number is None:
            raise UnknownCampaign
        return number

    def _answer(self, call: Call, progress: Progress) -> Response:
        return call.answer(view_campaign(progress, call.path("id")))


def _times(listed: CardList | None) -> int:
    """How much longer it takes until a list is durable."""
    return 1 if listed is None else 1 + len(listed) // _WRITTEN_AT_A_TIME


async def _fill(listed: CardList, cards: list[str]) -> CardList:
    for place, card in enumerate(cards, 1):
        listed.add(card)
        if not place % _LIST_AT_A_TIME:
            await asyncio.sleep(0)
    return listed


async def _read_list(call: Call, listed: CardList, limit: int) -> None:
    """PayloadTooLarge, RequestTimeout."""
    size = 0
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    stream = call.request.stream().__aiter__()
    while True:
        try:
            async with asyncio.timeout(PIECE_S):
                part = await anext(stream)
        except StopAsyncIteration:
            break
        except TimeoutError:
            raise RequestTimeout from None
        size += len(part)
        if loop.time() - began_s > _LIST_S + size / _LIST_BYTES_A_SECOND:
            raise RequestTimeout
        if size > limit:
            raise PayloadTooLarge(f"The list is larger than {limit} bytes (ota.campaign_list_bytes).")
        for start in range(0, len(part), _PIECE_BYTES):
            listed.feed(part[start : start + _PIECE_BYTES])
            await asyncio.sleep(0)
        if listed.is_too_long:
            raise PayloadTooLarge("The list has more cards than one campaign takes (ota.campaign_cards).")
    listed.end()


_STORE = (StoreUnavailable, AcceptTimeout, QueueFull)
_ID = "AAAAAAAAAAEr0mC1_oYpB7zq"[:22]
_CARD = "card_5d0c1f0f6b7a4e3b9c8d7e6f5a4b3c2d"
_VIEW: dict[str, Any] = {
    "id": _ID,
    "name": "roaming list 12",
    "state": "running",
    "why": "",
    "query": "tag:batch-7 and not not_capable",
    "participants": 100000,
    "counted": True,
    "held": 61380,
    "out": 1200,
    "under_way": 950,
    "over": 37420,
    "results": {"done": 37001, "noticed": 402, "failed": 17},
    "causes": {"no_link": 402, "card": 17},
    "per_s": 200.0,
    "at_once": 1000,
    "canary": {"share": 0.01, "success": 0.95, "cards": 1000, "over": 1000, "good": 998},
    "created_at_ms": 1760000000000,
    "expires_at_ms": 1760604800000,
    "ended_at_ms": None,
    "rate": 187.4,
    "left_s": 333.9,
}
_LIST = {"participants": 2, "duplicates": 1, "refused": 1, "lines": [{"line": 4, "error": "no such card"}]}


def routes(backend: Backend, once: Once) -> list[Route]:
    campaigns = CampaignRoutes(backend, once)
    common: dict[str, Any] = {"caller": PROVIDER, "group": "campaigns"}
    one = "/v1/campaigns/{id}"
    word: dict[str, Any] = {
        "method": "POST",
        "gives": CampaignView,
        "errors": (NotConfigured, UnknownCampaign, Conflict, *_STORE),
        **common,
    }
    return [
        Route(
            method="POST",
            path="/v1/campaigns",
            handle=campaigns.create,
            summary="Bring the same commands to many cards",
            about="Who takes part is a `query`, a short list (`cards`), or a list that follows "
            "(`POST /v1/campaigns/{id}/cards`). Cards of a query are gathered behind the answer. Each participant is "
            "a download of its own, whose end stands in the receipts. With an idempotency key the same body is one "
            "campaign however often it is sent.",
            takes=CampaignCreate,
            example={
                "name": "roaming list 12",
                "commands": ["00A40004023F00", "00D6000002CAFE"],
                "query": "tag:batch-7 and not not_capable",
                "per_s": 200,
                "canary": {"share": 0.01, "success": 0.95},
            },
            gives=CampaignAccepted,
            gives_example={"id": _ID, "state": "gathering", "participants": 0, "taken": None},
            status=201,
            also=((200, "The campaign this idempotency key already stands for (Idempotent-Replay: true)"),),
            params=(Query("Idempotency-Key", "1 to 128 characters", kind="string", place="header"),),
            errors=(
                BadRequest,
                PayloadTooLarge,
                UnsupportedMedia,
                NotConfigured,
                Conflict,
                TooManyRequests,
                *_STORE,
            ),
            **common,
        ),
        Route(
            method="POST",
            path=one + "/cards",
            handle=campaigns.add_cards,
            summary="The cards of a campaign that was made without any",
            about='Plain text or JSON lines: an id a line, or `{"card": "card_…"}`; # begins a line that does not '
            "count. Lines that name no known card are refused one by one, the others take part. Answered when the "
            "participants are durable; a gateway that ends before that stops the campaign.",
            takes_media="text/plain",
            example=None,
            gives=ListTaken,
            gives_example=_LIST,
            errors=(
                BadRequest,
                PayloadTooLarge,
                UnsupportedMedia,
                RequestTimeout,
                NotConfigured,
                UnknownCampaign,
                Conflict,
                TooManyRequests,
                *_STORE,
            ),
            **common,
        ),
        Route(
            method="GET",
            path="/v1/campaigns",
            handle=campaigns.list_campaigns,
            summary="Campaigns of the app, the newest first, in pages",
            gives=CampaignPage,
            gives_example={"campaigns": [_VIEW], "after": None},
            params=(
                Query("after", "`after` of the last answer", kind="string"),
                Query("limit", "at most this many, default 100", low=1, high=MAX_PAGE),
            ),
            errors=(BadRequest, NotConfigured),
            **common,
        ),
        Route(
            method="GET",
            path=one,
            handle=campaigns.show,
            summary="How far is my campaign?",
            gives=CampaignView,
            gives_example=_VIEW,
            errors=(NotConfigured, UnknownCampaign),
            **common,
        ),
        Route(
            method="GET",
            path=one + "/cards",
            handle=campaigns.cards,
            summary="What became of each card, in pages",
            about="A page may be short, or empty, before the end: go on while `after` is there.",
            gives=ParticipantPage,
            gives_example={
                "cards": [
                    {
                        "card": _CARD,
                        "download": _ID,
                        "state": "done",
                        "done": 2,
                        "way": "link",
                        "calls": 1,
                        "tries": 0,
                        "cause": "",
                    }
                ],
                "after": None,
            },
            params=(
                Query("state", "only those in this state", kind="string"),
                Query("after", "`after` of the last answer", low=0, high=MAX_INDEX),
                Query("limit", "at most this many, default 100", low=1, high=MAX_PAGE),
            ),
            errors=(BadRequest, NotConfigured, UnknownCampaign),
            **common,
        ),
        Route(
            path=one + "/pause",
            handle=campaigns.pause,
            summary="Release nothing further",
            about="What runs ends.",
            gives_example={**_VIEW, "state": "paused", "why": "asked"},
            **word,
        ),
        Route(
            path=one + "/resume",
            handle=campaigns.resume,
            summary="Go on",
            about="Also where it was made with `start: false`, and in spite of canaries that failed.",
            gives_example=_VIEW,
            **word,
        ),
        Route(
            path=one + "/stop",
            handle=campaigns.stop,
            summary="Stop for good",
            about="What was not released, or waits for another try, ends as stopped; what runs is cut off after the "
            "command under way.",
            gives_example={**_VIEW, "state": "stopping", "why": "asked"},
            **word,
        ),
    ]
