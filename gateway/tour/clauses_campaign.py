"""Clause E6+: the same commands for many cards, as clauses_e."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from gateway.ota.sim.terminal import Behaviour
from gateway.tour.cards import Cards, cards, write_command
from gateway.tour.fleet import Fleet
from gateway.tour.stage import Stage, check, eventually

CARDS, PER_S = 100, 100
#: every fifth terminal knows no channels; all are on a network that loses
LOSS = 0.05
PAYLOAD = [write_command(number, 200) for number in range(12)]


def _behave(number: int) -> Behaviour:
    return Behaviour(capable=number % 5 != 4, loss=LOSS, seed=number)


async def _look(scene: Cards, campaign: str) -> dict[str, Any]:
    answer = await scene.stage.call("GET", f"/v1/campaigns/{campaign}")
    check(answer.status_code == 200, f"look-up refused: {answer.status_code} {answer.text}")
    return dict(answer.json())


async def _tell(scene: Cards, campaign: str, word: str) -> None:
    answer = await scene.stage.call("POST", f"/v1/campaigns/{campaign}/{word}")
    check(answer.is_success, f"{word} refused: {answer.status_code} {answer.text}")


async def _until(scene: Cards, campaign: str, state: str, least: int = 0, timeout_s: float = 120.0) -> dict[str, Any]:
    """In this state, and at least so many are over."""

    async def probe() -> dict[str, Any] | None:
        found = await _look(scene, campaign)
        canary = found["canary"]
        if canary["over"] < canary["cards"]:
            released = found["participants"] - found["held"]
            check(
                released <= canary["cards"], f"{released} were released before all {canary['cards']} canaries were over"
            )
        return found if found["state"] == state and found["over"] >= least else None

    return dict(await eventually(probe, f"campaign {state} with {least} over", timeout_s))


async def campaign(_stage: Stage, _fleet: Fleet) -> str:
    """Canaries first, paused and resumed, every card's end counted once."""
    async with cards(*map(_behave, range(CARDS)), new=False) as scene:
        await scene.power_on(*range(CARDS))
        began = time.monotonic()
        body = {
            "name": "roaming list 12",
            "commands": [command.hex() for command in PAYLOAD],
            "query": "all",
            "canary": {"share": 0.1, "success": 0.9},
            "per_s": PER_S,
        }
        answer = await scene.stage.call("POST", "/v1/campaigns", json=body)
        check(answer.status_code == 201, f"the campaign was refused: {answer.status_code} {answer.text}")
        name = str(answer.json()["id"])
        await _until(scene, name, "running", CARDS // 10)
        await _tell(scene, name, "pause")
        paused = await _until(scene, name, "paused")
        check(paused["held"] > 0, "all were released before it could be paused")
        await asyncio.sleep(3 / PER_S)  # one release may be under way
        held = (await _look(scene, name))["held"]
        await asyncio.sleep(0.5)
        more = held - (await _look(scene, name))["held"]
        check(more == 0, f"{more} were released while it was paused")
        await _tell(scene, name, "resume")
        found = await _until(scene, name, "done", CARDS)
        took_s = time.monotonic() - began
        canary = found["canary"]
        check((canary["cards"], canary["over"]) == (CARDS // 10, CARDS // 10), f"canaries: {canary}")
        incapable = sum(not _behave(number).capable for number in range(CARDS))
        expected = {"done": CARDS - incapable, "noticed": incapable}
        check(found["results"] == expected, f"it ended {found['results']}, not {expected}: {found['causes']}")
        for number, holder in enumerate(scene.network.holders):
            wanted = PAYLOAD if _behave(number).capable else []
            check(holder.card.executed == wanted, f"card {number} executed {len(holder.card.executed)} commands")
            check(len(holder.inbox) == (not wanted), f"the user of card {number} read {len(holder.inbox)} notices")
        lost = sum(holder.terminal.counts["lost"] for holder in scene.network.holders)
        scene.check_strict()
    return (
        f"{CARDS} cards, canaries first, paused at {paused['over']} and resumed: {expected['done']} done, each command"
        f" once, {expected['noticed']} users told by SMS, in {took_s:.0f} s; {lost} datagrams lost"
    )


CLAUSES = {"E6+": ("a campaign over many cards", campaign)}
