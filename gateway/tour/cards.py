"""An issuer of cards and its operator: a gateway that does something for cards, and a network with terminals beside it
(E1 to E8); must never look inside the gateway.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple

from gateway.ota.cattp import Limits
from gateway.ota.sim.terminal import Behaviour
from gateway.tour.card_capture import Capture
from gateway.tour.card_issue import issue
from gateway.tour.card_network import CardNetwork, Holder
from gateway.tour.stage import Stage, check, eventually

#: on one machine a round trip takes a millisecond, and nobody wants to wait for the timers of the field
QUICK = (
    "ota.rto_first_ms=200",
    "ota.rto_least_ms=50",
    "ota.rto_most_ms=1000",
    "ota.retry_s=0.8",
    "ota.retry_max_s=2",
    "ota.smsc_retry_s=0.3",
    "ota.smsc_rate=0",
    "ota.attempts=4",
    "ota.answer_s=5",
    "ota.validity_s=3",
)
#: a card whose server was killed finds out by its idle time, and has its channel until then
LIMITS = Limits(
    max_pdu=300,
    max_sdu=2_000,
    window=4,
    rto_first_ms=200,
    rto_least_ms=50,
    rto_most_ms=1_000,
    idle_ms=1_500,
    close_wait_ms=200,
)
#: a seed of the tour's own: its cards are nobody's
SEED = b"heliograph tour"


class Cards(NamedTuple):
    """A gateway, a network, and the ids under which the gateway knows the cards."""

    stage: Stage
    network: CardNetwork
    ids: list[str]
    capture: Capture

    def holder(self, number: int) -> Holder:
        return self.network.holders[number]

    async def power_on(self, *numbers: int) -> None:
        for number in numbers:
            await self.network.power_on(self.holder(number))
            await self.holder(number).terminal.settle()

    async def ask(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """As the operator."""
        answer = await self.stage.call(method, path, headers=self.stage.as_operator(), **options)
        check(answer.is_success, f"{method} {path} refused: {answer.status_code} {answer.text}")
        return dict(answer.json())

    async def capability(self, number: int) -> dict[str, Any]:
        return await self.ask("GET", f"/v1/cards/{self.ids[number]}/capability")

    async def evidence(self, number: int) -> list[str]:
        return [line["what"] for line in (await self.capability(number))["evidence"]]

    async def known(self, number: int, state: str, timeout_s: float = 10.0) -> dict[str, Any]:
        """Once this is known of it."""

        async def probe() -> dict[str, Any] | None:
            found = await self.capability(number)
            return found if found["state"] == state else None

        return dict(await eventually(probe, f"state {state} of card {number}", timeout_s))

    async def download(self, number: int, commands: Sequence[bytes], **fields: Any) -> str:
        """Started; its id."""
        body = {"card": self.ids[number], "commands": [command.hex() for command in commands], **fields}
        answer = await self.stage.call("POST", "/v1/downloads", json=body)
        check(answer.status_code == 201, f"the download was refused: {answer.status_code} {answer.text}")
        return str(answer.json()["id"])

    async def look(self, download: str) -> dict[str, Any]:
        answer = await self.stage.call("GET", f"/v1/downloads/{download}")
        check(answer.status_code == 200, f"look-up refused: {answer.status_code} {answer.text}")
        return dict(answer.json())

    async def over(self, download: str, state: str, timeout_s: float = 20.0) -> dict[str, Any]:
        """Once it is over, in this state."""

        async def probe() -> dict[str, Any] | None:
            found = await self.look(download)
            return found if found["state"] not in ("held", "waiting", "active") else None

        found = dict(await eventually(probe, "the end of a download", timeout_s))
        steps = [step["what"] for step in found["steps"]]
        check(found["state"] == state, f"the download ended {found['state']}, not {state}: {steps}")
        return found

    async def until(self, holds: Callable[[], Any], what: str, timeout_s: float = 10.0) -> None:
        """Something of the network."""

        async def probe() -> bool:
            return bool(holds())

        await eventually(probe, what, timeout_s)

    def check_strict(self) -> None:
        """The strict SMSC has nothing to say against what it got."""
        check(not self.network.smsc.faults, f"the SMSC complains: {self.network.smsc.faults}")


def write_command(number: int, size: int) -> bytes:
    """UPDATE BINARY of so many bytes (ETSI TS 102 221 §11.1.4)."""
    return bytes((0x00, 0xD6, number >> 8 & 0x7F, number & 0xFF, size)) + bytes((number & 0xFF,)) * size


@contextlib.asynccontextmanager
async def cards(*behaviours: Behaviour, settings: Sequence[str] = (), new: bool = True) -> AsyncIterator[Cards]:
    """One card for each behaviour, imported and off. `new`: they do not know their terminals yet."""
    capture = Capture()
    network = CardNetwork(
        [issue(number, SEED) for number in range(len(behaviours))],
        behave=behaviours.__getitem__,
        limits=LIMITS,
        know_terminals=not new,
        on_apdu=lambda _number, apdu: capture.add_apdu(apdu),
        on_datagram=lambda _number, datagram, is_out: capture.add_pdu(datagram, is_out),
    )
    port = await network.start()
    try:
        stage = Stage("ota.port=0", *QUICK, *settings)
        file = stage.add_secret("smsc-password", network.smsc.password)
        stage.add_settings(
            f"paging.smscs=smpp://{network.smsc.system_id}@127.0.0.1:{port}", f"paging.smsc_password_file={file}"
        )
        async with stage:
            scene = Cards(stage, network, [], capture)
            lines = [json.loads(holder.issued.line()) for holder in network.holders]
            answer = await scene.ask("POST", "/v1/cards", json=lines)
            check(answer["imported"] == len(lines), f"a card was refused: {answer}")
            scene.ids.extend(each["card"] for each in answer["cards"])
            await scene.until(lambda: network.smsc.is_bound, "the gateway at the SMSC")
            yield scene
    finally:
        await network.close()
