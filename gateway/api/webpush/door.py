"""The routes of the Web Push door: push, discovery, message resources, receipts; the token in the path is the address.

Must never say 201 before the push is safe, and never tell by its time whether an unknown token was live once.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.call import Call
from gateway.api.door import APP
from gateway.api.media import EVENTS, JSON, read_body
from gateway.api.once import as_push, settle
from gateway.api.ports import Backend
from gateway.api.receipts import ReceiptRoutes, parse_cursor
from gateway.api.views import state_name
from gateway.api.webpush.headers import (
    MAX_BODY_BYTES,
    Options,
    build_data,
    check_body,
    collect,
    parse_options,
    parse_prefer,
)
from gateway.api.webpush.problem import CORS
from gateway.api.webpush.receipts import MAX_WAIT_S, ReceiptBook, ReceiptStream, status_of
from gateway.api.webpush.resources import Message, Names, Subscription
from gateway.api.webpush.vapid import check_credentials, normalize_origin, parse_credentials, read_host, require
from gateway.auth.es256 import Verifier
from gateway.delivery.opaque_tokens import OpaqueIndex
from gateway.delivery.quotas import NO_KEY
from gateway.delivery.request import PushRequest, TargetRequest
from gateway.model.errors import BadRequest, Gone, NotFound, UnknownPush, UnknownToken
from gateway.model.outcome import State
from gateway.model.ports import PushRecord
from gateway.model.registration import TOKEN_BYTES, App, parse_token

#: RFC 8030 §5.1
RECEIPT_REL = "urn:ietf:params:push:receipt"
_NOBODY = bytes(TOKEN_BYTES)
_NO_SUBSCRIPTION = "There is no such subscription."
_HOST = re.compile(r"[A-Za-z0-9._\[\]:-]{1,255}")
_ANSWER = {"cache-control": "no-store", **CORS}


class UnifiedPush(msgspec.Struct, kw_only=True):
    version: int = 1


class Discovery(msgspec.Struct, kw_only=True):
    """UnifiedPush: what this URL is."""

    unifiedpush: UnifiedPush = msgspec.field(default_factory=UnifiedPush)


class MessageView(msgspec.Struct, kw_only=True):
    """State of one message."""

    state: str
    at_ms: int
    expires_at: int


class WebPushRoutes:
    def __init__(self, backend: Backend, receipts: ReceiptRoutes, heartbeat_s: float) -> None:
        self._backend = backend
        self._names = Names(backend.push_ids.derive(b"webpush"))
        self._book = ReceiptBook(backend, receipts, heartbeat_s)
        self._verifier = Verifier()
        self._urls = [url.rstrip("/") for url in backend.config.public_urls]
        self._origins = frozenset(map(normalize_origin, self._urls))

    # --- /push/{token} ---

    async def push(self, call: Call) -> Response:
        request = call.request
        token, app, lock = self._find(call.path("token"))
        request.scope[APP] = app.name
        fields = collect(request.scope["headers"])
        signed = parse_credentials(fields.get("authorization"), fields.get("crypto-key"))
        key = None
        if signed is not None:
            now_s = self._backend.now_ms() / 1000
            key = check_credentials(signed, self._origins or self._origins_of(request), now_s, self._verifier)
        require(key, lock, app.webpush)
        options = parse_options(fields, self._backend.max_ttl_s)
        subscription = self._subscription(fields.get("push-receipt"), app, options)
        body = await read_body(request, MAX_BODY_BYTES)
        check_body(body, options.encoding)
        return await self._accept(call, app, token, options, body, subscription)

    async def _accept(
        self, call: Call, app: App, token: str, options: Options, body: bytes, subscription: Subscription | None
    ) -> Response:
        backend, now_ms = self._backend, self._backend.now_ms()
        wanted = PushRequest(
            target=TargetRequest(token=token),
            data=build_data(body, options),
            ttl=options.ttl_s,
            urgency=options.urgency,
            collapse_key=options.topic,
            body="at_once",
        )
        async with backend.counted(app, NO_KEY):
            push = as_push(backend.acceptor.push(app, wanted, now_ms))
            if subscription is not None:
                self._book.note(app.name, push.seq, subscription, now_ms // 1000 + options.ttl_s)
            await settle(push, backend.config.accept_timeout_s)
        base = self._base(call.request)
        headers = {**_ANSWER, "location": self._message_url(base, app, push.seq), "ttl": str(options.ttl_s)}
        if subscription is not None:
            headers["link"] = f'<{base}/push/receipts/{self._names.subscription(subscription)}>; rel="{RECEIPT_REL}"'
        return Response(status_code=201 if subscription is None else 202, headers=headers)

    def _find(self, text: str) -> tuple[str, App, str]:
        """(token, app, the key it is locked to). UnknownToken, Gone; a door that is closed is as good as no token."""
        directory = self._backend.directory
        token = parse_token(text)
        if token is None and self._backend.opaque is not None:
            return self._find_id(self._backend.opaque, text)
        number, dead = directory.locate(token or _NOBODY)
        registration = directory.registration(number) if number >= 0 else None
        name = registration.app if registration is not None else dead.app if dead is not None else ""
        app = directory.app(name)
        if token is None or app is None or app.webpush == "off":
            raise UnknownToken(_NO_SUBSCRIPTION)
        if registration is None:
            raise Gone("This subscription has ended; forget it.")
        return text, app, registration.vapid_key

    def _find_id(self, opaque: OpaqueIndex, local: str) -> tuple[str, App, str]:
        """The same for an opaque id's URL form (C6), which selects its app itself (C12). One that ended is unknown."""
        canonical, name = opaque.select(local)
        app = self._backend.directory.app(name)
        leads = opaque.leads(canonical, name)  # looked at in any case: a door that is shut takes as long
        if app is None or app.webpush == "off" or not leads:
            raise UnknownToken(_NO_SUBSCRIPTION)
        registration = self._backend.directory.registration(opaque.find(canonical, name))
        return canonical, app, registration.vapid_key if registration is not None else ""

    def _subscription(self, named: str | None, app: App, options: Options) -> Subscription | None:
        """RFC 8030 §5.1: the one the provider has already (Push-Receipt), else a new one."""
        if not options.wants_receipt:
            return None
        if named is None:
            return self._book.open(app)
        try:
            path = urlsplit(named.strip().strip("<>")).path
        except ValueError:
            path = ""
        subscription = self._names.parse_subscription(path.removeprefix("/push/receipts/"))
        if subscription is None or subscription.app_number != app.number:
            raise BadRequest("Push-Receipt names no receipt subscription of this app.", field="Push-Receipt")
        return subscription

    async def discover(self, call: Call) -> Response:
        self._find(call.path("token"))
        return _json(Discovery())

    async def preflight(self, call: Call) -> Response:  # noqa: ARG002
        """The same for every token and id: a page's browser asks before the page may."""
        return Response(
            status_code=204,
            headers={
                **CORS,
                "access-control-allow-methods": "POST, GET, DELETE, OPTIONS",
                "access-control-allow-headers": "Authorization, Content-Encoding, Content-Type, Crypto-Key, Encryption,"
                " Last-Event-ID, Prefer, Push-Receipt, Topic, TTL, Urgency",
                "access-control-max-age": "86400",
            },
        )

    # --- /push/message/{id} ---

    async def show(self, call: Call) -> Response:
        _, record = self._record(call)
        outcome = record.deliveries[0]
        at_ms = outcome.at_ms or (outcome.steps[-1].at_ms if outcome.steps else record.notification.accepted_ms)
        view = MessageView(state=state_name(outcome.state), at_ms=at_ms, expires_at=record.notification.expires_s)
        return _json(view)

    async def recall(self, call: Call) -> Response:
        """204 where nothing of it will be delivered from now on, 410 where it is too late."""
        message, record = self._record(call)
        state = State(record.deliveries[0].state)
        if not state.is_final:
            try:
                await self._backend.dispatcher.recall(record.notification.app, message.seq)
            except UnknownPush:  # it ended this moment
                raise Gone("The message has ended already.") from None
        elif state is not State.RECALLED:
            raise Gone("The message has ended already.")
        return Response(status_code=204, headers=_ANSWER)

    def _record(self, call: Call) -> tuple[Message, PushRecord]:
        message = self._names.parse_message(call.path("id"))
        name = self._backend.directory.app_name(message.app_number) if message is not None else None
        record = self._backend.receipts.lookup(name, message.seq) if message is not None and name else None
        if message is None or record is None or not record.deliveries:
            raise NotFound("There is no such message, or its history is past retention.")
        return message, record

    # --- /push/receipts/{id} ---

    async def receipts(self, call: Call) -> Response:
        subscription = self._names.parse_subscription(call.path("id"))
        name = self._backend.directory.app_name(subscription.app_number) if subscription is not None else None
        app = self._backend.directory.app(name) if name else None
        if subscription is None or app is None:
            raise NotFound("There is no such receipt subscription.")
        request = call.request
        fields = collect(request.scope["headers"])
        resume = fields.get("last-event-id") or request.query_params.get("after")
        after = parse_cursor(resume)
        if resume is not None and after is None:
            raise BadRequest("expected the id of a receipt", field="Last-Event-ID")
        cursor = max(after or 0, subscription.cursor)
        base = self._base(request)
        if EVENTS in request.headers.get("accept", ""):
            self._book.admit(app.name)
            return ReceiptStream(
                self._book, app.name, subscription, cursor, lambda seq: self._message_url(base, app, seq)
            )
        wait_s = parse_prefer(fields.get("prefer")).wait_s
        row, cursor = await self._book.wait(
            app.name, subscription, cursor, MAX_WAIT_S if wait_s is None else min(wait_s, MAX_WAIT_S)
        )
        if row is None:
            return Response(status_code=202, headers={**_ANSWER, "retry-after": "1", "last-event-id": str(cursor)})
        headers = {
            **_ANSWER,
            "link": f'<{self._message_url(base, app, row.outcome.notification)}>; rel="item"',
            "last-event-id": str(row.cursor),
        }
        return Response(status_code=status_of(row.outcome.state), headers=headers)

    # --- URLs ---

    def _origins_of(self, request: Request) -> frozenset[str]:
        """Where nobody said how providers come: what Host says, under both schemes, for a proxy may have taken TLS off.
        But only a name of this machine's own: else a token for another service would be good here under its name."""
        said = read_host(request.headers.get("host", ""))
        here = (request.scope.get("server") or ("",))[0]
        is_own = said.is_loopback or said.name == here or self._backend.bears(said.name)
        return said.origins if is_own else frozenset()

    def _base(self, request: Request) -> str:
        if self._urls:
            return self._urls[0]
        host = request.headers.get("host", "")
        # Whoever asks gets back what they said; what is no host becomes a URL without one.
        return f"{request.scope['scheme']}://{host}" if _HOST.fullmatch(host) else ""

    def _message_url(self, base: str, app: App, seq: int) -> str:
        return f"{base}/push/message/{self._names.message(Message(app.number, seq))}"


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), headers=_ANSWER, media_type=JSON)
