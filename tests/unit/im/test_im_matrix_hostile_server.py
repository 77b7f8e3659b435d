"""A homeserver that means harm, or is none: nothing but the four words of a connector comes out, in time and bounds."""

from __future__ import annotations

import asyncio
import gzip
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.im.connectors import ConnectorSettings
from gateway.im.connectors.matrix import build
from gateway.im.connectors.matrix.connector import MatrixConnector
from gateway.model.im import (
    AuthFailed,
    Conversation,
    ConversationKind,
    Credentials,
    CursorForgotten,
    Envelope,
    MarkRead,
    Media,
    Message,
    Moved,
    Person,
    Rejected,
    Transient,
)
from gateway.notifiers.connections import load_certificate
from gateway.notifiers.local_tls import Authority

SETTINGS = ConnectorSettings(private_hosts=True, request_s=0.5, media_bytes=1_000)
ROOM = "!room:x"
Answer = Callable[[str], bytes]


def build_http(body: bytes, status: str = "200 OK", more: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body


def build_json(answer: object, status: str = "200 OK") -> bytes:
    return build_http(msgspec.json.encode(answer), status)


HONEST: dict[str, object] = {
    "/login": {"access_token": "t", "user_id": "@me:x"},
    "/account/whoami": {"user_id": "@me:x"},
    "/m.direct": {},
    "/sync": {"next_batch": "s1"},
    "/send/": {"event_id": "$1"},
}


def answer_honestly(path: str) -> bytes:
    for part, answer in HONEST.items():
        if part in path:
            return build_json(answer)
    return build_json({"errcode": "M_NOT_FOUND"}, "404 Not Found")


class Server:
    """Answers each request as it is told; counts connections."""

    def __init__(self, answer: Answer, pause_s: float = 0.0) -> None:
        self.answer = answer
        self._pause_s = pause_s
        self.paths: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                path = head.split(" ")[1]
                self.paths.append(path)
                for line in head.split("\r\n"):
                    if line.lower().startswith("content-length:"):
                        await reader.readexactly(int(line.partition(":")[2]))
                data = self.answer(path)
                if self._pause_s:
                    for at in range(len(data)):
                        writer.write(data[at : at + 1])
                        await asyncio.sleep(self._pause_s)
                else:
                    writer.write(data)
                    await writer.drain()
                if b"Content-Length" not in data:
                    return
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def served(
    answer: Answer, pause_s: float = 0.0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[Server, int]]:
    server = Server(answer, pause_s)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        await server.serve(reader, writer)

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield server, listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)


def credentials(port: int, **more: str) -> Credentials:
    return Credentials(
        {"user": "@me:x", "homeserver": f"http://127.0.0.1:{port}", "tls": "never", "password": "p"} | more
    )


async def open_once(port: int, cursor: bytes | None = None, **more: str) -> None:
    async with build(SETTINGS).open(credentials(port, **more), cursor):
        pass


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        pytest.param(b"", Transient, id="nothing"),
        pytest.param(b"\x00\xff" * 100, Transient, id="noise"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", Transient, id="ssh"),
        pytest.param(build_http(b"<html>hello</html>"), Transient, id="html"),
        pytest.param(build_http(b"[1, 2]"), Transient, id="a list"),
        pytest.param(build_http(b"[" * 100_000), Transient, id="deep"),
        pytest.param(build_json({}), Transient, id="no token"),
        pytest.param(build_json({"access_token": 5, "user_id": {}}), Transient, id="odd token"),
        pytest.param(build_json({"access_token": "a\r\nb", "user_id": "@me:x"}), Transient, id="token of two lines"),
        pytest.param(build_http(b"", "301 Moved", "Location: http://169.254.169.254/\r\n"), Transient, id="redirect"),
        pytest.param(build_http(gzip.compress(b"{}"), more="Content-Encoding: gzip\r\n"), Transient, id="compressed"),
        pytest.param(build_http(b"", "500 No"), Transient, id="trouble"),
        pytest.param(build_http(b"{}", "404 Not Found"), Rejected, id="not found"),
        pytest.param(build_json({"errcode": "M_FORBIDDEN"}, "403 No"), AuthFailed, id="wrong password"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 50_000, Transient, id="many headers"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", Transient, id="negative length"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 9_000_000, Rejected, id="endless"),
    ],
)
async def test_a_login_there_has_one_of_the_four_ends(raw: bytes, kind: type[Exception]) -> None:
    async with served(lambda _: raw) as (_, port):
        with pytest.raises(kind):
            await open_once(port)


async def test_who_answers_byte_by_byte_is_left() -> None:
    async with served(answer_honestly, pause_s=0.05) as (_, port), asyncio.timeout(3):
        with pytest.raises(Transient, match="in time"):
            await open_once(port)


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=80), st.sampled_from(["raw", "body", "json"]), st.sampled_from(list(HONEST)))
def test_whatever_it_says_to_one_request(data: bytes, how: str, which: str) -> None:
    def answer(path: str) -> bytes:
        if which not in path:
            return answer_honestly(path)
        if how == "json":
            return build_json({"user_id": data.hex(), "next_batch": data.hex(), "rooms": {data.hex(): 1}})
        return data if how == "raw" else build_http(data)

    async def run() -> None:
        async with served(answer) as (_, port):
            with suppress(AuthFailed, Transient, Rejected, CursorForgotten):
                await open_once(port, b"s0")

    asyncio.run(run())


async def test_an_answer_that_is_too_large_is_asked_for_in_less() -> None:
    def answer(path: str) -> bytes:
        if "/sync" in path and "%22limit%22%3A3%2C" not in path:
            return build_http(b" " * 9_000_000)
        return answer_honestly(path)

    async with served(answer) as (server, port):
        await open_once(port, b"s0")
        assert len([path for path in server.paths if "/sync" in path]) == 3  # 50, 12, 3 events a room


async def test_a_timeline_without_end_is_given_up_by_its_token() -> None:
    """Pages that lead nowhere end; what they brought is told."""
    limited = {"timeline": {"events": [], "limited": True, "prev_batch": "s9"}}

    def answer(path: str) -> bytes:
        if "/messages" in path:
            said = {"type": "m.room.message", "event_id": "$5", "sender": "@a:x", "content": {"msgtype": "m.text"}}
            said["content"] = {"msgtype": "m.text", "body": "missed"}
            return build_json({"chunk": [said], "end": "s0"})
        if "/sync" in path and "since=s0" in path:
            return build_json({"next_batch": "s1", "rooms": {"join": {ROOM: limited}}})
        return answer_honestly(path)

    async with (
        served(answer) as (_, port),
        build(SETTINGS).open(credentials(port), b"s0") as session,
    ):
        event = await asyncio.wait_for(anext(session.events()), 3)
        assert isinstance(event, Message)
        assert (event.envelope.text, event.cursor) == ("missed", b"s1")


async def test_what_goes_wrong_in_a_session_is_transient() -> None:
    is_broken = False

    def answer(path: str) -> bytes:
        return build_http(b"{}", "403 No") if is_broken and "/sync" in path else answer_honestly(path)

    async with served(answer) as (_, port), build(SETTINGS).open(credentials(port), b"s0") as session:
        is_broken = True
        with pytest.raises(Transient):
            async for _ in session.events():
                pass


async def test_a_file_is_cut_off_at_its_bound() -> None:
    def answer(path: str) -> bytes:
        if "announced" in path:
            return build_http(b"x" * 2_000)
        return b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 200_000 if "download" in path else answer_honestly(path)

    async with served(answer) as (_, port), build(SETTINGS).open(credentials(port), b"s0") as session:
        for media in ("mxc://x/announced", "mxc://x/grows", "https://10.0.0.1/x"):
            with pytest.raises(Rejected):
                async for _ in session.fetch(Media(media)):
                    pass


async def test_a_file_that_stops_coming_is_transient() -> None:
    def answer(path: str) -> bytes:
        return b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" if "download" in path else answer_honestly(path)

    async with served(answer) as (_, port), build(SETTINGS).open(credentials(port), b"s0") as session:
        with pytest.raises(Transient, match="in time"):
            async for _ in session.fetch(Media("mxc://x/y")):
                pass


async def test_what_is_under_way_when_a_session_ends_is_transient() -> None:
    def answer(path: str) -> bytes:
        # the head of an answer that never comes
        is_late = "/send/" in path or ("/sync" in path and "since=s1" in path)
        return b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n" if is_late else answer_honestly(path)

    text = Envelope(
        network="matrix", conversation=Conversation(ConversationKind.ROOM, ROOM), sender=Person(""), text="x"
    )
    async with served(answer) as (_, port):
        async with build(SETTINGS._replace(request_s=20.0)).open(credentials(port), b"s0") as session:
            events = session.events()
            waiting = [asyncio.create_task(session.send(text))]
            first = await anext(events)
            assert first == Moved(b"s1")
            waiting.append(asyncio.create_task(anext(events)))  # type: ignore[arg-type]
            await asyncio.sleep(0.1)
        ends = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5)
        assert [type(end) for end in ends] == [Transient, Transient]
        with pytest.raises(Transient):
            await session.send(text)


async def test_ids_stay_in_their_place_in_a_path() -> None:
    async with served(answer_honestly) as (server, port), build(SETTINGS).open(credentials(port), b"s0") as session:
        room = Conversation(ConversationKind.ROOM, "!a/../../admin?x=1#:x")
        text = Envelope(network="matrix", conversation=room, sender=Person(""), text="hi", txn_id="a/b c")
        assert await session.send(text) == "$1"
        assert "/rooms/%21a%2F..%2F..%2Fadmin%3Fx%3D1%23%3Ax/send/m.room.message/a%2Fb%20c" in server.paths[-1]
        with pytest.raises(Rejected):
            await session.act(MarkRead(room, "x" * 300))


async def test_a_login_is_kept_and_made_again_where_it_was_taken_back() -> None:
    is_revoked = False

    def answer(path: str) -> bytes:
        if is_revoked and "/whoami" in path:
            return build_json({"errcode": "M_UNKNOWN_TOKEN"}, "401 No")
        return answer_honestly(path)

    async with served(answer) as (server, port):
        connector = build(SETTINGS)
        for _ in range(3):
            async with connector.open(credentials(port), b"s0"):
                pass
        assert len([path for path in server.paths if "/login" in path]) == 1
        is_revoked = True
        async with connector.open(credentials(port), b"s0"):
            pass
        assert len([path for path in server.paths if "/login" in path]) == 2
        with pytest.raises(AuthFailed):
            await open_once(port, token="old")


async def test_a_token_of_somebody_else_is_no_login() -> None:
    async with served(answer_honestly) as (_, port):
        with pytest.raises(AuthFailed):
            await open_once(port, user="@you:x", token="t")


async def test_a_server_in_the_operators_network_is_not_reached() -> None:
    async with served(answer_honestly) as (server, port):
        with pytest.raises(Rejected, match="public internet"):
            async with build(ConnectorSettings()).open(credentials(port), None):
                pass
        assert server.paths == []


# --- TLS, and where a server is ---


def build_tls(host: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's."""
    authority = Authority()
    issued = authority.issue(host)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_certificate(context, issued.certificate + issued.key)
    return context, authority.client_context()


@pytest.mark.parametrize("name", ["localhost", "another.example"])
async def test_the_certificate_has_to_be_the_hosts_and_not_the_addresss(name: str) -> None:
    theirs, ours = build_tls(name)

    def answer(path: str) -> bytes:
        if "/.well-known/" in path:
            return build_json({"m.homeserver": {"base_url": f"https://localhost:{port}/"}})
        return answer_honestly(path)

    async with served(answer, tls=theirs) as (server, port):
        connector = MatrixConnector(SETTINGS, ours)
        login = Credentials({"user": f"@me:localhost:{port}", "password": "p"})
        if name == "localhost":
            async with connector.open(login, b"s0"):
                pass
            assert server.paths[0] == "/.well-known/matrix/client"
        else:
            with pytest.raises(Transient):
                async with connector.open(login, b"s0"):
                    pass


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        pytest.param(build_json({"m.homeserver": {"base_url": "http://localhost/"}}), Rejected, id="plain"),
        pytest.param(build_json({"m.homeserver": {"base_url": "nowhere at all"}}), Rejected, id="no address"),
        pytest.param(build_json({"m.homeserver": 5}), Transient, id="no object"),
        pytest.param(build_http(b"", "302 Found", "Location: http://localhost/\r\n"), Rejected, id="away from tls"),
        pytest.param(build_http(b"", "302 Found", "Location: /again\r\n"), Transient, id="in a ring"),
        pytest.param(build_http(b"", "403 No"), Rejected, id="forbidden"),
    ],
)
async def test_who_says_where_a_server_is_may_lie(raw: bytes, kind: type[Exception]) -> None:
    theirs, ours = build_tls("localhost")
    async with served(lambda _: raw, tls=theirs) as (_, port):
        with pytest.raises(kind):
            async with MatrixConnector(SETTINGS, ours).open(
                Credentials({"user": f"@me:localhost:{port}", "password": "p"}), None
            ):
                pass


async def test_logs_hold_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        async with served(answer_honestly) as (_, port):
            await open_once(port)
    lines = [record for record in caplog.records if record.name.partition(".")[0] in ("httpx", "httpcore", "gateway")]
    assert lines == []
