"""Requests over a connection that is read natively: what is said of one that got no answer, and what is left of it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import nats.errors
import pytest
import uvloop
from nats_rig import connected

from gateway.cluster.jetstream import JetStream, NoAnswer, NobodyThere, NotSent, Refused

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    return request.param  # type: ignore[no-any-return]


class Link:
    def __init__(self, client: Any) -> None:
        self.nats = client

    @property
    def is_up(self) -> bool:
        return bool(self.nats.is_connected)


class Server:
    """What it was sent and sends, word by word."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.subscribed: list[bytes] = []  # numbers of the subscriptions

    async def request(self) -> tuple[bytes, bytes, bytes]:
        """(inbox, header, payload) of the next."""
        async with asyncio.timeout(60):
            while True:
                words = (await self._reader.readline()).split()
                if words[0] == b"SUB":
                    self.subscribed.append(words[-1])
                elif words[0] in (b"PUB", b"HPUB"):
                    raw = (await self._reader.readexactly(int(words[-1]) + 2))[:-2]
                    size = int(words[-2]) if words[0] == b"HPUB" else 0
                    if words[1] == b"ask":
                        return words[2], raw[:size], raw[size:]

    def answer(self, inbox: bytes, payload: bytes, header: bytes = b"") -> None:
        sizes = b"%d %d" % (len(header), len(header) + len(payload)) if header else b"%d" % len(payload)
        kind = b"HMSG" if header else b"MSG"
        self._writer.write(b"%s %s %s %s\r\n%s%s\r\n" % (kind, inbox, self.subscribed[-1], sizes, header, payload))

    async def is_heard(self, client: Any) -> None:
        """What it sent before was read."""
        pong = asyncio.get_running_loop().create_future()
        client._pongs.append(pong)
        self._writer.write(b"PONG\r\n")
        async with asyncio.timeout(60):
            await pong


@contextlib.asynccontextmanager
async def scene(**options: Any) -> AsyncIterator[tuple[JetStream, Any, Server]]:
    met: asyncio.Future[Server] = asyncio.get_running_loop().create_future()
    end = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        met.set_result(Server(reader, writer))
        await end.wait()

    async with connected(serve, **options) as (client, _):
        try:
            yield JetStream(Link(client), timeout_s=20), client, await met
        finally:
            end.set()


def waiting(client: Any) -> int:
    return len(client._ps.requests._waiting)


async def fill(client: Any) -> None:
    """Until the connection has no room, and the client waits for some."""
    while client._transport.has_room:
        await client.publish("other", bytes(1_000_000))
        await asyncio.sleep(0)


@pytest.mark.parametrize("pending_size", [-1, 1])  # 1: to subscribe takes the client more than a turn
def test_many_first_requests_share_a_subscription_and_get_their_own_answers(run: Run, pending_size: int) -> None:
    async def play() -> None:
        async with scene(pending_size=pending_size) as (js, client, server):
            asked = [asyncio.ensure_future(js.request("ask", b"%d" % n)) for n in range(20)]
            came = [await server.request() for _ in asked]
            futures = [weakref.ref(future) for future in client._ps.requests._waiting.values()]
            assert len(server.subscribed) == 1
            assert len({inbox for inbox, _, _ in came}) == 20
            for inbox, _, payload in reversed(came):
                server.answer(inbox, b'{"n":%s}' % payload)
            assert [said["n"] for said in await asyncio.gather(*asked)] == list(range(20))
            assert waiting(client) == 0
            gc.collect()
            assert len(futures) == 20
            assert not any(future() for future in futures)  # no timer has one either

    run(play())


def test_a_large_payload_is_not_copied_on_its_way_to_the_connection(run: Run) -> None:
    async def play() -> None:
        async with scene() as (js, client, server):
            write, sent = client._transport.writelines, list[bytes]()

            def look(pieces: Any) -> None:
                sent.extend(pieces)
                write(pieces)

            client._transport.writelines = look
            for _ in range(2):  # behind the subscription, and with nothing before it
                body = bytes(200_000)
                asked = asyncio.ensure_future(js.request("ask", body, {"Name": "value"}))
                inbox, header, payload = await server.request()
                server.answer(inbox, b"{}")
                assert await asked == {}
                assert (header, payload) == (b"NATS/1.0\r\nName: value\r\n\r\n", body)
                assert any(piece is body for piece in sent)

    run(play())


def test_a_server_where_nobody_listens_says_so_and_another_status_says_nothing(run: Run) -> None:
    async def play() -> None:
        async with scene() as (js, _, server):
            for header, error in (
                (b"NATS/1.0 503\r\n\r\n", NobodyThere),
                (b"NATS/1.0 408 Request Timeout\r\n\r\n", NoAnswer),
                (b"NATS/1.0\r\nStatus: 503\r\n\r\n", NoAnswer),
            ):
                asked = asyncio.ensure_future(js.request("ask", b""))
                inbox, _, _ = await server.request()
                server.answer(inbox, b"", header)
                with pytest.raises(error):
                    await asked
            asked = asyncio.ensure_future(js.request("ask", b""))
            inbox, _, _ = await server.request()
            server.answer(inbox, b'{"error":{"err_code":10071,"description":"no"}}', b"NATS/1.0\r\nA: b\r\n\r\n")
            with pytest.raises(Refused):
                await asked

    run(play())


def test_an_answer_that_is_late_or_comes_twice_is_nobodys(run: Run) -> None:
    async def play() -> None:
        async with scene() as (js, client, server):
            with pytest.raises(NoAnswer):
                await js.request("ask", b"1", timeout_s=0.01)
            asked = asyncio.ensure_future(js.request("ask", b"2"))
            late, _, _ = await server.request()
            given_up = asyncio.ensure_future(js.request("ask", b"3"))
            inbox, _, _ = await server.request()
            cancelled, _, _ = await server.request()
            given_up.cancel()
            with pytest.raises(asyncio.CancelledError):
                await given_up
            assert waiting(client) == 1
            for where, what in ((late, b"1"), (cancelled, b"3"), (inbox, b"2"), (inbox, b"4")):
                server.answer(where, b'{"n":%s}' % what)
            assert await asked == {"n": 2}
            await server.is_heard(client)
            assert waiting(client) == 0

    run(play())


def test_what_is_too_large_with_its_header_does_not_leave(run: Run) -> None:
    async def play() -> None:
        async with scene() as (js, client, server):
            most = bytes(client.max_payload - len(b"NATS/1.0\r\nA: b\r\n\r\n"))
            with pytest.raises(NotSent):
                await js.request("ask", most + b"x", {"A": "b"})
            asked = asyncio.ensure_future(js.request("ask", most, {"A": "b"}))
            inbox, _, payload = await server.request()
            server.answer(inbox, b"{}")
            assert await asked == {}
            assert payload == most

    run(play())


@pytest.mark.parametrize(
    ("subject", "headers"), [("", None), ("a b", None), ("a\r\nPUB", None), ("a", {"a b": "c"}), ("a", {"": "c"})]
)
def test_what_would_be_another_command_does_not_leave(run: Run, subject: str, headers: dict[str, str] | None) -> None:
    async def play() -> None:
        async with scene() as (_, client, server):
            with pytest.raises(nats.errors.Error):
                await client._ps.requests.request(subject, b"", 20, headers)
            asked = asyncio.ensure_future(client._ps.requests.request("ask", b"", 20, {"a": "b\r\nPUB x 0\r\n"}))
            inbox, header, _ = await server.request()
            assert header == b"NATS/1.0\r\na: b  PUB x 0\r\n\r\n"
            server.answer(inbox, b"yes")
            assert await asked == b"yes"

    run(play())


def test_what_waits_for_room_is_taken_back_when_nobody_waits_for_it_any_more(run: Run) -> None:
    async def play() -> None:
        async with scene(pending_size=-1) as (js, client, server):
            asked = asyncio.ensure_future(js.request("ask", b"first"))
            inbox, _, _ = await server.request()
            server.answer(inbox, b"{}")
            await asked
            await fill(client)
            before = client.pending_data_size
            kept = asyncio.ensure_future(js.request("ask", b"kept" * 50_000))
            given_up = asyncio.ensure_future(js.request("ask", b"cancelled" * 50_000))
            with pytest.raises(NotSent):
                await js.request("ask", b"late" * 50_000, timeout_s=0.01)
            given_up.cancel()
            with pytest.raises(asyncio.CancelledError):
                await given_up
            assert before < client.pending_data_size < before + 201_000
            assert client.pending_data_size == sum(map(len, client._pending))
            inbox, _, payload = await server.request()  # it reads again
            server.answer(inbox, b"{}")
            assert await kept == {}
            assert payload == b"kept" * 50_000
            asked = asyncio.ensure_future(js.request("ask", b"last"))
            assert (await server.request())[2] == b"last"
            asked.cancel()

    run(play())


def test_what_was_given_to_the_connection_may_have_left(run: Run) -> None:
    async def play() -> None:
        async with scene(pending_size=-1) as (js, client, server):
            with pytest.raises(NoAnswer):
                await js.request("ask", b"x" * 200_000, timeout_s=0.01)
            assert (await server.request())[2] == b"x" * 200_000
            asked = asyncio.ensure_future(js.request("ask", b"", timeout_s=0.05))
            await server.request()
            client._transport._connection.abort()
            with pytest.raises(NoAnswer):  # by its time: the answer may be on its way
                await asked
            assert waiting(client) == 0

    run(play())


def test_nothing_is_kept_for_a_connection_that_is_lost_or_about_to_end(run: Run) -> None:
    async def play() -> None:
        async with scene(pending_size=-1) as (js, client, server):
            asked = asyncio.ensure_future(js.request("ask", b""))
            inbox, _, _ = await server.request()
            server.answer(inbox, b"{}")
            await asked
            status = client._status
            for other in (client.DRAINING_SUBS, client.DRAINING_PUBS, client.RECONNECTING):
                client._status = other
                with pytest.raises(NotSent):
                    await js.request("ask", b"x")
            client._status = status
            client._transport._connection.abort()  # of which the client has not heard yet
            assert client.is_connected
            with pytest.raises(NotSent):
                await js.request("ask", b"x")
            assert not client._pending
            assert waiting(client) == 0

    run(play())


def test_what_stands_before_a_client_is_asked_itself(run: Run) -> None:
    class Before:
        def __init__(self, client: Any) -> None:
            self._client = client

        def __getattr__(self, name: str) -> Any:
            return getattr(self._client, name)

        async def request(self, *_: Any, **__: Any) -> Any:
            raise nats.errors.TimeoutError

    async def play() -> None:
        async with scene() as (_, client, _):
            with pytest.raises(NoAnswer):
                await JetStream(Link(Before(client))).request("ask", b"")
            assert not client._subs

    run(play())
