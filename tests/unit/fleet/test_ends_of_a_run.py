"""How `run` ends: while it starts, and where another node has this one's name."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from gateway import app
from gateway.config.sections import Config
from gateway.model.errors import ConfigError, GatewayError


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_start_that_waits_for_nats_ends_at_the_first_signal(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    was_ended = asyncio.Event()

    async def start(_config: Config, _apps: Sequence[str]) -> None:
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), number)
        try:
            await asyncio.Event().wait()
        finally:
            was_ended.set()

    monkeypatch.setattr(app, "_start", start)
    async with asyncio.timeout(30):
        assert await app.run(Config()) == 0
    assert was_ended.is_set()


async def test_a_node_whose_name_another_has_drains_and_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[str] = []
    ousted: asyncio.Future[GatewayError] = asyncio.get_running_loop().create_future()

    async def drain() -> None:
        calls.append("drain")

    async def stop() -> None:
        calls.append("stop")

    node = SimpleNamespace(
        ousted=ousted,
        drain=drain,
        stop=stop,
        reload_tls=lambda: None,
        edge=SimpleNamespace(port=1, tls_port=-1, plane=SimpleNamespace(links=lambda: 0)),
        api=SimpleNamespace(port=2),
        cards=None,
        im=None,
    )

    async def start(_config: Config, _apps: Sequence[str]) -> SimpleNamespace:
        asyncio.get_running_loop().call_later(
            0.01, ousted.set_result, ConfigError("another node has it", field="cluster.node")
        )
        return node

    monkeypatch.setattr(app, "_start", start)
    monkeypatch.setattr(app, "greet", lambda _gateway: None)
    async with asyncio.timeout(30):
        assert await app.run(Config()) == 2
    assert calls == ["drain", "stop"]
    assert "cluster.node: another node has it" in capsys.readouterr().err
