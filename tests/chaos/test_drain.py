"""SIGTERM under load: devices are sent away one after the other, everything accepted and acked is committed, exit 0; a
second SIGTERM ends it at once, and loses nothing either.
"""

from __future__ import annotations

import asyncio
import random
import signal
from pathlib import Path

import pytest
from chaos_crowd import Temper
from chaos_gateway import Deadline
from chaos_provider import Provider
from chaos_scene import Scene

from gateway.model.errors import Draining

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(120)]

DEVICES = 120
DRAIN_S = 3.0
#: commits are so far apart that an end without a last one would be seen
SETTINGS = ("store.commit_ms=200", "delivery.ack_ms=300")


def people(scene: Scene) -> None:
    """Prompt ones, some that ack late or not always, and some that are away."""
    tempers = (Temper.PROMPT,) * 6 + (Temper.FITFUL, Temper.LATE, Temper.SLEEPER)
    for number in range(DEVICES):
        temper = tempers[number % len(tempers)]
        scene.crowd.add(temper=temper, version=("1.0", "2.0")[number % 2], alias=f"user {number // 3}", tags=("all",))


async def load_until(scene: Scene, answered: int) -> Provider:
    """A provider at work that got so many answers."""
    people(scene)
    await scene.crowd.register_all()
    provider = Provider(scene.gateway, scene.door, scene.crowd, scene.ledger, random.Random(7))
    scene.crowd.start()
    provider.start(workers=32)
    async with Deadline(30, f"{answered} answers"):
        while scene.ledger.counts["answered"] < answered:
            await asyncio.sleep(0.01)
    return provider


async def everybody_gets_the_rest(scene: Scene, provider: Provider) -> None:
    """The next start: what was accepted is there, what was acked is not."""
    await scene.gateway.start()
    await provider.stop()
    await provider.settle()
    await scene.crowd.settle()
    await asyncio.gather(*(device.drain() for device in scene.crowd.devices))
    await scene.follow()
    # After a clean end nothing is unknown, acked before its commit or not.
    assert not scene.ledger.unfed()
    scene.judge()
    assert not scene.gateway.complaints()


async def test_sigterm_under_load_sends_devices_away_in_turn_and_commits_everything(tmp_path: Path) -> None:
    async with Scene(tmp_path / "store", f"edge.drain_s={DRAIN_S}", *SETTINGS) as scene:
        provider = await load_until(scene, 500)
        there = [device for device in scene.crowd.devices if device.link is not None and device.link.is_up]
        assert await scene.gateway.terminate() == 0
        scene.ended_cleanly()
        told = [device.sent_away for device in there]
        assert [len(goaways) for goaways in told] == [1] * len(there)
        moments = sorted(goaways[0][0] for goaways in told)
        # spread evenly: no quarter of the time has more than half of them, and the whole of it is used
        assert DRAIN_S * 0.7 < moments[-1] - moments[0] < DRAIN_S + 3
        quarter = DRAIN_S / 4
        for start in moments:
            assert sum(start <= moment < start + quarter for moment in moments) <= len(moments) / 2
        for goaways in told:
            goaway = goaways[0][1]
            assert (goaway.code, goaway.name, goaway.retry) == (Draining.code, "draining", True)
            assert goaway.after_ms > 0
            assert goaway.jitter_ms >= DRAIN_S * 1000  # who comes back does so over as long a time
        await everybody_gets_the_rest(scene, provider)


async def test_a_second_sigterm_ends_it_at_once_and_loses_nothing(tmp_path: Path) -> None:
    async with Scene(tmp_path / "store", "edge.drain_s=60", *SETTINGS) as scene:
        provider = await load_until(scene, 300)
        scene.gateway.serving.clear()
        scene.gateway.send_signal(signal.SIGTERM)
        async with Deadline(15, "the first GOAWAY"):
            while not any(device.sent_away for device in scene.crowd.devices):
                await asyncio.sleep(0.01)
        scene.gateway.send_signal(signal.SIGTERM)
        assert await scene.gateway.ended(10) == 0
        scene.ended_cleanly()
        assert not all(device.sent_away for device in scene.crowd.devices)
        await everybody_gets_the_rest(scene, provider)
