"""A gateway a test, on uvloop as in production."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
import uvloop
from open_house import House

from gateway.tour.stage import NotifierEndpoint


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
def expected_errors() -> Iterator[set[str]]:
    """Nothing a device or provider does may end in an error of ours: a test fails where one is logged, unless it put
    the event into this set."""
    expected: set[str] = set()
    with structlog.testing.capture_logs() as logs:
        yield expected
    assert [e for e in logs if e["log_level"] in ("error", "critical") and e["event"] not in expected] == []


@pytest.fixture(autouse=True)
def quick_uvicorn(monkeypatch: pytest.MonkeyPatch) -> None:
    """uvicorn ends in steps of 100 ms, which a hundred gateways would wait for: here they are of 5 ms."""
    sleep = asyncio.sleep
    quick = SimpleNamespace(**{**vars(asyncio), "sleep": lambda seconds: sleep(min(seconds, 0.005))})
    monkeypatch.setattr("uvicorn.server.asyncio", quick)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """With the defaults and one app, shop."""
    async with House(tmp_path) as house:
        yield house


@pytest.fixture
async def open_house(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """`await open_house({"edge.window": 4})`: with settings of its own."""
    houses: list[House] = []

    async def build(settings: dict[str, Any] | None = None, **options: Any) -> House:
        house = House(tmp_path / f"house-{len(houses)}", settings, **options)
        await house.__aenter__()
        houses.append(house)
        return house

    yield build
    for house in houses:
        await house.__aexit__()


@pytest.fixture
async def endpoint() -> AsyncIterator[NotifierEndpoint]:
    """A provider's server that checks signatures and keeps what is posted."""
    endpoint = NotifierEndpoint()
    await endpoint.start()
    yield endpoint
    await endpoint.close()
