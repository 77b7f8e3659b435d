"""The routes of the T8 door: device triggers for subscribers that stand there as opaque ids (TS 29.122 clause 4.4.6);
must never take or show a number, nor say 201 before the trigger is safe.

A trigger is a push like any other, with a transaction that names it: PUT makes a newer push of it that replaces the
pending one, DELETE recalls.
"""

from __future__ import annotations

import contextlib
import re

import msgspec
from msgspec.structs import replace
from starlette.responses import Response

from gateway.api.call import Call
from gateway.api.media import JSON, content_kind, decode, read_body
from gateway.api.once import Push, as_push, settle
from gateway.api.ports import Backend
from gateway.api.t8.problem import PREFIX
from gateway.api.t8.transactions import Kept, Transaction, Transactions, result_of
from gateway.api.t8.wire import DeviceTriggering, parse_payload, text_of
from gateway.delivery.request import PushRequest, TargetRequest
from gateway.model.errors import BadRequest, Conflict, Forbidden, NotFound, UnknownPush
from gateway.model.outcome import State

#: transactions of one answer, and rows looked at for them
PAGE = 100
_LOOKS = 1_000
_HOST = re.compile(r"[A-Za-z0-9._\[\]:-]{1,255}")
_FIELDS = {"cache-control": "no-store"}
#: a push's collapse key has 64 characters
_COLLAPSE = "t8 "


class T8Routes:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._transactions = Transactions(backend)
        self._urls = [url.rstrip("/") for url in backend.config.public_urls]

    # --- /{scsAsId}/transactions

    async def create(self, call: Call) -> Response:
        app = self._app(call)
        asked = await self._asked(call)
        transaction = Transaction(self._transactions.draw(), asked, self._base(call), self._transactions.newest(app))
        await self._send(call, transaction, is_new=True)
        return self._answer(transaction, asked, "TRIGGERED", status=201, headers={"location": transaction.url})

    async def all(self, call: Call) -> Response:
        """The newest; those that have ended stand there with their result."""
        app = self._app(call)
        found: list[DeviceTriggering] = []
        for looks, kept in enumerate(self._transactions.walk(app)):
            if looks == _LOOKS or len(found) == PAGE:
                break
            if kept is not None:
                found.append(self._view(app, kept))
        return Response(msgspec.json.encode(found), headers=_FIELDS, media_type=JSON)

    # --- /{scsAsId}/transactions/{transactionId}

    async def show(self, call: Call) -> Response:
        app = self._app(call)
        return Response(msgspec.json.encode(self._view(app, self._find(call))), headers=_FIELDS, media_type=JSON)

    async def change(self, call: Call) -> Response:
        app = self._app(call)
        self._find(call)
        asked = await self._asked(call)
        kept = self._find(call)
        before = kept.transaction
        if asked.external_id != before.asked.external_id:
            raise BadRequest("a transaction stays with its device; make another one", field="externalId")
        outcome = self._transactions.outcome(app, kept.seq)
        if outcome is None or State(outcome.state).is_final:
            raise Conflict("The trigger has ended already; make another transaction.")
        transaction = replace(before, asked=asked)
        await self._send(call, transaction, is_new=False)
        # the id may lead to another registration now (a claim), and there the collapse key finds nothing to replace
        with contextlib.suppress(UnknownPush):
            await self._backend.dispatcher.recall(app, kept.seq)
        return self._answer(transaction, asked, "TRIGGERED")

    async def remove(self, call: Call) -> Response:
        """The answer says what became of it: TERMINATE where it was in time."""
        app = self._app(call)
        kept = self._find(call)
        with contextlib.suppress(UnknownPush):  # it has ended
            await self._backend.dispatcher.recall(app, kept.seq)
        removed = replace(kept.transaction, is_removed=True)
        for written in self._transactions.keep(app, removed, kept.seq, is_new=False):
            await call.committed(written)
        view = self._view(app, kept)
        return Response(msgspec.json.encode(view), headers=_FIELDS, media_type=JSON)

    # --- parts

    def _app(self, call: Call) -> str:
        """The scsAsId is the app; a key is good for its own alone, whether the other is there or not."""
        if call.path("scs_as_id") != call.app.name:
            raise Forbidden("This key is another SCS/AS's.")
        return call.app.name

    async def _asked(self, call: Call) -> DeviceTriggering:
        content_kind(call.request.headers.get("content-type"), allowed=frozenset({JSON}))
        body = await read_body(call.request, call.max_body_bytes)
        asked = decode(body, DeviceTriggering, kind=JSON)
        if asked.msisdn:
            raise BadRequest("name the device by its externalId: no numbers are taken here", field="msisdn")
        if not asked.external_id:
            raise BadRequest("name the device", field="externalId")
        features = "0" if asked.supported_features else ""  # none of them is spoken
        return replace(asked, self_="", delivery_result=None, supported_features=features)

    async def _send(self, call: Call, transaction: Transaction, *, is_new: bool) -> None:
        backend, now_ms, asked = self._backend, self._backend.now_ms(), transaction.asked
        payload = parse_payload(asked.trigger_payload)
        wanted = PushRequest(
            target=TargetRequest(token=asked.external_id),
            text=text_of(payload),
            data={"applicationPortId": asked.application_port_id, "triggerPayload": asked.trigger_payload},
            ttl=asked.validity_period,
            urgency="high" if asked.priority == "PRIORITY" else "normal",
            collapse_key=_COLLAPSE + transaction.id,
        )
        provider = call.provider
        assert provider is not None
        if backend.opaque is None or not backend.opaque.leads(asked.external_id, call.app.name):
            raise NotFound("There is no such device.")
        with backend.quotas.counted(call.app, provider.key_id, now_ms):
            backend.on_transaction(call.app.name)  # first: the network's word may come before the commit
            push: Push = as_push(backend.acceptor.push(call.app, wanted, now_ms))
            written = self._transactions.keep(call.app.name, transaction, push.seq, is_new=is_new)
            await settle(push, backend.config.accept_timeout_s)
        for each in written:
            await call.committed(each)  # a device's ack may be first, but a Location must lead somewhere

    def _find(self, call: Call) -> Kept:
        kept = self._transactions.find(call.app.name, call.path("transaction_id"))
        if kept is None:
            raise NotFound("There is no such transaction, or it is past retention.")
        return kept

    def _view(self, app: str, kept: Kept) -> DeviceTriggering:
        outcome = self._transactions.outcome(app, kept.seq)
        return replace(kept.transaction.asked, self_=kept.transaction.url, delivery_result=result_of(outcome))

    def _answer(
        self,
        transaction: Transaction,
        asked: DeviceTriggering,
        result: str,
        *,
        status: int = 200,
        headers: dict[str, str] | None = None,
    ) -> Response:
        view = replace(asked, self_=transaction.url, delivery_result=result)
        return Response(
            msgspec.json.encode(view), status_code=status, headers={**_FIELDS, **(headers or {})}, media_type=JSON
        )

    def _base(self, call: Call) -> str:
        """As the app server knows it, so that the URLs it gets are its own."""
        request = call.request
        host = request.headers.get("host", "")
        root = self._urls[0] if self._urls else f"{request.url.scheme}://{host}" if _HOST.fullmatch(host) else ""
        return f"{root}{PREFIX}{call.app.name}"
