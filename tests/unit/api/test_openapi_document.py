"""The description is valid, complete and true; the page needs nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any

import httpx
import msgspec
import pytest
from api_doubles import Door
from card_door_doubles import CardHouse
from openapi_spec_validator import OpenAPIV30SpecValidator, OpenAPIV31SpecValidator

from gateway.api.batch import BatchRoutes
from gateway.api.route import ANYBODY
from gateway.api.server import build_app, build_routes
from gateway.model.errors import ERRORS, StoreUnavailable


@pytest.fixture(scope="module")
def door() -> Door:
    return CardHouse().door


@pytest.fixture
async def document(door: Door) -> dict[str, Any]:
    async with door.client() as client:
        body: dict[str, Any] = (await client.get("/openapi.json")).json()
    return body


async def test_it_is_valid_as_3_1_and_the_pages_one_as_3_0(door, document):
    assert document["openapi"] == "3.1.0"
    OpenAPIV31SpecValidator(document).validate()
    async with door.client() as client:
        older = (await client.get("/docs/openapi-3.0.json")).json()
    assert older["openapi"].startswith("3.0.")
    OpenAPIV30SpecValidator(older).validate()
    assert set(older["paths"]) == set(document["paths"])
    assert '"type": "null"' not in str(older).replace("'", '"')


async def test_a_door_behind_another_does_not_say_what_the_api_is(door):
    asgi = build_app(door.backend, is_described=False)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(asgi), base_url="http://core") as client:
        answers = [(await client.get(path)).status_code for path in ("/openapi.json", "/docs/openapi-3.0.json")]
        assert answers == [404, 404]
        assert (await client.get("/healthz")).status_code == 200


async def test_every_route_is_there_with_its_errors_and_examples(door, document):
    shown = [route for route in build_routes(door.backend) if not route.hidden]
    assert {(r.method.lower(), r.path) for r in shown} == {
        (method, path) for path, methods in document["paths"].items() for method in methods
    }
    for route in shown:
        operation = document["paths"][route.path][route.method.lower()]
        statuses = set(operation["responses"])
        assert str(route.status) in statuses
        assert {str(e.status) for e in route.errors} <= statuses
        if route.caller != ANYBODY:
            assert {"401", "403"} <= statuses
            assert operation["security"] == [{"key": []}]
        if route.takes is not None:
            assert {"400", "413", "415"} <= statuses
            for content in operation["requestBody"]["content"].values():
                assert content["example"]
        for status, response in operation["responses"].items():
            if int(status) < 400 or "content" not in response or route.path == "/readyz":
                continue
            if route.dialect is not None:  # another service's words
                assert set(response["content"]) == {route.dialect.media}
                continue
            for name, example in response["content"]["application/json"]["examples"].items():
                error = example["value"]["error"]
                assert error["name"] == name
                assert ERRORS[error["code"]].status == int(status)


def test_the_examples_fit_the_types(door):
    for route in build_routes(door.backend):
        if route.takes is not None:
            msgspec.convert(route.example, route.takes)
        if route.gives is not None:
            msgspec.convert(route.gives_example, route.gives)
            fields = set(msgspec.to_builtins(route.gives_example))
            known = set(route.gives.__struct_fields__)
            assert fields <= known


async def test_a_parameter_outside_its_described_bounds_is_refused(door, document):
    tried = 0
    async with door.provider() as provider, door.operator() as operator:
        for path, item in document["paths"].items():
            for param in item.get("get", {}).get("parameters", ()):
                if param["in"] == "query" and "maximum" in param["schema"] and "{" not in path:
                    for value in (param["schema"]["minimum"] - 1, param["schema"]["maximum"] + 1):
                        query = {"alias": "a", param["name"]: str(value)}
                        client = operator if path == "/v1/cards" else provider
                        assert (await client.get(path, params=query)).status_code == 400, (path, query)
                        tried += 1
    assert tried > 10


def test_every_field_of_a_push_but_the_plain_ones_is_explained(document):
    for name, plain in (("PushRequest", {"target", "title", "text"}), ("TargetRequest", set())):
        for field, schema in document["components"]["schemas"][name]["properties"].items():
            about = schema.get("description") or [o["description"] for o in schema.get("anyOf", ()) if len(o) > 1]
            assert about or field in plain, field


def test_a_route_s_handler_is_what_the_table_says(door):
    batch = next(r for r in build_routes(door.backend) if r.path == "/v1/push/batch")
    assert isinstance(batch.handle.__self__, BatchRoutes)  # type: ignore[attr-defined]


async def test_answers_never_have_a_field_for_device_addresses_or_hash(document):
    answers = {
        name: schema
        for name, schema in document["components"]["schemas"].items()
        if name.endswith(("View", "Created", "List", "Page", "Accepted"))
    }
    assert len(answers) > 8
    for schema in answers.values():
        assert not {"device", "addresses", "hash", "receipts_secret"} & set(schema.get("properties", {}))


async def test_the_page_is_local_and_its_policy_lets_only_it_run(door):
    async with door.client() as client:
        home = await client.get("/")
        assert (home.status_code, home.headers["location"]) == (307, "/docs")
        page = await client.get("/docs")
        assert page.status_code == 200
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        script = re.search(r"<script>(.*?)</script>", page.text, re.DOTALL)
        assert script is not None
        digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
        linked = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert linked
        for path in linked:
            assert path.startswith("/")
            answer = await client.get(path)
            assert answer.status_code == 200
            assert answer.headers.get("x-content-type-options", "nosniff") == "nosniff"
        assert "http" not in page.text.replace("<!DOCTYPE html>", "")


async def test_readiness_says_why_not(door):
    async with door.client() as client:
        assert (await client.get("/healthz")).json() == {"status": "alive"}
        door.floors.reasons = ["store: " + StoreUnavailable.name, "reactor 1 is not running"]
        answer = await client.get("/readyz")
        assert answer.status_code == 503
        assert answer.json() == {"ready": False, "reasons": door.floors.reasons}
        assert answer.headers["retry-after"]
        assert (await client.get("/healthz")).status_code == 200
        door.floors.reasons = []
        assert (await client.get("/readyz")).status_code == 200
        door.backend.stopping.set()
        assert (await client.get("/readyz")).json()["reasons"] == ["draining"]


async def test_metrics_are_prometheus_text(door):
    async with door.client() as client:
        answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "# TYPE heliograph_api_requests_total counter" in answer.text
