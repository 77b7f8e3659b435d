"""The route of the APNs door: `POST /3/device/{token}`, answered as Apple's service answers; over HTTP/2, and HTTP/1.1
for those who can not. Must never say 200 before the push is safe.

Apple's own order of checks is not written down; here it is: duplicate fields, id, fields, credentials, topic, token,
payload. So a sender without a key learns nothing about tokens.
"""

from __future__ import annotations

from starlette.responses import Response

from gateway.api.apns.headers import Asked, collect, parse_asked, parse_device_token, parse_id
from gateway.api.apns.payload import parse_payload
from gateway.api.apns.provider import Providers
from gateway.api.apns.reasons import Refused, answer_reason, reason_of
from gateway.api.call import Call
from gateway.api.door import APP, ERROR
from gateway.api.media import read_body
from gateway.api.once import as_push, settle
from gateway.api.ports import Backend
from gateway.delivery.quotas import NO_KEY
from gateway.delivery.request import PushRequest, TargetRequest
from gateway.model.errors import GatewayError
from gateway.model.registration import App, Loss, build_token


class ApnsRoutes:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._providers = Providers(backend)

    async def push(self, call: Call) -> Response:
        apns_id = call.request.headers.get("apns-id", "")[:64]
        try:
            found = collect(call.request.scope["headers"])
            apns_id = parse_id(found)
            await self._push(call, found, apns_id)
        except Refused as refused:
            call.request.scope[ERROR] = refused.reason
            return answer_reason(refused.reason, apns_id, timestamp_ms=refused.timestamp_ms)
        except GatewayError as error:
            reason = "Shutdown" if self._backend.stopping.is_set and error.status == 503 else reason_of(error)
            call.request.scope[ERROR] = reason
            retry_s = -(-error.after_ms // 1000) if error.retryable else 0
            return answer_reason(reason, apns_id, retry_s=retry_s)
        return Response(status_code=200, headers={"apns-id": apns_id})

    async def no_token(self, call: Call) -> Response:
        """`/3/device/`"""
        call.request.scope[ERROR] = "MissingDeviceToken"
        return answer_reason("MissingDeviceToken", call.request.headers.get("apns-id", "")[:64])

    async def _push(self, call: Call, found: dict[str, str], apns_id: str) -> None:
        backend, now_ms = self._backend, self._backend.now_ms()
        asked = parse_asked(found, apns_id, now_ms / 1000, backend.max_ttl_s)
        apps = self._providers.apps_of(asked, dict(call.request.scope), now_ms / 1000)
        app = self._providers.choose(apps, asked)
        call.request.scope[APP] = app.name
        token = self._check_token(call.path("token"), app, apps)
        if backend.stopping.is_set:
            raise Refused("Shutdown")
        body = await read_body(call.request, asked.max_payload_bytes)
        wanted = self._build(asked, token, body)
        async with backend.counted(app, NO_KEY):
            push = as_push(backend.acceptor.push(app, wanted, backend.now_ms()))
            await settle(push, backend.config.accept_timeout_s)

    def _check_token(self, text: str, app: App, apps: list[App]) -> str:
        """The token in our own form. Of apps whose key this is not, a token is as good as unknown."""
        opaque = self._backend.opaque
        if opaque is not None and "@" in text and opaque.leads(text, app.name):
            return text  # the topic is the app beside it (C12)
        token = parse_device_token(text)
        number, dead = self._backend.directory.locate(token)
        registration = self._backend.directory.registration(number) if number >= 0 else None
        if registration is not None:
            if registration.app == app.name:
                return build_token(token)
            own = any(registration.app == other.name for other in apps)
            raise Refused("DeviceTokenNotForTopic" if own else "BadDeviceToken")
        if dead is not None and dead.app == app.name:
            reason = "Unregistered" if dead.reason is Loss.FORGOTTEN else "ExpiredToken"
            raise Refused(reason, timestamp_ms=dead.at_ms)
        raise Refused("BadDeviceToken")

    def _build(self, asked: Asked, token: str, body: bytes) -> PushRequest:
        payload = parse_payload(body)
        return PushRequest(
            target=TargetRequest(token=token),
            title=payload.title,
            text=payload.text,
            data=payload.data,
            ttl=asked.ttl_s,
            urgency=asked.urgency,
            collapse_key=asked.collapse_key,
        )
