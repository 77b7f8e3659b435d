"""Cards and their SMSC in a process of their own, for O3: `python -m bench.system.card_fleet COUNT LOSS SEED PAYLOAD`.

The first line it prints is the SMSC's port; each line of its stdin is answered with its counts as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import uvloop

from bench.system.asked_process import AskedProcess
from bench.system.card_smsc import Smsc
from bench.system.light_cards import POLL_S, LightCards, msisdn, split_commands
from gateway.ota.sms_pp import USER_DATA_BYTES
from gateway.paging.sms.pdu import ESM_UDHI, ShortMessage

SENDER = "49170000"


class CardFleet(AskedProcess):
    """`async with CardFleet(1_000, loss=0.05, seed=1, commands=[…]) as fleet`."""

    module = "bench.system.card_fleet"

    def __init__(self, count: int, *, loss: float, seed: int, commands: list[bytes]) -> None:
        super().__init__("the cards", [str(count), str(loss), str(seed), b"".join(commands).hex()])
        #: any password will do; the gateway wants one, in a file
        self.password_file = self._folder / "password"
        self.password_file.write_text("secret")
        self.password_file.chmod(0o600)


class Network:
    """The SMSC and the cards behind it."""

    def __init__(self, count: int, loss: float, seed: int, commands: list[bytes]) -> None:
        self.smsc = Smsc(self._on_message)
        self.cards = LightCards(count, commands, self._on_answer, loss=loss, seed=seed)
        self._first = int(msisdn(0))
        #: whom the cards answer: who wrote to them last
        self._sender = SENDER

    def _on_message(self, sm: ShortMessage) -> None:
        number = int(sm.destination.digits or "0") - self._first
        if not 0 <= number < self.cards.count:
            self.smsc.counts["nobody_there"] += 1
        elif sm.esm_class & ESM_UDHI and len(sm.message) <= USER_DATA_BYTES:
            self.cards.on_message(number, sm.message)
        else:
            self.smsc.counts["texts"] += 1

    def _on_answer(self, number: int, user_data: bytes) -> None:
        self.smsc.answer(msisdn(number), self._sender, user_data)

    def counts(self) -> dict[str, int]:
        return {
            **{f"smsc_{name}": count for name, count in self.smsc.counts.items()},
            **self.cards.counts,
            "complete": self.cards.complete,
            "in_channels": self.cards.in_channels,
        }


async def serve(count: int, loss: float, seed: int, commands: list[bytes]) -> None:
    loop = asyncio.get_running_loop()
    network = Network(count, loss, seed, commands)
    port = await network.smsc.start()
    print(json.dumps({"port": port}), flush=True)
    asked = asyncio.Event()
    over = False

    def on_line() -> None:
        nonlocal over
        over = not sys.stdin.readline()
        asked.set()

    loop.add_reader(sys.stdin, on_line)
    while not over:
        network.cards.tick()
        try:
            await asyncio.wait_for(asked.wait(), POLL_S)
        except TimeoutError:
            continue
        asked.clear()
        if not over:
            print(json.dumps(network.counts()), flush=True)


def main() -> None:
    words: list[Any] = sys.argv[1:]
    uvloop.run(serve(int(words[0]), float(words[1]), int(words[2]), split_commands(bytes.fromhex(words[3]))))


if __name__ == "__main__":
    main()
