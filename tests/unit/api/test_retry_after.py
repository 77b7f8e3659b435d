"""Whatever is not possible now says when to come back: at every door, and on every link."""

from __future__ import annotations

import pytest
from starlette.requests import Request

from gateway.api.apns.reasons import DIALECT as APNS
from gateway.api.media import build_error, describe
from gateway.api.t8.problem import DIALECT as T8
from gateway.api.webpush.problem import DIALECT as WEBPUSH
from gateway.edge.plane import build_error as build_error_frame
from gateway.model.errors import ERRORS, GatewayError
from gateway.model.frames import Error, FrameReader, parse_body

LATER = [error for error in ERRORS.values() if error.status == 503]


def request() -> Request:
    return Request({"type": "http", "method": "POST", "path": "/", "headers": [], "query_string": b""})


@pytest.mark.parametrize("kind", LATER, ids=lambda kind: kind.name)
def test_a_503_says_when_to_come_back(kind: type[GatewayError]) -> None:
    error = kind()
    assert error.retryable
    assert error.after_ms > 0
    seconds = str(-(-error.after_ms // 1000))
    assert build_error(request(), error).headers["retry-after"] == seconds
    assert describe(error).retry_after_ms == error.after_ms
    for dialect in (WEBPUSH, T8, APNS):
        assert dialect.answer(request(), error, None).headers["retry-after"] == seconds
    frame = parse_body(FrameReader().feed(build_error_frame(error, req=7))[0][1], Error)
    assert (frame.req, frame.retry, frame.after_ms) == (7, True, error.after_ms)


@pytest.mark.parametrize("name", ["node_unreachable", "log_unavailable", "log_fenced"])
def test_what_a_fleet_can_not_do_now_ends_no_link(name: str) -> None:
    kind = next(error for error in ERRORS.values() if error.name == name)
    assert not kind.fatal
