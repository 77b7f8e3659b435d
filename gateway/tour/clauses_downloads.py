"""Clauses E6 to E8: what is brought to cards, over a link or by messages, and that it is real OTA; as clauses_e."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from gateway.ota.proactive import Type
from gateway.ota.result import Bearer, General, Result
from gateway.ota.sim.card import OK
from gateway.ota.sim.terminal import Behaviour
from gateway.tour.card_capture import has_tshark, read_capture
from gateway.tour.cards import Cards, cards, write_command
from gateway.tour.fleet import Fleet
from gateway.tour.stage import Failed, Stage, check, eventually

_CAPABLE, _NOT = Behaviour(), Behaviour(capable=False)
_NO_CHANNEL = Result(General.BEARER, bytes((Bearer.NO_CHANNEL,)))
_LOSSY = Behaviour(loss=0.1, twice=0.1, delay_s=0.02, seed=4)
#: 12 kB
PAYLOAD = [write_command(number, 200) for number in range(60)]
SMALL = [write_command(number, 40) for number in range(5)]


def _happens(events: dict[int, Callable[[], object]]) -> Callable[[bytes], int]:
    """What a card does with commands; in the middle of these, something else happens, each once."""
    done = 0

    def perform(_command: bytes) -> int:
        nonlocal done
        done += 1
        if done in events:
            events[done]()
        return OK

    return perform


async def link(_stage: Stage, _fleet: Fleet) -> str:
    """E6: over a link, resumed after the channel dropped and after the gateway was killed; past the threshold a
    notice."""
    settings = ["ota.packet_bytes=900", "ota.answer_s=1"]
    async with cards(_CAPABLE, Behaviour(failure=_NO_CHANNEL), settings=settings) as scene:
        first, second = scene.holder(0), scene.holder(1)
        await scene.power_on(0, 1)
        await scene.known(0, "capable")
        killed = asyncio.Event()

        def drop() -> None:
            asyncio.get_running_loop().call_soon(first.terminal.drop_channel)

        def kill() -> None:
            os.kill(scene.stage.pid, signal.SIGKILL)
            killed.set()

        first.card.perform = _happens({15: drop, 40: kill})
        download = await scene.download(0, PAYLOAD)
        async with asyncio.timeout(20):
            await killed.wait()
        await scene.stage.stop_gateway(signal.SIGKILL)
        await scene.stage.start_gateway()
        found = await scene.over(download, "done", 40)
        check(
            first.card.executed == PAYLOAD, f"the card executed {len(first.card.executed)} of {len(PAYLOAD)} in order"
        )
        check(found["done"] == len(PAYLOAD), f"the download says {found['done']}")

        # the terminal opens no channel: push again, then the user is told to use another way
        other = await scene.download(1, PAYLOAD, notice="Please visit a shop.")
        noticed = await scene.over(other, "noticed", 30)
        check(second.inbox == ["Please visit a shop."], f"the user read {second.inbox}")
        check(noticed["calls"] == 4, f"{noticed['calls']} calls before the notice, not 4")

        async def receipts() -> bool:
            answer = await scene.stage.call("GET", "/v1/receipts")
            return [line.get("download") for line in answer.json()["receipts"]] == [download, other]

        await eventually(receipts, "one receipt of each download")
        scene.check_strict()
    return (
        f"{len(PAYLOAD)} commands, each executed once and in order, over {found['calls']} calls: the channel dropped at"
        " the 15th, the gateway was killed at the 40th; a terminal that opened no channel: called"
        f" {noticed['calls']} times,"
        " then the notice by SMS; receipts tell of the end"
    )


async def message(_stage: Stage, _fleet: Fleet) -> str:
    """E7: not capable: a small payload by SMS, a large one gets a notice."""
    async with cards(_NOT) as scene:
        holder = scene.holder(0)
        await scene.power_on(0)
        await scene.known(0, "not_capable")
        small = await scene.over(await scene.download(0, SMALL), "done")
        check(holder.card.executed == SMALL, f"the card executed {len(holder.card.executed)} of {len(SMALL)}")
        check(small["way"] == "message", f"it went by {small['way']}")
        before = scene.network.counts["submitted"]
        large = await scene.over(await scene.download(0, PAYLOAD), "noticed")
        sent = scene.network.counts["submitted"] - before
        check(
            (len(holder.inbox), large["done"]) == (1, 0), f"the user read {holder.inbox}, {large['done']} commands done"
        )
        check(sent == 1, f"{sent} messages for a payload that does not fit")
        check(holder.card.executed == SMALL, "a part of the large payload was executed")
        scene.check_strict()
    notice = holder.inbox[0]
    return f"{len(SMALL)} commands by concatenated secured SMS, with proof; {len(PAYLOAD)}: one notice, {notice!r}"


async def real(_stage: Stage, _fleet: Fleet) -> str:
    """E8: secured packets, CAT_TP over UDP, proactive commands, through a network that loses, doubles and reorders."""
    async with cards(_LOSSY) as scene:
        await scene.power_on(0)
        await scene.known(0, "capable", 20)
        await scene.over(await scene.download(0, PAYLOAD), "done", 60)
        card, counts = scene.holder(0).card, scene.holder(0).terminal.counts
        check(card.executed == PAYLOAD, f"the card executed {len(card.executed)} of {len(PAYLOAD)} in order")
        check(counts["lost"] > 0, "the network lost nothing")
        wrong = {word: card.counts[word] for word in ("check_failed", "ciphering", "malformed") if card.counts[word]}
        check(not wrong, f"the card took packets for wrong: {wrong}")
        scene.check_strict()
        decoded = await _decode(scene)
    return f"{len(PAYLOAD)} commands with {counts['lost']} datagrams lost; {decoded}"


async def _decode(scene: Cards) -> str:
    """What Wireshark says of all that went between card, terminal and gateway."""
    # it goes on: the link is being closed
    capture, pdus, apdus = scene.capture, scene.capture.pdus, scene.capture.apdus
    if not has_tshark():
        read = f"{pdus} CAT_TP PDUs and {apdus} APDUs read by both sides"
        return f"{read} (for Wireshark's word: apt install tshark)"
    file = Path(scene.stage.folder / "cards.pcap")
    capture.write(file)
    try:
        seen = await asyncio.to_thread(read_capture, file)
    except (OSError, subprocess.SubprocessError) as error:
        raise Failed(f"tshark failed: {type(error).__name__}") from None
    check(seen.malformed == 0, f"tshark calls {seen.malformed} datagrams malformed")
    check((seen.pdus, seen.bad_sums) == (pdus, 0), f"tshark reads {seen.pdus} of {pdus} PDUs well")
    check(seen.apdus == apdus, f"tshark reads {seen.apdus} of {apdus} APDUs")
    for kind in (Type.OPEN_CHANNEL, Type.SEND_DATA, Type.RECEIVE_DATA, Type.SEND_SHORT_MESSAGE):
        check(seen.commands[kind] > 0, f"tshark sees no command {kind:#x}")
    return (
        f"tshark decodes all {seen.pdus} CAT_TP PDUs with good checksums and all {seen.apdus} APDUs, nothing malformed"
    )


CLAUSES = {
    "E6": ("download over a link, resumed", link),
    "E7": ("download without a link", message),
    "E8": ("real OTA, read by Wireshark", real),
}
