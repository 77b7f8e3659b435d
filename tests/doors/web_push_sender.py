"""A provider of Web Push in a test: keys, VAPID tokens good and bad, and requests by hand."""

from __future__ import annotations

import base64
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat


def base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class Sender:
    """`headers()` signs for the origin."""

    def __init__(self, origin: str = "http://door", curve: ec.EllipticCurve | None = None) -> None:
        self.origin = origin
        self.private = ec.generate_private_key(curve or ec.SECP256R1())
        self.point = self.private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        self.key = base64url(self.point)

    def pem(self) -> str:
        return self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()

    def public_pem(self) -> str:
        return self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def token(self, *, algorithm: str = "ES256", headers: dict[str, Any] | None = None, **claims: Any) -> str:
        body = {"aud": self.origin, "exp": int(time.time()) + 3_600, "sub": "mailto:ops@example.com"} | claims
        body = {name: value for name, value in body.items() if value is not None}
        return jwt.encode(body, self.private, algorithm=algorithm, headers=headers)

    def headers(self, token: str | None = None, key: str | None = None, **claims: Any) -> dict[str, str]:
        token = self.token(**claims) if token is None else token
        return {"authorization": f"vapid t={token}, k={key or self.key}"}


def stranger_tokens(origin: str) -> dict[str, str]:
    """Tokens that are no ES256 JWT, though they look like one."""
    claims = {"aud": origin, "exp": int(time.time()) + 3_600}
    none = ".".join((base64url(b'{"alg":"none"}'), base64url(b"{}"), ""))
    return {
        "empty": "",
        "words": "nonsense",
        "two parts": "a.b",
        "none": none,
        "hs256": jwt.encode(claims, "k" * 32, algorithm="HS256"),
        "eddsa": jwt.encode(claims, ed25519.Ed25519PrivateKey.generate(), algorithm="EdDSA"),
        "long": "a" * 5_000 + ".b.c",
        "no json": ".".join((base64url(b"{"), base64url(b"{"), base64url(b"x" * 64))),
    }
