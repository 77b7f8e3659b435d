"""An APNs that runs here: for tests and the tour. Checks what Apple checks, provider tokens with their signatures too,
and answers with Apple's reasons; must never listen on anything but loopback."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jwt
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from gateway.notifiers.apns.errors import BY_REASON
from gateway.notifiers.local_h2 import LocalServer, Reply, Request, Trouble, build_json
from gateway.notifiers.local_tls import Authority

_PATH = re.compile(r"/3/device/([0-9a-fA-F]*)")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_TOPIC = re.compile(r"[A-Za-z0-9.-]{1,255}")
_PUSH_TYPES = (
    "alert", "background", "voip", "complication", "fileprovider", "mdm", "location", "liveactivity", "pushtotalk",
    "widgets", "controls",
)  # fmt: skip
_BEARER = re.compile(r"bearer +(\S+)", re.IGNORECASE)
MAX_PAYLOAD_BYTES = 4_096
#: a provider token is refused past this age, and a new one before the shorter time
EXPIRES_S = 3_600
UPDATE_S = 1_200


def _name_in(certificate: bytes) -> str:
    """The common name, which is the topic."""
    names = x509.load_der_x509_certificate(certificate).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


class Taken(NamedTuple):
    """A notification that was accepted."""

    device: str
    apns_id: str
    headers: dict[str, str]
    payload: dict[str, Any]


class LocalApns(LocalServer):
    """`settings()` is what an app needs to push here; `devices` says which tokens there are and what they answer."""

    def __init__(
        self,
        *,
        topic: str = "com.example.shop",
        authority: Authority | None = None,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(authority=authority, asks_client=True)
        self.topic = topic
        #: what the team may push to
        self.topics = {topic}
        self.team_id, self.key_id = "TEAM123456", "KEY1234567"
        self.key = ec.generate_private_key(ec.SECP256R1())
        #: the team's further keys, by their id
        self.keys = {self.key_id: self.key}
        #: device token → reason it is answered with; "" = taken
        self.devices: dict[str, str] = {}
        #: device token → topic, where it is not the first one's
        self.device_topics: dict[str, str] = {}
        #: connection → id of the key it began with
        self._begun_with: dict[int, str] = {}
        #: device token → Unix ms since when it is gone
        self.gone_at: dict[str, int] = {}
        self.taken: list[Taken] = []
        #: provider tokens seen, each with its `iat`
        self.provider_tokens: dict[str, int] = {}
        #: refuse a token that replaces one younger than 20 minutes
        self.is_strict = False
        #: tokens called expired whatever their age
        self.revoked: set[str] = set()
        self._now_s = now_s

    def settings(self) -> dict[str, str]:
        """Of `notifiers.apns`, with a provider token."""
        key = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        return {
            "url": self.url,
            "ca": self.ca,
            "topic": self.topic,
            "team_id": self.team_id,
            "key_id": self.key_id,
            "key": key,
        }

    def certificate_settings(self) -> dict[str, str]:
        """The same with a client certificate."""
        issued = self.authority.issue(name=self.topic)
        return {
            "url": self.url,
            "ca": self.ca,
            "topic": self.topic,
            "certificate": issued.certificate,
            "certificate_key": issued.key,
        }

    def add_device(self, token: str, reason: str = "") -> str:
        self.devices[token] = reason
        return token

    def add_key(self, key_id: str) -> ec.EllipticCurvePrivateKey:
        """One more key of the team."""
        return self.keys.setdefault(key_id, ec.generate_private_key(ec.SECP256R1()))

    async def respond(self, request: Request) -> Reply | Trouble:
        apns_id = request.header("apns-id")
        reason = self._refusal(request)
        if reason:
            body: dict[str, Any] = {"reason": reason}
            match = _PATH.fullmatch(request.path)
            gone_at = self.gone_at.get(match[1], 0) if match else 0
            if BY_REASON[reason].status == 410:
                body["timestamp"] = gone_at or int(self._now_s() * 1000)
            return build_json(BY_REASON[reason].status, body, apns_id=apns_id)
        return Reply(200, b"", (("apns-id", apns_id),))

    def _refusal(self, request: Request) -> str:
        """Apple's reason, "" where it is taken."""
        if request.method != "POST":
            return "MethodNotAllowed"
        match = _PATH.fullmatch(request.path)
        if match is None:
            return "BadPath"
        names = [name for name, _ in request.headers]
        if len(names) != len(set(names)):
            return "DuplicateHeaders"
        reason = self._wrong_identity(request) or self._wrong_header(request)
        if reason:
            return reason
        if not match[1]:
            return "MissingDeviceToken"
        if not request.body:
            return "PayloadEmpty"
        if len(request.body) > MAX_PAYLOAD_BYTES:
            return "PayloadTooLarge"
        try:
            payload = msgspec.json.decode(request.body, type=dict[str, Any])
        except msgspec.DecodeError:
            return "PayloadEmpty"
        reason = self.devices.get(match[1], "BadDeviceToken")
        if not reason and self._topic_of(request) != self.device_topics.get(match[1], self.topic):
            return "DeviceTokenNotForTopic"
        if not reason:
            self.taken.append(Taken(match[1], request.header("apns-id"), dict(request.headers), payload))
        return reason

    def _wrong_identity(self, request: Request) -> str:
        bearer = _BEARER.fullmatch(request.header("authorization"))
        if bearer is None and request.certificate:
            return "" if _name_in(request.certificate) in self.topics else "BadCertificate"
        if bearer is None:
            return "MissingProviderToken"
        token, now_s = bearer[1], self._now_s()
        try:
            key_id = str(jwt.get_unverified_header(token).get("kid"))
            if key_id not in self.keys:
                return "InvalidProviderToken"
            claims = jwt.decode(
                token,
                self.keys[key_id].public_key(),
                algorithms=["ES256"],
                options={"verify_iat": False, "require": ["iat"]},
            )
        except jwt.InvalidTokenError:
            return "InvalidProviderToken"
        issued = claims["iat"]
        if claims.get("iss") != self.team_id or not isinstance(issued, int) or issued > now_s + 60:
            return "InvalidProviderToken"
        if self._begun_with.setdefault(request.connection, key_id) != key_id:
            return "UnrelatedKeyIdInToken"
        if now_s - issued > EXPIRES_S or token in self.revoked:
            return "ExpiredProviderToken"
        if token not in self.provider_tokens:
            latest = max(self.provider_tokens.values(), default=0)
            if self.is_strict and self.provider_tokens and issued - latest < UPDATE_S:
                return "TooManyProviderTokenUpdates"
            self.provider_tokens[token] = issued
        return ""

    @staticmethod
    def _topic_of(request: Request) -> str:
        """A certificate is for the topic in it, where the request names none."""
        return request.header("apns-topic") or _name_in(request.certificate)

    def _wrong_header(self, request: Request) -> str:
        topic, expiration = request.header("apns-topic"), request.header("apns-expiration")
        if not topic and not request.certificate:
            return "MissingTopic"
        if topic and not _TOPIC.fullmatch(topic):
            return "BadTopic"
        if self._topic_of(request) not in self.topics:
            return "TopicDisallowed"
        if request.header("apns-id") and not _UUID.fullmatch(request.header("apns-id")):
            return "BadMessageId"
        if expiration and not expiration.isdigit():
            return "BadExpirationDate"
        push_type, priority = request.header("apns-push-type"), request.header("apns-priority")
        if push_type not in _PUSH_TYPES:
            return "InvalidPushType"
        if priority not in ("", "1", "5", "10") or (push_type == "background" and priority not in ("", "5")):
            return "BadPriority"
        return "BadCollapseId" if len(request.header("apns-collapse-id").encode()) > 64 else ""
