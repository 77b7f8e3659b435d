"""Clauses E1 to E5: what a card's terminal can, found out and kept; each on a gateway of its own with simulated cards
in simulated terminals beside it, over real SMPP and real UDP; one function a row, raises Failed where it does not hold.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

from gateway.ota.channel import Channel
from gateway.ota.proactive import Command, OpenChannel, ProvideImei, SendShortMessage, parse_proactive
from gateway.ota.push import OpenLink
from gateway.ota.result import Bearer, General, Result
from gateway.ota.sim.terminal import Behaviour
from gateway.ota.terminal_profile import Instruction
from gateway.tour.card_capture import GSMTAP_UDP, Capture
from gateway.tour.cards import cards
from gateway.tour.fleet import Fleet
from gateway.tour.stage import Stage, check, eventually

_CAPABLE, _NOT = Behaviour(), Behaviour(capable=False)
_GSMTAP_BYTES = 16


def fetched(capture: Capture) -> Iterator[Command]:
    """What cards asked their terminals for, in order."""
    for _, port, data in capture.datagrams:
        apdu = data[_GSMTAP_BYTES:]
        if port == GSMTAP_UDP and apdu[1] == Instruction.FETCH:
            yield parse_proactive(apdu[5:-2])[1]


async def request(_stage: Stage, _fleet: Fleet) -> str:
    """E1: only a card whose terminal has another IMEI than the one it knows asks to be checked."""
    async with cards(_CAPABLE, _NOT) as scene:
        card, other = scene.holder(0), scene.holder(1)
        other.card.profile.imei = b"\x0a" * 8  # it was in another terminal
        await scene.power_on(0, 1)
        await scene.known(0, "capable")
        await scene.known(1, "not_capable")
        check("check_request" in await scene.evidence(0), "the gateway heard no check request")

        def requests() -> int:
            return sum(isinstance(each, SendShortMessage) and b"HG\x01" in each.tpdu for each in fetched(scene.capture))

        check(requests() == 2, f"{requests()} check requests of two cards in new terminals")
        for _ in range(3):
            await scene.network.power_off(card)
            await scene.power_on(0)
        asked = sum(isinstance(each, ProvideImei) for each in fetched(scene.capture))
        check(asked == 5, f"the IMEI was read {asked} times at five power-ons")
        check(requests() == 2, "a card in the terminal that it knows asked again")
        await scene.network.move(card)
        await scene.until(lambda: requests() == 3, "the check request from the new terminal")
        scene.check_strict()
    return "6 power-ons, 3 with another IMEI: 3 check requests by SMS, each with the card's ICCID and its checksum"


async def push(_stage: Stage, _fleet: Fleet) -> str:
    """E2: the answer to a check request is a BIP PUSH with the server's address and UDP port."""
    async with cards(_CAPABLE) as scene:
        pushes: list[Channel | OpenLink] = []
        scene.holder(0).card.on_push = pushes.append
        await scene.power_on(0)
        await scene.known(0, "capable")
        channel = next(each for each in pushes if isinstance(each, Channel))
        port = scene.stage.ota_port
        told = (str(channel.address), channel.port)
        check(told == ("127.0.0.1", port), f"the PUSH names {told}, and the server is at port {port}")
        link = next(each for each in pushes if isinstance(each, OpenLink))
        nonce = link.identification or b""
        check(len(nonce) == 16 and len(set(nonce)) > 4, "the PUSH has no nonce to know the link by")
        scene.check_strict()
    return f"secured PUSH by SMS: server {told[0]} UDP port {told[1]}, access point, and a nonce of 16 random bytes"


async def channel(_stage: Stage, _fleet: Fleet) -> str:
    """E3: the card issues OPEN CHANNEL, the terminal connects."""
    async with cards(_CAPABLE) as scene:
        await scene.power_on(0)
        await scene.known(0, "capable")
        opened = [each for each in fetched(scene.capture) if isinstance(each, OpenChannel)]
        check(len(opened) == 1, f"{len(opened)} times OPEN CHANNEL")
        check(opened[0].channel.port == scene.stage.ota_port, "OPEN CHANNEL goes elsewhere")
        await scene.until(lambda: scene.holder(0).card.counts["opened"] == 1, "the link")
        datagrams = scene.capture.pdus
        check(datagrams >= 3, "no handshake went over UDP")
    return (
        f"OPEN CHANNEL for UDP port {opened[0].channel.port}; CAT_TP link open after SYN, SYN/ACK, ACK on a real socket"
    )


async def decide(_stage: Stage, _fleet: Fleet) -> str:
    """E4: connected in time: capable; else not. Nothing is concluded from what did not arrive."""
    slow = Behaviour(open_delay_s=30.0)
    busy = Behaviour(failure=Result(General.NETWORK_BUSY, b"\0"))
    async with cards(_CAPABLE, _NOT, slow, _CAPABLE, busy, settings=["ota.validity_s=1.5"]) as scene:
        began = time.monotonic()
        await scene.power_on(0, 1)
        await scene.known(0, "capable")
        said = await scene.known(1, "not_capable")
        took_s = time.monotonic() - began
        check(took_s < 1.5, f"the terminal's own answer took {took_s:.1f} s, no sooner than the validity")
        result = next(line["detail"] for line in said["evidence"] if line["what"] == "terminal_result")
        check("30" in result, f"its result stands as {result}")
        await scene.network.power_on(scene.holder(2))
        late = await scene.known(2, "not_capable")
        check(late["evidence"][-1]["what"] == "validity_over", f"the silent terminal: {late['evidence']}")
        # a card whose message did not arrive, and one whose network was busy: both stay unknown
        await scene.ask("POST", f"/v1/cards/{scene.ids[3]}/check")
        await scene.network.power_on(scene.holder(4))
        await scene.until(
            lambda: scene.network.counts["expired"] > 0, "the end of a message for a terminal that is off"
        )

        async def heard(number: int, word: str) -> bool:
            return word in await scene.evidence(number)

        await eventually(lambda: heard(3, "undelivered"), "the undelivered message in the evidence")
        await eventually(lambda: heard(4, "terminal"), "the busy network in the evidence")
        for number in (3, 4):
            state = (await scene.capability(number))["state"]
            check(state == "unknown", f"card {number} is {state}, though nothing was heard of its terminal")
        scene.check_strict()
    return (
        f"capable by the final ACK; not capable by the terminal's own {result}, {took_s:.1f} s after both were switched"
        " on; not capable after 1.5 s of silence; undelivered and busy: still unknown"
    )


async def keep(_stage: Stage, _fleet: Fleet) -> str:
    """E5: kept by user, never by IMEI, default not capable, kept up when terminals change."""
    async with cards(_CAPABLE, _NOT) as scene:
        fresh = await scene.capability(0)
        check((fresh["state"], fresh["evidence"]) == ("unknown", []), f"a card nobody asked is {fresh['state']}")
        await scene.power_on(0, 1)
        await scene.known(0, "capable")
        await scene.known(1, "not_capable")
        await scene.network.power_off(scene.holder(0))
        await scene.stage.stop_gateway(signal.SIGKILL)
        await scene.stage.start_gateway()
        await scene.known(0, "capable")
        await scene.until(lambda: scene.network.smsc.is_bound, "the gateway at the SMSC")
        # card 1 goes into the very terminal that made card 0 capable, and card 0 into one that is not
        imei = scene.holder(0).terminal.imei
        await scene.network.move(scene.holder(0), _NOT)
        await scene.known(0, "not_capable")
        await scene.network.move(
            scene.holder(1), Behaviour(failure=Result(General.BEARER, bytes((Bearer.NO_CHANNEL,)))), imei=imei
        )

        async def asked() -> bool:
            return (await scene.evidence(1)).count("check_request") == 2

        await eventually(asked, "the check request from the known terminal")
        state = (await scene.capability(1))["state"]
        check(state == "unknown", f"a card in a terminal whose IMEI was capable is {state} without being asked")
        await scene.network.move(scene.holder(1), _CAPABLE)
        await scene.known(1, "capable")
        told = await scene.ask("POST", f"/v1/cards/{scene.ids[1]}/terminal-changed")
        check(told["state"] == "unknown", f"after the operator's word it is {told['state']}")
        scene.check_strict()
    return (
        "unknown until asked; kept over kill -9; an IMEI of another card counts for nothing; each new terminal voids it"
    )


CLAUSES = {
    "E1": ("a card asks only when its terminal is another", request),
    "E2": ("BIP PUSH by SMS", push),
    "E3": ("OPEN CHANNEL, and the terminal connects", channel),
    "E4": ("capable or not, and what concludes nothing", decide),
    "E5": ("capability kept by user", keep),
}
