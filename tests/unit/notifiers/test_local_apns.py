"""The APNs that runs here: it is as strict as Apple's where a client's connection and identity are concerned."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import h2.connection
import h2.events
import h2.settings
import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.notifiers.apns.local import LocalApns
from gateway.notifiers.connections import build_client, build_context
from gateway.notifiers.local_h2 import MAX_STREAMS
from gateway.notifiers.local_tls import Authority, Issued

DEVICE = "0a1b2c3d" * 8


@pytest.fixture
async def apns(authority: Authority) -> AsyncIterator[LocalApns]:
    async with LocalApns(authority=authority) as apns:
        apns.add_device(DEVICE)
        yield apns


def bearer(apns: LocalApns, key: ec.EllipticCurvePrivateKey, key_id: str) -> str:
    claims = {"iss": apns.team_id, "iat": int(time.time())}
    return f"bearer {jwt.encode(claims, key, algorithm='ES256', headers={'kid': key_id})}"


class Sender:
    """A client of APNs with one connection."""

    def __init__(self, apns: LocalApns, issued: Issued | None = None) -> None:
        self._url = f"{apns.url}/3/device/{DEVICE}"
        self._client = build_client(build_context(apns.ca, *(issued or ())), connections=1)

    async def reason(self, *headers: tuple[str, str], **one_each: str) -> str:
        fields = [*headers, *((name.replace("_", "-"), value) for name, value in one_each.items())]
        if "apns_push_type" not in one_each:
            fields.append(("apns-push-type", "alert"))
        answer = await self._client.post(self._url, headers=httpx.Headers(fields), content=b"{}")
        return "" if answer.status_code == 200 else str(answer.json()["reason"])

    async def close(self) -> None:
        await self._client.aclose()


async def test_certificate_is_for_the_topic_in_it(apns: LocalApns) -> None:
    for name, headers, reason in (
        (apns.topic, {}, ""),
        (apns.topic, {"apns_topic": apns.topic}, ""),
        (apns.topic, {"apns_topic": "com.other"}, "TopicDisallowed"),
        ("com.other", {}, "BadCertificate"),
        ("com.other", {"apns_topic": apns.topic}, "BadCertificate"),
    ):
        sender = Sender(apns, apns.authority.issue(name=name))
        assert await sender.reason(**headers) == reason
        await sender.close()


async def test_connection_stays_with_the_key_it_began_with(apns: LocalApns) -> None:
    other = apns.add_key("OTHERKEY12")
    sender = Sender(apns)
    topic = apns.topic
    assert await sender.reason(authorization=bearer(apns, apns.key, apns.key_id), apns_topic=topic) == ""
    other_token = bearer(apns, other, "OTHERKEY12")
    assert await sender.reason(authorization=other_token, apns_topic=topic) == "UnrelatedKeyIdInToken"
    await sender.close()
    sender = Sender(apns)
    assert await sender.reason(authorization=other_token, apns_topic=topic) == ""
    await sender.close()


async def test_header_that_comes_twice_is_refused(apns: LocalApns) -> None:
    sender = Sender(apns)
    token = bearer(apns, apns.key, apns.key_id)
    twice = [("apns-topic", apns.topic)] * 2
    assert await sender.reason(*twice, authorization=token) == "DuplicateHeaders"
    await sender.close()


@pytest.mark.parametrize("push_type", ["alert", "pushtotalk", "widgets", "controls", "liveactivity"])
async def test_every_push_type_of_apple_is_known(apns: LocalApns, push_type: str) -> None:
    sender = Sender(apns)
    token = bearer(apns, apns.key, apns.key_id)
    headers = {"authorization": token, "apns_topic": apns.topic, "apns_push_type": push_type}
    assert await sender.reason(**headers) == ""
    await sender.close()


async def test_streams_are_advertised_in_the_first_frame(apns: LocalApns) -> None:
    context = apns.authority.client_context(alpn=["h2"])
    reader, writer = await asyncio.open_connection("localhost", apns.port, ssl=context)
    client = h2.connection.H2Connection()
    client.initiate_connection()
    events: list[h2.events.Event] = []
    while not events:
        events += client.receive_data(await reader.read(65_536))
    [first, *_] = events
    assert isinstance(first, h2.events.RemoteSettingsChanged)
    streams = first.changed_settings[h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS]
    assert streams.new_value == MAX_STREAMS
    writer.close()
