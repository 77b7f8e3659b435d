"""Downloads that are stopped, expire, or meet a store that takes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from card_fleet import SETTINGS, TAR, Fleet, commands

from gateway.cards.transfer import Transfer
from gateway.model.cards import Ability, DownloadState, Fate
from gateway.model.errors import StoreUnavailable
from gateway.ota.sim.card import OK


async def test_a_download_that_waits_is_stopped() -> None:
    async with Fleet() as fleet:
        phone = await fleet.add()
        fleet.smsc.is_down = True
        number = await fleet.start(phone, commands(10))
        await fleet.until(lambda: fleet.smsc.counts["refused"] >= 1 and fleet.engine.active == 0)
        stopped = await fleet.engine.stop(number)
        assert stopped is not None
        assert stopped.state is DownloadState.STOPPED
        fleet.smsc.is_down = False
        assert (await fleet.run(phone, commands(3))).state is DownloadState.DONE
        assert phone.card.executed == list(commands(3))
        assert await fleet.engine.stop(number) == fleet.downloads.downloads[number]
        assert await fleet.engine.stop(12_345) is None


async def test_a_transfer_is_stopped_behind_the_command_under_way() -> None:
    async with Fleet(replace(SETTINGS, packet_bytes=80)) as fleet:
        phone = await fleet.add()
        reached = []
        phone.card.perform = lambda command: reached.append(command) or OK
        number = await fleet.start(phone, commands(60))
        await fleet.until(lambda: len(reached) >= 3)
        download = await fleet.engine.stop(number)
        assert download is not None
        assert download.state is DownloadState.STOPPED
        assert download.done == len(phone.card.executed) < 60
        assert [over.state for over in fleet.over] == [DownloadState.STOPPED]


async def test_one_that_is_stopped_in_its_last_try_gets_no_notice() -> None:
    async with Fleet(replace(SETTINGS, attempts=1, answer_s=0.3)) as fleet:
        phone = await fleet.add()
        heard = []
        phone.card._on_sdu = heard.append
        number = await fleet.start(phone, commands(60))
        await fleet.until(lambda: bool(heard))
        await fleet.engine.stop(number)
        assert (await fleet.end(number)).state is DownloadState.STOPPED
        assert phone.texts == []


async def test_a_call_is_stopped_at_once() -> None:
    async with Fleet(replace(SETTINGS, validity_s=60.0)) as fleet:
        phone = await fleet.add()
        phone.fate = None
        number = await fleet.start(phone, commands(60))
        await fleet.until(lambda: len(phone.received) == 1)
        assert (await fleet.engine.stop(number)).state is DownloadState.STOPPED
        assert fleet.links.open_links == 0


@pytest.mark.parametrize("fate", [None, Fate.UNDELIVERED])
async def test_a_download_expires_whatever_it_is_doing(fate: Fate | None) -> None:
    async with Fleet(replace(SETTINGS, validity_s=60.0, attempts=1_000)) as fleet:
        phone = await fleet.add()
        phone.fate = fate
        download = await fleet.run(phone, commands(60), ttl_ms=150)
        assert download.state is DownloadState.EXPIRED
        assert phone.texts == []


async def test_a_store_that_takes_nothing_for_a_while() -> None:
    async with Fleet() as fleet:
        phone = await fleet.add()
        what = commands(20)
        fleet.cards.full.writes = 3
        fleet.downloads.full.writes = 6
        assert (await fleet.run(phone, what)).state is DownloadState.DONE
        assert phone.card.executed == list(what)


async def test_the_end_is_told_once_it_is_written() -> None:
    async with Fleet() as fleet:
        phone = await fleet.add(ability=Ability.NOT_CAPABLE)
        number = await fleet.start(phone, commands(2))
        await fleet.until(lambda: fleet.downloads.downloads[number].done == 2 or len(phone.card.executed) == 2)
        fleet.downloads.full.writes = 2
        await fleet.end(number)
        assert (fleet.downloads.settled, [over.number for over in fleet.over]) == ([number], [number])
        assert len(phone.received) == 1


async def test_a_card_that_is_gone_and_keys_that_are_not_there() -> None:
    async with Fleet() as fleet:
        phone = await fleet.add()
        download = fleet.build(phone, commands(2))
        await fleet.downloads.add([download])
        await fleet.cards.remove(fleet.handle(phone))
        fleet.engine.start(download)
        ended = await fleet.end(download.number)
        assert (ended.state, ended.steps[-1].detail) == (DownloadState.FAILED, "no such card")
        other = await fleet.add()
        fleet.cards.records[fleet.handle(other)] = fleet.cards.records[fleet.handle(other)].__class__(
            *[getattr(other.record, name) for name in other.record.__struct_fields__[:3]], (), 2, 3, TAR, TAR
        )
        assert (await fleet.run(other, commands(2))).steps[-1].detail == "no_keys"


@pytest.mark.parametrize("is_active", [False, True])
async def test_nobody_is_told_of_a_stop_that_could_not_be_written(is_active: bool) -> None:
    async with Fleet(replace(SETTINGS, validity_s=30.0, retry_s=60.0, retry_max_s=60.0)) as fleet:
        phone = await fleet.add()
        phone.fate = None if is_active else Fate.UNDELIVERED
        number = await fleet.start(phone, commands(2))
        wanted = DownloadState.ACTIVE if is_active else DownloadState.WAITING
        await fleet.until(
            lambda: (
                len(phone.received) == 1
                and fleet.downloads.downloads[number].state is wanted
                and fleet.engine.active == is_active
            )
        )
        fleet.downloads.full.writes = 100
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await fleet.engine.stop(number)
        assert not fleet.over
        fleet.downloads.full.writes = 0
        assert (await fleet.end(number)).state is DownloadState.STOPPED
        assert (await fleet.engine.stop(number)).state is DownloadState.STOPPED
        await fleet.until(lambda: len(fleet.over) == 1)


async def test_a_fault_in_the_moment_of_a_stop_changes_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Fleet(replace(SETTINGS, packet_bytes=80)) as fleet:
        phone = await fleet.add()
        reached = []
        phone.card.perform = lambda command: reached.append(command) or OK
        number = await fleet.start(phone, commands(60))
        await fleet.until(lambda: len(reached) >= 3)

        def fail(*_: object) -> None:
            raise RuntimeError

        monkeypatch.setattr(Transfer, "_match", fail)
        stopped = await fleet.engine.stop(number)
        assert stopped is not None
        assert stopped.state is DownloadState.STOPPED
