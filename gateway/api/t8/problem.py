"""How the T8 door answers errors: ProblemDetails (RFC 9457 as TS 29.122 clause 5.2.1.2.12 has it)."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.route import Dialect
from gateway.api.t8.wire import InvalidParam, ProblemDetails
from gateway.model.errors import GatewayError

PREFIX = "/3gpp-device-triggering/v1/"
MEDIA = "application/problem+json"


def answer_problem(request: Request, error: GatewayError, headers: Mapping[str, str] | None = None) -> Response:  # noqa: ARG001
    fields = {"cache-control": "no-store", **(headers or {})}
    if error.retryable:
        fields["retry-after"] = str(-(-error.after_ms // 1000))
    if error.status == 401:
        fields["www-authenticate"] = 'Bearer realm="heliograph"'
    body = ProblemDetails(
        title=type(error).summary,
        status=error.status,
        detail=error.message,
        cause=error.name.upper(),
        invalid_params=[InvalidParam(param=error.field, reason=error.message)] if error.field else None,
    )
    return Response(msgspec.json.encode(body), status_code=error.status, headers=fields, media_type=MEDIA)


DIALECT = Dialect(prefix=PREFIX, answer=answer_problem, media=MEDIA, shape=ProblemDetails)
