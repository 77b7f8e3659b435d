"""An upstream that asks one device's pushes to slow down: that device's wait, and the lane goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from upstream_rig import build_registration
from upstream_scene import UpstreamScene

from gateway.model.registration import Registration
from gateway.notifiers.apns.client import ApnsNotifier
from gateway.notifiers.apns.local import LocalApns
from gateway.notifiers.fcm.client import FcmNotifier
from gateway.notifiers.fcm.local import LocalFcm, build_refusal
from gateway.notifiers.local_h2 import Reply, build_json
from gateway.notifiers.local_tls import Authority
from gateway.notifiers.upstream import Limits
from gateway.notifiers.webpush.client import WebPushNotifier
from gateway.notifiers.webpush.local import LocalPushService

DEVICE = "0a1b2c3d" * 8


class Apns(UpstreamScene[LocalApns, ApnsNotifier]):
    def device(self, token: str = DEVICE) -> Registration:
        return build_registration("apns", self.upstream.add_device(token))


@pytest.fixture
async def apns(authority: Authority) -> AsyncIterator[Apns]:
    async with Apns(LocalApns, ApnsNotifier, authority) as scene:
        yield scene


async def test_retry_after_for_one_device_is_kept_to_by_its_deliveries_and_by_no_others(apns: Apns) -> None:
    apns.upstream.expect(build_json(429, {"reason": "TooManyRequests"}, retry_after="20"))
    result = await apns.push()
    assert (result.dead, result.asked, result.retry_after_ms, result.hold_ms) == (False, True, 0, 20_000)
    assert (await apns.push()).ok


async def test_time_that_one_device_is_held_has_the_same_limit_as_a_rest(apns: Apns) -> None:
    apns.upstream.expect(build_json(429, {"reason": "TooManyRequests"}, retry_after="99999999999999"))
    assert (await apns.push()).hold_ms == 3_600_000


@pytest.mark.parametrize("body", [b'{"reason":"ServiceUnavailable"}', b"<html>"], ids=["apns", "a proxy before it"])
async def test_retry_after_of_many_digits_is_a_long_one(apns: Apns, body: bytes) -> None:
    apns.upstream.expect(Reply(503, body, (("retry-after", "99999999999999"),)))
    assert (await apns.push()).retry_after_ms == 3_600_000
    assert (await apns.push()).detail == "upstream rests"


# --- 429 that does not say whom it is for


class Fcm(UpstreamScene[LocalFcm, FcmNotifier]):
    def device(self, token: str = "cool", reason: str = "") -> Registration:
        self.upstream.devices[token] = reason
        return build_registration("fcm", token)


class WebPush(UpstreamScene[LocalPushService, WebPushNotifier]):
    def __init__(self, authority: Authority) -> None:
        super().__init__(LocalPushService, WebPushNotifier, authority)

    def build(self, limits: Limits, **options: Any) -> WebPushNotifier:
        return super().build(limits, allows_private=True, **options)

    def device(self, status: int = 201) -> Registration:
        return build_registration("webpush", self.upstream.subscribe(status))


async def test_hot_device_of_fcm_waits_and_stops_nobody_until_a_second_one_hears_the_same(authority: Authority) -> None:
    async with Fcm(LocalFcm, FcmNotifier, authority) as fcm:
        hot, cool = fcm.device("hot", "QUOTA_EXCEEDED"), fcm.device("cool")
        for _ in range(3):
            result = await fcm.push(hot)
            assert (result.asked, result.retry_after_ms, result.hold_ms) == (True, 0, 60_000)
            assert result.is_lanes  # it may be, so it is tried as long as the message lives
            assert (await fcm.push(cool)).ok
        result = await fcm.push(fcm.device("hot too", "QUOTA_EXCEEDED"))
        assert (result.asked, result.retry_after_ms) == (True, 60_000)
        assert (await fcm.push(cool)).detail == "upstream rests"
        fcm.clock.moved_s += 61
        assert (await fcm.push(cool)).ok


async def test_two_devices_that_are_slow_far_apart_in_time_are_two_devices(authority: Authority) -> None:
    async with Fcm(LocalFcm, FcmNotifier, authority) as fcm:
        for token in ("hot", "hot too"):
            assert (await fcm.push(fcm.device(token, "QUOTA_EXCEEDED"))).hold_ms == 60_000
            fcm.clock.moved_s += 61
        assert (await fcm.push(fcm.device("cool"))).ok


async def test_subscription_that_is_throttled_stops_no_other_of_its_origin(authority: Authority) -> None:
    async with WebPush(authority) as service:
        assert (await service.push(service.device(429))).hold_ms == 60_000
        assert (await service.push(service.device())).ok
        assert (await service.push(service.device(429))).retry_after_ms == 60_000
        assert (await service.push(service.device())).detail == "upstream rests"


async def test_retry_after_that_names_nobody_is_kept_to_by_all(authority: Authority) -> None:
    async with Fcm(LocalFcm, FcmNotifier, authority) as fcm:
        fcm.upstream.expect(build_refusal("QUOTA_EXCEEDED", retry_after="7"))
        assert (await fcm.push()).retry_after_ms == 7_000
        assert (await fcm.push()).detail == "upstream rests"
