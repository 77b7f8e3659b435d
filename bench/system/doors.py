"""P14: pushes a second through the doors of other services' libraries, each its own request, durable when answered.

The Web Push door over HTTP/1.1 with a signed request each (one JWT, as libraries reuse it), the APNs door over HTTP/2
with one provider token; tokens of devices that are away. The floor is uvicorn with an application that reads the body
and answers, the peer hypercorn with the same over HTTP/2; same client, same run.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bench.system.figures import Measured, Run
from bench.system.stage import APP, BenchFailed, Process, Stage
from gateway.client import Device

DEVICES = 200
FULL_S, QUICK_S = 20.0, 6.0
ANSWER_S = 120.0
TOPIC = "com.example.bench"
BODY_BYTES = 300


async def take(run: Run) -> Measured:
    seconds = run.size(int(FULL_S), int(QUICK_S))
    # A registration takes a bounded number that wait; they must all have room here.
    async with Stage("store.max_pending_per_registration=10000000", "edge.device_logins_per_minute=0") as stage:
        tokens = await _register(stage)
        key = ec.generate_private_key(ec.SECP256R1())
        point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        await _open_doors(stage, key)
        run.say("Web Push over HTTP/1.1")
        web_push = await _drive(
            stage, seconds, http2=False, paths=[f"/push/{token}" for token in tokens], **_web_push(stage, key, point)
        )
        run.say("APNs over HTTP/2")
        apns = await _drive(stage, seconds, http2=True, paths=[f"/3/device/{token}" for token in tokens], **_apns(key))
        refused = web_push["refused"] + apns["refused"]
        if refused:
            raise BenchFailed(f"{refused} pushes were refused")
        run.say("uvicorn and hypercorn that only answer")
        bare = {"paths": ["/x"], "headers": {"ttl": "60"}, "body": base64.b64encode(os.urandom(BODY_BYTES)).decode()}
        async with _peer(stage, "uvicorn") as port:
            floor = await _ask(stage, {"port": port, "seconds": seconds, "http2": False, **bare})
        async with _peer(stage, "hypercorn") as port:
            peer = await _ask(stage, {"port": port, "seconds": seconds, "http2": True, **bare})
    return Measured(
        value=web_push["per_s"],
        unit="/s",
        n=web_push["answered"],
        floor=floor["per_s"],
        peer=peer["per_s"],
        ratio=web_push["per_s"] / floor["per_s"],
        note=f"Web Push p99 {web_push['p99_ms']:.0f} ms; APNs {apns['per_s']:,.0f}/s, p99 {apns['p99_ms']:.0f} ms; "
        f"uvicorn that only answers {floor['per_s']:,.0f}/s, hypercorn over HTTP/2 {peer['per_s']:,.0f}/s",
        more={
            "apns_per_s": apns["per_s"],
            "apns_ratio": apns["per_s"] / peer["per_s"],
            "web_push_p99_ms": web_push["p99_ms"],
            "apns_p99_ms": apns["p99_ms"],
        },
    )


async def _register(stage: Stage) -> list[str]:
    """Tokens of devices that have gone again."""

    async def one(number: int) -> str:
        async with Device("127.0.0.1", stage.device_port, label=f"door-{number}") as device:
            return (await device.register(APP, "1.0", account=str(number))).token

    return list(await asyncio.gather(*(one(number) for number in range(DEVICES))))


async def _open_doors(stage: Stage, key: ec.EllipticCurvePrivateKey) -> None:
    import httpx

    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    admin = (stage.store / "admin.key").read_text().strip()
    body = {"apns_topic": TOPIC, "apns_keys": [{"key_id": "KEY1", "team_id": "TEAM1", "public_key": public}]}
    async with httpx.AsyncClient(base_url=stage.url, trust_env=False) as http:
        answer = await http.patch(f"/v1/apps/{APP}", json=body, headers={"authorization": f"Bearer {admin}"})
    if answer.status_code != 200:
        raise BenchFailed(f"the doors could not be opened: {answer.status_code} {answer.text}")


def _web_push(stage: Stage, key: ec.EllipticCurvePrivateKey, point: bytes) -> dict[str, Any]:
    claims = {"aud": stage.url, "exp": int(time.time()) + 3_600, "sub": "mailto:bench@example.com"}
    signed = jwt.encode(claims, key, algorithm="ES256")
    headers = {
        "authorization": f"vapid t={signed}, k={base64.urlsafe_b64encode(point).rstrip(b'=').decode()}",
        "ttl": "3600",
        "urgency": "normal",
        "content-encoding": "aes128gcm",
        "content-type": "application/octet-stream",
    }
    # One record with a header as RFC 8188 has it; nobody opens it here.
    body = os.urandom(16) + (4096).to_bytes(4, "big") + bytes([65]) + point + os.urandom(BODY_BYTES - 86)
    return {"headers": headers, "body": base64.b64encode(body).decode()}


def _apns(key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
    signed = jwt.encode({"iss": "TEAM1", "iat": int(time.time())}, key, algorithm="ES256", headers={"kid": "KEY1"})
    headers = {"authorization": f"bearer {signed}", "apns-topic": TOPIC, "apns-push-type": "alert"}
    payload = {"aps": {"alert": {"title": "Ann", "body": "x" * (BODY_BYTES - 60)}}}
    return {"headers": headers, "body": base64.b64encode(json.dumps(payload).encode()).decode()}


async def _drive(stage: Stage, seconds: float, **ask: Any) -> dict[str, Any]:
    answer = await _ask(stage, {"port": stage.api_port, "seconds": seconds, **ask})
    stage.check()
    return answer


async def _ask(stage: Stage, ask: dict[str, Any]) -> dict[str, Any]:
    client = Process("the providers", stage.folder)
    await client.start([sys.executable, "-m", "bench.system.door_clients"], piped=True)
    try:
        said, _ = await asyncio.wait_for(client.child.communicate(json.dumps(ask).encode()), ANSWER_S)
    finally:
        await client.stop(signal.SIGKILL)
    if not said:
        raise BenchFailed(f"the providers gave up: {client.said()}")
    answer: dict[str, Any] = json.loads(said)
    return answer


@asynccontextmanager
async def _peer(stage: Stage, kind: str) -> AsyncIterator[int]:
    """Its port."""
    process = Process(f"the {kind} server", stage.folder)
    await process.start([sys.executable, "-m", "bench.system.door_peers", kind], piped=True)
    try:
        assert process.child.stdout is not None
        line = await asyncio.wait_for(process.child.stdout.readline(), ANSWER_S)
        if not line:
            raise BenchFailed(f"the {kind} server did not start: {process.said()}")
        yield int(line)
    finally:
        await process.stop(signal.SIGKILL)
