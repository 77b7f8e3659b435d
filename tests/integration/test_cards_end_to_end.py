"""Cards from their import to the end of a download, through the doors of a whole gateway (E1 to E7)."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest
from card_scene import SELECT, CardScene, update
from open_house import House, until

from gateway.metrics import Metric
from gateway.model.errors import ConfigError
from gateway.ota.sim.terminal import Behaviour

COMMANDS = [SELECT.lower(), *(update(n * 100, bytes([n]) * 100) for n in range(40))]


async def receipts(scene: CardScene, count: int = 1) -> list[dict[str, Any]]:
    """As many as there should be, and what else there is."""
    found: list[dict[str, Any]] = []

    async def probe() -> bool:
        found[:] = (await scene.shop.call("GET", "/v1/receipts")).json()["receipts"]
        return len(found) >= count

    await until(probe)
    return found


async def test_import_check_request_capable_download_receipt(tmp_path: Path) -> None:
    async with CardScene(tmp_path, 1) as scene:
        (card,) = await scene.bring_in()
        (holder,) = await scene.power_on()
        assert (await scene.capability(card))["state"] == "unknown", "it is where it was: nothing is asked (E1)"
        await scene.network.move(holder)
        known = await scene.is_known(card, "capable")
        assert [line["what"] for line in known["evidence"]] == ["check_request", "link_opened"]
        told = await scene.shop.call("GET", f"/v1/cards/{card}/capability")
        assert (told.json()["state"], told.json()["evidence"]) == ("capable", None)
        download = await scene.start(card, COMMANDS)
        over = await scene.ends(download, "done")
        assert (over["done"], over["commands"], over["way"]) == (len(COMMANDS), len(COMMANDS), "link")
        assert scene.executed(0) == COMMANDS
        (receipt,) = await receipts(scene)
        assert (receipt["download"], receipt["state"]) == (download, "acked")
        assert (receipt["push"], receipt["token"]) == (None, None)
        assert {step["channel"] for step in receipt["steps"]} == {"card"}
        listed = await scene.shop.call("GET", "/v1/downloads", params={"state": "done"})
        assert [each["id"] for each in listed.json()["downloads"]] == [download]


async def test_the_operator_asks_and_tells_of_another_terminal(tmp_path: Path) -> None:
    async with CardScene(tmp_path, 1) as scene:
        (card,) = await scene.bring_in()
        await scene.power_on()
        await scene.operator("POST", f"/v1/cards/{card}/check", 202)
        await scene.is_known(card, "capable")
        changed = await scene.operator("POST", f"/v1/cards/{card}/terminal-changed")
        assert changed["state"] == "unknown"
        await scene.house.restart()
        assert (await scene.capability(card))["evidence"][-1]["what"] == "terminal_changed"


async def test_a_terminal_that_can_not_gets_little_by_message_and_for_much_a_notice(tmp_path: Path) -> None:
    behaviours = {0: Behaviour(capable=False)}
    async with CardScene(tmp_path, 1, behaviours=behaviours) as scene:
        (card,) = await scene.bring_in()
        (holder,) = await scene.power_on()
        await scene.operator("POST", f"/v1/cards/{card}/check", 202)
        await scene.is_known(card, "not_capable")
        small = await scene.ends(await scene.start(card, COMMANDS[:2]), "done")
        assert small["way"] == "message"
        assert scene.executed(0) == COMMANDS[:2]
        large = await scene.ends(await scene.start(card, COMMANDS, notice="Visit a shop"), "noticed")
        assert large["done"] == 0
        await until(lambda: holder.inbox == ["Visit a shop"])
        assert [line["state"] for line in await receipts(scene, 2)] == ["acked", "noticed"]


async def test_a_download_goes_on_after_a_restart_and_nothing_is_executed_twice(tmp_path: Path) -> None:
    slow = {0: Behaviour(loss=0.05, delay_s=0.005)}
    # few commands in a packet, so that the end comes in the middle
    async with CardScene(tmp_path, 1, behaviours=slow, **{"ota.packet_bytes": 250}) as scene:
        (card,) = await scene.bring_in()
        await scene.power_on()
        download = await scene.start(card, COMMANDS)

        async def has_begun() -> bool:
            return 0 < (await scene.look(download))["done"] < len(COMMANDS)

        await until(has_begun)
        await scene.house.restart()
        assert (await scene.ends(download, "done"))["done"] == len(COMMANDS)
        assert scene.executed(0) == COMMANDS
        assert len(await receipts(scene)) == 1


async def test_a_download_is_stopped(tmp_path: Path) -> None:
    async with CardScene(tmp_path, 1) as scene:
        (card,) = await scene.bring_in()  # its terminal is off
        download = await scene.start(card, COMMANDS)
        answer = await scene.shop.call("DELETE", f"/v1/downloads/{download}")
        assert answer.json()["state"] == "stopped"
        assert [line["state"] for line in await receipts(scene)] == ["recalled"]
        waits = await scene.start(card, COMMANDS, at=4_000_000_000)
        assert (await scene.look(waits))["state"] == "waiting"
        assert (await scene.shop.call("DELETE", f"/v1/downloads/{waits}")).json()["state"] == "stopped"


async def test_cards_that_are_taken_away_end_their_downloads(tmp_path: Path) -> None:
    async with CardScene(tmp_path, 1) as scene:
        (card,) = await scene.bring_in()
        await scene.operator("DELETE", f"/v1/cards/{card}", 204)
        answer = await scene.shop.call("POST", "/v1/downloads", json={"card": card, "commands": [SELECT]})
        assert answer.json()["error"]["name"] == "unknown_card"
        assert await scene.bring_in() == [card], "the same card has the same id"


async def test_many_cards_at_once(tmp_path: Path) -> None:
    count = 40
    async with CardScene(tmp_path, count) as scene:
        cards = await scene.bring_in()
        await scene.power_on()
        downloads = await asyncio.gather(*(scene.start(card, COMMANDS[:8]) for card in cards))
        for number, download in enumerate(downloads):
            await scene.ends(download, "done")
            assert scene.executed(number) == COMMANDS[:8]
        assert len(await receipts(scene, count)) == count
        page = await scene.operator("GET", "/v1/cards", params={"capability": "capable", "limit": str(count)})
        assert set(page["cards"]) == set(cards)
        assert scene.house.value(Metric.OTA_DOWNLOADS, "done") == count


async def test_nothing_is_done_for_cards_where_there_is_no_port(tmp_path: Path) -> None:
    async with CardScene(tmp_path, 1, **{"ota.port": -1}) as scene:
        assert scene.house.gateway.cards is None
        error = (await scene.operator("GET", "/v1/cards", 404))["error"]
        assert error["name"] == "not_configured"


async def test_a_port_that_is_taken_is_said_and_nothing_is_left_running(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        scene = CardScene(tmp_path, 1, **{"ota.port": taken.getsockname()[1]})
        with pytest.raises(ConfigError) as caught:
            await scene.__aenter__()
        assert caught.value.field == "ota.port"
        await scene.network.close()
    async with House(tmp_path, {"ota.port": -1}) as house:  # the store is nobody else's
        assert house.gateway.cards is None


async def test_a_drain_lets_a_transfer_end_and_begins_nothing(tmp_path: Path) -> None:
    slow = {0: Behaviour(delay_s=0.01)}
    async with CardScene(tmp_path, 2, behaviours=slow, **{"ota.packet_bytes": 250, "edge.drain_s": 20.0}) as scene:
        cards = await scene.bring_in()
        await scene.power_on()
        download = await scene.start(cards[0], COMMANDS)
        await until(lambda: scene.executed(0))
        later = await scene.start(cards[1], COMMANDS, at=4_000_000_000)
        await scene.house.gateway.drain()
        assert scene.executed(0) == COMMANDS
        await scene.house.restart()
        assert (await scene.look(download))["state"] == "done"
        assert (await scene.look(later))["state"] == "waiting"
        assert scene.executed(1) == []


async def test_a_gateway_that_serves_cards_no_more_is_not_ready(tmp_path: Path) -> None:
    async with CardScene(tmp_path, 1) as scene:
        readiness = (await scene.house.http.get("/readyz")).json()
        assert readiness == {"ready": True, "reasons": []}
        cards = scene.house.gateway.cards
        assert cards is not None
        await cards.links.stop()  # as its thread ends by itself
        answer = await scene.house.http.get("/readyz")
        assert (answer.status_code, answer.json()["reasons"]) == (503, ["the CAT_TP server is gone"])
