"""Delivery reports of the T8 door: posts `{transaction, result}` to each transaction's own destination, at least once;
must never connect to a host of the operator's network because an app server named it, nor follow where one is sent on.

One task an app follows its receipts; its cursor moves when a slice of them is told, or given up, and is kept in the
store.
A network's own word that a trigger came is told at once, and not again at the end.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial

import httpx
import msgspec
import structlog

from gateway.api.ports import Backend
from gateway.api.t8.transactions import Kept, Transactions, is_delivered, result_of
from gateway.api.t8.wire import DeliveryReport, DeliveryResult
from gateway.delivery.no_cookies import build_no_cookies
from gateway.delivery.public_tls import public_authorities
from gateway.metrics import Metric
from gateway.notifiers.webpush.addresses import Addresses

#: receipts looked at in one turn
SLICE = 100
#: posts of one app at once
POSTS = 8
TIMEOUT_S = 10.0
#: reports of one app that are told before their receipt, under way; past it the receipt tells
EARLY = 1_000
#: of those told early so many are remembered; past it one is told twice
TOLD = 100_000

_log = structlog.get_logger(__name__)


class T8Reports:
    """Loop thread only. `close` leaves each cursor where the last slice that was told put it."""

    def __init__(
        self,
        backend: Backend,
        transactions: Transactions,
        addresses: Addresses,
        *,
        client: httpx.AsyncClient | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._backend = backend
        self._transactions = transactions
        self._addresses = addresses
        # no bound of its own: places are, and those are each app's
        self._client = client or httpx.AsyncClient(
            verify=public_authorities(),
            timeout=TIMEOUT_S,
            follow_redirects=False,
            trust_env=False,
            cookies=build_no_cookies(),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
        )
        self._sleep = sleep
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._wakes: dict[str, asyncio.Event] = {}
        self._places: dict[str, asyncio.Semaphore] = {}
        self._early: dict[str, set[asyncio.Task[None]]] = {}
        self._told: OrderedDict[tuple[str, int, str], None] = OrderedDict()  # (transaction, push, result)
        self._unsubscribe: Callable[[], None] | None = None

    def start(self) -> None:
        self._unsubscribe = self._backend.receipts.subscribe(self._wake)
        for app in self._backend.directory.app_names():
            if self._transactions.newest(app):
                self.follow(app)

    def follow(self, app: str) -> None:
        """It has a transaction now."""
        if app not in self._tasks and self._unsubscribe is not None:
            self._wakes[app] = asyncio.Event()
            self._places.setdefault(app, asyncio.Semaphore(POSTS))
            self._early.setdefault(app, set())
            task = asyncio.get_running_loop().create_task(self._serve(app), name="t8-reports")
            self._tasks[app] = task
            task.add_done_callback(partial(self._on_end, app))

    def _on_end(self, app: str, task: asyncio.Task[None]) -> None:
        self._tasks.pop(app, None)  # its next transaction starts it again
        if not task.cancelled() and task.exception() is not None:
            _log.error("t8_reports_failed", app=app, error=type(task.exception()).__name__)

    async def close(self) -> None:
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        tasks = [*self._tasks.values(), *(task for early in self._early.values() for task in early)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._addresses.close()
        await self._client.aclose()

    def _wake(self) -> None:
        for wake in self._wakes.values():
            wake.set()

    # --- what is told ---------------------------------------------------------------------------------------

    def on_step(self, seq: int, registration: int) -> None:
        """A line was added to the history of a push: was it the network's word that it came?"""
        record = self._backend.directory.registration(registration)
        if record is None or record.app not in self._tasks:
            return
        early = self._early[record.app]
        if len(early) >= EARLY:
            return
        kept = self._transactions.of_push(record.app, seq)
        if kept is None or not self._is_current(kept, seq):
            return
        outcome = self._transactions.outcome(record.app, seq)
        if outcome is not None and is_delivered(outcome):
            told = self._tell_in_turn(record.app, kept, "SUCCESS")
            task = asyncio.get_running_loop().create_task(told, name="t8-report")
            early.add(task)
            task.add_done_callback(early.discard)

    async def _tell_in_turn(self, app: str, kept: Kept, result: DeliveryResult) -> None:
        async with self._places[app]:
            await self._tell(app, kept, result)

    async def _serve(self, app: str) -> None:
        receipts, wake, position = self._backend.receipts, self._wakes[app], f"t8:{app}"
        cursor = receipts.saved_cursor(position)
        while True:
            wake.clear()
            rows = receipts.after(app, cursor, SLICE)
            if not rows:
                await wake.wait()
                continue
            tellings = []
            for row in rows:
                seq = row.push or row.outcome.notification
                kept = self._transactions.of_push(app, seq)
                if kept is not None and self._is_current(kept, seq):
                    tellings.append(self._tell_in_turn(app, kept, result_of(row.outcome)))
            await asyncio.gather(*tellings)
            cursor = rows[-1].cursor
            receipts.save_cursor(position, cursor)
            await asyncio.sleep(0)

    def _is_current(self, kept: Kept, seq: int) -> bool:
        """What was replaced goes on in the newer push; what was recalled was told in the answer."""
        return kept.seq == seq and not kept.transaction.is_removed

    async def _tell(self, app: str, kept: Kept, result: DeliveryResult) -> None:
        key = (kept.transaction.id, kept.seq, result)  # what PUT made of it is another push with a report of its own
        if key in self._told:
            return
        config, failures = self._backend.config, 0
        while True:
            reason = await self._post(app, kept, result)
            if not reason:
                self._backend.metrics.count(Metric.T8_REPORTS, label="told")
                self._told[key] = None
                if len(self._told) > TOLD:
                    self._told.popitem(last=False)
                return
            failures += 1
            self._backend.metrics.count(Metric.T8_REPORTS, label=reason)
            if failures >= config.t8_report_tries:
                self._backend.metrics.count(Metric.T8_REPORTS, label="given_up")
                return
            pause_s = min(config.receipts_retry_s * 2.0 ** min(failures - 1, 30), config.receipts_retry_max_s)
            await self._sleep(float(pause_s) * (0.5 + random.random() / 2))  # noqa: S311

    async def _post(self, app: str, kept: Kept, result: DeliveryResult) -> str:
        """Empty where it was taken, else why not."""
        body = msgspec.json.encode(DeliveryReport(transaction=kept.transaction.url, result=result))
        try:
            url = httpx.URL(kept.transaction.asked.notification_destination)
            port = url.port or (443 if url.scheme == "https" else 80)
            async with asyncio.timeout(TIMEOUT_S):
                address = await self._addresses.pick(url.host, port, allows_private=False, whose=app)
                if address is None:
                    return "address"
                # Connected to as it was checked; the certificate is the name's all the same.
                host = f"[{address}]" if ":" in address else address
                request = self._client.build_request(
                    "POST",
                    url.copy_with(host=host),
                    content=body,
                    headers={"content-type": "application/json", "host": url.netloc.decode()},
                    extensions={"sni_hostname": url.host},
                )
                # The answer's body is of no interest: it is not read.
                response = await self._client.send(request, stream=True)
                await response.aclose()
        except TimeoutError:
            return "timeout"
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            return "timeout" if isinstance(error, httpx.TimeoutException) else "connection"
        return "" if response.is_success else f"status_{response.status_code // 100}xx"
