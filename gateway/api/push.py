"""Push, look-up (*where is my push?*) and recall; must never say 201 before the push is safe."""

from __future__ import annotations

from starlette.responses import Response

from gateway.api.call import Call
from gateway.api.once import Once, settle, with_header
from gateway.api.ports import Backend
from gateway.api.views import count_targeted, view_push
from gateway.api.wire import PushAccepted, Recalled
from gateway.delivery.request import PushRequest
from gateway.model.errors import UnknownPush

PAGE = 100
MAX_PAGE = 1_000


class PushRoutes:
    def __init__(self, backend: Backend, once: Once) -> None:
        self._backend = backend
        self._once = once

    async def push(self, call: Call) -> Response:
        request = with_header(await call.body(PushRequest), call.request.headers.get("idempotency-key"))
        provider = call.provider
        assert provider is not None
        async with self._backend.counted(provider.app, provider.key_id):
            push = self._once.start(call.app, request)
            await settle(push, self._backend.config.accept_timeout_s)
        push_id = self._backend.push_ids.build(call.app.name, push.seq)
        headers = {"location": f"/v1/push/{push_id}"}
        if push.replayed:
            headers["idempotent-replay"] = "true"
        answer = PushAccepted(id=push_id, targeted=push.targeted)
        return call.answer(answer, status=200 if push.replayed else 201, headers=headers)

    async def show(self, call: Call) -> Response:
        seq = self._seq(call)
        offset = call.query("offset", 0, 0, 1 << 31)
        limit = call.query("limit", PAGE, 0, MAX_PAGE)
        record = self._backend.receipts.lookup(call.app.name, seq, offset=offset, limit=limit)
        if record is None:
            raise UnknownPush
        return call.answer(view_push(call.path("id"), record, offset, limit, self._backend.directory))

    async def recall(self, call: Call) -> Response:
        seq = self._seq(call)
        record = self._backend.receipts.lookup(call.app.name, seq, limit=0)
        if record is None:
            raise UnknownPush
        try:
            recalled = await self._backend.dispatcher.recall(call.app.name, seq)
        except UnknownPush:  # nothing of it is live any more
            recalled = 0
        total = count_targeted(record)
        if total is None:
            return call.answer(Recalled(recalled=recalled, too_late=record.figures.get("acked", 0)))
        return call.answer(Recalled(recalled=recalled, too_late=max(total - recalled, 0)))

    def _seq(self, call: Call) -> int:
        seq = self._backend.push_ids.parse(call.path("id"), call.app.name)
        if seq is None:
            raise UnknownPush
        return seq
