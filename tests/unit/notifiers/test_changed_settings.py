"""Settings that are corrected: what the upstream held against the old ones does not hold them up."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from upstream_rig import IDS, build_app, build_notification, build_registration
from upstream_scene import UpstreamScene

from gateway.model.registration import App, Registration
from gateway.notifiers.apns.client import ApnsNotifier
from gateway.notifiers.apns.local import LocalApns
from gateway.notifiers.fcm.client import FcmNotifier
from gateway.notifiers.fcm.local import LocalFcm
from gateway.notifiers.local_h2 import build_json
from gateway.notifiers.local_tls import Authority
from gateway.notifiers.upstream import FORGET_MS, RATE, Gates, Limits
from gateway.notifiers.webhook.client import WebhookNotifier
from gateway.notifiers.webhook.settings import Settings

DEVICE = "0a1b2c3d" * 8


class Scene(UpstreamScene[LocalApns, ApnsNotifier]):
    def device(self) -> Registration:
        return build_registration("apns", self.upstream.add_device(DEVICE))


@pytest.fixture
async def scene(authority: Authority) -> AsyncIterator[Scene]:
    async with Scene(LocalApns, ApnsNotifier, authority) as scene:
        yield scene


async def test_corrected_key_is_used_while_the_wrong_ones_circuit_is_open(scene: Scene) -> None:
    notifier = scene.build(Limits(timeout_s=20, failures=1, open_s=3_600, open_max_s=3_600))
    wrong = scene.app(key_id="WRONGKEY12")
    for detail in ("403 InvalidProviderToken", "circuit open"):
        assert (await notifier.notify(wrong, scene.device(), build_notification())).detail == detail
    assert (await notifier.notify(scene.app(), scene.device(), build_notification())).ok


async def test_healthy_upstream_is_asked_while_the_one_before_it_rests(scene: Scene) -> None:
    async with LocalApns(authority=scene.upstream.authority) as ill:
        ill.expect(build_json(503, {"reason": "ServiceUnavailable"}, retry_after="3600"))
        before = build_app("apns", {**scene.upstream.settings(), "url": ill.url})
        for detail in ("503 ServiceUnavailable", "upstream rests"):
            assert (await scene.notifier.notify(before, scene.device(), build_notification())).detail == detail
    assert (await scene.notifier.notify(scene.app(), scene.device(), build_notification())).ok


async def test_lane_of_fcm_is_another_one_with_other_settings(authority: Authority) -> None:
    class FcmScene(UpstreamScene[LocalFcm, FcmNotifier]):
        def device(self) -> Registration:
            return build_registration("fcm", "a")

    async with FcmScene(LocalFcm, FcmNotifier, authority) as scene:
        lanes = {scene.notifier.lane(scene.app(**changes), scene.device()) for changes in ({}, {"url": "https://a.b"})}
        assert len(lanes) == 2
        assert scene.notifier.lane(scene.app(), scene.device()) in lanes


async def test_lane_of_a_webhook_is_another_one_with_another_secret(scene: Scene) -> None:
    webhook = WebhookNotifier(Settings(), push_ids=IDS, metrics=scene.metrics)
    settings = {"url": "https://shop.test/hook"}
    apps = [App(name="shop", notifiers={"webhook": {**settings, "secret": secret}}) for secret in ("old", "new")]
    assert len({webhook.lane(app, scene.device()) for app in apps}) == 2
    await webhook.close()


def test_lane_that_failed_and_was_left_gives_its_place_up_before_one_that_is_used() -> None:
    gates = Gates(Limits(failures=1, open_s=1, rate=1, gates=2))
    gates.enter("left", 0)
    gates.report("left", ok=False, now_ms=0)
    now_ms = FORGET_MS + 1_000
    gates.enter("used", now_ms)
    gates.report("used", ok=True, now_ms=now_ms)
    gates.enter("new", now_ms)
    refused = gates.enter("used", now_ms)  # it still knows that its second's worth is used up
    assert refused is not None
    assert refused.row is RATE
