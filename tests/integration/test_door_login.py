"""Who may log in, and what the others are told: secrets and their rotation, signed tokens, limits of every kind."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
from bare_device import BareDevice, close_all
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from open_house import House, until

from gateway.metrics import Metric
from gateway.model.errors import (
    Flapping,
    InvalidField,
    LoginTimeout,
    Overloaded,
    Unauthorized,
    UnsupportedVersion,
)
from gateway.model.frames import FrameType

Open = Callable[..., Any]


async def refused(link: BareDevice, expected: Any, /, **hello: Any) -> dict[str, Any]:
    await link.connect()
    link.send(FrameType.HELLO, {"v": 1, **hello})
    return await link.sent_away(expected, FrameType.ERROR)


# --- secrets


async def test_a_first_hello_gets_an_id_and_a_secret_that_are_good_ever_after(house: House) -> None:
    device = house.device()
    first = await device.login(device="phone")
    assert first["device"].startswith("phone~")
    assert first["secret"]
    token = await device.register()
    await close_all(device)
    again = await device.login()
    assert again["device"] == first["device"]
    assert "secret" not in again
    assert await device.register() == token  # A1


async def test_a_wrong_secret_is_refused_counted_and_takes_nothing_over(house: House) -> None:
    device = house.device()
    token = await device.join(device="phone")
    wrong = [
        {"secret": b"\0" * 25},
        {"secret": device.secret[:-1]},
        {"secret": device.secret + b"\0"},
        {"secret": bytes((7,)) + device.secret[1:]},
        {"secret": b""},
    ]
    for hello in wrong:
        body = await refused(house.device(), Unauthorized, device=device.device, **hello)
        assert device.device not in body["message"]
    await refused(house.device(), Unauthorized, device="another~id", secret=device.secret)
    await refused(house.device(), Unauthorized, secret=device.secret)
    assert house.value(Metric.LOGINS, "unauthorized") == len(wrong) + 2
    await house.shop.push(token, "mine")
    assert (await device.note())["title"] == "mine"


async def test_a_secret_of_an_older_key_is_good_once_more_and_replaced(house: House) -> None:
    keys = house.gateway.store.keys
    device = house.device()
    await device.login()
    token, old = await device.register(), device.secret
    await close_all(device)
    first = keys.device_key_id
    keys.rotate_device_key()
    renewed = await device.login()
    assert renewed["secret"] not in (b"", old)
    assert await device.register() == token
    await close_all(device)
    keys.drop_device_key(first)
    assert "secret" not in await device.login()
    await refused(house.device(), Unauthorized, device=device.device, secret=old)


async def test_a_rotated_key_outlives_a_restart(house: House) -> None:
    device = house.device()
    token = await device.join()
    house.gateway.store.keys.rotate_device_key()
    await house.restart()
    assert (await device.login())["secret"]
    assert await device.register() == token


# --- version and role


async def test_a_version_not_spoken_is_refused_with_those_that_are(house: House) -> None:
    for version in (0, 2, -1, 1 << 40):
        assert (await refused(house.device(), UnsupportedVersion, v=version))["versions"] == [1]
    assert house.value(Metric.LOGINS, "unsupported_version") == 4


async def test_another_role_or_a_wrong_field_is_refused_by_name(house: House) -> None:
    for field, value in (("role", "waiter"), ("role", 1), ("device", "x" * 4000), ("heartbeat", -1), ("urgency", 4)):
        assert field in (await refused(house.device(), InvalidField, **{field: value}))["message"]
    assert house.value(Metric.LOGINS, "invalid_field") == 5


# --- signed tokens and open doors


async def test_signed_tokens_are_checked_for_signature_algorithm_audience_and_time(
    open_house: Open, tmp_path: Path
) -> None:
    ours, theirs = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    public = ours.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    key_file = tmp_path / "device.pem"
    key_file.write_bytes(public)
    house = await open_house({"auth.device": "jwt", "auth.jwt_key_file": str(key_file), "auth.jwt_audience": "push"})
    good = {"sub": "car-7", "aud": "push", "exp": int(time.time()) + 60}

    def sign(key: Any = ours, algorithm: str = "ES256", **claims: Any) -> str:
        merged = {**good, **claims}
        return jwt.encode({k: v for k, v in merged.items() if v is not None}, key, algorithm)

    device = house.device()
    assert (await device.login(jwt=sign()))["device"] == "car-7"
    token = await device.register()
    bad = {
        "expired": sign(exp=int(time.time()) - 3600),
        "for others": sign(aud="billing"),
        "for nobody": sign(aud=None),
        "for ever": sign(exp=None),
        "of nobody": sign(sub=None),
        "of the empty one": sign(sub=""),
        "by others": sign(theirs),
        "unsigned": sign(None, "none"),
        "by the public key": _sign_with_public_key(public, good),
        "no token": "x.y.z",
        "missing": "",
    }
    for what, text in bad.items():
        body = await refused(house.device(), Unauthorized, jwt=text)
        assert not text or text not in body["message"], what
    assert house.value(Metric.LOGINS, "unauthorized") == len(bad)
    await house.shop.push(token, "still mine")
    assert (await device.note())["title"] == "still mine"


def _sign_with_public_key(public: bytes, claims: dict[str, Any]) -> str:
    """The classic forgery; PyJWT itself refuses to make it."""
    import base64
    import hmac
    import json

    def part(raw: bytes) -> bytes:
        return base64.urlsafe_b64encode(raw).rstrip(b"=")

    head = part(json.dumps({"alg": "HS256", "typ": "JWT"}).encode()) + b"." + part(json.dumps(claims).encode())
    return (head + b"." + part(hmac.digest(public, head, "sha256"))).decode()


async def test_an_open_door_takes_any_id_and_makes_one_where_there_is_none(open_house: Open) -> None:
    house = await open_house({"auth.device": "open"})
    named, nameless = house.device(), house.device()
    welcome = await named.login(device="meter-1")
    assert (welcome["device"], welcome.get("secret", b"")) == ("meter-1", b"")
    assert (await nameless.login())["device"]
    assert nameless.device != "meter-1"
    await refused(house.device(), InvalidField, device="x" * 129)


# --- limits


async def test_who_never_logs_in_is_sent_away_at_the_deadline_however_slowly_it_talks(open_house: Open) -> None:
    house = await open_house({"edge.login_timeout_s": 0.2})
    silent, mumbling = await house.device().connect(), await house.device().connect()
    mumbling.send_raw(bytes((FrameType.HELLO, 0x40)))
    for device in (silent, mumbling):
        await device.sent_away(LoginTimeout)
    assert house.ended("login_timeout") == 2
    await house.is_empty()


async def test_a_device_that_logs_in_too_often_is_told_to_stay_away_a_while(open_house: Open) -> None:
    house = await open_house({"edge.device_logins_per_minute": 3})
    flapping, calm = house.device(), house.device()
    for _ in range(3):
        await flapping.login()
        await close_all(flapping)
    await flapping.connect()
    flapping.send(FrameType.HELLO, flapping.hello())
    await flapping.sent_away(Flapping, FrameType.ERROR)
    assert house.value(Metric.LOGINS, "flapping") == 1
    await calm.login()


async def test_a_refused_flapping_login_does_not_end_the_link_that_works(open_house: Open) -> None:
    house = await open_house({"edge.device_logins_per_minute": 1})
    device, twin = house.device(), house.device()
    token = await device.join()
    twin.device, twin.secret = device.device, device.secret
    await twin.connect()
    twin.send(FrameType.HELLO, twin.hello())
    await twin.sent_away(Flapping, FrameType.ERROR)
    await house.shop.push(token, "mine")
    assert (await device.note())["title"] == "mine"


async def test_logins_past_the_rate_are_told_to_come_back_and_can(open_house: Open) -> None:
    house = await open_house({"edge.logins_per_s": 5})
    devices = [await house.device().connect() for _ in range(15)]
    for device in devices:
        device.send(FrameType.HELLO, {"v": 1})
    for device in devices:
        await until(lambda device=device: device.closed or device.waiting(FrameType.WELCOME))
    turned_away = [device for device in devices if not device.waiting(FrameType.WELCOME)]
    assert 5 <= len(turned_away) <= 10
    for device in turned_away:
        body = await device.sent_away(Overloaded)
        assert body["jitter_ms"] > 0  # so that a crowd does not come back as one
    assert house.ended("overloaded") == len(turned_away)

    async def comes_back() -> bool:
        device = await turned_away[0].connect()
        device.send(FrameType.HELLO, {"v": 1})
        await until(lambda: device.closed or device.waiting(FrameType.WELCOME))
        return bool(device.waiting(FrameType.WELCOME))

    await until(comes_back)


async def test_links_past_the_most_are_closed_at_once_counted_and_taken_when_there_is_room(open_house: Open) -> None:
    house = await open_house({"edge.max_links": 3})
    inside = [house.device() for _ in range(3)]
    for device in inside:
        await device.login()
    outside = await house.device().connect()
    assert await outside.end() == []
    assert house.value(Metric.LINKS_REJECTED, "full") == 1
    await close_all(inside[0])
    await until(lambda: house.counter("links") == 2)
    await outside.login()
    for device in inside[1:]:
        await device.sync()


async def test_past_the_memory_mark_logins_are_refused_and_devices_inside_stay(open_house: Open) -> None:
    house = await open_house({"edge.memory_limit_bytes": 1})
    inside = house.device()
    token = await inside.join()  # the fuse has not looked yet

    async def is_refused() -> bool:
        late = await house.device().connect()
        late.send(FrameType.HELLO, {"v": 1})
        await until(lambda: late.closed or late.waiting(FrameType.WELCOME))
        if late.waiting(FrameType.WELCOME):
            late.vanish()
            return False
        await late.sent_away(Overloaded)
        return True

    await until(is_refused, pause_s=0.1)
    assert house.ended("overloaded") >= 1
    push = await house.shop.push(token, "inside")
    await inside.note(ack=True)
    await house.shop.reaches(push, "acked")


async def test_a_device_is_kept_to_the_heartbeat_and_window_bounds(open_house: Open) -> None:
    house = await open_house({"edge.heartbeat_min_s": 20, "edge.heartbeat_max_s": 90, "edge.window": 8})
    for asked, agreed in ((0, 60), (1, 20), (45, 45), (86_400, 90)):
        welcome = await house.device().login(heartbeat=asked)
        assert (welcome["heartbeat"], welcome["heartbeat_min"], welcome["heartbeat_max"]) == (agreed, 20, 90)
    for asked, agreed in ((0, 8), (3, 3), (65_535, 8)):
        assert (await house.device().login(window=asked))["window"] == agreed
