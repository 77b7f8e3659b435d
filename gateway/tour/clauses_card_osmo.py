"""Clause E3+: E1 to E7 once more, through an operator's own SMSC, MSC and paging (osmo-msc, osmo-hlr); as clauses_e."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path

from gateway.ota.sim.card import Card
from gateway.ota.sim.terminal import Behaviour
from gateway.ota.sim.terminal import Terminal as CardTerminal
from gateway.ota.sms_pp import build_address
from gateway.tour.card_capture import Capture
from gateway.tour.card_issue import build_imei, issue
from gateway.tour.card_network import CENTRE, SERVER, CardNetwork
from gateway.tour.cards import LIMITS, QUICK, SEED, Cards, write_command
from gateway.tour.fleet import Fleet
from gateway.tour.operator import osmo
from gateway.tour.operator.programs import missing
from gateway.tour.operator.terminal import IMSI, MSISDN, Terminal
from gateway.tour.stage import Skipped, Stage, check

_COMMANDS = [write_command(number, 100) for number in range(6)]


async def through_osmo(_stage: Stage, _fleet: Fleet) -> str:
    """One card behind osmo-msc: asks, is called, takes commands over a link, then in messages."""
    if lacking := missing(osmo.NEEDED):
        raise Skipped(f"needs an operator's programs: apt install {lacking}")
    centre = build_address(CENTRE)
    issued = issue(0, SEED)
    card = Card(issued.profile(centre, build_address(SERVER, 0x81), LIMITS), lambda: 7)
    said: set[asyncio.Task[None]] = set()
    inside: list[CardTerminal] = []

    def on_submit(tpdu: bytes) -> None:
        task = asyncio.ensure_future(phone.submit(tpdu))
        said.add(task)
        task.add_done_callback(said.discard)

    def insert(behaviour: Behaviour, imei: int) -> CardTerminal:
        return CardTerminal(card, build_imei(imei), centre, behaviour, on_submit)

    def on_deliver(tpdu: bytes) -> None:
        inside[-1].deliver(tpdu)

    with tempfile.TemporaryDirectory(prefix="heliograph-tour-") as folder:
        async with osmo.Operator(Path(folder)) as operator, Terminal(operator.ip, on_deliver) as phone:
            await phone.attach()
            stage = Stage("ota.port=0", *QUICK, "ota.validity_s=10")
            file = stage.add_secret("smsc-password", osmo.PASSWORD)
            stage.add_settings(
                f"paging.smscs=smpp://{osmo.SYSTEM_ID}@{operator.ip}:{osmo.SMPP_PORT}",
                f"paging.smsc_password_file={file}",
            )
            async with stage:
                scene = Cards(stage, CardNetwork([]), [], Capture())
                line = {**json.loads(issued.line()), "imsi": IMSI, "msisdn": f"+{MSISDN}"}
                answer = await scene.ask("POST", "/v1/cards", json=[line])
                scene.ids.append(answer["cards"][0]["card"])
                inside.append(insert(Behaviour(), 1))
                try:
                    await inside[-1].power_on()
                    await scene.known(0, "capable", 30)
                    await scene.over(await scene.download(0, _COMMANDS), "done", 30)
                    check(card.executed == _COMMANDS, f"the card executed {len(card.executed)} commands over its link")
                    await inside[-1].power_off()
                    inside.append(insert(Behaviour(capable=False), 2))
                    await inside[-1].power_on()
                    await scene.known(0, "not_capable", 30)
                    found = await scene.over(await scene.download(0, _COMMANDS[:2]), "done", 30)
                    check(found["way"] == "message", f"it went by {found['way']}")
                    check(card.executed == _COMMANDS + _COMMANDS[:2], "the commands in messages were not executed")
                    check(not phone.refused, f"osmo-msc refused what the card said: {phone.refused}")
                finally:
                    await inside[-1].power_off()
                    await asyncio.gather(*said, return_exceptions=True)
    return (
        f"a card behind osmo-msc: check requests, PUSH, answers and commands in {len(phone.delivered)} messages to it,"
        f" {phone.pagings} pagings; capable, then in a terminal that is not"
    )


CLAUSES = {"E3+": ("a card behind osmo-msc", through_osmo)}
