"""Downloads behind an SMSC whose answers get lost: what may have arrived is not sent again."""

from __future__ import annotations

import asyncio

from card_fleet import Fleet, commands

from gateway.model.cards import Ability, DownloadState, Fate, SentMessage
from gateway.ota.sim.terminal import Behaviour


def lose_answers(fleet: Fleet) -> None:
    """Messages arrive; that the SMSC took them is not heard."""
    send, send_text = fleet.smsc.send, fleet.smsc.send_text

    async def send_unheard(*args, **named):
        await send(*args, **named)
        return SentMessage(Fate.UNANSWERED, 0, "no answer")

    async def send_text_unheard(*args, **named):
        await send_text(*args, **named)
        return SentMessage(Fate.UNANSWERED, 0, "no answer")

    fleet.smsc.send, fleet.smsc.send_text = send_unheard, send_text_unheard


async def test_what_goes_by_message_is_not_executed_again_for_an_answer_of_the_smsc_that_got_lost() -> None:
    async with Fleet() as fleet:
        lose_answers(fleet)
        phone = await fleet.add(Behaviour(capable=False), ability=Ability.NOT_CAPABLE)
        what = commands(2)
        assert (await fleet.run(phone, what)).state is DownloadState.DONE
        assert phone.card.executed == list(what)


async def test_a_call_whose_message_was_not_answered_is_waited_for() -> None:
    async with Fleet() as fleet:
        lose_answers(fleet)
        phone = await fleet.add()
        assert (await fleet.run(phone, commands(10))).calls == 1
        assert fleet.smsc.counts["messages"] == 1


async def test_a_user_gets_one_notice_though_the_smsc_did_not_answer() -> None:
    async with Fleet() as fleet:
        lose_answers(fleet)
        phone = await fleet.add(Behaviour(capable=False), ability=Ability.NOT_CAPABLE)
        assert (await fleet.run(phone, commands(200))).state is DownloadState.NOTICED
        await asyncio.sleep(0.2)
        assert len(phone.texts) == 1
