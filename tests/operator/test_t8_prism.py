"""The notifier `trigger` before a server of another implementation: npm's Prism, which checks each request against an
OpenAPI description of T8 and posts the reports (C10)."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from needs import needs
from trigger_scene import MSISDN, NAI, OPAQUE, TriggerScene, until

from gateway.metrics import Metric
from gateway.model.ports import NotifierResult
from gateway.tour.operator.prism import FOLDER, PACKAGE, Prism, find_prism

pytestmark = [pytest.mark.slow, needs({"node": "nodejs", "npm": "npm"})]


@pytest.fixture
async def prism() -> AsyncIterator[Prism]:
    if not find_prism():
        FOLDER.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", ".", PACKAGE]
        subprocess.run(command, cwd=FOLDER, check=True, capture_output=True, timeout=100)
    async with Prism(find_prism()) as prism:
        await prism.listens()
        yield prism


async def pushed(scene: TriggerScene, **changes: object) -> NotifierResult:
    async with asyncio.timeout(60):
        return await scene.push(**changes)


def scene_of(prism: Prism, folder: Path, **trigger: object) -> TriggerScene:
    scene = TriggerScene(t8=prism.root, auth="bearer", **trigger)
    scene.set_secret("token_file", folder, "t0p")
    return scene


async def test_a_trigger_is_taken_by_a_strict_server_and_its_report_is_heard(prism: Prism, tmp_path: Path) -> None:
    for identify in ("msisdn", "external_id", "opaque_id"):
        async with scene_of(prism, tmp_path, identify=identify, test_notification=True) as scene:
            result = await pushed(scene)
            assert (result.ok, result.detail) == (True, "ok")
            await until(lambda scene=scene: scene.history.words == ["delivered"])  # type: ignore[misc]
    assert prism.violations == 0


async def test_it_is_replaced_by_a_newer_one(prism: Prism, tmp_path: Path) -> None:
    async with scene_of(prism, tmp_path) as scene:
        # the server knows one report, a final one: as if it had not come yet
        scene.notifier._way._hear = lambda _transaction, _report: None  # type: ignore[attr-defined]
        assert (await pushed(scene, seq=1)).detail == "ok"
        assert (await pushed(scene, seq=2)).detail == "replaced"
        assert scene.history.words == ["replaced"]
    assert prism.violations == 0


async def test_a_device_that_is_away_is_watched_until_it_is_back(prism: Prism, tmp_path: Path) -> None:
    async with scene_of(prism, tmp_path, watch_reachability=True) as scene:
        known = await scene.subscribers.resolve(OPAQUE, "shop")
        assert known is not None
        scene.waiting.add(known, 3)
        await scene.notifier._way.watch(known, "")  # type: ignore[attr-defined]
        await until(lambda: scene.backs == [3])
        assert scene.metrics.value(Metric.TRIGGER_WATCHES, "reachable") == 1
    assert prism.violations == 0


async def test_the_server_is_strict_and_a_refusal_names_nobody(prism: Prism, tmp_path: Path) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        url = f"{prism.root}/3gpp-device-triggering/v1/pushgw/transactions"
        headers = {"authorization": "Bearer t0p"}
        body = {"msisdn": MSISDN, "externalId": NAI, "validityPeriod": 1}
        assert (await client.post(url, json=body, headers=headers)).status_code == 422
        assert (await client.post(url, json=body)).status_code in (401, 422)
    scene = TriggerScene(t8=prism.root)
    async with scene:
        result = await pushed(scene)
        assert (result.ok, result.detail) == (False, "401 unauthorized")
    async with scene_of(prism, tmp_path, scs_as_id="somebody-else") as scene:
        result = await pushed(scene)
        assert not result.ok
        assert MSISDN not in repr(result)
