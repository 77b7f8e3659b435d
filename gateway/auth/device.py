"""Who a device is: checks a HELLO against `auth.device` without any look-up; a secret never gets into an error text.

secret: the gateway issues device id and secret at the first HELLO. The secret is derived from a server key, so that
checking it needs no table, and begins with the number of that key, so that keys can be rotated: as long as the older
key is kept, its secrets are good and are replaced at the next login. A node of a fleet that may have missed a new key
can not tell a secret of it from a wrong one, and sends the device away until it can.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from gateway.config.sections import Auth
from gateway.model.errors import ConfigError, InvalidField, NodeUnreachable, Unauthorized
from gateway.model.frames import Hello

MAX_DEVICE_BYTES = 128
MAX_LABEL_CHARS = 64
#: random part of an issued id: 72 bit, 12 characters
ID_BYTES = 9
MAC_BYTES = 24
SECRET_BYTES = 1 + MAC_BYTES
JWT_LEEWAY_S = 30
_NOT_IN_LABEL = re.compile(r"[^A-Za-z0-9._-]+")
#: RFC 7518 §3.2: the key is at least as long as the hash
_HMAC_KEY_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}


class DeviceKeys(Protocol):
    """Server keys for device secrets; store.keys has them."""

    @property
    def device_keys(self) -> Mapping[int, bytes]:
        """Key id (0…255) → key; older ones stay as long as their secrets shall be good."""
        ...

    @property
    def device_key_id(self) -> int:
        """The one new secrets are made with."""
        ...

    @property
    def device_key_next(self) -> int:
        """The one that will be next, known and perhaps in use at another node already; -1: there is none."""
        ...


class Verified(NamedTuple):
    """The device id to use from now on; `secret` is to be sent in WELCOME, empty where the device's own is good."""

    device: str
    secret: bytes = b""

    def __repr__(self) -> str:
        return f"Verified(device=…, secret={'new' if self.secret else 'kept'})"


def build_secret(key_id: int, key: bytes, device: str) -> bytes:
    """Key id || HMAC-SHA256(key, "device" || id)[:24]."""
    return bytes((key_id,)) + hmac.digest(key, b"device" + device.encode(), "sha256")[:MAC_BYTES]


class DeviceVerifier:
    """Checks HELLOs in the configured mode. Control thread only; a few microseconds a login.

    `is_current`: are these all the keys that anything was made with until now?
    """

    def __init__(self, config: Auth, keys: DeviceKeys, *, is_current: Callable[[], bool] = lambda: True) -> None:
        self._keys = keys
        self._is_current = is_current
        self._jwt = _JwtVerifier(config) if config.device == "jwt" else None
        self.verify = {"open": self._verify_open, "secret": self._verify_secret, "jwt": self._verify_jwt}[config.device]

    def _verify_open(self, hello: Hello) -> Verified:
        if not hello.device:
            return Verified(secrets.token_urlsafe(ID_BYTES))
        return Verified(_checked(hello.device))

    def _verify_secret(self, hello: Hello) -> Verified:
        device = hello.device
        if not hello.secret:
            if "~" in device:
                # An issued id is only good with its secret: else whoever hears of an id could take its pushes.
                raise Unauthorized("This device id was issued with a secret: send both, or neither to get a new id.")
            label = _NOT_IN_LABEL.sub("", device)[:MAX_LABEL_CHARS]
            # The random part is always ours, so naming another device's label claims nothing.
            issued = f"{label}~{secrets.token_urlsafe(ID_BYTES)}" if label else secrets.token_urlsafe(ID_BYTES)
            return Verified(issued, self._secret(issued))
        if not device:
            raise Unauthorized("A secret came without the device id it belongs to.")
        _checked(device)
        key_id = hello.secret[0]
        key = self._keys.device_keys.get(key_id)
        if key is None and not self._is_current():
            # `unauthorized` would end a good device for ever: another node may have made this with a newer key
            raise NodeUnreachable("This node does not know yet whether the secret is good; come back.")
        if key is None or not hmac.compare_digest(hello.secret, build_secret(key_id, key, device)):
            raise Unauthorized("The device secret is wrong or no longer valid.")
        return Verified(device, self._secret(device) if self._is_older(key_id) else b"")

    def _is_older(self, key_id: int) -> bool:
        """Is this surely no key that others use already? Else a device would get an older secret for a newer one."""
        return key_id not in (self._keys.device_key_id, self._keys.device_key_next) and self._is_current()

    def _secret(self, device: str) -> bytes:
        key_id = self._keys.device_key_id
        return build_secret(key_id, self._keys.device_keys[key_id], device)

    def _verify_jwt(self, hello: Hello) -> Verified:
        assert self._jwt is not None
        if not hello.jwt:
            raise Unauthorized("Log in with a signed token in HELLO.jwt.")
        return Verified(self._jwt.subject(hello.jwt))


def _checked(device: str) -> str:
    if len(device) > MAX_DEVICE_BYTES or len(device.encode()) > MAX_DEVICE_BYTES:
        raise InvalidField(f"a device id has at most {MAX_DEVICE_BYTES} bytes", field="device")
    return device


class _JwtVerifier:
    """Signed by the operator's identity service; key and algorithms are fixed at start and must fit each other."""

    def __init__(self, config: Auth) -> None:
        if not config.jwt_key_file:
            raise ConfigError("auth.device = jwt needs the key's file", field="auth.jwt_key_file")
        try:
            raw = Path(config.jwt_key_file).read_bytes().strip()
        except OSError as exc:
            raise ConfigError(f"the key file can not be read: {exc.strerror}", field="auth.jwt_key_file") from None
        pem = raw.startswith(b"-----BEGIN")
        self._key: Any
        self._key, fitting = _load_pem(raw) if pem else _load_shared(raw, config.jwt_algorithms)
        # Algorithms that do not fit the key are refused, not ignored, where they are of the other family: a PEM key
        # taken as an HMAC secret is the classic forgery.
        symmetric = set(_HMAC_KEY_BYTES)
        wanted = set(config.jwt_algorithms)
        if "none" in {name.lower() for name in wanted}:
            raise ConfigError("'none' is no signature", field="auth.jwt_algorithms")
        if pem and wanted & symmetric:
            raise ConfigError("HS algorithms do not go with a public key", field="auth.jwt_algorithms")
        self._algorithms = sorted(wanted & fitting)
        if not self._algorithms:
            raise ConfigError(
                f"none of them fits the key; it takes {', '.join(sorted(fitting))}", field="auth.jwt_algorithms"
            )
        self._audience = config.jwt_audience or None

    def subject(self, token: str) -> str:
        try:
            claims = jwt.decode(
                token,
                self._key,
                algorithms=self._algorithms,
                audience=self._audience,
                leeway=JWT_LEEWAY_S,
                options={"require": ["exp", "sub"], "verify_aud": self._audience is not None},
            )
        except jwt.ExpiredSignatureError:
            raise Unauthorized("The signed token has expired; get a fresh one.") from None
        except jwt.InvalidAudienceError:
            raise Unauthorized("The signed token is meant for another audience.") from None
        except jwt.MissingRequiredClaimError as exc:
            raise Unauthorized(f"The signed token lacks the claim {exc.claim}.") from None
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            # No detail and no chain: PyJWT's texts may quote parts of the token.
            raise Unauthorized("The signed token is not valid.") from None
        subject: str = claims["sub"]
        if not subject:
            raise Unauthorized("The signed token names no device (sub is empty).")
        return _checked(subject)


def _load_pem(raw: bytes) -> tuple[Any, set[str]]:
    try:
        key = load_pem_public_key(raw)
    except ValueError:
        raise ConfigError("this PEM file holds no public key", field="auth.jwt_key_file") from None
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < 2048:
            raise ConfigError("an RSA key has at least 2048 bits", field="auth.jwt_key_file")
        return key, {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
    if isinstance(key, ec.EllipticCurvePublicKey):
        curves = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512", "secp256k1": "ES256K"}
        if key.curve.name in curves:
            return key, {curves[key.curve.name]}
    if isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        return key, {"EdDSA"}
    raise ConfigError("no signature algorithm is known for this kind of key", field="auth.jwt_key_file")


def _load_shared(raw: bytes, wanted: list[str]) -> tuple[bytes, set[str]]:
    for name in wanted:
        if len(raw) < _HMAC_KEY_BYTES.get(name, 0):
            raise ConfigError(f"{name} needs a secret of {_HMAC_KEY_BYTES[name]} bytes", field="auth.jwt_key_file")
    return raw, set(_HMAC_KEY_BYTES)
