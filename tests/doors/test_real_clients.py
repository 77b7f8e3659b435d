"""Unmodified provider libraries push through a whole gateway to the device SDK: pywebpush, node's web-push, aioapns."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
from open_house import House, until
from pywebpush import WebPushException, webpush
from web_push_sender import Sender, base64url

from gateway.client import Device
from gateway.client.webpush import Subscription
from gateway.notifiers.local_tls import Authority

ROOT = Path(__file__).parents[2]
NODE = shutil.which("node") and shutil.which("npm")
TOPIC = "com.example.shop"


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def ca_file(authority: Authority, tmp_path: Path) -> str:
    return str(authority.write(tmp_path / "tls"))


@pytest.fixture
async def house(tmp_path: Path, authority: Authority, ca_file: str) -> AsyncIterator[House]:
    server = authority.issue("localhost", "127.0.0.1", "api.push.apple.com").write(tmp_path / "tls")
    settings = {
        "api.tls_cert": str(server.cert),
        "api.tls_key": str(server.key),
        "api.tls_port": 0,
        "api.tls_client_ca": ca_file,
        "api.tls_client_auth": "optional",
    }
    async with House(tmp_path / "house", settings) as house:
        yield house


async def set_app(house: House, **fields: Any) -> None:
    admin = house.gateway.admin_key_file.read_text().strip()
    answer = await house.http.patch("/v1/apps/shop", headers={"authorization": f"Bearer {admin}"}, json=fields)
    assert answer.status_code == 200, answer.text


# --- Web Push -----------------------------------------------------------------------------------------------------


def private_of(sender: Sender) -> str:
    """The form pywebpush and web-push take."""
    return base64url(sender.private.private_numbers().private_value.to_bytes(32, "big"))


async def send_with_pywebpush(
    endpoint: dict[str, Any], text: str | None, sender: Sender, ca_file: str, **options: Any
) -> requests.Response:
    def send() -> Any:
        with requests.Session() as session:
            session.trust_env = False
            session.verify = ca_file
            return webpush(
                endpoint,
                text,
                vapid_private_key=private_of(sender),
                vapid_claims={"sub": "mailto:ops@example.com"},
                requests_session=session,
                timeout=20,
                **options,
            )

    return await asyncio.to_thread(send)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("encoding", ["aes128gcm", "aesgcm"])
async def test_pywebpush_to_the_sdk(house, ca_file, scheme, encoding):
    keys, sender = Subscription.generate(), Sender()
    async with Device("127.0.0.1", house.port) as device:
        registration = await device.register("shop", "1.0", vapid_key=sender.key)
        port = house.gateway.api.tls_port if scheme == "https" else house.gateway.api.port
        endpoint = keys.describe(f"{scheme}://localhost:{port}", registration.token)
        answer = await send_with_pywebpush(endpoint, "Grüße", sender, ca_file, ttl=60, content_encoding=encoding)
        assert answer.status_code == 201
        assert answer.headers["location"].startswith(f"{scheme}://localhost:{port}/push/message/")
        async with asyncio.timeout(60):
            message = await registration.__anext__()
        assert message.webpush is not None
        assert message.webpush.content_encoding == encoding
        assert keys.open(message.webpush) == "Grüße".encode()
        # without a body
        assert (await send_with_pywebpush(endpoint, None, sender, ca_file, ttl=60)).status_code == 201
        async with asyncio.timeout(60):
            message = await registration.__anext__()
        assert keys.open(message.webpush) == b""
        # somebody else's key
        with pytest.raises(WebPushException) as caught:
            await send_with_pywebpush(endpoint, "x", Sender(), ca_file, ttl=60)
        assert caught.value.response.status_code == 403
        # the device gives the token up
        await registration.unregister(forget=True)
        with pytest.raises(WebPushException) as caught:
            await send_with_pywebpush(endpoint, "x", sender, ca_file, ttl=60)
        assert caught.value.response.status_code == 410
        endpoint["endpoint"] = endpoint["endpoint"][:-22] + "A" * 22
        with pytest.raises(WebPushException) as caught:
            await send_with_pywebpush(endpoint, "x", sender, ca_file, ttl=60)
        assert caught.value.response.status_code == 404


async def post_with_curl(url: str, ca_file: str, *fields: str) -> list[bytes]:
    """Exit code and status of some tries, one after the other, with a body of a push's size."""
    options = f"--silent --http2 --cacert {ca_file} --noproxy * --output /dev/null --max-time 30".split()
    options += ["--write-out", "%{http_version} %{http_code} %{exitcode}", "--data-binary", "x" * 3_500]
    for field in fields:
        options += ["--header", field]
    seen = []
    for _ in range(5):
        curl = await asyncio.create_subprocess_exec("curl", *options, url, stdout=asyncio.subprocess.PIPE)
        seen.append((await curl.communicate())[0])
    return seen


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed: apt install curl")
async def test_curl_over_http2_sees_every_refusal_that_comes_before_its_body_was_read(house, ca_file):
    """Of curl 7.88 about half were lost ("Error in the HTTP/2 framing layer") while the stream was reset at once."""
    sender = Sender()
    await set_app(house, apns_topic=TOPIC)
    base = f"https://localhost:{house.gateway.api.tls_port}"
    async with Device("127.0.0.1", house.port) as device:
        given_up = await device.register("shop", "1.0")
        await given_up.unregister(forget=True)
        registration = await device.register("shop", "1.0", vapid_key=sender.key)
        for path, field, status in (
            (f"/push/{given_up.token}", "ttl: 60", "410"),
            ("/push/" + "A" * 22, "ttl: 60", "404"),
            (f"/push/{registration.token}", "ttl: 60", "401"),
            (f"/3/device/{registration.token}", f"apns-topic: {TOPIC}", "403"),
        ):
            fields = (field, "content-encoding: aes128gcm")
            assert await post_with_curl(base + path, ca_file, *fields) == [f"2 {status} 0".encode()] * 5


async def test_a_topic_replaces_what_waits_and_ttl_0_does_not(house, ca_file):
    keys, sender = Subscription.generate(), Sender()
    device = house.device()
    await device.login()
    token = await device.register("shop")
    device.vanish()
    endpoint = keys.describe(f"http://localhost:{house.gateway.api.port}", token)
    await until(lambda: not house.counter("links"))

    async def send(text: str, ttl: int = 60, **headers: Any) -> str:
        answer = await send_with_pywebpush(endpoint, text, sender, ca_file, ttl=ttl, headers=headers)
        assert answer.status_code == 201
        return answer.headers["location"]

    async def state(url: str) -> str:
        return (await house.http.get(url)).json()["state"]

    older, other = await send("older", topic="score"), await send("other")
    newer = await send("newer", topic="score")
    now_or_never = await send("late", ttl=0)
    await until(lambda: is_state(state, older, "replaced"))
    await until(lambda: is_state(state, now_or_never, "expired"))
    assert (await house.http.delete(other)).status_code == 204
    assert await state(other) == "recalled"
    assert (await house.http.delete(older)).status_code == 410
    async with house.http.stream("GET", newer) as answer:
        assert answer.status_code == 200


async def is_state(state: Any, url: str, wanted: str) -> bool:
    return await state(url) == wanted


async def test_receipts_over_http2_and_as_a_stream(house, authority):
    keys = Subscription.generate()
    base = f"https://localhost:{house.gateway.api.tls_port}"
    async with (
        httpx.AsyncClient(
            verify=authority.client_context(), http1=False, http2=True, trust_env=False, timeout=20
        ) as web,
        Device("127.0.0.1", house.port) as device,
    ):
        registration = await device.register("shop", "1.0")
        url = keys.describe(base, registration.token)["endpoint"]

        async def ask(ttl: int = 60, **headers: str) -> httpx.Response:
            signed = {**Sender(base).headers(), "ttl": str(ttl), "prefer": "respond-async", **headers}
            answer = await web.post(url, headers=signed)
            assert answer.status_code == 202, answer.text
            return answer

        first = await ask()
        receipts = first.links["urn:ietf:params:push:receipt"]["url"]
        answer = await web.get(receipts)
        assert answer.status_code == 204
        assert answer.links["item"]["url"] == first.headers["location"]
        seen: list[dict[str, Any]] = []

        async def watch() -> None:
            async with web.stream("GET", receipts, headers={"accept": "text/event-stream"}) as stream:
                assert stream.http_version == "HTTP/2"
                async for line in stream.aiter_lines():
                    if line.startswith("data: "):
                        seen.append(json.loads(line[6:]))
                        if len(seen) == 3:
                            return

        watching = asyncio.create_task(watch())
        second = await ask(**{"push-receipt": receipts})
        await ask()  # another subscription's
        await until(lambda: len(seen) == 2)
        await registration.unregister()
        await until(lambda: not house.gateway.edge.is_connected(1))
        gone = await ask(0, **{"push-receipt": receipts})
        async with asyncio.timeout(60):
            await watching
        wanted = [(first, 204), (second, 204), (gone, 410)]
        assert [(e["message"], e["status"]) for e in seen] == [(a.headers["location"], s) for a, s in wanted]


@pytest.mark.slow
@pytest.mark.skipif(not NODE, reason="node and npm are not installed: apt install nodejs npm")
async def test_web_push_of_node_to_the_sdk(house, ca_file):
    folder = ROOT / "build" / "node"
    if not (folder / "node_modules" / "web-push").exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", ".", "web-push@3"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=100)
    keys, sender = Subscription.generate(), Sender()
    script = folder / "send.js"
    script.write_text((Path(__file__).parent / "node_sender.js").read_text())
    async with Device("127.0.0.1", house.port) as device:
        registration = await device.register("shop", "1.0", vapid_key=sender.key)
        base = f"https://localhost:{house.gateway.api.tls_port}"

        async def send(subscription: dict[str, Any]) -> dict[str, Any]:
            ask = {
                "subscription": subscription,
                "payload": "from node",
                "publicKey": sender.key,
                "privateKey": private_of(sender),
            }
            process = await asyncio.create_subprocess_exec(
                "node",
                str(script),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={"PATH": "/usr/local/bin:/usr/bin:/bin", "NODE_EXTRA_CA_CERTS": ca_file},
            )
            out, err = await process.communicate(json.dumps(ask).encode())
            assert process.returncode == 0, err.decode()
            return json.loads(out)

        for encoding in ("aes128gcm", "aesgcm"):
            answer = await send(keys.describe(base, registration.token) | {"encoding": encoding})
            assert answer["statusCode"] == 201, answer
            async with asyncio.timeout(60):
                message = await registration.__anext__()
            assert keys.open(message.webpush) == b"from node"
        await registration.unregister(forget=True)
        assert (await send(keys.describe(base, registration.token)))["statusCode"] == 410


# --- APNs ---------------------------------------------------------------------------------------------------------


class Aioapns:
    """The library in a process of its own."""

    def __init__(self, house: House, ca_file: str, *, through_proxy: bool = False, **client: Any) -> None:
        proxy_port = house.gateway.api.port if through_proxy else None
        self._ask = {"trust": ca_file, "port": house.gateway.api.tls_port, "proxy_port": proxy_port, "client": client}

    async def push(self, *tokens: str, **options: Any) -> list[dict[str, Any]]:
        """One connection for all of them; the results in order."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(Path(__file__).parent / "aioapns_sender.py"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate(json.dumps(self._ask | {"tokens": tokens, "options": options}).encode())
        assert process.returncode == 0, err.decode()
        results: list[dict[str, Any]] = json.loads(out)
        return results


async def test_aioapns_with_a_token_to_the_sdk(house, ca_file):
    sender = Sender()
    key = {"key_id": "KEY1", "team_id": "TEAM1", "public_key": sender.public_pem()}
    await set_app(house, apns_topic=TOPIC, apns_keys=[key])
    async with Device("127.0.0.1", house.port) as device:
        registration = await device.register("shop", "1.0")
        raw = registration.token

        def client(key: str, topic: str = TOPIC) -> Aioapns:
            return Aioapns(house, ca_file, key=key, key_id="KEY1", team_id="TEAM1", topic=topic)

        apns = client(sender.pem())
        (result,) = await apns.push(raw, time_to_live=60, push_type="alert", collapse_key="a", priority=10)
        assert result["status"] == "200", result
        async with asyncio.timeout(60):
            message = await registration.__anext__()
        assert (message.title, message.text, message.data["chat"]) == ("Ann", "There?", 17)
        # many at once over one connection, in hex too
        results = await apns.push(*([raw, parse_hex(raw)] * 150))
        assert {result["status"] for result in results} == {"200"}
        before_ms = time.time_ns() // 1_000_000
        await house.shop.revoke(raw)
        gone, unknown = await apns.push(raw, "A" * 22)
        assert (gone["status"], gone["reason"]) == ("410", "ExpiredToken")
        assert before_ms <= int(gone["timestamp"]) <= time.time_ns() // 1_000_000
        assert (unknown["status"], unknown["reason"]) == ("400", "BadDeviceToken")
        for other, reason in (
            (client(Sender().pem()), "InvalidProviderToken"),
            (client(sender.pem(), "com.example.elsewhere"), "TopicDisallowed"),
        ):
            (refused,) = await other.push(raw)
            assert refused["reason"] == reason


def parse_hex(token: str) -> str:
    from gateway.model.registration import parse_token

    raw = parse_token(token)
    assert raw is not None
    return raw.hex()


async def test_aioapns_with_a_certificate_to_the_sdk(house, authority, ca_file, tmp_path):
    mine, other = authority.issue(name="mine"), authority.issue(name="other")
    await set_app(house, apns_topic=TOPIC, apns_certificates=[mine.fingerprint])
    async with Device("127.0.0.1", house.port) as device:
        registration = await device.register("shop", "1.0")
        both = tmp_path / "both.pem"  # certificate and key in one file, as aioapns takes them
        for issued, reason in ((mine, None), (other, "BadCertificate")):
            both.write_text(issued.certificate + issued.key)
            apns = Aioapns(house, ca_file, client_cert=str(both), topic=TOPIC)
            (result,) = await apns.push(registration.token)
            assert result["reason"] == reason
        async with asyncio.timeout(60):
            assert (await registration.__anext__()).title == "Ann"


async def test_aioapns_through_its_proxy_setting(house, authority, ca_file, tmp_path):
    """It goes to Apple's name, and the proxy it is told of is the plain port of this gateway."""
    sender, mine = Sender(), authority.issue(name="mine")
    key = {"key_id": "KEY1", "team_id": "TEAM1", "public_key": sender.public_pem()}
    await set_app(house, apns_topic=TOPIC, apns_keys=[key], apns_certificates=[mine.fingerprint])
    both = tmp_path / "both.pem"
    both.write_text(mine.certificate + mine.key)
    through = {"through_proxy": True, "topic": TOPIC}
    async with Device("127.0.0.1", house.port) as device:
        registration = await device.register("shop", "1.0")
        for client in (
            Aioapns(house, ca_file, key=sender.pem(), key_id="KEY1", team_id="TEAM1", **through),
            Aioapns(house, ca_file, client_cert=str(both), **through),
        ):
            results = await client.push(*[registration.token] * 20)
            assert {result["status"] for result in results} == {"200"}
            async with asyncio.timeout(60):
                assert (await registration.__anext__()).title == "Ann"


async def test_a_client_without_http2_is_answered_too(house, authority):
    sender = Sender()
    key = {"key_id": "KEY1", "team_id": "TEAM1", "public_key": sender.public_pem()}
    await set_app(house, apns_topic=TOPIC, apns_keys=[key])
    token = sender.token(headers={"kid": "KEY1"}, aud=None, exp=None, sub=None, iss="TEAM1", iat=int(time.time()))
    url = f"https://localhost:{house.gateway.api.tls_port}/3/device/{'A' * 22}"
    async with httpx.AsyncClient(verify=authority.client_context(), trust_env=False) as web:
        answer = await web.post(
            url, headers={"authorization": f"bearer {token}", "apns-topic": TOPIC}, json={"aps": {}}
        )
    assert (answer.http_version, answer.status_code, answer.json()) == ("HTTP/1.1", 400, {"reason": "BadDeviceToken"})


async def test_certificates_are_read_again_when_the_process_is_told_to(house, authority, tmp_path):
    async with httpx.AsyncClient(verify=authority.client_context(), trust_env=False) as web:
        url = f"https://localhost:{house.gateway.api.tls_port}/healthz"
        assert (await web.get(url)).status_code == 200
        authority.issue("localhost", name="renewed").write(tmp_path / "tls")
        house.gateway.reload_tls()
        assert (await web.get(url)).status_code == 200  # the connection there was
    async with httpx.AsyncClient(verify=authority.client_context(), trust_env=False) as web:
        answer = await web.get(url)
        tls = answer.extensions["network_stream"].get_extra_info("ssl_object")
        assert dict(part[0] for part in tls.getpeercert()["subject"])["commonName"] == "renewed"


async def test_what_was_revoked_is_known_after_a_restart(house):
    device = house.device()
    await device.login()
    token = await device.register("shop")
    await house.shop.revoke(token)
    await house.restart()
    headers = {**Sender(f"http://127.0.0.1:{house.gateway.api.port}").headers(), "ttl": "1"}
    assert (await house.http.post(f"/push/{token}", headers=headers)).status_code == 410
