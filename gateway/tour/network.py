"""A gateway inside an operator's network: its SMSC is osmo-msc with a terminal behind an MME where those are installed,
else one of our own; must never be reachable from anywhere but this machine.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

from gateway.paging.sms.local import LocalSmsc
from gateway.tour.operator import osmo, terminal
from gateway.tour.operator.programs import missing
from gateway.tour.operator.terminal import Terminal
from gateway.tour.stage import APP, Stage, check, eventually

#: whom osmo-hlr has, and so everybody
IMSI, NUMBER = terminal.IMSI, terminal.MSISDN
MSISDN, NAI = f"+{NUMBER}", "ann@example.com"
NETWORK_IDS = [
    {"kind": "imsi", "value": IMSI},
    {"kind": "msisdn", "value": MSISDN},
    {"kind": "nai", "value": NAI},
]


class Operator(NamedTuple):
    """`smsc`: the one of our own; `terminal`: the one behind osmo-msc. One of them is there."""

    stage: Stage
    smsc: LocalSmsc | None
    terminal: Terminal | None = None

    @property
    def messages(self) -> list[bytes]:
        """What terminals got, each with its user data header."""
        if self.terminal is not None:
            return [each.data for each in self.terminal.delivered]
        assert self.smsc is not None
        return [each.message.message for each in self.smsc.submissions]

    async def paged(self, count: int) -> bytes:
        """The last of so many short messages; Failed where there are more."""

        async def came() -> bool:
            return len(self.messages) >= count

        await eventually(came, f"short message {count}")
        check(len(self.messages) == count, "more was paged than pushed")
        return self.messages[-1]

    def check_strict(self) -> None:
        """A strict SMSC has nothing to say against what it got; osmo-msc would have refused it."""
        faults = self.smsc.faults if self.smsc is not None else []
        check(not faults, f"the SMSC complains: {faults}")

    @property
    def by_what(self) -> str:
        """For the row: which SMSC it was."""
        if self.terminal is not None:
            return "osmo-msc's SMSC"
        return f"an SMSC of our own (for a real one: apt install {missing(osmo.NEEDED)})"

    async def trigger(self, trigger: str, **fields: Any) -> dict[str, Any]:
        """As the operator's core tells it."""
        return await self.ask("", {"network_ids": NETWORK_IDS, "trigger": trigger, "app": APP, **fields})

    async def ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = await self.stage.call("POST", f"/v1/subscribers{path}", json=body, headers=self.stage.as_operator())
        check(answer.status_code == 200, f"{path or 'the trigger'} refused: {answer.status_code} {answer.text}")
        return dict(answer.json())


@contextlib.asynccontextmanager
async def operator(*settings: str, own: bool = False) -> AsyncIterator[Operator]:
    """`settings`: more of them for the gateway; `own`: with an SMSC of our own in any case, for who sends nothing or
    has the network beside."""
    if own or missing(osmo.NEEDED):
        smsc = LocalSmsc()
        port = await smsc.start()
        try:
            async with _stage(f"127.0.0.1:{port}", smsc.system_id, smsc.password, *settings) as stage:
                yield Operator(stage, smsc)
        finally:
            await smsc.close()
        return
    with tempfile.TemporaryDirectory(prefix="heliograph-tour-") as folder:
        async with osmo.Operator(Path(folder)) as network, Terminal(network.ip) as phone:
            await phone.attach()
            smsc_at = f"{network.ip}:{osmo.SMPP_PORT}"
            async with _stage(smsc_at, osmo.SYSTEM_ID, osmo.PASSWORD, *settings) as stage:
                yield Operator(stage, None, phone)


def _stage(smsc: str, system_id: str, password: str, *settings: str) -> Stage:
    stage = Stage("identity.host=push.example.com", f"identity.ask_apps={APP}", *settings)
    file = stage.add_secret("smsc-password", password)
    stage.add_settings(f"paging.smscs=smpp://{system_id}@{smsc}", f"paging.smsc_password_file={file}")
    return stage
