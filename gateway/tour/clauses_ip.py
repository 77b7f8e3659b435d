"""Clauses C over IP: a terminal that is woken by a datagram when its network says that it is on line, and one that is
found by the address it comes from; each on a gateway of its own with a NAS beside it; raises Failed where it does not
hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import httpx

from gateway.client import WakeListener
from gateway.paging.app_payload import parse_payload
from gateway.paging.ip.accounting import STOP
from gateway.paging.ip.local_nas import SECRET, LocalNas
from gateway.tour.bare import BareDevice
from gateway.tour.fleet import Fleet
from gateway.tour.stage import APP, Stage, check, eventually

IMSI, MSISDN = "001010123456789", "+491511234567"
#: the terminal's, on this machine, and one of the operator's pool
TERMINAL, POOLED = "127.0.0.42", "10.45.0.7"


class Network(NamedTuple):
    """A gateway, the NAS that reports to it, and a terminal's port."""

    stage: Stage
    nas: LocalNas
    port: int

    async def trigger(self, trigger: str, *network_ids: tuple[str, str]) -> httpx.Response:
        """As the operator's core asks."""
        admin = (self.stage.folder / "store" / "admin.key").read_text().strip()
        body: dict[str, Any] = {
            "network_ids": [{"kind": kind, "value": value} for kind, value in network_ids],
            "trigger": trigger,
            "app": APP,
        }
        return await self.stage.call("POST", "/v1/subscribers", json=body, headers={"authorization": f"Bearer {admin}"})

    async def attach(self) -> list[str]:
        answer = await self.trigger("attach", ("imsi", IMSI), ("msisdn", MSISDN))
        check(answer.status_code == 200, f"the attach was refused: {answer.status_code} {answer.text}")
        return [each["id"] for each in answer.json()["ids"]]


def _free_port(host: str, ports: range = range(1)) -> int:
    """Of UDP."""
    for port in ports:
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((host, port))
            return int(probe.getsockname()[1])
    raise OSError("no port is free")


@contextlib.asynccontextmanager
async def network() -> AsyncIterator[Network]:
    radius, port = _free_port("127.0.0.1"), _free_port(TERMINAL, range(16_000, 17_000))
    stage = Stage(
        "identity.host=push.example.com",
        f"radius.port={radius}",
        "radius.clients=127.0.0.1/32",
        "ip.networks=127.0.0.0/8",
        "ip.loopback=true",
        f"ip.port={port}",
    )
    file = stage.folder / "radius-secret"
    file.write_bytes(SECRET)
    file.chmod(0o600)
    stage.add_settings(f"radius.secret_file={file}")
    async with stage, LocalNas(radius) as nas:
        yield Network(stage, nas, port)


async def by_ip(_stage: Stage, _fleet: Fleet) -> str:
    """C11: off line the push is kept; accounting says on line, a datagram wakes the terminal, and it fetches."""
    async with network() as there:
        woken: asyncio.Queue[bytes] = asyncio.Queue()
        terminal = WakeListener(woken.put_nowait)
        await terminal.start(there.port, TERMINAL)
        device = BareDevice(there.stage.device_port)
        try:
            token = await device.connect("c11", addresses={"ip": (await there.attach())[0]})
            await device.close()
            await there.stage.disconnected(token)
            push = await there.stage.push({"token": token}, "c11", text="wake up", fallback=["ip"])

            async def is_off_line() -> bool:
                return "later" in str(await there.stage.look(push))

            await eventually(is_off_line, "the history's word that the subscriber is off line")
            check(woken.empty(), "a datagram came before the terminal was on line")
            await there.nas.tell(ip=TERMINAL, imsi=IMSI, msisdn=MSISDN.lstrip("+"), called="internet")
            payload = parse_payload(await asyncio.wait_for(woken.get(), 15))
            check((payload.title, payload.text) == ("c11", "wake up"), f"the terminal got {payload.title!r}")
            await device.connect("c11")
            device.ack(await device.titled("c11"))
            await there.stage.state_of(push, "acked")
            log = (there.stage.folder / "gateway.log").read_text()
            metrics = (await there.stage.call("GET", "/metrics")).text
            shown = log + metrics + str(await there.stage.look(push))
            check(not any(secret in shown for secret in (IMSI, MSISDN[1:], TERMINAL)), "a network id was shown")
        finally:
            terminal.close()
    return "kept while off line; woken by a datagram after Accounting-Start, fetched and acked; no address shown"


async def by_source_ip(_stage: Stage, _fleet: Fleet) -> str:
    """C15: the address a terminal comes from leads to its ids while accounting says that it has it."""
    async with network() as there:
        ids = await there.attach()
        before = await there.trigger("source_ip", ("ip", POOLED))
        check(before.status_code == 404, f"an address nobody has: {before.status_code}")
        await there.nas.tell(ip=POOLED, imsi=IMSI)
        found = await there.trigger("source_ip", ("ip", POOLED))
        check(found.status_code == 200, f"refused: {found.status_code} {found.text}")
        check([each["id"] for each in found.json()["ids"]] == ids, "other ids than the attach drew")
        check(not any(secret in found.text for secret in (IMSI, MSISDN[1:], POOLED)), "the answer shows a network id")
        await there.nas.tell(STOP, ip=POOLED, imsi=IMSI)
        after = await there.trigger("source_ip", ("ip", POOLED))
        check(after.status_code == 404, f"after the Stop: {after.status_code}")
    return "the attach's ids by source address from Accounting-Start to Stop; 404 before and after"


CLAUSES = {
    "C11": ("a terminal woken over IP", by_ip),
    "C15": ("found by source address", by_source_ip),
}
