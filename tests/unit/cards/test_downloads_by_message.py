"""Downloads to cards that are not capable, or of which nothing is known: short messages, notices (E5, E7)."""

from __future__ import annotations

import pytest
from card_fleet import FEW, Fleet, apdu, commands, steps

from gateway.model.cards import Ability, DownloadState
from gateway.ota.sim.card import OK
from gateway.ota.sim.terminal import Behaviour


@pytest.mark.parametrize("ability", [Ability.NOT_CAPABLE, Ability.UNKNOWN])
async def test_a_small_payload_goes_by_message(ability: Ability) -> None:
    async with Fleet() as fleet:
        phone = await fleet.add(Behaviour(capable=False), ability=ability)
        what = commands(10)
        download = await fleet.run(phone, what)
        assert (download.state, download.way, download.calls) == (DownloadState.DONE, "message", 0)
        assert phone.card.executed == list(what)
        assert [len(parts) for parts in phone.received] == [3]
        assert phone.texts == []


async def test_a_large_payload_gets_a_notice_and_no_call() -> None:
    async with Fleet() as fleet:
        phone = await fleet.add(Behaviour(capable=False), ability=Ability.NOT_CAPABLE)
        download = await fleet.run(phone, commands(40))
        assert (download.state, download.calls) == (DownloadState.NOTICED, 0)
        assert (phone.received, len(phone.texts)) == ([], 1)


async def test_a_large_payload_asks_a_card_of_which_nothing_is_known() -> None:
    async with Fleet() as fleet:
        able = await fleet.add(ability=Ability.UNKNOWN)
        unable = await fleet.add(Behaviour(capable=False), ability=Ability.UNKNOWN)
        what = commands(40)
        assert (await fleet.run(able, what)).state is DownloadState.DONE
        assert (await fleet.run(unable, what)).state is DownloadState.NOTICED
        assert fleet.capability(able).ability is Ability.CAPABLE
        assert fleet.capability(unable).ability is Ability.NOT_CAPABLE
        # the terminal itself said so: long before the validity was over
        assert fleet.evidence(unable) == ["terminal_result"]
        assert [line.detail for line in fleet.evidence_lines(unable)] == ["result 30"]


async def test_a_terminal_that_is_worse_than_it_was() -> None:
    async with Fleet() as fleet:
        phone = await fleet.add(Behaviour(capable=False), ability=Ability.CAPABLE)
        what = commands(10)
        download = await fleet.run(phone, what)
        assert (download.state, download.way, download.calls) == (DownloadState.DONE, "message", 1)
        assert phone.card.executed == list(what)
        assert fleet.capability(phone).ability is Ability.NOT_CAPABLE


async def test_a_message_of_a_payload_that_the_card_refuses() -> None:
    async with Fleet() as fleet:
        phone = await fleet.add(ability=Ability.NOT_CAPABLE)
        phone.card.perform = lambda command: 0x6982 if command == apdu(2) else OK
        download = await fleet.run(phone, commands(4))
        assert (download.state, download.done) == (DownloadState.FAILED, 2)
        assert download.steps[-1].detail == "6982 at command 3"


async def test_messages_without_an_answer_are_tried_and_then_given_up() -> None:
    async with Fleet(FEW) as fleet:
        phone = await fleet.add(ability=Ability.NOT_CAPABLE)
        phone.is_mute = True
        download = await fleet.run(phone, commands(4))
        assert (download.state, download.tries) == (DownloadState.NOTICED, 2)
        assert steps(download).count("no_answer") == 2


async def test_a_notice_waits_for_an_smsc() -> None:
    async with Fleet() as fleet:
        phone = await fleet.add(ability=Ability.NOT_CAPABLE)
        fleet.smsc.is_down = True
        number = await fleet.start(phone, commands(40))
        await fleet.until(lambda: "notice_later" in steps(fleet.downloads.downloads[number]))
        fleet.smsc.is_down = False
        assert (await fleet.end(number)).state is DownloadState.NOTICED
        assert len(phone.texts) == 1
