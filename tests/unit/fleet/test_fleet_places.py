"""Every route has a place, and each is answered by a fleet as by one gateway."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_doubles import Door
from fleet_rig import Fleet, RigCore

from gateway.api.route import Route
from gateway.api.server import build_routes
from gateway.fleet.places import PLACES, Place, place_of


def test_every_route_has_a_place() -> None:
    for route in build_routes(Door().backend):
        assert isinstance(place_of(route.method, route.path), Place)


def test_every_place_has_a_route() -> None:
    served = {f"{route.method} {route.path}" for route in build_routes(Door().backend)}
    assert set(PLACES) <= served


def test_a_route_without_a_place_is_not_served() -> None:
    with pytest.raises(KeyError, match="places"):
        place_of("GET", "/v1/new-thing")


# --- one gateway and a fleet answer alike


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with Fleet(tmp_path / "fleet") as fleet:
        yield fleet


@pytest.fixture
async def alone(tmp_path: Path) -> AsyncIterator[RigCore]:
    """One core that has everything, without any fleet about it."""
    async with Fleet(tmp_path / "alone") as other:
        core = other.core(0)
        core.backend.admit_elsewhere = None
        core.operator_key = other.operator_key  # type: ignore[attr-defined]
        yield core


_SHOWN = [
    route
    for route in build_routes(Door().backend)
    if not route.path.startswith(("/v1/cards", "/v1/downloads", "/v1/campaigns", "/v1/subscriber", "/v1/ids"))
    and route.path not in ("/metrics", "/v1/receipts/stream", "/v1/push/batch", "/docs/{name}")
]


def _request(route: Route, token: str, push: str, change: str) -> dict[str, Any]:
    """By the description, with one thing wrong where `change` says so."""
    path = route.path.replace("{app}", "shop").replace("{token}", token).replace("{id}", push)
    headers = {"ttl": "60"} if route.path.startswith("/push/") else {}
    asked: dict[str, Any] = {"method": route.method, "url": path, "headers": headers, "params": {}}
    if route.path == "/v1/registrations":
        asked["params"] = {"alias": "user-7"}
    if route.example is not None:
        asked["json"] = _with(route.example, token)
    if change == "unknown":
        asked["url"] = re.sub("shop", "nobody", path.replace(token, "A" * 22).replace(push, "B" * 22))
    elif change == "bad body" and route.example is not None:
        asked["json"] = {"nonsense": [1]}
    elif change == "no JSON" and route.example is not None:
        del asked["json"]
        asked["content"] = b"{"
        headers["content-type"] = "application/json"
    elif change == "media" and route.example is not None:
        headers["content-type"] = "text/plain"
    elif change == "limit":
        asked["params"] |= {"limit": "x", "offset": "-1", "after": "1.5"}
    elif change == "method":
        asked["method"] = "PATCH" if route.method != "PATCH" else "PUT"
    return asked


def _with(example: Any, token: str) -> Any:
    if isinstance(example, dict):
        if "webhook" in str(example):  # there is no notifier here
            example = {name: value for name, value in example.items() if name not in ("fallback", "notifiers")}
        return {name: _with(value, token) for name, value in example.items()}
    return token if isinstance(example, str) and len(example) == 22 else example


async def _prepare(http: httpx.AsyncClient, register: Any) -> tuple[str, str]:
    """(token, push id) of an app `shop`"""
    token = await register()
    pushed = await http.post("/v1/push", json={"target": {"token": token}, "title": "hi"})
    assert pushed.status_code == 201, pushed.text
    return token, pushed.json()["id"]


_VOLATILE = re.compile(
    r'"(id|key|created_at|accepted_at_ms|expires_at|at_ms|deliver_at|cursor|token|delivery)": ?("[^"]*"|\d+)'
)


def _shape(answer: httpx.Response, *names: str) -> tuple[int, str, list[str]]:
    text = answer.text if "json" in answer.headers.get("content-type", "") else ""
    for name in names:
        text = text.replace(name, "…")
    headers = [name for name in answer.headers if name not in ("content-length", "x-request-id", "date")]
    return answer.status_code, _VOLATILE.sub(r'"\1":…', text), sorted(headers)


@pytest.mark.parametrize(
    "change", ["", "no key", "wrong key", "unknown", "bad body", "no JSON", "media", "limit", "method"]
)
async def test_a_fleet_answers_as_one_gateway_does(fleet: Fleet, alone: RigCore, change: str) -> None:
    app_key = await fleet.create_app("shop", apns_topic="com.example.shop")
    transport = httpx.ASGITransport(alone.asgi)
    async with httpx.AsyncClient(transport=transport, base_url="http://fleet") as single:
        operator = {"authorization": f"Bearer {alone.operator_key}"}  # type: ignore[attr-defined]
        made = await single.post("/v1/apps", json={"name": "shop", "apns_topic": "com.example.shop"}, headers=operator)
        single_key = made.json()["key"]

        async def register_alone() -> str:
            registered = alone.store.directory.register("device", "shop", "1.0", "", alias="user-7")
            assert registered[2] is not None
            await registered[2]
            from gateway.model.registration import build_token

            return build_token(registered[0].token)

        single.headers["authorization"] = f"Bearer {single_key}"
        single_token, single_push = await _prepare(single, register_alone)
        async with fleet.client(1, app_key) as http:
            token, push = await _prepare(http, lambda: fleet.register("shop", 2, alias="user-7"))
        for route in _SHOWN:
            keys = {"operator": (alone.operator_key, fleet.operator_key)}.get(  # type: ignore[attr-defined]
                route.caller, (single_key, app_key)
            )
            if change == "wrong key":
                keys = (app_key, single_key)
            one, many = (
                {"authorization": f"Bearer {key}"} if change != "no key" else {"authorization": ""} for key in keys
            )
            asked = _request(route, single_token, single_push, change)
            expected = await single.request(**{**asked, "headers": {**asked["headers"], **one}})
            asked = _request(route, token, push, change)
            for node in (1,) if route.method != "GET" else (1, 2):
                async with fleet.client(node) as http:
                    answer = await http.request(**{**asked, "headers": {**asked["headers"], **many}})
                assert _shape(answer, token, push) == _shape(expected, single_token, single_push), route
