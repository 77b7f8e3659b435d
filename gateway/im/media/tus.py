"""Headers of resumable uploads, tus 1.0.0 (core, creation, creation-with-upload, expiration, checksum, termination);
no I/O, and an error never repeats what was sent."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable
from email.utils import formatdate
from typing import Any, NamedTuple

from gateway.model.errors import BadRequest

VERSION = "1.0.0"
EXTENSIONS = "creation,creation-with-upload,expiration,checksum,termination"
CONTENT_TYPE = "application/offset+octet-stream"
MAX_LENGTH = (1 << 53) - 1

METADATA_BYTES = 4_096
METADATA_KEYS = 16


def _sha1() -> Any:
    return hashlib.sha1(usedforsecurity=False)


#: sha1 is the one that every server has to know
_ALGORITHMS: dict[str, tuple[Callable[[], Any], int]] = {"sha1": (_sha1, 20), "sha256": (hashlib.sha256, 32)}
ALGORITHMS = ",".join(_ALGORITHMS)


class Checksum(NamedTuple):
    """Of one request's bytes."""

    make: Callable[[], Any]
    digest: bytes


def parse_number(text: str | None, name: str) -> int:
    """Upload-Length and Upload-Offset. BadRequest."""
    if text is None:
        raise BadRequest(f"{name} is missing", field=name)
    if not (text.isascii() and text.isdecimal() and len(text) <= 16) or int(text) > MAX_LENGTH:
        raise BadRequest(f"{name} is to be a whole number from 0 to {MAX_LENGTH}", field=name)
    return int(text)


def parse_metadata(text: str | None) -> dict[str, str]:
    """Upload-Metadata: pairs of a key and a value in base64, parted by commas. BadRequest."""
    name = "Upload-Metadata"
    if not text:
        return {}
    if len(text) > METADATA_BYTES:
        raise BadRequest(f"{name} may have {METADATA_BYTES} bytes", field=name)
    pairs = text.split(",")
    if len(pairs) > METADATA_KEYS:
        raise BadRequest(f"{name} may have {METADATA_KEYS} keys", field=name)
    out: dict[str, str] = {}
    for pair in pairs:
        key, _, value = pair.strip(" ").partition(" ")
        if not key or not key.isascii() or not key.isprintable() or key in out:
            raise BadRequest(f"{name} has a key that is empty, not ASCII or there twice", field=name)
        out[key] = _parse_value(value, name)
    return out


def _parse_value(value: str, name: str) -> str:
    try:
        return base64.b64decode(value, validate=True).decode()
    except (binascii.Error, ValueError):  # UnicodeDecodeError is a ValueError
        raise BadRequest(f"{name} has a value that is not UTF-8 in base64", field=name) from None


def parse_checksum(text: str | None) -> Checksum | None:
    """Upload-Checksum: the algorithm's name and the digest in base64. BadRequest."""
    name = "Upload-Checksum"
    if text is None:
        return None
    algorithm, _, value = text.strip(" ").partition(" ")
    if algorithm not in _ALGORITHMS:
        raise BadRequest(f"{name} names none of these: {ALGORITHMS}", field=name)
    make, size = _ALGORITHMS[algorithm]
    try:
        digest = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    if len(digest) != size:
        raise BadRequest(f"{name} has no {algorithm} in base64", field=name)
    return Checksum(make, digest)


def build_expires(at_ms: int) -> str:
    """Upload-Expires, as in RFC 9110 §5.6.7."""
    return formatdate(at_ms // 1_000, usegmt=True)
