"""What is brought to cards: started, looked up, stopped (E6, E7); must never say 201 before a download is safe."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from typing import Any

import msgspec
from starlette.responses import Response

from gateway.api.call import Call
from gateway.api.cards.bodies import parse_hidden
from gateway.api.cards.ports import CardDoor, need
from gateway.api.cards.registry import find_card
from gateway.api.cards.views import STATES, view_download
from gateway.api.cards.wire import DownloadAccepted, DownloadCreate, DownloadPage, DownloadView
from gateway.api.once import Once, Push, choose_key, settle
from gateway.api.ports import Backend
from gateway.api.route import PROVIDER, Query, Route
from gateway.config.ota import NOTICE_SEPTETS
from gateway.config.ota_section import Ota
from gateway.model.cards import Download, DownloadState, DownloadStep, Payload
from gateway.model.errors import (
    AcceptTimeout,
    BadRequest,
    Conflict,
    NotConfigured,
    PayloadTooLarge,
    QueueFull,
    StoreUnavailable,
    TooManyRequests,
    UnknownCard,
    UnknownDownload,
    UnsupportedMedia,
)
from gateway.model.gsm7 import count_septets
from gateway.model.registration import App
from gateway.ota.command_string import check_command
from gateway.ota.malformed import Malformed

PAGE = 100
MAX_PAGE = 1_000
#: what a body has beside the bytes of its commands: quotes and a comma each, and the other fields
_PER_COMMAND_BYTES, _REST_BYTES = 8, 65_536
#: payloads whose length is remembered
_MOST_LENGTHS = 10_000
_canonical = msgspec.msgpack.Encoder(order="deterministic")


def parse_commands(given: list[str], config: Ota) -> tuple[bytes, ...]:
    """BadRequest says which one, and shows no byte of it."""
    if len(given) > config.payload_commands:
        raise BadRequest(f"has {len(given)} commands; at most {config.payload_commands}", field="commands")
    commands = tuple(bytes.fromhex(text) for text in given)
    size = sum(map(len, commands))
    if size > config.payload_bytes:
        raise BadRequest(f"has {size} bytes in all; at most {config.payload_bytes}", field="commands")
    for place, command in enumerate(commands):
        try:
            check_command(command)
        except Malformed as error:
            raise BadRequest(str(error), field=f"commands[{place}]") from None
    return commands


def check_notice(text: str) -> None:
    """BadRequest."""
    septets = count_septets(text)
    if septets is None:
        raise BadRequest("has characters that GSM 7 bit does not", field="notice")
    if septets > NOTICE_SEPTETS:
        raise BadRequest(f"takes {septets} characters of GSM 7 bit; at most {NOTICE_SEPTETS}", field="notice")


class DownloadRoutes:
    def __init__(self, backend: Backend, once: Once) -> None:
        self._backend = backend
        self._once = once
        self._lengths: OrderedDict[bytes, int] = OrderedDict()

    async def start(self, call: Call) -> Response:
        door = need(self._backend)
        limit = 2 * door.config.payload_bytes + _PER_COMMAND_BYTES * door.config.payload_commands + _REST_BYTES
        wanted = await parse_hidden(call, DownloadCreate, limit)
        key = choose_key(call.request.headers.get("idempotency-key"), wanted.idempotency_key)
        commands = parse_commands(wanted.commands, door.config)
        check_notice(wanted.notice)
        card, _ = find_card(door, wanted.card)
        provider = call.provider
        assert provider is not None

        def begin() -> Push:
            return self._begin(door, call.app, wanted, card, commands)

        with self._backend.quotas.counted(provider.app, provider.key_id, self._backend.now_ms()):
            if key:
                body = hashlib.sha256(b"download" + _canonical.encode(_without_key(wanted))).digest()
                push = self._once.start_keyed(call.app, key, body, begin=begin, find=lambda seq: Push(seq, None))
            else:
                push = begin()
            await settle(push, self._backend.config.accept_timeout_s)
        download_id = self._backend.push_ids.downloads.build(call.app.name, push.seq)
        headers = {"location": f"/v1/downloads/{download_id}"}
        if push.replayed:
            headers["idempotent-replay"] = "true"
        status = 200 if push.replayed else 201
        return call.answer(DownloadAccepted(id=download_id), status=status, headers=headers)

    def _begin(
        self, door: CardDoor, app: App, wanted: DownloadCreate, card: bytes, commands: tuple[bytes, ...]
    ) -> Push:
        if door.downloads.waiting >= door.config.waiting:
            raise QueueFull("Too many downloads wait for their time (ota.waiting); nothing was accepted.")
        now_ms = self._backend.now_ms()
        due_ms = max(now_ms, (wanted.at or 0) * 1000)
        download = Download(
            number=door.download_records.reserve(1),
            app=app.name,
            card=card,
            payload=door.download_records.put_payload(Payload(commands)),
            tar=bytes.fromhex(wanted.tar or ""),
            state=DownloadState.WAITING,
            created_ms=now_ms,
            expires_ms=due_ms + 1000 * (wanted.ttl_s or door.config.ttl_s),
            due_ms=due_ms,
            notice=wanted.notice,
            steps=(DownloadStep(now_ms, "accepted"),),
        )
        durable = door.download_records.add([download])

        def go(future: asyncio.Future[None]) -> None:
            # also where nobody waits for the answer any more
            if not future.cancelled() and future.exception() is None:
                door.downloads.start(download)

        durable.add_done_callback(go)
        return Push(download.number, durable)

    async def show(self, call: Call) -> Response:
        door = need(self._backend)
        return call.answer(self._view(door, self._find(door, call)))

    async def stop(self, call: Call) -> Response:
        door = need(self._backend)
        download = self._find(door, call)
        # also one that is over: that may not be durable yet
        stopped = await call.committed(door.downloads.stop(download.number))
        download = stopped or self._find(door, call)
        return call.answer(self._view(door, download))

    async def list_downloads(self, call: Call) -> Response:
        door = need(self._backend)
        limit = call.query("limit", PAGE, 1, MAX_PAGE)
        state, text = call.request.query_params.get("state", ""), call.request.query_params.get("after", "")
        if state and state not in STATES:
            raise BadRequest(f"expected one of {', '.join(STATES)}", field="state")
        before = self._backend.push_ids.downloads.parse(text, call.app.name) if text else 0
        if before is None:
            raise BadRequest("expected the id of a download", field="after")
        found, next_number = door.download_records.of_app(
            call.app.name, before, limit, DownloadState[state.upper()] if state else None
        )
        page = DownloadPage(
            downloads=[self._view(door, download) for download in found],
            after=self._backend.push_ids.downloads.build(call.app.name, next_number) if next_number else None,
        )
        return call.answer(page)

    def _find(self, door: CardDoor, call: Call) -> Download:
        """UnknownDownload."""
        number = self._backend.push_ids.downloads.parse(call.path("id"), call.app.name)
        found = None if number is None else door.download_records.read(number)
        if found is None or found.app != call.app.name:
            raise UnknownDownload
        return found

    def _view(self, door: CardDoor, download: Download) -> DownloadView:
        ids = self._backend.push_ids
        campaign = ids.campaigns.build(download.app, download.campaign) if download.campaign else None
        download_id = ids.downloads.build(download.app, download.number)
        return view_download(download, download_id, self._length(door, download.payload), campaign)

    def _length(self, door: CardDoor, digest: bytes) -> int:
        """Commands of a payload: to open a large one takes a while, and many downloads have the same."""
        found = self._lengths.get(digest)
        if found is None:
            payload = door.download_records.payload(digest)
            if payload is None:
                return 0
            found = self._lengths[digest] = len(payload.commands)
            if len(self._lengths) > _MOST_LENGTHS:
                self._lengths.popitem(last=False)
        return found


def _without_key(wanted: DownloadCreate) -> DownloadCreate:
    return msgspec.structs.replace(wanted, idempotency_key="")


_STORE = (StoreUnavailable, AcceptTimeout)
_ID = "AAAAAAAAAAEr0mC1_oYpB7zq"[:22]
_CARD = "card_5d0c1f0f6b7a4e3b9c8d7e6f5a4b3c2d"
_VIEW: dict[str, Any] = {
    "id": _ID,
    "card": _CARD,
    "state": "done",
    "created_at_ms": 1760000000000,
    "expires_at_ms": 1760604800000,
    "due_at_ms": None,
    "commands": 2,
    "done": 2,
    "way": "link",
    "calls": 1,
    "tries": 0,
    "cause": "",
    "campaign": None,
    "steps": [
        {"at_ms": 1760000000000, "what": "accepted", "detail": ""},
        {"at_ms": 1760000000020, "what": "called", "detail": ""},
        {"at_ms": 1760000004100, "what": "opened", "detail": ""},
        {"at_ms": 1760000004900, "what": "executed", "detail": "2"},
    ],
}


def routes(backend: Backend, once: Once) -> list[Route]:
    downloads = DownloadRoutes(backend, once)
    common: dict[str, Any] = {"caller": PROVIDER, "group": "downloads"}
    return [
        Route(
            method="POST",
            path="/v1/downloads",
            handle=downloads.start,
            summary="Bring commands to a card",
            about="Answered when it is durable. A capable card is called and takes them over a link; to one that is "
            "not they go as short messages where they are few, else its user is told to use another way. With an "
            "idempotency key the same body is one download however often it is sent. Its end stands in the receipts.",
            takes=DownloadCreate,
            example={"card": _CARD, "commands": ["00A40004023F00", "00D6000002CAFE"], "ttl_s": 86400},
            gives=DownloadAccepted,
            gives_example={"id": _ID},
            status=201,
            also=((200, "The download this idempotency key already stands for (Idempotent-Replay: true)"),),
            params=(Query("Idempotency-Key", "1 to 128 characters", kind="string", place="header"),),
            errors=(
                BadRequest,
                PayloadTooLarge,
                UnsupportedMedia,
                NotConfigured,
                UnknownCard,
                Conflict,
                TooManyRequests,
                QueueFull,
                *_STORE,
            ),
            **common,
        ),
        Route(
            method="GET",
            path="/v1/downloads",
            handle=downloads.list_downloads,
            summary="Downloads of the app, the newest first, in pages",
            about="A page may be short, or empty, before the end: go on while `after` is there.",
            gives=DownloadPage,
            gives_example={"downloads": [_VIEW], "after": None},
            params=(
                Query("state", "only those in this state", kind="string"),
                Query("after", "`after` of the last answer", kind="string"),
                Query("limit", "at most this many, default 100", low=1, high=MAX_PAGE),
            ),
            errors=(BadRequest, NotConfigured),
            **common,
        ),
        Route(
            method="GET",
            path="/v1/downloads/{id}",
            handle=downloads.show,
            summary="Where is my download?",
            gives=DownloadView,
            gives_example=_VIEW,
            errors=(NotConfigured, UnknownDownload),
            **common,
        ),
        Route(
            method="DELETE",
            path="/v1/downloads/{id}",
            handle=downloads.stop,
            summary="Stop a download",
            about="No more tries; what runs is cut off after the command under way. One that is over stays as it is.",
            gives=DownloadView,
            gives_example={**_VIEW, "state": "stopped", "done": 1},
            errors=(NotConfigured, UnknownDownload, *_STORE),
            **common,
        ),
    ]
