"""The webhook notifier's connections: what becomes of a call on one that breaks, and whose they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from upstream_rig import IDS, build_app, build_notification, build_registration

from gateway.metrics import Metrics
from gateway.model.ports import NotifierResult
from gateway.notifiers.webhook.client import WebhookNotifier
from gateway.notifiers.webhook.settings import Settings


class Endpoint:
    """An app's server on HTTP/1.1; `breaks` says of which requests, counted on their connection, the answer is that the
    connection breaks."""

    def __init__(self) -> None:
        self.breaks: set[int] = set()
        self.requests: list[tuple[int, int]] = []  # number of the connection, and on it
        self.connections = 0
        self.url = ""
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection, count = self.connections, 0
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
                count += 1
                self.requests.append((connection, count))
                if count in self.breaks:
                    writer.transport.abort()
                    return
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    endpoint = Endpoint()
    await endpoint.start()
    yield endpoint
    await endpoint.close()


@pytest.fixture
async def notifier() -> AsyncIterator[WebhookNotifier]:
    notifier = WebhookNotifier(Settings(), push_ids=IDS, metrics=Metrics(process=False))
    yield notifier
    await notifier.close()


async def push(notifier: WebhookNotifier, url: str, app: str = "shop") -> NotifierResult:
    registration = build_registration("webhook", "")
    return await notifier.notify(build_app("webhook", {"url": url}, app), registration, build_notification())


async def test_call_on_a_kept_connection_that_breaks_is_made_once_more_on_a_new_one(
    endpoint: Endpoint, notifier: WebhookNotifier
) -> None:
    endpoint.breaks = {2}
    assert (await push(notifier, endpoint.url)).ok
    assert (await push(notifier, endpoint.url)).ok
    assert endpoint.requests == [(1, 1), (1, 2), (2, 1)]


async def test_call_on_a_new_connection_that_breaks_is_for_later(endpoint: Endpoint, notifier: WebhookNotifier) -> None:
    endpoint.breaks = {1}
    result = await push(notifier, endpoint.url)
    assert (result.ok, result.dead, result.detail) == (False, False, "connection")
    assert endpoint.requests == [(1, 1)]


async def test_apps_share_no_connection(endpoint: Endpoint, notifier: WebhookNotifier) -> None:
    for app in ("shop", "news", "shop"):
        assert (await push(notifier, endpoint.url, app)).ok
    assert endpoint.requests == [(1, 1), (2, 1), (1, 2)]
