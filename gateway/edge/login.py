"""Decides on a HELLO: version, identity, heartbeat and window; touches no link and no table."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from gateway.config.sections import Edge as EdgeConfig
from gateway.model.errors import Flapping, InvalidField, UnsupportedVersion
from gateway.model.frames import PROTOCOL_VERSION, FrameType, Hello, Welcome, build_frame, parse_body


class Session(NamedTuple):
    """A logged-in device: its keyed hash, by which the data plane knows it, and its id."""

    key: int
    device: str

    def __repr__(self) -> str:
        return "Session(…)"


class _Verified(Protocol):
    @property
    def device(self) -> str: ...
    @property
    def secret(self) -> bytes: ...


class Accepted(NamedTuple):
    """A login that may go ahead."""

    session: Session
    secret: bytes
    heartbeat_s: int
    window: int
    urgency: int
    config: EdgeConfig

    @property
    def silence_ms(self) -> int:
        return silence_ms(self.heartbeat_s)

    def frame(self, now_ms: int) -> bytes:
        return build_frame(
            FrameType.WELCOME,
            Welcome(
                v=PROTOCOL_VERSION,
                device=self.session.device,
                secret=self.secret,
                heartbeat=self.heartbeat_s,
                heartbeat_min=self.config.heartbeat_min_s,
                heartbeat_max=self.config.heartbeat_max_s,
                window=self.window,
                max_frame=self.config.max_frame_bytes,
                now_ms=now_ms,
                whole=True,
            ),
        )

    def refuse_flapping(self) -> None:
        raise Flapping


def parse_hello(body: bytes) -> Hello:
    """Of any role; raises UnsupportedVersion, InvalidField."""
    hello = parse_body(body, Hello)
    if hello.v != PROTOCOL_VERSION:
        error = UnsupportedVersion(f"version {hello.v} is not spoken here")
        error.versions = [PROTOCOL_VERSION]  # type: ignore[attr-defined]
        raise error
    if hello.role not in ("device", "provider"):
        raise InvalidField("the roles spoken here are 'device' and 'provider'", field="role")
    return hello


def silence_ms(heartbeat_s: int) -> int:
    """How long a link may be silent: 1.5 heartbeat intervals."""
    return heartbeat_s * 1500


def agree_heartbeat(asked_s: int, config: EdgeConfig) -> int:
    """The device's wish inside the gateway's bounds; 0 asks for the default."""
    return min(max(asked_s or config.heartbeat_s, config.heartbeat_min_s), config.heartbeat_max_s)


class DeviceLogin:
    """`verify`: HELLO → device id and new secret, raises Unauthorized; `device_key`: device id → keyed 64-bit hash."""

    def __init__(
        self,
        config: EdgeConfig,
        verify: Callable[[Hello], _Verified],
        device_key: Callable[[str], int],
    ) -> None:
        self._config = config
        self._verify = verify
        self._device_key = device_key

    def decide(self, hello: Hello) -> Accepted:
        verified = self._verify(hello)
        window = min(hello.window or self._config.window, self._config.window)
        return Accepted(
            Session(self._device_key(verified.device), verified.device),
            verified.secret,
            agree_heartbeat(hello.heartbeat, self._config),
            window,
            hello.urgency,
            self._config,
        )
