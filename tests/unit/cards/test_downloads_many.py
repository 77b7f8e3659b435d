"""Many downloads: for one card one after the other, for many at once, more than fit RAM."""

from __future__ import annotations

from dataclasses import replace

from card_fleet import SETTINGS, Fleet, apdu, commands

from gateway.metrics import Metric
from gateway.model.cards import Ability, DownloadState, Fate
from gateway.ota.sim.card import OK
from gateway.ota.sim.terminal import Behaviour


async def test_two_downloads_for_one_card_come_one_after_the_other() -> None:
    async with Fleet(replace(SETTINGS, answer_s=0.3)) as fleet:
        phone = await fleet.add()
        first, second = commands(30), tuple(apdu(number) for number in range(100, 130))
        dropped = []

        def perform(command: bytes) -> int:
            if command == first[9] and not dropped:
                dropped.append(command)
                phone.terminal.drop_channel()
            return OK

        phone.card.perform = perform
        numbers = [await fleet.start(phone, first), await fleet.start(phone, second)]
        for number in numbers:
            assert (await fleet.end(number)).state is DownloadState.DONE
        # the first had a packet in doubt when it waited: the second must not take counters then
        assert phone.card.executed == [*first, *second]


async def test_many_downloads_for_one_card_hold_up_no_other() -> None:
    async with Fleet(replace(SETTINGS, at_once=2)) as fleet:
        phone, other = await fleet.add(), await fleet.add()
        numbers = [await fleet.start(phone, commands(2)) for _ in range(12)]
        last = await fleet.start(other, commands(2))
        await fleet.end(last)
        assert sum(fleet.downloads.downloads[number].state.is_final for number in numbers) < 12
        for number in numbers:
            assert (await fleet.end(number)).state is DownloadState.DONE
        assert phone.card.executed == list(commands(2)) * 12


async def test_one_behind_another_expires_in_its_time_or_is_stopped() -> None:
    async with Fleet(replace(SETTINGS, validity_s=60.0)) as fleet:
        phone = await fleet.add()
        phone.fate = None
        holder = await fleet.start(phone, commands(60))
        await fleet.until(lambda: fleet.engine.active == 1)
        behind = await fleet.start(phone, commands(60), ttl_ms=50)
        stopped = await fleet.start(phone, commands(60))
        assert (await fleet.end(behind)).state is DownloadState.EXPIRED
        assert (await fleet.engine.stop(stopped)).state is DownloadState.STOPPED
        phone.fate = Fate.DELIVERED
        last = await fleet.start(phone, commands(5))
        await fleet.engine.stop(holder)
        assert (await fleet.end(last)).state is DownloadState.DONE


async def test_two_hundred_at_once() -> None:
    async with Fleet(replace(SETTINGS, at_once=50, validity_s=10.0), is_native=True) as fleet:
        phones = [
            await fleet.add(
                Behaviour(capable=number % 5 != 0, loss=0.05 if number % 3 == 0 else 0.0, seed=number),
                ability=Ability.UNKNOWN if number % 2 else Ability.CAPABLE,
            )
            for number in range(200)
        ]
        what = commands(40)
        numbers = [await fleet.start(phone, what) for phone in phones]
        for number, phone in zip(numbers, phones, strict=True):
            download = await fleet.end(number)
            if phone.behaviour.capable:
                assert (download.state, phone.card.executed) == (DownloadState.DONE, list(what))
            else:
                assert (download.state, phone.card.executed, len(phone.texts)) == (DownloadState.NOTICED, [], 1)
        assert len(fleet.over) == 200
        assert (fleet.engine.active, fleet.engine.waiting, fleet.calls.held) == (0, 0, 0)


async def test_what_does_not_fit_ram_waits_in_the_store() -> None:
    async with Fleet(replace(SETTINGS, waiting=4, at_once=2)) as fleet:
        phones = [await fleet.add() for _ in range(12)]
        numbers = [await fleet.start(phone, commands(2)) for phone in phones]
        assert fleet.engine.waiting <= 4
        for number in numbers:
            assert (await fleet.end(number)).state is DownloadState.DONE
        assert fleet.metrics.value(Metric.OTA_BOUNDS, "waiting") > 0
        assert len(fleet.over) == 12
