"""An FCM that runs here, token endpoint and send endpoint: for tests and the tour. Verifies the assertion as Google
does and answers with Google's errors; must never listen on anything but loopback."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gateway.notifiers.fcm.access_token import GRANT_TYPE, SCOPE
from gateway.notifiers.fcm.errors import BY_REASON
from gateway.notifiers.local_h2 import LocalServer, Reply, Request, Trouble, build_json
from gateway.notifiers.local_tls import Authority

_BEARER = re.compile(r"Bearer (\S+)")
_TTL = re.compile(r"\d+(\.\d{1,9})?s")
MAX_PAYLOAD_BYTES = 4_096
#: google.rpc status that comes with an errorCode
_STATUS = {
    "INVALID_ARGUMENT": "INVALID_ARGUMENT",
    "UNREGISTERED": "NOT_FOUND",
    "SENDER_ID_MISMATCH": "PERMISSION_DENIED",
    "QUOTA_EXCEEDED": "RESOURCE_EXHAUSTED",
    "UNAVAILABLE": "UNAVAILABLE",
    "INTERNAL": "INTERNAL",
    "THIRD_PARTY_AUTH_ERROR": "UNAUTHENTICATED",
    "UNSPECIFIED_ERROR": "UNKNOWN",
}


def build_refusal(code: str, *, with_detail: bool = True, **headers: str) -> Reply:
    """Google's JSON of an error: with an FcmError, or only with a status."""
    row = BY_REASON[code]
    error: dict[str, Any] = {"code": row.status, "message": "told to", "status": _STATUS.get(code, code)}
    if with_detail:
        error["details"] = [
            {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "OTHER"},
            {"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code},
        ]
    return build_json(row.status, {"error": error}, **headers)


class LocalFcm(LocalServer):
    """`settings()` is what an app needs to push here; `devices` says which tokens there are and what they answer."""

    def __init__(
        self,
        *,
        project: str = "shop-1234",
        authority: Authority | None = None,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(authority=authority)
        self.project = project
        self.email = f"push@{project}.iam.gserviceaccount.com"
        self.key_id = secrets.token_hex(20)
        self.key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
        #: registration token → errorCode it is answered with; "" = taken
        self.devices: dict[str, str] = {}
        self.taken: list[dict[str, Any]] = []
        #: access token → Unix seconds when it ends
        self.access_tokens: dict[str, float] = {}
        self.expires_in = 3_599
        self._now_s = now_s

    @property
    def token_url(self) -> str:
        return f"{self.url}/token"

    def settings(self) -> dict[str, str]:
        """Of `notifiers.fcm`."""
        key = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        account = {
            "type": "service_account",
            "project_id": self.project,
            "private_key_id": self.key_id,
            "private_key": key,
            "client_email": self.email,
            "token_uri": self.token_url,
        }
        return {
            "service_account": msgspec.json.encode(account).decode(),
            "url": self.url,
            "token_url": self.token_url,
            "ca": self.ca,
        }

    def add_device(self, token: str, code: str = "") -> str:
        self.devices[token] = code
        return token

    async def respond(self, request: Request) -> Reply | Trouble:
        if request.method == "POST" and request.path == "/token":
            return self._give_token(request)
        if request.method == "POST" and request.path == f"/v1/projects/{self.project}/messages:send":
            return self._send(request)
        return build_refusal("NOT_FOUND", with_detail=False)

    def _give_token(self, request: Request) -> Reply:
        form = parse_qs(request.body.decode("utf-8", "replace"))
        if form.get("grant_type") != [GRANT_TYPE] or len(form.get("assertion", ())) != 1:
            return build_json(400, {"error": "unsupported_grant_type"})
        assertion, now_s = form["assertion"][0], self._now_s()
        try:
            if jwt.get_unverified_header(assertion).get("kid") != self.key_id:
                return build_json(400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."})
            claims = jwt.decode(
                assertion,
                self.key.public_key(),
                algorithms=["RS256"],
                audience=self.token_url,
                issuer=self.email,
                options={"verify_iat": False, "verify_exp": False, "require": ["iat", "exp", "scope"]},
            )
        except jwt.InvalidTokenError:
            return build_json(400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."})
        lasts_s = claims["exp"] - claims["iat"]
        if not 0 < lasts_s <= 3_600 or not claims["iat"] - 300 <= now_s < claims["exp"]:
            return build_json(400, {"error": "invalid_grant", "error_description": "Invalid JWT: iat, exp."})
        if claims["scope"] != SCOPE:
            return build_json(400, {"error": "invalid_scope"})
        token = f"ya29.{secrets.token_urlsafe(32)}"
        self.access_tokens[token] = now_s + self.expires_in
        return build_json(200, {"access_token": token, "expires_in": self.expires_in, "token_type": "Bearer"})

    def _send(self, request: Request) -> Reply:
        bearer = _BEARER.fullmatch(request.header("authorization"))
        if bearer is None or self.access_tokens.get(bearer[1], 0) <= self._now_s():
            return build_refusal("UNAUTHENTICATED", with_detail=False)
        try:
            message = msgspec.json.decode(request.body, type=dict[str, dict[str, Any]])["message"]
        except (msgspec.DecodeError, KeyError):
            return build_refusal("INVALID_ARGUMENT")
        if not self._is_valid(message):
            return build_refusal("INVALID_ARGUMENT")
        code = self.devices.get(message["token"], "UNREGISTERED")
        if code:
            return build_refusal(code)
        self.taken.append(message)
        return build_json(200, {"name": f"projects/{self.project}/messages/{len(self.taken)}"})

    @staticmethod
    def _is_valid(message: dict[str, Any]) -> bool:
        data, android = message.get("data", {}), message.get("android", {})
        if not isinstance(message.get("token"), str) or not isinstance(data, dict) or not isinstance(android, dict):
            return False
        if not all(isinstance(value, str) for value in data.values()):
            return False
        if any(key in ("from", "message_type") or key.startswith(("google", "gcm")) for key in data):
            return False
        if android.get("priority", "NORMAL") not in ("NORMAL", "HIGH") or not _TTL.fullmatch(android.get("ttl", "0s")):
            return False
        size = len(msgspec.json.encode({"notification": message.get("notification", {}), "data": data}))
        return size <= MAX_PAYLOAD_BYTES
