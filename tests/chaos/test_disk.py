"""A disk that runs full and a folder that turns read-only: pushes are refused and nothing else changes; what was
accepted is delivered, and it all goes on by itself when there is room.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from chaos_crowd import ChaosDevice
from chaos_disks import CAN_CLOSE, CAN_MOUNT, Disk, ReadOnly, disk_that_closes, disk_that_fills
from chaos_gateway import GatewayProcess, NotStarted
from chaos_ledger import Push
from chaos_scene import UNAVAILABLE, Scene, eventually

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(120)]

#: of each push, so that a few hundred fill the disk
FILLING = 16_000
#: more than fit on any of these disks
TOO_MANY = 4_000
KINDS = ["file system"] * CAN_MOUNT + ["limited files"]


@pytest.fixture(params=KINDS)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    with disk_that_fills(request.param, tmp_path) as disk:
        yield disk


@pytest.fixture(params=["read-only"] * CAN_CLOSE)
def closing_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ReadOnly]:
    with disk_that_closes(tmp_path) as disk:
        yield disk


def is_refused(answer: httpx.Response) -> bool:
    """The one answer to a push while the store can not be written."""
    if answer.status_code == 201:
        return False
    assert answer.status_code == 503, answer.text
    assert answer.json()["error"]["name"] == "store_unavailable"
    assert int(answer.headers["retry-after"]) >= 1
    return True


async def push_until_refused(scene: Scene, device: ChaosDevice) -> list[Push]:
    """Accepted pushes, until there is no room for one more and the gateway knows it."""
    accepted: list[Push] = []
    for _ in range(TOO_MANY):
        answer = await scene.push(device, FILLING)
        if is_refused(answer):
            return accepted
        accepted.append(scene.ledger.pushes[next(reversed(scene.ledger.pushes))])
    raise AssertionError(f"{TOO_MANY} pushes were taken and the disk is not full")


async def knows_it_is_full(scene: Scene, device: ChaosDevice) -> None:
    """Refused by /readyz too; where the probe found room for itself, one more push takes it."""

    async def refusing() -> bool:
        await scene.push(device, FILLING)
        return await scene.door.ready() == (503, [UNAVAILABLE])

    await eventually(refusing, "the refusal")


async def test_a_full_disk_refuses_pushes_and_keeps_everything_else_going(disk: Disk) -> None:
    async with Scene(disk.folder / "store", *disk.settings, "edge.heartbeat_min_s=1") as scene:
        there, away = await scene.device(), await scene.device()
        await scene.leave(away)
        early = [await scene.accept(away) for _ in range(20)]
        disk.fill(scene.gateway.pid)
        late = await push_until_refused(scene, away)
        await knows_it_is_full(scene, away)
        assert there.link is not None
        # nobody is thrown out, everybody may come, what was accepted is delivered
        await scene.heartbeat(there.link)
        assert (await scene.door.call("GET", "/healthz")).status_code == 200
        await away.connect(scene.gateway)
        assert away.link is not None
        await scene.heartbeat(away.link)
        await away.drain()
        for push in early + late:
            assert away.number in push.received
        assert there.link.is_up
        # acks given while nothing could be written are written when it can
        disk.make_room(scene.gateway.pid)
        await eventually(scene.is_ready, "room")
        await scene.accept(there, FILLING)
        await scene.settled(there)
        await scene.receipts_of(len(early) + len(late) + 1)
        scene.judge()
        # and over a restart
        await scene.gateway.kill()
        await scene.gateway.start()
        await scene.settled(there, away)
        await scene.follow()
        scene.ledger.unfed()
        scene.judge()


async def test_a_kill_while_the_disk_is_full_loses_nothing(disk: Disk) -> None:
    async with Scene(disk.folder / "store", *disk.settings) as scene:
        away = await scene.device()
        await scene.leave(away)
        accepted = [await scene.accept(away, FILLING) for _ in range(50)]
        disk.fill(scene.gateway.pid)
        accepted += await push_until_refused(scene, away)
        await knows_it_is_full(scene, away)
        # some of these acks may be nowhere but in the memory of the process that is killed now
        await scene.settled(away)
        await scene.gateway.kill()
        # it starts on a full disk, serves what it can, and takes up its work when there is room
        await scene.gateway.start()
        disk.fill(scene.gateway.pid)
        await scene.settled(away)
        await knows_it_is_full(scene, away)
        disk.make_room(scene.gateway.pid)
        await eventually(scene.is_ready, "room")
        assert all(away.number in push.received for push in accepted)
        await scene.accept(away, FILLING)
        await scene.settled(away)
        await scene.gateway.terminate()
        scene.ended_cleanly()
        await scene.gateway.start()
        await scene.settled(away)
        await scene.follow()
        scene.ledger.unfed()
        scene.judge()


async def test_a_full_map_refuses_pushes_until_acks_make_room(tmp_path: Path) -> None:
    async with Scene(tmp_path / "store", f"store.max_bytes={4 << 20}") as scene:
        there, away = await scene.device(), await scene.device()
        await scene.leave(away)
        accepted = await push_until_refused(scene, away)
        assert len(accepted) > 100
        await knows_it_is_full(scene, away)
        assert there.link is not None
        await scene.heartbeat(there.link)
        await scene.settled(away)  # its acks take rows away, in the reserve that the map keeps for that
        await eventually(scene.is_ready, "room")
        again = [await scene.accept(there, FILLING) for _ in range(50)]
        await scene.settled(there)
        await scene.receipts_of(len(accepted) + len(again))
        await scene.gateway.kill()
        await scene.gateway.start()
        await scene.settled(there, away)
        await scene.follow()
        scene.ledger.unfed()
        scene.judge()


async def test_a_read_only_folder_is_served_as_it_is_until_it_can_be_written(closing_disk: ReadOnly) -> None:
    async with Scene(closing_disk.folder / "store") as scene:
        away = await scene.device()
        await scene.leave(away)
        accepted = [await scene.accept(away) for _ in range(20)]
        assert await scene.gateway.terminate() == 0
        closing_disk.close()
        await scene.gateway.start()
        assert await scene.door.ready() == (503, [UNAVAILABLE])
        assert is_refused(await scene.push(away))
        for push in accepted:
            assert (await scene.door.look(push.answered))["state"] == "pending"
        await scene.settled(away)
        assert all(away.number in push.received for push in accepted)
        # a device that is new can not be written down, and is told so
        new = scene.crowd.add()
        new.expects = frozenset(("store_unavailable",))
        link = await new.knock(scene.gateway)
        await link.until(lambda: link.errors, "the refusal")
        assert (link.errors[0].req, link.errors[0].retry) == (1, True)
        assert link.errors[0].after_ms > 0
        assert link.is_up
        link.close()
        closing_disk.open()
        await eventually(scene.is_ready, "a store that can be written")
        await scene.accept(away)
        await new.connect(scene.gateway)
        await scene.accept(new)
        await scene.settled(away, new)
        await scene.receipts_of(len(accepted) + 2)
        await scene.gateway.kill()
        await scene.gateway.start()
        await scene.settled(away, new)
        scene.judge()


async def test_an_empty_read_only_folder_is_no_store(closing_disk: ReadOnly) -> None:
    (closing_disk.folder / "store").mkdir()
    closing_disk.close()
    async with GatewayProcess(closing_disk.folder / "store") as gateway:
        with pytest.raises(NotStarted) as refused:
            await gateway.start()
    assert gateway.exit_code == 2
    assert "make it writable" in str(refused.value)
    assert "Traceback" not in str(refused.value)
