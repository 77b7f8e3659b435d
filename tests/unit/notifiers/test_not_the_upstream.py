"""What answers at the upstream's address and is not it, or not well: it must mark no address, and say what is wrong."""

from __future__ import annotations

import asyncio
import ssl

import pytest
from upstream_rig import build_app, build_notification, build_registration
from upstream_scene import UpstreamScene

from gateway.model.registration import Registration
from gateway.notifiers.apns import errors as apns
from gateway.notifiers.apns.client import ApnsNotifier
from gateway.notifiers.apns.local import LocalApns
from gateway.notifiers.fcm import errors as fcm
from gateway.notifiers.local_tls import Authority
from gateway.notifiers.upstream import Row

DEVICE = "0a1b2c3d" * 8


class Apns(UpstreamScene[LocalApns, ApnsNotifier]):
    def device(self) -> Registration:
        return build_registration("apns", self.upstream.add_device(DEVICE))


async def test_apns_that_speaks_http_1_alone_is_said_to_and_its_200_is_none(authority: Authority) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    context: ssl.SSLContext = authority.server_context()
    context.set_alpn_protocols(["http/1.1"])
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with Apns(LocalApns, ApnsNotifier, authority) as scene:
        url = f"https://localhost:{server.sockets[0].getsockname()[1]}"
        app = build_app("apns", {**scene.upstream.settings(), "url": url})
        result = await scene.notifier.notify(app, scene.device(), build_notification())
        assert (result.ok, result.dead, result.detail) == (False, False, "no HTTP/2")
        assert (await scene.push()).ok
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize(
    ("status", "reason", "row"),
    [
        (503, "Unregistered", apns.UNKNOWN_FAILURE),
        (400, "ExpiredToken", apns.UNKNOWN_REFUSAL),
        (500, "BadDeviceToken", apns.UNKNOWN_FAILURE),
        (429, "BadDeviceToken", apns.UNKNOWN_THROTTLE),
        (400, "TooManyRequests", apns.UNKNOWN_REFUSAL),
        (400, "ServiceUnavailable", apns.UNKNOWN_REFUSAL),
        (403, "TopicDisallowed", apns.BY_REASON["TopicDisallowed"]),  # both say: refused
        (410, "Unregistered", apns.BY_REASON["Unregistered"]),
    ],
)
def test_reason_of_apns_that_does_not_go_with_its_status_is_none(status: int, reason: str, row: Row) -> None:
    answer = apns.parse_answer(status, {}, b'{"reason":"%s","timestamp":1}' % reason.encode(), 0)
    assert answer.row is row
    assert answer.gone_at_ms == (status == 410)


@pytest.mark.parametrize(
    ("status", "row"),
    [(503, fcm.UNKNOWN_FAILURE), (400, fcm.UNKNOWN_REFUSAL), (404, fcm.BY_REASON["UNREGISTERED"])],
)
def test_error_of_fcm_that_does_not_go_with_its_status_is_none(status: int, row: Row) -> None:
    body = b'{"error":{"status":"NOT_FOUND","details":[{"errorCode":"UNREGISTERED"}]}}'
    assert fcm.parse_answer(status, {}, body, 0).row is row
