"""Posts receipts and dead tokens to the apps that want them, signed, each at least once; must never let one endpoint
delay another.

One task an app and feed. Its cursor moves only after a 2xx answer, and is kept in the store: after a restart it goes on
from there. A receiver drops what it has seen by (push, delivery), or by the cursor of a dead token.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import httpx
import msgspec
import structlog

from gateway.config.sections import Api
from gateway.delivery.no_cookies import build_no_cookies
from gateway.delivery.public_tls import public_authorities
from gateway.delivery.push_ids import PushIds
from gateway.delivery.signature import HEADER, build_signature
from gateway.metrics import Metric, Metrics
from gateway.model.outcome import State
from gateway.model.ports import Death, Deaths, Directory, Receipt, Receipts
from gateway.model.registration import App, build_token

#: receipts in one post
BATCH = 500
TIMEOUT_S = 10.0
#: apps are looked through for new or changed addresses at least this often, seconds
REFRESH_S = 5.0

_log = structlog.get_logger(__name__)


class _Feed(NamedTuple):
    name: str  # of the field in the body
    position: str  # name of its cursors in the store
    after: Callable[[str, int, int], Sequence[Any]]
    line: Callable[[str, Any], dict[str, Any]]


class ReceiptsWebhook:
    """Start it after the store is there; `close` stops it and leaves cursors where the last 2xx put them."""

    def __init__(
        self,
        *,
        directory: Directory,
        receipts: Receipts,
        deaths: Deaths,
        push_ids: PushIds,
        config: Api,
        metrics: Metrics,
        clock: Callable[[], int],
        client: httpx.AsyncClient | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._directory = directory
        self._receipts = receipts
        self._deaths = deaths
        self._push_ids = push_ids
        self._config = config
        self._metrics = metrics
        self._clock = clock
        self._client = client or httpx.AsyncClient(
            verify=public_authorities(),
            timeout=TIMEOUT_S,
            # No pool limit: one task an app is limit enough, and slow endpoints must not take the others' connections.
            limits=httpx.Limits(max_connections=None),
            follow_redirects=False,
            trust_env=False,
            cookies=build_no_cookies(),
        )
        self._sleep = sleep
        self._feeds = {
            feed.name: feed
            for feed in (
                _Feed("receipts", "webhook", receipts.after, self._line),
                _Feed("dead_tokens", "deaths", deaths.after, self._dead),
            )
        }
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}  # (app, feed)
        self._wakes: dict[tuple[str, str], asyncio.Event] = {}
        self._refresher: asyncio.Task[None] | None = None
        self._unsubscribe: list[Callable[[], None]] = []

    def start(self) -> None:
        self._unsubscribe = [
            self._receipts.subscribe(partial(self._wake, "receipts")),
            self._deaths.subscribe(partial(self._wake, "dead_tokens")),
        ]
        self.refresh()
        self._refresher = asyncio.get_running_loop().create_task(self._keep_fresh(), name="receipts-refresh")

    def refresh(self) -> None:
        """Start a task for each app that has an address by now."""
        for name in self._directory.app_names():
            app = self._directory.app(name)
            if app is None or not app.receipts_url:
                continue
            for feed in self._feeds.values():
                key = (name, feed.name)
                if key not in self._tasks:
                    self._wakes[key] = asyncio.Event()
                    task = asyncio.get_running_loop().create_task(self._serve(name, feed), name="receipts-webhook")
                    self._tasks[key] = task
                    task.add_done_callback(partial(self._on_end, key))

    def _on_end(self, key: tuple[str, str], task: asyncio.Task[None]) -> None:
        self._tasks.pop(key, None)  # the next refresh starts it again where it is still wanted
        if not task.cancelled() and task.exception() is not None:
            _log.error("receipts_webhook_failed", app=key[0], feed=key[1], error=type(task.exception()).__name__)

    async def close(self) -> None:
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        tasks = [*self._tasks.values(), *([self._refresher] if self._refresher else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.aclose()

    def _wake(self, feed: str) -> None:
        for (_, name), wake in self._wakes.items():
            if name == feed:
                wake.set()

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            self.refresh()

    async def _serve(self, name: str, feed: _Feed) -> None:
        wake = self._wakes[name, feed.name]
        cursor = self._receipts.saved_cursor(f"{feed.position}:{name}")
        failures = 0
        while True:
            wake.clear()
            app = self._directory.app(name)
            if app is None or not app.receipts_url:
                return
            batch = feed.after(name, cursor, BATCH)
            if not batch:
                await wake.wait()
                continue
            reason = await self._post(app, feed, batch)
            if not reason:
                failures = 0
                cursor = batch[-1].cursor
                self._receipts.save_cursor(f"{feed.position}:{name}", cursor)
                self._metrics.count(Metric.RECEIPTS_POSTED, len(batch))
                continue
            failures += 1
            self._metrics.count(Metric.RECEIPTS_FAILED, label=reason)
            _log.info("receipts_post_failed", app=name, reason=reason, failures=failures)
            await self._sleep(self._pause(failures))

    def _pause(self, failures: int) -> float:
        """Doubling, with jitter of a half, so that endpoints of one provider are not met all at once."""
        full = min(self._config.receipts_retry_s * 2.0 ** min(failures - 1, 30), self._config.receipts_retry_max_s)
        return float(full) * (0.5 + random.random() / 2)  # noqa: S311

    async def _post(self, app: App, feed: _Feed, batch: Sequence[Any]) -> str:
        """Empty where the endpoint took it, else why not."""
        body = msgspec.json.encode({"app": app.name, feed.name: [feed.line(app.name, one) for one in batch]})
        headers = {"Content-Type": "application/json"}
        if app.receipts_secret:
            headers[HEADER] = build_signature(app.receipts_secret, body, self._clock() // 1000)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                request = self._client.build_request("POST", app.receipts_url, content=body, headers=headers)
                # The answer's body is of no interest: it is not read.
                response = await self._client.send(request, stream=True)
                await response.aclose()
        except TimeoutError:
            return "timeout"
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return "timeout" if isinstance(error, httpx.TimeoutException) else "connection"
        return "" if response.is_success else f"status_{response.status_code // 100}xx"

    def _line(self, app: str, receipt: Receipt) -> dict[str, Any]:
        outcome = receipt.outcome
        of: dict[str, Any]
        if outcome.is_download:
            of = {"download": self._push_ids.downloads.build(app, outcome.notification), "delivery": outcome.place}
        else:
            record = self._directory.registration(outcome.registration)
            of = {
                "push": self._push_ids.build(app, receipt.push or outcome.notification),
                "delivery": outcome.place,
                "token": build_token(record.token) if record is not None else "",
            }
        return {
            **of,
            "state": State(outcome.state).name.lower(),
            "at_ms": outcome.at_ms,
            "history": [
                {"at_ms": step.at_ms, "step": step.what, "channel": step.channel, "detail": step.detail}
                for step in outcome.steps
            ],
        }

    def _dead(self, _app: str, death: Death) -> dict[str, Any]:
        return {
            "cursor": death.cursor,
            "token": build_token(death.token),
            "at_ms": death.at_ms,
            "why": death.why,
            "channel": death.channel,
        }
