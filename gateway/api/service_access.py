"""Was this service access request invited? Asked by an app's server, answered once (C13); must never tell why not, nor
anything of another app.

What counts is what the gateway knows itself: who holds the token and its page key, what the ticket says, that the push
is there, is this app's and was not recalled, and that the ticket was not used before. That a ticket was used is durable
before anybody is told, so that a restart does not make it good again.
"""

from __future__ import annotations

import hashlib
from typing import Any

from starlette.responses import Response

from gateway.api.call import Call
from gateway.api.ports import Backend
from gateway.api.route import PROVIDER, Route
from gateway.auth.service_keys import ServiceKeys, Ticket
from gateway.metrics import Metric
from gateway.model.errors import AcceptTimeout, BadRequest, PayloadTooLarge, StoreUnavailable, UnsupportedMedia
from gateway.model.outcome import State
from gateway.model.registration import App, Registration, parse_token
from gateway.model.service_access import AccessAnswer, AccessRequest, BadAccess, decode, is_proved

#: before the ticket, in the place of an idempotency key; no provider's key has such a character
_USED = "\x1fservice access\x1f"


class ServiceAccessRoutes:
    def __init__(self, backend: Backend, keys: ServiceKeys) -> None:
        self._backend = backend
        self._keys = keys

    async def verify(self, call: Call) -> Response:
        request = await call.body(AccessRequest)
        try:
            found = self._look(call.app, request)
        except BadAccess:
            found = "garbage"
        if isinstance(found, str):
            return self._refuse(call, found)
        registration, ticket = found
        memory, app = self._backend.memory, call.app.name
        key = _USED + request.ticket
        if memory.recall_idempotent(app, key) is not None:
            return self._refuse(call, "repeated")
        # remembered in this turn, so that of two that ask at once one is too late
        used = memory.remember(app, key, hashlib.sha256(key.encode()).digest(), ticket.push, ticket.expires_s + 1)
        await call.committed(used)
        self._backend.metrics.count(Metric.SERVICE_ACCESS, label="valid")
        return call.answer(
            AccessAnswer(
                valid=True,
                token=request.id,
                account=registration.account,
                alias=registration.alias,
                version=registration.version,
                aid=request.aid,
                server=request.server,
                push=self._backend.push_ids.build(app, ticket.push),
                expires_at=ticket.expires_s,
            )
        )

    def _look(self, app: App, request: AccessRequest) -> tuple[Registration, Ticket] | str:
        """Who and by what ticket; or the reason why not, for the metric alone. BadAccess."""
        token = parse_token(request.id)
        number = self._backend.directory.find(request.id, app.name)
        registration = self._backend.directory.registration(number) if number >= 0 else None
        if token is None or registration is None or registration.signed_out:
            return "unknown"
        if not is_proved(request, self._keys.page_key(token)):
            return "forged"
        ticket = self._keys.parse_ticket(app.name, decode(request.ticket), request.aid, request.server)
        if ticket is None or ticket.registration != number:
            return "forged"
        if ticket.expires_s <= self._backend.now_ms() // 1000:
            return "expired"
        record = self._backend.receipts.lookup(app.name, ticket.push, limit=0)
        if record is None:
            return "unknown"
        single = record.state is None  # of a broadcast that lives it says that one of many was
        if record.state == State.RECALLED or (single and record.figures.get(State.RECALLED.name.lower())):
            return "recalled"
        return registration, ticket

    def _refuse(self, call: Call, why: str) -> Response:
        self._backend.metrics.count(Metric.SERVICE_ACCESS, label=why)
        return call.answer(AccessAnswer(valid=False))


def service_access_routes(access: ServiceAccessRoutes) -> list[Route]:
    example: dict[str, Any] = {
        "id": "W6yX1vV3S0i2kq0m9aUo_w",
        "aid": "com.example.chat",
        "ticket": "q1mC3kR0x8T5b2Zt0uYw7A",
        "server": 0,
        "proof": "4Hq0mC1xYpB7zqR0x8T5b2Zt0uYw7AW6yX1vV3S0i2k",
    }
    return [
        Route(
            method="POST",
            path="/v1/service-access",
            handle=access.verify,
            caller=PROVIDER,
            group="push",
            summary="Is this service access request the one that was invited?",
            about="Give the body an app has sent to your server after a service page, as it is. Valid once, before the "
            "invitation expires; whatever is wrong gets the same answer.",
            takes=AccessRequest,
            example=example,
            gives=AccessAnswer,
            gives_example={
                "valid": True,
                "token": example["id"],
                "account": "ann",
                "alias": "user-7",
                "version": "2.1.0",
                "aid": example["aid"],
                "push": "AAAAAAAAAAEr0mC1_oYpB7",
                "expires_at": 1760003600,
            },
            errors=(BadRequest, PayloadTooLarge, UnsupportedMedia, StoreUnavailable, AcceptTimeout),
        )
    ]
