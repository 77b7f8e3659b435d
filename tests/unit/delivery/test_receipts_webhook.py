"""Receipts posted to a provider: signed, at least once, in order, and never slowed by somebody else's endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import msgspec
import pytest
from memory_ports import Clock, MemoryDeaths, MemoryDirectory, MemoryReceipts

from gateway.config.sections import Api
from gateway.delivery.push_ids import PushIds
from gateway.delivery.receipts_webhook import BATCH, ReceiptsWebhook
from gateway.delivery.signature import verify_signature
from gateway.metrics import Metric, Metrics
from gateway.model.outcome import CARD, Outcome, State, Step
from gateway.model.registration import build_token

Answer = Callable[[httpx.Request], Awaitable[httpx.Response]]


class Post:
    """The poster, its endpoints, and what they got."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.directory = MemoryDirectory()
        self.receipts = MemoryReceipts()
        self.deaths = MemoryDeaths()
        self.metrics = Metrics(process=False)
        self.ids = PushIds(b"k" * 16)
        self.got: dict[str, list[httpx.Request]] = {}
        self.answers: dict[str, Answer] = {}
        self.pauses: list[float] = []
        self.arrived = asyncio.Event()
        self.build()

    def build(self) -> None:
        self.poster = ReceiptsWebhook(
            directory=self.directory,
            receipts=self.receipts,
            deaths=self.deaths,
            push_ids=self.ids,
            config=Api(receipts_retry_s=1.0, receipts_retry_max_s=8.0),
            metrics=self.metrics,
            clock=self.clock,
            client=httpx.AsyncClient(transport=httpx.MockTransport(self.handle)),
            sleep=self.sleep,
        )

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await asyncio.sleep(0)

    async def handle(self, request: httpx.Request) -> httpx.Response:
        host = request.url.host
        self.got.setdefault(host, []).append(request)
        self.arrived.set()
        answer = self.answers.get(host)
        return await answer(request) if answer else httpx.Response(204)

    def add(self, app: str, seq: int = 5) -> None:
        steps = [Step(1, "sent", "edge"), Step(2, "acked", "edge")]
        self.receipts.add(app, Outcome(seq, seq, 1, app, State.ACKED, 2, steps))

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0)

    def seqs(self, host: str) -> list[list[int | None]]:
        bodies = [msgspec.json.decode(request.content) for request in self.got.get(host, [])]
        return [[self.ids.parse(r["push"], body["app"]) for r in body["receipts"]] for body in bodies]


@pytest.fixture
async def post() -> AsyncIterator[Post]:
    built = Post()
    built.directory.add_app("shop", receipts_url="https://shop.test/r", receipts_secret="s3cret")
    built.directory.add("shop")
    yield built
    await built.poster.close()


async def test_receipt_is_signed_and_says_where_the_push_is(post: Post) -> None:
    post.add("shop")
    post.poster.start()
    await post.until(lambda: post.receipts.cursors)
    [request] = post.got["shop.test"]
    assert verify_signature(
        "s3cret", request.content, request.headers["heliograph-signature"], post.clock.now_ms // 1000
    )
    body = msgspec.json.decode(request.content)
    assert body["app"] == "shop"
    [line] = body["receipts"]
    assert line["push"] == post.ids.build("shop", 5)
    assert (line["delivery"], line["state"], line["at_ms"]) == (0, "acked", 2)
    assert line["token"] == build_token(post.directory.records[1].token)
    assert [step["step"] for step in line["history"]] == ["sent", "acked"]
    assert "device" not in request.content.decode()
    assert post.receipts.cursors == {"webhook:shop": 1}


async def test_the_end_of_a_download_names_the_download_and_nobodys_token(post: Post) -> None:
    steps = [Step(1, "accepted", CARD), Step(2, "noticed", CARD)]
    post.receipts.add("shop", Outcome(9, 9, 0, "shop", State.NOTICED, 2, steps))
    post.poster.start()
    await post.until(lambda: post.got)
    (line,) = msgspec.json.decode(post.got["shop.test"][0].content)["receipts"]
    assert post.ids.downloads.parse(line["download"], "shop") == 9
    assert post.ids.parse(line["download"], "shop") is None
    assert (line["state"], line["history"][1]["step"]) == ("noticed", "noticed")
    assert not {"push", "token"} & set(line)


async def test_cursor_moves_only_after_a_2xx_and_the_same_receipts_come_again(post: Post) -> None:
    statuses = iter([500, 302, 429, 200])

    async def answer(request: httpx.Request) -> httpx.Response:
        assert not post.receipts.cursors
        return httpx.Response(next(statuses), headers={"location": "https://elsewhere.test/"})

    post.answers["shop.test"] = answer
    post.add("shop")
    post.poster.start()
    await post.until(lambda: post.receipts.cursors)
    assert post.seqs("shop.test") == [[5]] * 4
    assert set(post.got) == {"shop.test"}
    assert post.metrics.value(Metric.RECEIPTS_FAILED, "status_5xx") == 1
    assert post.metrics.value(Metric.RECEIPTS_POSTED) == 1


async def test_pauses_double_with_jitter_up_to_the_longest(post: Post) -> None:
    async def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    post.answers["shop.test"] = answer
    post.add("shop")
    post.poster.start()
    await post.until(lambda: len(post.pauses) >= 7)
    for pause, full in zip(post.pauses, [1, 2, 4, 8, 8, 8, 8], strict=False):
        assert full / 2 <= pause <= full
    assert len(set(post.pauses)) > 1


async def test_slow_endpoint_delays_nobody_else(post: Post) -> None:
    held = asyncio.Event()

    async def hang(request: httpx.Request) -> httpx.Response:
        await held.wait()
        return httpx.Response(200)

    post.answers["shop.test"] = hang
    post.directory.add_app("bank", receipts_url="https://bank.test/r")
    post.add("shop", 5)
    post.poster.start()
    await post.until(lambda: "shop.test" in post.got)
    for seq in (6, 7):
        post.add("bank", seq)
        await post.until(lambda seq=seq: [seq] in post.seqs("bank.test"))  # type: ignore[misc]
    assert "heliograph-signature" not in post.got["bank.test"][0].headers  # no secret, no signature
    assert "webhook:shop" not in post.receipts.cursors
    held.set()
    await post.until(lambda: "webhook:shop" in post.receipts.cursors)


async def test_goes_on_where_it_stopped_after_a_restart(post: Post) -> None:
    post.add("shop", 5)
    post.poster.start()
    await post.until(lambda: post.receipts.cursors)
    await post.poster.close()
    post.add("shop", 6)
    post.build()
    post.poster.start()
    await post.until(lambda: post.receipts.cursors == {"webhook:shop": 2})
    assert post.seqs("shop.test") == [[5], [6]]


async def test_many_go_in_batches_in_order(post: Post) -> None:
    for seq in range(BATCH + 3):
        post.add("shop", seq)
    post.poster.start()
    await post.until(lambda: post.receipts.cursors == {"webhook:shop": BATCH + 3})
    assert post.seqs("shop.test") == [list(range(BATCH)), list(range(BATCH, BATCH + 3))]


async def test_address_given_later_is_taken_up_and_one_taken_away_is_left_alone(post: Post) -> None:
    post.directory.add_app("late")
    post.add("late", 9)
    post.poster.start()
    app = post.directory.apps["late"]
    app.receipts_url = "https://late.test/r"
    post.poster.refresh()
    await post.until(lambda: post.seqs("late.test") == [[9]])
    app.receipts_url = ""
    post.add("late", 10)
    await asyncio.sleep(0.01)
    assert post.seqs("late.test") == [[9]]


async def test_dead_tokens_are_posted_with_a_cursor_of_their_own(post: Post) -> None:
    token = post.directory.records[1].token
    post.deaths.add("shop", token)
    post.deaths.add("bank", b"x" * 16)
    post.poster.start()
    await post.until(lambda: post.receipts.cursors)
    post.deaths.add("shop", token, "revoked", "")
    await post.until(lambda: post.receipts.cursors.get("deaths:shop") == 3)
    first, second = post.got["shop.test"]
    assert msgspec.json.decode(first.content) == {
        "app": "shop",
        "dead_tokens": [{"cursor": 1, "token": build_token(token), "at_ms": 7, "why": "gone", "channel": "apns"}],
    }
    assert verify_signature("s3cret", second.content, second.headers["heliograph-signature"], post.clock.now_ms // 1000)
    assert msgspec.json.decode(second.content)["dead_tokens"][0]["why"] == "revoked"
    assert set(post.receipts.cursors) == {"deaths:shop"}
