"""Who pushes at the APNs door: a provider token (ES256) or a client certificate, and for which of the apps.

A key may serve several apps, as a team's key does at Apple's; the topic then says which. Must never take a key of one
app for another.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.api.apns.headers import Asked, belongs
from gateway.api.apns.reasons import Refused
from gateway.api.ports import Backend
from gateway.auth.es256 import Jws, Verifier, load_pem, number, parse_jws
from gateway.model.registration import App

#: Source: "Establishing a token-based connection to APNs": a token is good for an hour after iat
MAX_AGE_S = 3_600
LEEWAY_S = 60
#: parsed public keys kept
_MAX_KEYS = 1_024


class Providers:
    """Finds the app a request may push to."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._made_at = -1
        self._by_key: dict[tuple[str, str], list[str]] = {}  # (key id, team id) → apps
        self._by_fingerprint: dict[str, list[str]] = {}
        self._teams: set[str] = set()
        self._verifier = Verifier()
        self._keys: dict[str, ec.EllipticCurvePublicKey | None] = {}

    def apps_of(self, asked: Asked, scope: dict[str, Any], now_s: float) -> list[App]:
        """Apps this request's credentials are good for, never none. Raises Refused."""
        if asked.authorization:
            return self._by_token(asked.authorization, now_s)
        chain = scope.get("extensions", {}).get("tls", {}).get("client_cert_chain", ())
        if not chain:
            raise Refused("MissingProviderToken")
        certificate = _read_certificate(chain[0])
        self._refresh()
        apps = self._apps(self._by_fingerprint.get(certificate.fingerprint, ()))
        # The handshake has looked at its end too, but a connection may live longer than that.
        if not apps or certificate.ends_s <= now_s:
            raise Refused("BadCertificate")
        return apps

    def choose(self, apps: list[App], asked: Asked) -> App:
        """The one that is meant. MissingTopic, TopicDisallowed."""
        if not asked.topic:
            # A certificate of one app says which it is; Apple does the same.
            if len(apps) == 1 and not asked.authorization:
                return apps[0]
            raise Refused("MissingTopic")
        for app in apps:
            if belongs(asked.topic, app.apns_topic, asked.push_type):
                return app
        raise Refused("TopicDisallowed")

    def _refresh(self) -> None:
        """Who has which key, made again after an app was changed: a push looks at its own apps only."""
        if self._made_at == self._backend.app_changes:
            return
        self._made_at = self._backend.app_changes
        self._by_key.clear()
        self._by_fingerprint.clear()
        for app in self._apps(self._backend.directory.app_names()):
            for key in app.apns_keys:
                self._by_key.setdefault((key.key_id, key.team_id), []).append(app.name)
            for fingerprint in app.apns_certificates:
                self._by_fingerprint.setdefault(fingerprint, []).append(app.name)
        self._teams = {team_id for _, team_id in self._by_key}

    def _apps(self, names: Iterable[str]) -> list[App]:
        """Those whose door is open."""
        found = map(self._backend.directory.app, names)
        return [app for app in found if app is not None and app.apns_topic]

    def _by_token(self, authorization: str, now_s: float) -> list[App]:
        scheme, _, text = authorization.partition(" ")
        jws = parse_jws(text.strip()) if scheme.lower() == "bearer" else None
        if jws is None:
            raise Refused("InvalidProviderToken")
        apps = self._signers(jws)
        issued_s = number(jws.claims, "iat")
        if not apps or issued_s is None or issued_s > now_s + LEEWAY_S:
            raise Refused("InvalidProviderToken")
        if issued_s <= now_s - MAX_AGE_S:
            raise Refused("ExpiredProviderToken")
        return apps

    def _signers(self, jws: Jws) -> list[App]:
        self._refresh()
        kid, team = jws.header.get("kid"), jws.claims.get("iss")
        if not isinstance(kid, str) or not isinstance(team, str):
            return []
        if team not in self._teams and self._owners_of(kid, None, jws):
            raise Refused("UnrelatedKeyIdInToken")  # said to who has the key alone: others learn of no key id
        return self._owners_of(kid, team, jws)

    def _owners_of(self, kid: str, team: str | None, jws: Jws) -> list[App]:
        """Apps with this key (None: of whatever team), where it signed."""
        teams = [team] if team is not None else [other for key_id, other in self._by_key if key_id == kid]
        return [
            app
            for name in teams
            for app in self._apps(self._by_key.get((kid, name), ()))
            if any(
                key.key_id == kid and key.team_id == name and self._signed(jws, key.public_key) for key in app.apns_keys
            )
        ]

    def _signed(self, jws: Jws, pem: str) -> bool:
        if pem not in self._keys:
            if len(self._keys) >= _MAX_KEYS:
                self._keys.clear()
            self._keys[pem] = load_pem(pem)
        key = self._keys[pem]
        return self._verifier.verify(jws, pem.encode(), lambda: key)


class _Certificate(NamedTuple):
    fingerprint: str  # SHA-256 of the DER, hex
    ends_s: float  # Unix seconds


@lru_cache(maxsize=1_024)
def _read_certificate(pem: str) -> _Certificate:
    """Of a client, as the handshake took it (ASGI TLS extension)."""
    der = ssl.PEM_cert_to_DER_cert(pem)
    ends_s = x509.load_der_x509_certificate(der).not_valid_after_utc.timestamp()
    return _Certificate(hashlib.sha256(der).hexdigest(), ends_s)
