"""Bad bodies, types and paths: each gets the one error shape, the right status, and the field with the reason."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging

import msgspec
import pytest
import structlog
from api_doubles import Door, error_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from structlog.testing import capture_logs

from gateway.api.media import JSON, MSGPACK, NDJSON, content_kind, decode, read_body
from gateway.delivery.request import PushRequest
from gateway.metrics import Metric
from gateway.model.errors import BadRequest, RequestTimeout, UnsupportedMedia

MSGPACK_TYPES = ["application/msgpack", "application/x-msgpack", "application/vnd.msgpack; v=1"]


@pytest.fixture
def door() -> Door:
    return Door()


@pytest.mark.parametrize(
    ("body", "field", "why"),
    [
        ({"target": {"token": "x"}, "titel": "typo"}, "titel", "unknown field"),
        ({"target": {"token": "x", "topic": "y"}}, "target.topic", "unknown field"),
        ({"title": "x"}, "target", "missing"),
        ({"target": {"token": 5}}, "target.token", "Expected `str`"),
        ({"target": {"token": "x"}, "ttl": "soon"}, "ttl", "Expected `int"),
        ({"target": {"token": "x"}, "ttl": -1}, "ttl", ">= 0"),
        ({"target": {"token": "x"}, "urgency": "urgent"}, "urgency", "urgent"),
        ({"target": {"token": "x"}, "fallback": ["a", 5]}, "fallback[1]", "Expected `str`"),
        ([], "", "Expected `object`"),
        (5, "", "Expected `object`"),
    ],
)
@pytest.mark.parametrize("kind", [JSON, MSGPACK])
async def test_a_wrong_field_is_named_with_the_reason(door, kind, body, field, why):
    packed = msgspec.json.encode(body) if kind == JSON else msgspec.msgpack.encode(body)
    async with door.provider() as client:
        answer = await client.post("/v1/push", content=packed, headers={"content-type": kind, "accept": JSON})
    assert answer.status_code == 400
    error = error_of(answer)
    assert error["name"] == "bad_request"
    assert (error["field"] or "") == field
    assert why in error["message"]
    assert not door.floors.pushed


@pytest.mark.parametrize("body", [b"", b"{", b"hello", b'{"a":1}}', b"\xff\xfe", b'{"target":"\xff"}', b"[" * 5000])
async def test_what_is_not_json_is_said_so(door, body):
    async with door.provider() as client:
        answer = await client.post("/v1/push", content=body, headers={"content-type": JSON})
        assert (answer.status_code, error_of(answer)["name"]) == (400, "bad_request")
        answer = await client.post(
            "/v1/push", content=b"\x91" * 5000, headers={"content-type": MSGPACK, "accept": JSON}
        )
        assert answer.status_code == 400


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/xml", NDJSON, "x"])
async def test_another_content_type_is_415_and_names_those_taken(door, kind):
    async with door.provider() as client:
        answer = await client.post("/v1/push", content=b"{}", headers={"content-type": kind})
    assert answer.status_code == 415
    assert JSON in error_of(answer)["message"]


@pytest.mark.parametrize("kind", MSGPACK_TYPES)
async def test_msgpack_in_is_answered_in_msgpack(door, kind):
    async with door.provider() as client:
        body = msgspec.msgpack.encode(door.to_token(data={"bin": b"\x00\xff"}))
        answer = await client.post("/v1/push", content=body, headers={"content-type": kind, "accept": "*/*"})
        assert answer.headers["content-type"] == MSGPACK
        assert set(msgspec.msgpack.decode(answer.content)) == {"id", "targeted"}
        answer = await client.post("/v1/push", content=b"\xc0", headers={"content-type": kind})
        assert msgspec.msgpack.decode(answer.content)["error"]["name"] == "bad_request"
    assert door.floors.pushed[0][1].data == {"bin": b"\x00\xff"}


@pytest.mark.parametrize(
    ("accept", "packed"),
    [
        (MSGPACK, True),
        ("application/json, application/msgpack;q=0.5", False),
        ("application/json;q=0.2, application/x-msgpack", True),
        ("application/msgpack;q=0", False),
        ("application/msgpack;q=oops", False),
        ("text/html", False),
        ("", False),
    ],
)
async def test_accept_chooses_the_answer(door, accept, packed):
    async with door.provider(headers={"accept": accept}) as client:
        for answer in (await client.get("/v1/receipts"), await client.get("/v1/push/x")):
            assert answer.headers["content-type"] == (MSGPACK if packed else JSON)


def test_content_types_are_read_as_they_are_written():
    assert content_kind(None) == JSON
    assert content_kind("Application/JSON; charset=utf-8") == JSON
    with pytest.raises(UnsupportedMedia):
        content_kind("")


async def test_a_body_over_the_limit_is_413_whether_its_size_is_told_or_not():
    door = Door(max_body_bytes=1_000)

    async def endless():
        while True:
            sent.append(1)
            yield b" " * 100

    sent: list[int] = []
    async with door.provider() as client:
        told = await client.post("/v1/push", content=b" " * 1_001, headers={"content-type": JSON})
        assert (told.status_code, error_of(told)["name"]) == (413, "payload_too_large")
        untold = await client.post("/v1/push", content=endless(), headers={"content-type": JSON})
        assert (untold.status_code, error_of(untold)["name"]) == (413, "payload_too_large")
        assert len(sent) <= 12
        fits = await client.post("/v1/push", content=json.dumps(door.to_token()).ljust(1_000).encode())
        assert fits.status_code == 201


async def test_unknown_paths_and_methods_get_the_same_shape(door):
    async with door.provider() as client:
        for path in ("/nope", "/v1/", "/v1/push/", "/v2/push", "/docs/../admin.key", "/docs/%2e%2e%2fadmin.key"):
            answer = await client.get(path)
            assert (answer.status_code, error_of(answer)["name"]) == (404, "not_found")
        answer = await client.put("/v1/push", json={})
        assert (answer.status_code, error_of(answer)["name"]) == (405, "method_not_allowed")
        assert answer.headers["allow"] == "POST"
        answer = await client.post(f"/v1/registrations/{door.token}")
        assert {m.strip() for m in answer.headers["allow"].split(",")} == {"GET", "HEAD", "PUT", "DELETE"}


async def test_a_bug_is_500_and_tells_nothing(door):
    def broken(*_: object) -> None:
        raise RuntimeError("inner secret")

    door.floors.after = broken  # type: ignore[method-assign, assignment]
    with capture_logs() as logs:
        async with door.provider() as client:
            answer = await client.get("/v1/receipts")
    assert (answer.status_code, error_of(answer)["name"]) == (500, "internal")
    assert "inner secret" not in answer.text
    assert "inner secret" not in str(logs)
    failed = next(line for line in logs if line["event"] == "request failed")
    assert failed["kind"] == "RuntimeError"
    assert "test_bodies_and_errors.py" in failed["place"]


async def test_requests_are_counted_by_template_and_status_class(door):
    async with door.provider() as client:
        await client.get(f"/v1/registrations/{door.token}")
        await client.get(f"/v1/registrations/{door.foreign_token}")
        await client.get("/nope")
    assert door.metrics.value(Metric.API_REQUESTS, "GET /v1/registrations/{token} 2xx") == 1
    assert door.metrics.value(Metric.API_REQUESTS, "GET /v1/registrations/{token} 4xx") == 1
    assert door.metrics.value(Metric.API_REQUESTS, "unmatched 4xx") == 1
    assert b'heliograph_api_seconds_count{route="GET /v1/registrations/{token}"} 2.0' in door.metrics.render()


async def test_no_token_key_alias_or_content_in_logs_metrics_or_500s(door, caplog):
    caplog.set_level(logging.DEBUG)
    secrets = {
        door.token, door.foreign_token, door.app_key, door.operator_key, "alias-of-ann", "very private", "idem-key-1",
        "hush-hush",
    }  # fmt: skip
    with capture_logs() as logs:
        async with door.provider() as client:
            await client.post("/v1/push", json=door.to_token(title="very private", idempotency_key="idem-key-1"))
            await client.post("/v1/push", json={"target": {"alias": "alias-of-ann"}, "oops": "very private"})
            await client.post("/v1/push/batch", json=[door.to_token(), {"target": {"token": door.foreign_token}}])
            for method in ("GET", "PUT", "DELETE"):
                await client.request(method, f"/v1/registrations/{door.token}", json={"alias": "alias-of-ann"})
            await client.get("/v1/registrations", params={"alias": "alias-of-ann"})
            await client.get(f"/nowhere/{door.token}")
        async with door.operator() as client:
            new = {"name": "n", "notifiers": {"webhook": {"secret": "hush-hush"}}, "receipts_secret": "hush-hush"}
            secrets.add((await client.post("/v1/apps", json=new)).json()["key"])
        async with door.client(door.app_key + "x") as client:
            await client.get("/v1/receipts")
    ours = [r.getMessage() for r in caplog.records if r.name != "httpx"]  # httpx is the provider here
    said = f"{logs}{ours}{door.metrics.render().decode()}"
    assert len(logs) == 10
    assert all(line["route"].startswith(("GET", "PUT", "POST", "DELETE", "unmatched")) for line in logs)
    for secret in secrets:
        assert secret not in said
    structlog.reset_defaults()


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode), st.sampled_from([JSON, MSGPACK]))
def test_any_bytes_are_a_push_or_a_gateway_error(data, kind):
    with contextlib.suppress(BadRequest):
        assert isinstance(decode(data, PushRequest, kind=kind), PushRequest)


async def test_a_body_that_drips_has_an_end():
    async def drip():
        await asyncio.sleep(0.005)
        return {"type": "http.request", "body": b"x", "more_body": True}

    request = Request({"type": "http", "method": "POST", "headers": []}, drip)
    with pytest.raises(RequestTimeout):
        await read_body(request, 1_000_000, timeout_s=0.05)
