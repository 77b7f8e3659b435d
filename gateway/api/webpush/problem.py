"""How the Web Push door answers errors: a short problem (RFC 9457), readable from a web page's script too."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.route import Dialect
from gateway.model.errors import GatewayError

MEDIA = "application/problem+json"
#: whoever knows a push URL may use it, also from a page of another origin: the URL is the capability
CORS = {
    "access-control-allow-origin": "*",
    "access-control-expose-headers": "Location, Link, TTL, Retry-After, Last-Event-ID",
}


class Problem(msgspec.Struct, kw_only=True):
    title: str
    status: int
    detail: str


def answer_problem(request: Request, error: GatewayError, headers: Mapping[str, str] | None = None) -> Response:  # noqa: ARG001
    fields = {"cache-control": "no-store", **CORS, **(headers or {})}
    if error.retryable:
        fields["retry-after"] = str(-(-error.after_ms // 1000))
    if error.status == 401:
        fields["www-authenticate"] = "vapid"
    body = Problem(title=error.name, status=error.status, detail=error.message)
    return Response(msgspec.json.encode(body), status_code=error.status, headers=fields, media_type=MEDIA)


DIALECT = Dialect(prefix="/push/", answer=answer_problem, media=MEDIA, shape=Problem)
