"""Cards: brought in, found, shown, listed, taken away; must never answer with what names a card in the world, nor with
a key."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.responses import Response

from gateway.api.call import Call
from gateway.api.cards.bodies import build_record, decode_hidden, parse_hidden, parse_iccid, parse_imsi, parse_msisdn
from gateway.api.cards.ports import CardDoor, need
from gateway.api.cards.views import ABILITIES, view_card
from gateway.api.cards.wire import CardIn, CardPage, CardView, FindBody, Found, Imported, ImportedCard
from gateway.api.media import JSON, MSGPACK, NDJSON, content_kind, describe, read_body
from gateway.api.pieces import Piece, build_cutter
from gateway.api.ports import Backend
from gateway.api.route import OPERATOR, Query, Route
from gateway.model.cards import HANDLE_BYTES, CardRecord, NumberTaken, build_card_id, parse_card_id
from gateway.model.errors import (
    AcceptTimeout,
    BadRequest,
    Conflict,
    GatewayError,
    NotConfigured,
    PayloadTooLarge,
    QueueFull,
    StoreUnavailable,
    UnknownCard,
    UnsupportedMedia,
)

KINDS = frozenset({JSON, MSGPACK, NDJSON})
#: largest description of one card
CARD_BYTES = 16_384
#: cards written with one commit, and parsed or looked at in one turn of the loop
GROUP, TURN = 500, 100
PAGE = 100
MAX_PAGE = 1_000
#: cards looked at for one page
MAX_LOOKED = 10_000

_STORE = (StoreUnavailable, AcceptTimeout, QueueFull)
_BODY = (BadRequest, PayloadTooLarge, UnsupportedMedia)


def find_card(door: CardDoor, text: str) -> tuple[bytes, CardRecord]:
    """UnknownCard."""
    card = parse_card_id(text)
    record = None if card is None else door.records.read(card)
    if card is None or record is None:
        raise UnknownCard
    return card, record


class _Import:
    """One request: what became of each card of it."""

    def __init__(self, door: CardDoor) -> None:
        self._door = door
        self.results: list[ImportedCard] = []
        self._ready: list[tuple[int, CardRecord]] = []
        self._seen: dict[tuple[str, str], int] = {}

    def take(self, place: int, piece: Piece, kind: str) -> None:
        line = place + 1
        self.results.append(ImportedCard(line=line))
        try:
            if isinstance(piece, GatewayError):
                raise piece
            record = build_record(decode_hidden(piece, CardIn, kind))
            self._check_twice(line, record)
            self._ready.append((place, record))
        except GatewayError as error:
            self._refuse(place, error)

    def _check_twice(self, line: int, record: CardRecord) -> None:
        for name in ("iccid", "imsi", "msisdn"):
            value = getattr(record, name)
            first = self._seen.setdefault((name, value), line) if value else line
            if first != line:
                raise Conflict(f"is the same as in line {first}", field=name)

    def _refuse(self, place: int, error: GatewayError) -> None:
        self.results[place].error = describe(error)

    async def write(self) -> None:
        """What is ready, with one commit; where one number of it is another card's, each for itself."""
        ready, self._ready = self._ready, []
        if not ready:
            return
        put = self._door.records.put
        try:
            writes = [(ready, put([record for _, record in ready]))]
        except NumberTaken:
            writes = []
            for place, record in ready:
                try:
                    writes.append(([(place, record)], put([record])))
                except NumberTaken as taken:
                    self._refuse(place, Conflict("is another card's; remove that card first", field=taken.field))
                except GatewayError as error:
                    self._refuse(place, error)
        except GatewayError as error:
            for place, _ in ready:
                self._refuse(place, error)
            return
        results = await asyncio.gather(*(future for _, future in writes), return_exceptions=True)
        for (cards, _), result in zip(writes, results, strict=True):
            for place, record in cards:
                if isinstance(result, GatewayError):
                    self._refuse(place, result)
                elif isinstance(result, BaseException):
                    raise result
                else:
                    self._accept(place, record)

    def _accept(self, place: int, record: CardRecord) -> None:
        self.results[place].card = build_card_id(self._door.records.handle(record.iccid))


class CardRoutes:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def add(self, call: Call) -> Response:
        door = need(self._backend)
        kind = content_kind(call.request.headers.get("content-type"), allowed=KINDS)
        body = await read_body(call.request, door.config.import_bytes)
        cutter = build_cutter(kind, CARD_BYTES)
        pieces = cutter.feed(body) + cutter.end()
        if len(pieces) > door.config.import_cards:
            raise PayloadTooLarge(f"More than {door.config.import_cards} cards in one request; nothing was imported.")
        work = _Import(door)

        async def take_all() -> None:
            for at, piece in enumerate(pieces):
                work.take(at, piece, MSGPACK if kind == MSGPACK else JSON)
                if not (at + 1) % GROUP:
                    await work.write()
                if not (at + 1) % TURN:
                    await asyncio.sleep(0)
            await work.write()

        call.timeout_s *= 1 + len(pieces) // GROUP  # one commit after the other
        await call.committed(take_all())
        refused = sum(result.error is not None for result in work.results)
        return call.answer(Imported(imported=len(pieces) - refused, refused=refused, cards=work.results))

    async def show(self, call: Call) -> Response:
        door = need(self._backend)
        card, record = find_card(door, call.path("card"))
        return call.answer(view_card(card, record, door.capabilities.read(card)))

    async def remove(self, call: Call) -> Response:
        door = need(self._backend)
        card, _ = find_card(door, call.path("card"))
        await call.committed(door.records.remove(card))
        return Response(status_code=204)

    async def find(self, call: Call) -> Response:
        door = need(self._backend)
        wanted = await parse_hidden(call, FindBody)
        given = [name for name in ("iccid", "imsi", "msisdn") if getattr(wanted, name)]
        if len(given) != 1:
            raise BadRequest("give exactly one of iccid, imsi and msisdn", field=given[1] if given else "iccid")
        card: bytes | None
        if wanted.iccid:
            card = door.records.handle(parse_iccid(wanted.iccid))
        elif wanted.imsi:
            card = door.records.find(imsi=parse_imsi(wanted.imsi))
        else:
            card = door.records.find(msisdn=parse_msisdn(wanted.msisdn))
        if card is None or door.records.read(card) is None:
            raise UnknownCard
        return call.answer(Found(card=build_card_id(card)))

    async def list_cards(self, call: Call) -> Response:
        door = need(self._backend)
        limit = call.query("limit", PAGE, 1, MAX_PAGE)
        query = call.request.query_params
        tag, ability, text = query.get("tag", ""), query.get("capability", ""), query.get("after", "")
        if ability and ability not in ABILITIES:
            raise BadRequest(f"expected one of {', '.join(ABILITIES)}", field="capability")
        after = parse_card_id(text) if text else bytes(HANDLE_BYTES)
        if after is None:
            raise BadRequest("expected the id of a card", field="after")
        found: list[bytes] = []
        looked = 0
        is_end = False
        while len(found) < limit and looked < MAX_LOOKED and not is_end:
            rows = door.records.walk(after, TURN)
            is_end = len(rows) < TURN
            for place, (card, record) in enumerate(rows):
                after = card
                looked += 1
                if tag and tag not in record.tags:
                    continue
                if ability and ability != door.capabilities.read(card).ability.name.lower():
                    continue
                found.append(card)
                if len(found) == limit:
                    is_end = is_end and place + 1 == len(rows)
                    break
            await asyncio.sleep(0)
        page = CardPage(
            count=door.records.count(),
            cards=[build_card_id(card) for card in found],
            after=None if is_end else build_card_id(after),
        )
        return call.answer(page)


_CARD = "card_5d0c1f0f6b7a4e3b9c8d7e6f5a4b3c2d"
_CARD_IN: dict[str, Any] = {
    "iccid": "89441234567890123456",
    "msisdn": "+447700900123",
    "key_sets": [
        {"number": 1, "algorithm": "aes", "kic": "00" * 16, "kid": "11" * 16},
        {"number": 2, "algorithm": "aes", "kic": "22" * 16, "kid": "33" * 16},
    ],
    "tar": "B00011",
    "tags": ["batch-7"],
}
_CAPABILITY = {
    "card": _CARD,
    "state": "capable",
    "since_ms": 1760000000000,
    "until_ms": 1775552000000,
    "evidence": None,
}


def routes(backend: Backend) -> list[Route]:
    cards = CardRoutes(backend)
    common: dict[str, Any] = {"caller": OPERATOR, "group": "cards"}
    one = "/v1/cards/{card}"
    return [
        Route(
            method="POST",
            path="/v1/cards",
            handle=cards.add,
            summary="Bring cards in, many in one request",
            about="A JSON array, JSON lines (one card a line), a msgpack array or msgpack maps one after the other. "
            "Each card has its own result; a known one is replaced, and keeps its counters and its capability. What "
            "is brought in is sealed at rest and comes out nowhere.",
            takes=list[CardIn],
            takes_also=(NDJSON,),
            example=[_CARD_IN],
            gives=Imported,
            gives_example={"imported": 1, "refused": 0, "cards": [{"line": 1, "card": _CARD}]},
            errors=(*_BODY, NotConfigured, *_STORE),
            **common,
        ),
        Route(
            method="GET",
            path="/v1/cards",
            handle=cards.list_cards,
            summary="Ids of cards, in pages",
            about="In the order of their ids. A page may be short, or empty, before the end: go on while `after` is "
            "there.",
            gives=CardPage,
            gives_example={"count": 1, "cards": [_CARD], "after": None},
            params=(
                Query("tag", "with this tag", kind="string"),
                Query("capability", "unknown, capable or not_capable", kind="string"),
                Query("after", "`after` of the last answer", kind="string"),
                Query("limit", "at most this many, default 100", low=1, high=MAX_PAGE),
            ),
            errors=(BadRequest, NotConfigured),
            **common,
        ),
        Route(
            method="POST",
            path="/v1/cards/find",
            handle=cards.find,
            summary="The id of a card, from its ICCID, IMSI or MSISDN",
            takes=FindBody,
            example={"msisdn": "+447700900123"},
            gives=Found,
            gives_example={"card": _CARD},
            errors=(*_BODY, NotConfigured, UnknownCard),
            **common,
        ),
        Route(
            method="GET",
            path=one,
            handle=cards.show,
            summary="One card: its tags, the numbers of its key sets, its capability",
            gives=CardView,
            gives_example={
                "id": _CARD,
                "tags": ["batch-7"],
                "key_sets": [1, 2],
                "push_keys": 1,
                "data_keys": 2,
                "tar": "b00011",
                "push_tar": "b00011",
                "capability": _CAPABILITY,
            },
            errors=(NotConfigured, UnknownCard),
            **common,
        ),
        Route(
            method="DELETE",
            path=one,
            handle=cards.remove,
            summary="Take a card away",
            about="Its downloads end as failed. Its counters stay: brought in again, it goes on behind them.",
            status=204,
            errors=(NotConfigured, UnknownCard, *_STORE),
            **common,
        ),
    ]
