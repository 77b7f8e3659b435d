"""The webhook notifier against a scripted endpoint and against a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import httpx
import msgspec
import pytest

from gateway.config.sections import Config
from gateway.delivery.push_ids import PushIds
from gateway.delivery.signature import verify_signature
from gateway.metrics import Metric, Metrics
from gateway.model.notification import Content, Notification, Target
from gateway.model.registration import App, Registration, build_token
from gateway.notifiers import build_notifiers
from gateway.notifiers.stub.client import Answer, StubNotifier
from gateway.notifiers.upstream import Limits, parse_retry_after
from gateway.notifiers.webhook.client import WebhookNotifier
from gateway.notifiers.webhook.errors import parse_status
from gateway.notifiers.webhook.settings import Settings, parse_endpoint

NOW_S = 1_800_000_000
REGISTRATION = Registration(
    number=3,
    token=b"t" * 16,
    device="secret-device",
    app="shop",
    version="1",
    account="ann",
    addresses={"apns": "addr"},
)
NOTIFICATION = Notification(
    seq=9,
    app="shop",
    target=Target(tag="vip"),
    content=Content(title="Hi", text="there", data=b"\x01"),
    accepted_ms=NOW_S * 1000,
    expires_s=NOW_S + 60,
    urgency=3,
    collapse_key="k",
    ack_ms=1,
    notifier_ack_ms=1,
)


def shop(url: str = "https://shop.test/hook", secret: str = "s3cret") -> App:
    return App(name="shop", notifiers={"webhook": {"url": url, "secret": secret}})


def reply(status: int, headers: dict[str, str] | None = None) -> httpx.Response:
    """An answer whose body is still to be read, as from a socket."""

    async def body() -> AsyncIterator[bytes]:
        yield b"thanks"

    return httpx.Response(status, headers=headers, content=body())


class Endpoint:
    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []
        self.answer: Callable[[], Awaitable[httpx.Response]] | None = None
        self.status = 200
        self.headers: dict[str, str] = {}
        self.now_ms = NOW_S * 1000
        self.metrics = Metrics(process=False)
        self.ids = PushIds(b"k" * 16)
        self.notifier = WebhookNotifier(
            Settings(Limits(failures=3)),
            push_ids=self.ids,
            metrics=self.metrics,
            clock=lambda: self.now_ms,
            build=lambda: httpx.AsyncClient(transport=httpx.MockTransport(self.handle)),
        )

    async def handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return await self.answer() if self.answer else reply(self.status, self.headers)


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    built = Endpoint()
    yield built
    await built.notifier.close()


async def test_body_says_what_and_for_whom_and_hides_the_device(endpoint: Endpoint) -> None:
    result = await endpoint.notifier.notify(shop(), REGISTRATION, NOTIFICATION)
    assert (result.ok, result.dead) == (True, False)
    [request] = endpoint.requests
    assert msgspec.json.decode(request.content) == {
        "push": endpoint.ids.build("shop", 9),
        "app": "shop",
        "token": build_token(b"t" * 16),
        "account": "ann",
        "title": "Hi",
        "text": "there",
        "urgency": "high",
        "collapse_key": "k",
        "expires": NOW_S + 60,
    }
    assert b"secret-device" not in request.content
    assert b"addr" not in request.content
    assert verify_signature("s3cret", request.content, request.headers["heliograph-signature"], NOW_S)


async def test_without_a_secret_nothing_is_signed(endpoint: Endpoint) -> None:
    await endpoint.notifier.notify(shop(secret=""), REGISTRATION, NOTIFICATION)
    assert "heliograph-signature" not in endpoint.requests[0].headers


@pytest.mark.parametrize(
    ("status", "ok", "dead"),
    [
        (200, True, False),
        (204, True, False),
        (301, False, True),
        (307, False, True),
        (400, False, True),
        (404, False, True),
        (410, False, True),
        (408, False, False),
        (429, False, False),
        (500, False, False),
        (503, False, False),
    ],
)
async def test_what_a_status_means(endpoint: Endpoint, status: int, ok: bool, dead: bool) -> None:
    endpoint.status = status
    endpoint.headers = {"location": "https://elsewhere.test/", "retry-after": "7"}
    result = await endpoint.notifier.notify(shop(), REGISTRATION, NOTIFICATION)
    assert (result.ok, result.dead, result.detail) == (ok, dead, f"HTTP {status}")
    assert result.retry_after_ms == (0 if ok or dead else 7_000)
    assert [r.url.host for r in endpoint.requests] == ["shop.test"]  # no redirect is followed


@pytest.mark.parametrize(
    ("value", "ms"),
    [
        ("0", 0),
        ("120", 120_000),
        (" 5 ", 5_000),
        ("", 0),
        ("soon", 0),
        ("-3", 0),
        ("9" * 12, 999_999_999_000),
        ("9" * 9_000, 999_999_999_000),
        ("0" * 20 + "7", 7_000),
        ("Fri, 15 Jan 2027 08:00:10 GMT", 10_000),
        ("Fri, 15 Jan 2027 07:00:00 GMT", 0),
        ("Fri, 99 Jan 2027 07:00:00 GMT", 0),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, ms: int) -> None:
    assert parse_retry_after(value, NOW_S * 1000) == ms


def test_success_has_no_pause() -> None:
    assert parse_status(202, {"retry-after": "5"}, 0).retry_after_ms == 0


@pytest.mark.parametrize(
    "url", ["", "shop.test/hook", "ftp://shop.test/", "https://", "http://[::1", "file:///etc/passwd"]
)
async def test_unusable_address_is_dead_and_never_called(endpoint: Endpoint, url: str) -> None:
    result = await endpoint.notifier.notify(shop(url), REGISTRATION, NOTIFICATION)
    assert result.dead
    assert not endpoint.requests


async def test_app_without_settings_is_dead(endpoint: Endpoint) -> None:
    assert (await endpoint.notifier.notify(App(name="shop"), REGISTRATION, NOTIFICATION)).dead


def test_endpoint_does_not_print_its_secret() -> None:
    found = parse_endpoint(shop())
    assert found
    assert "s3cret" not in repr(found)
    assert "shop.test" not in repr(found)


@pytest.mark.parametrize(
    ("error", "detail"),
    [(httpx.ConnectError("host shop.test"), "connection"), (httpx.ReadTimeout("slow"), "timeout")],
)
async def test_trouble_on_the_way_is_for_now_and_names_no_address(
    endpoint: Endpoint, error: Exception, detail: str
) -> None:
    async def answer() -> httpx.Response:
        raise error

    endpoint.answer = answer
    result = await endpoint.notifier.notify(shop(), REGISTRATION, NOTIFICATION)
    assert (result.ok, result.dead, result.detail) == (False, False, detail)


async def test_failing_address_is_left_alone_for_a_while_and_then_tried_once(endpoint: Endpoint) -> None:
    endpoint.status = 500
    for _ in range(3):
        await endpoint.notifier.notify(shop(), REGISTRATION, NOTIFICATION)
    refused = await endpoint.notifier.notify(shop(), REGISTRATION, NOTIFICATION)
    assert (refused.detail, refused.retry_after_ms, len(endpoint.requests)) == ("circuit open", 1_000, 3)
    assert endpoint.metrics.value(Metric.CIRCUITS_OPENED, "webhook") == 1
    other = await endpoint.notifier.notify(shop("https://other.test/"), REGISTRATION, NOTIFICATION)
    assert other.detail == "HTTP 500"  # each address has its own
    endpoint.now_ms += 1_000
    await endpoint.notifier.notify(shop(), REGISTRATION, NOTIFICATION)  # the probe fails: longer
    assert len(endpoint.requests) == 5
    endpoint.now_ms += 1_500
    assert (await endpoint.notifier.notify(shop(), REGISTRATION, NOTIFICATION)).detail == "circuit open"
    endpoint.now_ms += 500
    endpoint.status = 200
    assert (await endpoint.notifier.notify(shop(), REGISTRATION, NOTIFICATION)).ok
    endpoint.status = 500
    assert (await endpoint.notifier.notify(shop(), REGISTRATION, NOTIFICATION)).detail == "HTTP 500"  # clean slate


async def test_only_one_probe_at_a_time(endpoint: Endpoint) -> None:
    endpoint.status = 500
    for _ in range(3):
        await endpoint.notifier.notify(shop(), REGISTRATION, NOTIFICATION)
    endpoint.now_ms += 1_000
    held = asyncio.Event()

    async def answer() -> httpx.Response:
        await held.wait()
        return reply(200)

    endpoint.answer = answer
    probe = asyncio.create_task(endpoint.notifier.notify(shop(), REGISTRATION, NOTIFICATION))
    async with asyncio.timeout(30):
        while len(endpoint.requests) < 4:
            await asyncio.sleep(0)
    assert (await endpoint.notifier.notify(shop(), REGISTRATION, NOTIFICATION)).detail == "circuit open"
    held.set()
    assert (await probe).ok
    assert (await endpoint.notifier.notify(shop(), REGISTRATION, NOTIFICATION)).ok


async def test_call_that_is_cut_off_counts_against_the_address(endpoint: Endpoint) -> None:
    async def answer() -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    endpoint.answer = answer
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await endpoint.notifier.notify(shop(), REGISTRATION, NOTIFICATION)
    assert (await endpoint.notifier.notify(shop(), REGISTRATION, NOTIFICATION)).detail == "circuit open"


async def test_refused_registrations_do_not_open_the_circuit(endpoint: Endpoint) -> None:
    endpoint.status = 410
    for _ in range(10):
        assert (await endpoint.notifier.notify(shop(), REGISTRATION, NOTIFICATION)).detail == "HTTP 410"


async def test_endless_answer_is_cut_after_its_head() -> None:
    """A real socket: the server never stops sending; the call ends nevertheless."""
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                writer.write(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")
                await writer.drain()
        except ConnectionError:
            gone.set()
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    notifier = WebhookNotifier(Settings(), push_ids=PushIds(b"k" * 16), metrics=Metrics(process=False))
    async with asyncio.timeout(60):
        result = await notifier.notify(shop(f"http://127.0.0.1:{port}/"), REGISTRATION, NOTIFICATION)
        assert result.ok
        await gone.wait()
    await notifier.close()
    server.close()
    await server.wait_closed()


def answers() -> Iterator[tuple[Answer, bool, bool]]:
    yield Answer.OK, True, False
    yield Answer.RETRY, False, False
    yield Answer.DEAD, False, True


async def test_stub_answers_as_told_and_remembers_what_it_was_asked() -> None:
    stub = StubNotifier()
    stub.expect(*(answer for answer, _, _ in answers()))
    for _, ok, dead in answers():
        result = await stub.notify(shop(), REGISTRATION, NOTIFICATION)
        assert (result.ok, result.dead) == (ok, dead)
    assert (await stub.notify(shop(), REGISTRATION, NOTIFICATION)).ok
    assert [(c.app, c.account, c.notification) for c in stub.calls] == [("shop", "ann", 9)] * 4
    stub.answer = Answer.HANG
    call = asyncio.create_task(stub.notify(shop(), REGISTRATION, NOTIFICATION))
    await asyncio.sleep(0)
    assert not call.done()
    stub.release()
    assert (await call).ok


async def test_every_notifier_is_known_by_its_own_name() -> None:
    notifiers = build_notifiers(Config(), Metrics(process=False), PushIds(b"k" * 16))
    assert set(notifiers) == {"apns", "fcm", "webpush", "webhook", "stub"}
    for name, notifier in notifiers.items():
        assert notifier.name == name
        await notifier.close()


async def test_connection_is_kept_for_the_next_call() -> None:
    connections = 0
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(h.split(b":")[1]) for h in head.lower().split(b"\r\n") if h.startswith(b"content-length")
                )
                await reader.readexactly(length)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        except asyncio.IncompleteReadError:
            writer.close()
            await writer.wait_closed()
            ended.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    notifier = WebhookNotifier(Settings(), push_ids=PushIds(b"k" * 16), metrics=Metrics(process=False))
    async with asyncio.timeout(60):
        for _ in range(3):
            assert (await notifier.notify(shop(f"http://127.0.0.1:{port}/"), REGISTRATION, NOTIFICATION)).ok
        assert connections == 1
        await notifier.close()
        await ended.wait()
    server.close()
    await server.wait_closed()
