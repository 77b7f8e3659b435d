"""Who pushes: VAPID (RFC 8292), in its present form and the one before; must never take a token for another service.

Authorization: vapid t=<jwt>, k=<key>
Authorization: WebPush <jwt>         with   Crypto-Key: p256ecdsa=<key>
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import urlsplit

from gateway.auth.es256 import POINT_BYTES, Verifier, load_point, number, parse_base64url, parse_jws
from gateway.model.errors import Forbidden, Unauthorized
from gateway.model.public_addresses import is_loopback

#: RFC 8292 §2: exp at most 24 hours from the request; clocks may differ by as much as is given here
MAX_LIFE_S = 86_400
LEEWAY_S = 60
_MAX_FIELD_CHARS = 8_192
_PARAM = re.compile(r"""\s*([A-Za-z0-9_-]{1,32})\s*=\s*(?:"([^"\\]*)"|([^\s",;]*))\s*""")
_PORTS = {"http": 80, "https": 443}


class Signed(NamedTuple):
    """What a request brought, not checked yet."""

    jwt: str
    key: str  # base64url, as sent


def parse_params(text: str, separators: str) -> dict[str, str]:
    """`name=value` or `name="value"`, the first of each name; what is neither is left out."""
    found: dict[str, str] = {}
    for part in re.split(f"[{separators}]", text[:_MAX_FIELD_CHARS]):
        match = _PARAM.fullmatch(part)
        if match:
            value = match[2] if match[2] is not None else match[3]
            found.setdefault(match[1].lower(), value)
    return found


def parse_credentials(authorization: str | None, crypto_key: str | None) -> Signed | None:
    """None where the request is not signed. Forbidden where it is meant to be and can not be read."""
    scheme, _, rest = (authorization or "").strip().partition(" ")
    kind = scheme.lower()
    if kind == "vapid":
        params = parse_params(rest, ",")
        jwt, key = params.get("t", ""), params.get("k", "")
    elif kind in ("webpush", "bearer"):
        jwt, key = rest.strip(), parse_params(crypto_key or "", ",;").get("p256ecdsa", "")
        if kind == "bearer" and not key:
            return None  # a word that others use too
    else:
        return None
    if not jwt or not key:
        raise Forbidden("VAPID needs a token and a key (RFC 8292 §3).")
    return Signed(jwt, key.rstrip("="))


def normalize_origin(url: str) -> str:
    """scheme://host:port of an origin, lower case, the port always there; empty where it is none (RFC 6454 §4)."""
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme, 0)
        host = parts.hostname
    except ValueError:
        return ""
    is_bare = parts.path in ("", "/") and "@" not in parts.netloc and not set(url) & set("?#\t\r\n\\ ")
    if not host or not port or parts.scheme not in _PORTS or not is_bare:
        return ""
    return f"{parts.scheme}://{host}:{port}"


class Host(NamedTuple):
    """What a Host header field says."""

    name: str  # small letters; empty: it says nothing
    is_loopback: bool
    #: under both schemes, for a proxy may have taken TLS off
    origins: frozenset[str]


@lru_cache(maxsize=256)
def read_host(text: str) -> Host:
    try:
        name = urlsplit(f"//{text}").hostname or ""
    except ValueError:
        name = ""
    origins = (normalize_origin(f"{scheme}://{text}") for scheme in ("https", "http"))
    return Host(name, is_loopback(name), frozenset(filter(None, origins)))


def check_credentials(signed: Signed, origins: Collection[str], now_s: float, verifier: Verifier) -> str:
    """The key that signed, base64url. Raises Forbidden; a token may be used again until its end (RFC 8292 §2)."""
    point = parse_base64url(signed.key)
    if point is None or len(point) != POINT_BYTES:
        raise Forbidden("The VAPID key is no uncompressed P-256 point.")
    jws = parse_jws(signed.jwt)
    if jws is None:
        raise Forbidden("The VAPID token is no ES256 JWT.")
    exp = number(jws.claims, "exp")
    if exp is None:
        raise Forbidden("The VAPID token has no exp.")
    if exp <= now_s:
        raise Forbidden("The VAPID token has expired.")
    if exp > now_s + MAX_LIFE_S + LEEWAY_S:
        raise Forbidden("The VAPID token lives longer than 24 hours.")
    for name in ("nbf", "iat"):
        since = number(jws.claims, name)
        if name in jws.claims and since is None:
            raise Forbidden(f"The {name} of the VAPID token is no number.")
        if since is not None and since > now_s + LEEWAY_S:
            raise Forbidden("The VAPID token is of the future.")
    aud = jws.claims.get("aud")
    named = aud if isinstance(aud, list) else [aud]
    if not any(isinstance(one, str) and normalize_origin(one) in origins for one in named):
        raise Forbidden(
            "The VAPID token is for another audience: aud must be the push URL's origin as this gateway knows it, its"
            " port too (api.public_urls; where that is empty, the request's Host, if it is loopback, the address"
            " connected to, or in a certificate of this gateway)."
        )
    if not isinstance(jws.claims.get("sub", ""), str):
        raise Forbidden("The VAPID token's sub is no text.")
    if not verifier.verify(jws, point, lambda: load_point(point)):
        raise Forbidden("The VAPID token's signature does not belong to the key.")
    return signed.key


def require(key: str | None, lock: str, policy: str) -> None:
    """May who signed with this key (None: nobody did) push? `lock`: the registration's key. RFC 8292 §4.2."""
    if key is None and (lock or policy != "open"):
        raise Unauthorized("Sign the request with VAPID (RFC 8292).")
    if lock and key != lock:
        raise Forbidden("This subscription takes pushes signed with another key only.")
