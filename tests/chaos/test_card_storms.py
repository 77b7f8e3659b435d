"""Everything at once, from a seed: bad networks, dropped channels, an SMSC that comes and goes, restarts. Each command
once and in order (E6)."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import card_fleet
import pytest
from card_fleet import FAST, SETTINGS, Fleet, Phone, apdu

from gateway.model.cards import Ability, DownloadState, Fate
from gateway.ota.sim.card import OK
from gateway.ota.sim.terminal import Behaviour

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]

STORM = replace(SETTINGS, validity_s=0.5, answer_s=0.25, attempts=10_000, at_once=6, packet_bytes=120)


def unsettle(phone: Phone, rng: random.Random) -> None:
    """Its channel is dropped at some commands, before or behind the answer."""

    def perform(_command: bytes) -> int:
        if rng.random() < 0.03:
            asyncio.get_running_loop().call_later(rng.choice((0.0, 0.01)), phone.terminal.drop_channel)
        elif rng.random() < 0.02:
            phone.terminal.drop_channel()
        return OK

    phone.card.perform = perform


@pytest.mark.parametrize("seed", range(1, 9))
async def test_whatever_happens_each_command_is_executed_once(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card_fleet, "PATIENCE_S", 60.0)
    rng = random.Random(seed)
    async with Fleet(replace(STORM, packets_at_once=rng.choice((1, 3)))) as fleet:
        payloads: dict[int, list[list[bytes]]] = {}
        numbers: list[int] = []
        for place in range(8):
            behaviour = Behaviour(
                loss=rng.choice((0.0, 0.05)), twice=rng.choice((0.0, 0.1)), delay_s=rng.choice((0.0, 0.01)), seed=place
            )
            phone = await fleet.add(
                behaviour,
                ability=rng.choice((Ability.CAPABLE, Ability.UNKNOWN)),
                limits=replace(FAST, keep_alive_ms=40, retries=4, opening_retries=8, window=rng.choice((1, 4))),
            )
            if rng.random() < 0.2:
                phone.card.profile.counters.update({2: 300, 3: 300})
            unsettle(phone, rng)
            payloads[place] = []
            for part in range(rng.choice((1, 2))):
                what = [apdu(100 * part + number, rng.randint(10, 60)) for number in range(rng.randint(20, 40))]
                payloads[place].append(what)
                numbers.append(await fleet.start(phone, what))
        for _ in range(12):
            await asyncio.sleep(rng.uniform(0.02, 0.2))
            what_now = rng.random()
            if what_now < 0.3:
                await fleet.restart()
            elif what_now < 0.5:
                fleet.smsc.is_down = not fleet.smsc.is_down
            elif what_now < 0.8:
                phone = rng.choice(fleet.phones)
                phone.fate = rng.choice((Fate.DELIVERED, Fate.UNDELIVERED, None))
                phone.is_mute = rng.random() < 0.3
            else:
                fleet.cards.full.writes = fleet.downloads.full.writes = rng.randint(0, 4)
        fleet.smsc.is_down = False
        for phone in fleet.phones:
            phone.fate, phone.is_mute = Fate.DELIVERED, False
        for number in numbers:
            assert (await fleet.end(number)).state is DownloadState.DONE
        for place, phone in enumerate(fleet.phones):
            # one behind the other, and which goes first is not said
            wholes = [[*first, *second] for first in payloads[place] for second in payloads[place] if second != first]
            assert phone.card.executed in (wholes or payloads[place])
        assert sorted(over.number for over in fleet.over) == sorted(numbers)
