"""Web Push on the device's side: a key pair, the subscription that an app hands to its server, and what comes opened;
must never let the private key or the secret out but in `export`.

Opening (RFC 8188, RFC 8291) is http-ece's work.
"""

from __future__ import annotations

import base64
import os
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.client.content import WebPushMessage

#: RFC 8291 §3.2
SECRET_BYTES = 16
_SCALAR_BYTES = 32


class CanNotOpen(ValueError):
    """Not encrypted for these keys, damaged, or in an encoding not known here."""


class Subscription:
    """The keys of one registration. Keep `export()` as safely as the device's secret."""

    def __init__(self, private: ec.EllipticCurvePrivateKey, secret: bytes) -> None:
        if len(secret) != SECRET_BYTES:
            raise ValueError(f"the secret has {SECRET_BYTES} bytes")
        self._private = private
        self._secret = secret

    def __repr__(self) -> str:
        return "<Subscription>"

    @classmethod
    def generate(cls) -> Self:
        return cls(ec.generate_private_key(ec.SECP256R1()), os.urandom(SECRET_BYTES))

    @classmethod
    def load(cls, exported: bytes) -> Self:
        """What `export` gave. ValueError where it is something else."""
        if len(exported) != _SCALAR_BYTES + SECRET_BYTES:
            raise ValueError(f"expected {_SCALAR_BYTES + SECRET_BYTES} bytes")
        scalar = int.from_bytes(exported[:_SCALAR_BYTES], "big")
        return cls(ec.derive_private_key(scalar, ec.SECP256R1()), exported[_SCALAR_BYTES:])

    def export(self) -> bytes:
        """Private key and secret, 48 bytes."""
        scalar: int = self._private.private_numbers().private_value
        return scalar.to_bytes(_SCALAR_BYTES, "big") + self._secret

    @property
    def public_key(self) -> bytes:
        """Uncompressed point, 65 bytes."""
        return self._private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    def describe(self, base_url: str, token: str) -> dict[str, Any]:
        """The subscription as Web Push libraries take it: `{"endpoint": …, "keys": {"p256dh": …, "auth": …}}`.

        `base_url`: the provider door as providers reach it, `https://push.example.com`.
        """
        return {
            "endpoint": f"{base_url.rstrip('/')}/push/{token}",
            "keys": {"p256dh": _base64url(self.public_key), "auth": _base64url(self._secret)},
        }

    def open(self, message: WebPushMessage) -> bytes:
        """The content; empty for a message without a body. CanNotOpen; ImportError without http-ece."""
        if not message.body:
            return b""
        import http_ece  # optional

        options: dict[str, Any] = {"private_key": self._private, "auth_secret": self._secret}
        if message.content_encoding == "aesgcm":
            options["salt"] = _from_base64url(_parameter(message.encryption, "salt"))
            options["dh"] = _from_base64url(_parameter(message.crypto_key, "dh"))
        elif message.content_encoding != "aes128gcm":
            raise CanNotOpen("this encoding is not known here")
        try:
            opened: bytes = http_ece.decrypt(message.body, version=message.content_encoding, **options)
        except Exception as exc:  # the package raises whatever its parts do on foreign bytes
            raise CanNotOpen(f"the message can not be opened ({type(exc).__name__})") from None
        return opened


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _from_base64url(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        raise CanNotOpen("a parameter of the encoding is no base64url") from None


def _parameter(text: str, name: str) -> str:
    """Of Encryption or Crypto-Key: `name=value` among others, separated by ; or , ."""
    for part in text.replace(",", ";").split(";"):
        key, _, value = part.strip().partition("=")
        if key.strip().lower() == name:
            return value.strip().strip('"')
    raise CanNotOpen(f"{name} is missing")
