"""Who pushes at the APNs door: a provider token (ES256) or a client certificate, and for which of the apps.

A key may serve several apps, as a team's key does at Apple's; the topic then says which. Must never take a key of one
app for another.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Iterator
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from gateway.api.apns.headers import Asked, belongs
from gateway.api.apns.reasons import Refused
from gateway.auth.es256 import Jws, Verifier, load_pem, number, parse_jws
from gateway.model.ports import Directory
from gateway.model.registration import App

#: Source: "Establishing a token-based connection to APNs": a token is good for an hour after iat
MAX_AGE_S = 3_600
LEEWAY_S = 60
#: parsed public keys kept
_MAX_KEYS = 1_024


class Providers:
    """Finds the app a request may push to."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._verifier = Verifier()
        self._keys: dict[str, ec.EllipticCurvePublicKey | None] = {}

    def apps_of(self, asked: Asked, scope: dict[str, Any], now_s: float) -> list[App]:
        """Apps this request's credentials are good for, never none. Raises Refused."""
        if asked.authorization:
            return self._by_token(asked.authorization, now_s)
        fingerprint = fingerprint_of(scope)
        if not fingerprint:
            raise Refused("MissingProviderToken")
        apps = [app for app in self._apps() if fingerprint in app.apns_certificates]
        if not apps:
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

    def _apps(self) -> Iterator[App]:
        for name in self._directory.app_names():
            app = self._directory.app(name)
            if app is not None and app.apns_topic:
                yield app

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
        kid, team = jws.header.get("kid"), jws.claims.get("iss")
        found = []
        known = False  # the key id, with another team
        for app in self._apps():
            for key in app.apns_keys:
                known = known or key.key_id == kid
                if key.key_id == kid and key.team_id == team and self._signed(jws, key.public_key):
                    found.append(app)
        if known and not found and not any(k.team_id == team for app in self._apps() for k in app.apns_keys):
            raise Refused("UnrelatedKeyIdInToken")
        return found

    def _signed(self, jws: Jws, pem: str) -> bool:
        if pem not in self._keys:
            if len(self._keys) >= _MAX_KEYS:
                self._keys.clear()
            self._keys[pem] = load_pem(pem)
        key = self._keys[pem]
        return key is not None and self._verifier.verify(jws, key, pem.encode())


def fingerprint_of(scope: dict[str, Any]) -> str:
    """SHA-256 of the client certificate's DER, hex; empty where there is none (ASGI TLS extension)."""
    chain = scope.get("extensions", {}).get("tls", {}).get("client_cert_chain", ())
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(chain[0])).hexdigest() if chain else ""
