"""The campaign of O3 reaches every card of a fleet, through the whole gateway."""

import json

from bench.system.card_campaign import COMMANDS, IMPORTED, describe, measure, requests
from bench.system.figures import BY_ID, Run, judge
from bench.system.light_cards import split_commands


def test_every_card_is_imported_once() -> None:
    count = 2 * IMPORTED + 1
    lines = [json.loads(line) for body in requests(count) for line in body.decode().splitlines()]
    assert len(lines) == len({line["iccid"] for line in lines}) == len({line["msisdn"] for line in lines}) == count
    assert lines[5] == describe(5)


def test_the_payload_is_cut_into_the_commands_that_it_was_put_together_from() -> None:
    assert split_commands(b"".join(COMMANDS)) == COMMANDS
    assert len(set(COMMANDS)) == len(COMMANDS)


async def test_every_card_of_a_small_campaign_executes_every_command_once() -> None:
    said: list[str] = []
    measured = await measure(25, Run(say=said.append), loss=0.0)
    assert judge(BY_ID["O3"], measured) is True
    assert measured.more["cards"]["complete"] == 25
    assert measured.more["cards"].get("datagrams_lost", 0) == 0
    assert said
