"""A push service and its browsers that run here: for tests and the tour. Verifies VAPID, decrypts as a browser does;
must never listen on anything but loopback."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jwt
import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from gateway.notifiers.local_h2 import LocalServer, Reply, Request, Trouble
from gateway.notifiers.local_tls import Authority
from gateway.notifiers.webpush.settings import decode, encode

_VAPID = re.compile(r"vapid t=([^,\s]+), ?k=([A-Za-z0-9_-]+)")
_TOPIC = re.compile(r"[A-Za-z0-9_-]{1,32}")
MAX_BODY_BYTES = 4_096


def derive(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    return HKDF(SHA256(), length, salt, info).derive(secret)


def decrypt(body: bytes, key: ec.EllipticCurvePrivateKey, auth: bytes) -> bytes:
    """RFC 8291 §3.3 and §3.4, RFC 8188 §2, one record. ValueError where it is not for this key."""
    if len(body) < 21 + 65 + 17 or body[20] != 65:
        raise ValueError("no aes128gcm record with a key")
    salt, sender = body[:16], body[21:86]
    own = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    shared = key.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), sender))
    secret = derive(shared, auth, b"WebPush: info\0" + own + sender, 32)
    content_key = derive(secret, salt, b"Content-Encoding: aes128gcm\0", 16)
    nonce = derive(secret, salt, b"Content-Encoding: nonce\0", 12)
    try:
        padded = AESGCM(content_key).decrypt(nonce, body[86:], None).rstrip(b"\0")
    except InvalidTag as error:
        raise ValueError("not for this key") from error
    if not padded.endswith(b"\2"):
        raise ValueError("not the last record")
    return padded[:-1]


class Browser:
    """One subscription: its keys, and what was pushed to it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.auth = secrets.token_bytes(16)
        #: status it is answered with; 201 = taken
        self.status = 201


class Taken(NamedTuple):
    """A message that was accepted, decrypted."""

    path: str
    headers: dict[str, str]
    message: dict[str, Any]


class LocalPushService(LocalServer):
    """`settings()` is what an app needs to push here; `subscribe()` gives an address."""

    def __init__(self, *, authority: Authority | None = None, now_s: Callable[[], float] = time.time) -> None:
        super().__init__(authority=authority)
        self.vapid_key = ec.generate_private_key(ec.SECP256R1())
        self.browsers: dict[str, Browser] = {}
        self.taken: list[Taken] = []
        self.vapid_tokens: set[str] = set()
        #: a service may take less than the 4096 bytes it should
        self.most_bytes = MAX_BODY_BYTES
        self._now_s = now_s

    def settings(self) -> dict[str, str]:
        """Of `notifiers.webpush`. The gateway has to allow private addresses (delivery.webpush_private)."""
        key = self.vapid_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        return {"vapid_key": key, "subject": "mailto:push@shop.example", "ca": self.ca}

    def subscribe(self, status: int = 201) -> str:
        """A new browser's subscription, as JSON."""
        browser = Browser(f"/push/{secrets.token_urlsafe(12)}")
        browser.status = status
        self.browsers[browser.path] = browser
        point = browser.key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        subscription = {
            "endpoint": f"{self.url}{browser.path}",
            "expirationTime": None,
            "keys": {"p256dh": encode(point), "auth": encode(browser.auth)},
        }
        return msgspec.json.encode(subscription).decode()

    async def respond(self, request: Request) -> Reply | Trouble:
        browser = self.browsers.get(request.path)
        if browser is None:
            return Reply(404)
        if request.method != "POST":
            return Reply(405)
        status = self._vapid_status(request) or self._header_status(request)
        if status:
            return Reply(status)
        if browser.status != 201:
            return Reply(browser.status)
        if len(request.body) > self.most_bytes:
            return Reply(413)
        try:
            message = msgspec.json.decode(decrypt(request.body, browser.key, browser.auth), type=dict[str, Any])
        except (ValueError, msgspec.DecodeError):
            return Reply(400)  # a real service can not tell: only the browser can
        self.taken.append(Taken(request.path, dict(request.headers), message))
        return Reply(201, b"", (("location", f"{self.url}/message/{len(self.taken)}"),))

    def _vapid_status(self, request: Request) -> int:
        match = _VAPID.fullmatch(request.header("authorization"))
        if match is None:
            return 401
        token, point = match[1], match[2]
        own = self.vapid_key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        if decode(point) != own:
            return 403  # the subscription was made for another key (RFC 8292 §4.2)
        now_s = self._now_s()
        try:
            claims = jwt.decode(
                token,
                self.vapid_key.public_key(),
                algorithms=["ES256"],
                audience=self.url,
                options={"verify_exp": False, "require": ["exp", "aud", "sub"]},
            )
        except jwt.InvalidTokenError:
            return 401
        if not now_s < claims["exp"] <= now_s + 86_400:
            return 401
        self.vapid_tokens.add(token)
        return 0

    @staticmethod
    def _header_status(request: Request) -> int:
        topic, urgency = request.header("topic"), request.header("urgency")
        if not request.header("ttl").isdigit() or request.header("content-encoding") != "aes128gcm":
            return 400
        if topic and not _TOPIC.fullmatch(topic):
            return 400
        return 0 if urgency in ("", "very-low", "low", "normal", "high") else 400
