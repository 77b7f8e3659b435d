"""Doors and ways out: the fallback chain over upstreams that run here, and providers' own libraries' protocols at the
doors; one function a row, raises Failed where it does not hold.
"""

from __future__ import annotations

import asyncio
import base64
import datetime
import time

import http_ece
import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.client import Device, MemoryCredentials, Notification, Profile
from gateway.client.webpush import Subscription
from gateway.notifiers.apns.local import LocalApns
from gateway.notifiers.fcm.local import LocalFcm
from gateway.notifiers.webpush.local import LocalPushService
from gateway.tour.bare import BareDevice
from gateway.tour.fleet import Fleet
from gateway.tour.stage import APP, Stage, check, eventually


async def chain(stage: Stage, _fleet: Fleet) -> str:
    """B3: no ack, then each notifier of the chain in turn; what an upstream calls dead is taken away and told."""
    apns, fcm, web = LocalApns(), LocalFcm(), LocalPushService()
    for upstream in (apns, fcm, web):
        await upstream.start()
    try:
        await stage.change_app(notifiers={"apns": apns.settings(), "fcm": fcm.settings(), "webpush": web.settings()})
        addresses = {
            "apns": apns.add_device("ab" * 32, "ServiceUnavailable"),
            "fcm": fcm.add_device("fcm-token", "UNREGISTERED"),
            "webpush": web.subscribe(),
        }
        device = BareDevice(stage.device_port)
        token = await device.connect("chain", addresses=addresses)
        push = await stage.push(
            {"token": token}, "b3 chain", text="Hello", ack_ms=300, fallback=["apns", "fcm", "webpush"]
        )
        await device.titled("b3 chain")

        async def taken() -> bool:
            return bool(web.taken)

        await eventually(taken, "the push at the last notifier of the chain")
        check(web.taken[0].message.get("title") == "b3 chain", f"the browser decrypted {web.taken[0].message}")
        steps = [(step["what"], step["channel"]) for step in (await stage.look(push))["deliveries"][0]["steps"]]
        wanted = [("notifier_failed", "apns"), ("notifier_failed", "fcm"), ("notified", "webpush")]
        check([step for step in steps if step in wanted] == wanted, f"its history: {steps}")
        dead = (await stage.call("GET", "/v1/dead-tokens")).json()["dead_tokens"]
        check(any(d["token"] == token and d["channel"] == "fcm" for d in dead), f"dead tokens: {dead}")
        apns.devices["ab" * 32] = ""
        await device.close()
        await stage.disconnected(token)
        began = time.monotonic()
        await stage.push({"token": token}, "b4 apns", fallback=["apns"])

        async def at_apns() -> bool:
            return bool(apns.taken)

        await eventually(at_apns, "the push at APNs")
        took_ms = (time.monotonic() - began) * 1000
        check(bool(apns.provider_tokens), "APNs saw no provider token")
    finally:
        for upstream in (apns, fcm, web):
            await upstream.close()
    return (
        "no ack: APNs answered 503, FCM UNREGISTERED (address taken away, provider told), Web Push took it and the "
        f"browser decrypted it; away: APNs over HTTP/2 with a verified ES256 token after {took_ms:.0f} ms"
    )


async def web_push_door(stage: Stage, _fleet: Fleet) -> str:
    """RFC 8030, 8291, 8292: encrypted by the sender, opened on the device, with a delivery receipt."""
    keys, sender = Subscription.generate(), ec.generate_private_key(ec.SECP256R1())
    point = sender.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    messages: asyncio.Queue[Notification] = asyncio.Queue()
    origin = f"http://127.0.0.1:{stage.api_port}"
    async with Device("127.0.0.1", stage.device_port, store=MemoryCredentials(), label="webpush") as device:
        app = await device.register(
            APP, "1.0", account="webpush", vapid_key=_base64url(point), on_message=messages.put_nowait
        )
        subscription = keys.describe(origin, app.token)  # what the app hands to its server
        endpoint = subscription["endpoint"]
        body = http_ece.encrypt(
            b"for your eyes only",
            private_key=ec.generate_private_key(ec.SECP256R1()),
            dh=_from_base64url(subscription["keys"]["p256dh"]),
            auth_secret=_from_base64url(subscription["keys"]["auth"]),
        )
        async with httpx.AsyncClient(timeout=30, trust_env=False) as provider:
            headers = {"ttl": "60", "content-encoding": "aes128gcm", "prefer": "respond-async"}
            stranger = ec.generate_private_key(ec.SECP256R1())
            refused = await provider.post(endpoint, content=body, headers=headers | _vapid(stranger, origin))
            check(refused.status_code == 403, f"another sender's key was answered {refused.status_code}")
            answer = await provider.post(endpoint, content=body, headers=headers | _vapid(sender, origin))
            check(answer.status_code == 202, f"the door answered {answer.status_code} {answer.text}")
            message = await asyncio.wait_for(messages.get(), 10)
            check(message.webpush is not None, "it came as no Web Push message")
            assert message.webpush is not None
            opened = keys.open(message.webpush)
            check(opened == b"for your eyes only", f"the device opened {opened!r}")
            receipt = answer.headers["link"].split(">")[0].strip("<")
            receipt_answer = await provider.get(receipt, headers={"prefer": "wait=10"})
            check(receipt_answer.status_code == 204, f"the receipt says {receipt_answer.status_code}")
    return "RFC 8291 body opened on the device, another sender's key refused (403), RFC 8030 receipt: 204 delivered"


async def apns_door(stage: Stage, _fleet: Fleet) -> str:
    """Apple's protocol over HTTP/2: a provider changes the host name only."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    await stage.change_app(
        apns_topic="com.example.shop", apns_keys=[{"key_id": "KEY1", "team_id": "TEAM1", "public_key": public}]
    )
    device = BareDevice(stage.device_port)
    token = await device.connect("apns-door")
    bearer = jwt.encode({"iss": "TEAM1", "iat": int(time.time())}, key, algorithm="ES256", headers={"kid": "KEY1"})
    headers = {"authorization": f"bearer {bearer}", "apns-topic": "com.example.shop", "apns-push-type": "alert"}
    url = f"http://127.0.0.1:{stage.api_port}/3/device/"
    async with httpx.AsyncClient(http1=False, http2=True, timeout=30, trust_env=False) as provider:
        payload = {"aps": {"alert": {"title": "apns door", "body": "hello"}}, "chat": 17}
        answer = await provider.post(url + token, json=payload, headers=headers)
        check(answer.status_code == 200, f"the door answered {answer.status_code} {answer.text}")
        check(answer.http_version == "HTTP/2", f"it spoke {answer.http_version}")
        note = await device.titled("apns door")
        device.ack(note)
        wrong = await provider.post(url + token, json=payload, headers=headers | {"apns-topic": "com.example.other"})
        check(wrong.json() == {"reason": "TopicDisallowed"}, f"a wrong topic was answered {wrong.text}")
        answer = await stage.call("DELETE", f"/v1/registrations/{token}")
        gone = await provider.post(url + token, json=payload, headers=headers)
        check(gone.status_code == 410 and "timestamp" in gone.json(), f"a revoked token: {gone.status_code}")
    await device.close()
    return "200 over HTTP/2 with Apple's headers and token; TopicDisallowed; 410 with a timestamp after the revocation"


async def timing(stage: Stage, _fleet: Fleet) -> str:
    """Schedules, quiet hours, languages, conditions, statistics."""
    messages: asyncio.Queue[Notification] = asyncio.Queue()
    now = datetime.datetime.now(datetime.UTC)
    quiet = f"{now - datetime.timedelta(hours=2):%H:%M}-{now + datetime.timedelta(hours=2):%H:%M}"
    async with Device("127.0.0.1", stage.device_port, store=MemoryCredentials(), label="timing") as device:
        profile = Profile(os="android", locale="de-AT", timezone="UTC", quiet=quiet)
        app = await device.register(
            APP, "9.9", account="timing", tags=["tour"], profile=profile, on_message=messages.put_nowait
        )
        held = await stage.push({"token": app.token}, "f4 quiet")
        where = {"all": [{"tag": "tour"}, {"locale": "de"}, {"not": {"os": "ios"}}]}
        words = {"de": {"title": "f4 Hallo"}}
        later = await stage.push(
            {"where": where}, "f4 Hello", localized=words, urgency="high", deliver_at=int(time.time()) + 2
        )
        check((await stage.look(later))["state"] == "scheduled", "it was not kept for its time")
        began = time.monotonic()
        message = await asyncio.wait_for(messages.get(), 15)
        waited_s = time.monotonic() - began
        check(message.title == "f4 Hallo", f"the device read {message.title!r}")
        check(waited_s > 0.5, f"it came after {waited_s:.1f} s, not at its time")
        await stage.state_of(later, "acked")
        check((await stage.look(held))["deliveries"][0]["state"] == "waiting", "its quiet hours did not hold it back")
        await stage.call("PUT", f"/v1/registrations/{app.token}", json={"quiet": ""})
        message = await asyncio.wait_for(messages.get(), 10)
        check(message.title == "f4 quiet", f"after the quiet hours came {message.title!r}")
        stats = (await stage.call("GET", f"/v1/push/{later}/statistics")).json()
        check(stats["versions"]["9.9"]["acked"] == 1, f"statistics: {stats}")
    return "found by condition, in its language, at its time; a calm one waited for the end of the quiet hours"


def _vapid(key: ec.EllipticCurvePrivateKey, audience: str) -> dict[str, str]:
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    claims = {"aud": audience, "exp": int(time.time()) + 3_600, "sub": "mailto:tour@example.com"}
    return {"authorization": f"vapid t={jwt.encode(claims, key, algorithm='ES256')}, k={_base64url(point)}"}


def _from_base64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


CLAUSES = {
    "B3+": ("the chain: APNs, FCM, Web Push", chain),
    "F4": ("time, language, condition, quiet hours", timing),
    "F5": ("the Web Push door", web_push_door),
    "F6": ("the APNs door over HTTP/2", apns_door),
}
