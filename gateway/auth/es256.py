"""ES256 tokens (RFC 7515, RFC 7518 §3.4): taken apart and checked with a key that is at hand; must never take another
algorithm, and never keep or log a token.

Bounded before anything is decoded. Claims come out as they are; what they must say is the doors' business.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_public_key

#: of a token, all three parts
MAX_CHARS = 4_096
POINT_BYTES = 65
_SIGNATURE_BYTES = 64
_decode_header = msgspec.json.Decoder(dict[str, Any]).decode
#: what may follow a verified signature: (token, key) pairs whose signature need not be computed again
_CACHED = 4_096


class Jws(NamedTuple):
    """A token, its signature not checked."""

    header: dict[str, Any]
    claims: dict[str, Any]
    signed: bytes
    signature: bytes


def parse_base64url(text: str) -> bytes | None:
    """Strict: no padding, no other alphabet, no stray bits. None where it is not that."""
    try:
        raw = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() == text else None


def parse_jws(text: str) -> Jws | None:
    """None where it is no compact ES256 token with JSON objects for header and claims."""
    parts = text.split(".") if len(text) <= MAX_CHARS else []
    if len(parts) != 3:
        return None
    raw = [parse_base64url(part) for part in parts]
    if raw[0] is None or raw[1] is None or raw[2] is None or len(raw[2]) != _SIGNATURE_BYTES:
        return None
    try:
        header, claims = _decode_header(raw[0]), _decode_header(raw[1])
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    # RFC 7515 §4.1.11: extensions that must be understood are not
    if header.get("alg") != "ES256" or "crit" in header:
        return None
    return Jws(header, claims, f"{parts[0]}.{parts[1]}".encode(), raw[2])


def number(claims: dict[str, Any], name: str) -> float | None:
    """A NumericDate (RFC 7519 §2); None where it is none."""
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e15:
        return None
    return value


def load_point(point: bytes) -> ec.EllipticCurvePublicKey | None:
    """An uncompressed P-256 point; None where it is not one on the curve."""
    if len(point) != POINT_BYTES or point[0] != 4:
        return None
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    except ValueError:
        return None


def load_pem(pem: str) -> ec.EllipticCurvePublicKey | None:
    """A P-256 public key in PEM; None where it is another kind or none."""
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    return None


class Verifier:
    """Checks signatures; what was good is remembered by its digest, so a token used for an hour costs one check.
    Only good ones are: a flood of bad ones pushes nothing out."""

    def __init__(self, cached: int = _CACHED) -> None:
        self._good: OrderedDict[bytes, None] = OrderedDict()
        self._cached = cached

    def __len__(self) -> int:
        return len(self._good)

    def verify(self, jws: Jws, key_id: bytes, load: Callable[[], ec.EllipticCurvePublicKey | None]) -> bool:
        """`key_id`: bytes that name the key, whole; part of what is remembered. `load` makes the key of them, where
        it is needed; None is no key."""
        digest = hashlib.sha256(len(key_id).to_bytes(4, "big") + key_id + jws.signed + jws.signature).digest()
        if digest in self._good:
            self._good.move_to_end(digest)
            return True
        key = load()
        if key is None:
            return False
        half = _SIGNATURE_BYTES // 2
        r, s = int.from_bytes(jws.signature[:half], "big"), int.from_bytes(jws.signature[half:], "big")
        try:
            key.verify(encode_dss_signature(r, s), jws.signed, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        self._good[digest] = None
        if len(self._good) > self._cached:
            self._good.popitem(last=False)
        return True
