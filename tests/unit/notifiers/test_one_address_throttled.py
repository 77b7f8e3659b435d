"""An upstream that asks one device's pushes to slow down: that device's wait, and the lane goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from upstream_rig import build_registration
from upstream_scene import UpstreamScene

from gateway.model.registration import Registration
from gateway.notifiers.apns.client import ApnsNotifier
from gateway.notifiers.apns.local import LocalApns
from gateway.notifiers.local_h2 import Reply, build_json
from gateway.notifiers.local_tls import Authority

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
