"""Clauses C over IP: a terminal that is woken by a datagram when its network says that it is on line, and one that is
found by the address it comes from; each on a gateway of its own. Who tells is FreeRADIUS' radclient, and who is asked
osmo-ggsn, where they are installed, else a NAS of our own; raises Failed where it does not hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from gateway.client import WakeListener
from gateway.paging.app_payload import parse_payload
from gateway.paging.ip.accounting import STOP
from gateway.paging.ip.local_nas import SECRET, LocalNas
from gateway.tour.bare import BareDevice
from gateway.tour.fleet import Fleet
from gateway.tour.operator import ggsn, radclient
from gateway.tour.operator.ggsn import Ggsn
from gateway.tour.operator.programs import missing
from gateway.tour.operator.radclient import RadclientNas
from gateway.tour.stage import APP, Stage, check, eventually

IMSI, MSISDN = "001010123456789", "+491511234567"
#: the terminal's, on this machine, and one of the operator's pool
TERMINAL, POOLED = "127.0.0.42", "10.45.0.7"
#: of the app on a mobile that has a network of its own, and how long that has a context at most
APP_PORT, MOST_S = 16_000, 60


class Network(NamedTuple):
    """A gateway, the NAS that reports to it, and a terminal's port."""

    stage: Stage
    nas: LocalNas | RadclientNas
    port: int

    @property
    def by_what(self) -> str:
        """For the row: who told."""
        if isinstance(self.nas, RadclientNas):
            return "radclient"
        return f"a NAS of our own (for a real client: apt install {missing(radclient.NEEDED)})"


async def trigger(stage: Stage, trigger: str, *network_ids: tuple[str, str]) -> httpx.Response:
    """As the operator's core asks."""
    body: dict[str, Any] = {
        "network_ids": [{"kind": kind, "value": value} for kind, value in network_ids],
        "trigger": trigger,
        "app": APP,
    }
    return await stage.call("POST", "/v1/subscribers", json=body, headers=stage.as_operator())


async def attach(stage: Stage, imsi: str, msisdn: str) -> list[str]:
    answer = await trigger(stage, "attach", ("imsi", imsi), ("msisdn", msisdn))
    check(answer.status_code == 200, f"the attach was refused: {answer.status_code} {answer.text}")
    return [each["id"] for each in answer.json()["ids"]]


async def _away(stage: Stage, device: BareDevice, imsi: str, msisdn: str) -> str:
    """The token of a device that was here once."""
    token = await device.connect("c11", addresses={"ip": (await attach(stage, imsi, msisdn))[0]})
    await device.close()
    await stage.disconnected(token)
    return token


async def _check_private(stage: Stage, push: str, *secrets: str) -> None:
    shown = (stage.folder / "gateway.log").read_text() + (await stage.call("GET", "/metrics")).text
    shown += str(await stage.look(push))
    check(not any(secret in shown for secret in secrets), "a network id was shown")


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
    stage.add_settings(f"radius.secret_file={stage.add_secret('radius-secret', SECRET.decode())}")
    async with stage, LocalNas(radius) as nas:
        is_real = not missing(radclient.NEEDED)
        yield Network(stage, RadclientNas(radius, SECRET) if is_real else nas, port)


async def by_ip(_stage: Stage, _fleet: Fleet) -> str:
    """C11: off line the push is kept, until the network tells, or is asked and says, that the terminal is on line."""
    told = await _told()
    packages, why_not = missing(ggsn.NEEDED), ggsn.why_not()
    if packages or why_not:
        asked = f"no GGSN was asked ({f'apt install {packages}' if packages else why_not})"
    else:
        try:
            asked = await _asked()
        except ggsn.CanNotTunnel as exc:
            asked = f"no GGSN was asked ({exc})"
    return f"kept while off line; {told}; {asked}; no address shown"


async def _told() -> str:
    """Accounting says on line, a datagram wakes the terminal, and it fetches."""
    async with network() as there:
        woken: asyncio.Queue[bytes] = asyncio.Queue()
        terminal = WakeListener(woken.put_nowait)
        await terminal.start(there.port, TERMINAL)
        device = BareDevice(there.stage.device_port)
        try:
            token = await _away(there.stage, device, IMSI, MSISDN)
            push = await there.stage.push({"token": token}, "c11", text="wake up", fallback=["ip"])

            await eventually(_said(there.stage, push, "later"), "the history's word that the subscriber is off line")
            check(woken.empty(), "a datagram came before the terminal was on line")
            await there.nas.tell(ip=TERMINAL, imsi=IMSI, msisdn=MSISDN.lstrip("+"), called="internet")
            payload = parse_payload(await asyncio.wait_for(woken.get(), 15))
            check((payload.title, payload.text) == ("c11", "wake up"), f"the terminal got {payload.title!r}")
            await device.connect("c11")
            device.ack(await device.titled("c11"))
            await there.stage.state_of(push, "acked")
            await _check_private(there.stage, push, IMSI, MSISDN[1:], TERMINAL)
        finally:
            terminal.close()
        return f"Accounting-Start by {there.by_what}: woken by a datagram, fetched and acked"


async def _asked() -> str:
    """The GGSN is asked again until it has a context; the datagram goes through its tunnel to the mobile."""
    with tempfile.TemporaryDirectory(prefix="heliograph-tour-") as folder:
        stage = Stage(
            "identity.host=push.example.com", "ip.requery_s=0.2", "ip.online_cache_s=0", f"ip.port={APP_PORT}"
        )
        async with Ggsn(Path(folder)) as network:
            stage.add_settings(f"ip.ggsn={network.ip}:{ggsn.VTY_PORT}", f"ip.networks={network.pool}.0/24")
            async with stage:
                token = await _away(stage, BareDevice(stage.device_port), ggsn.IMSI, f"+{ggsn.MSISDN}")
                push = await stage.push({"token": token}, "c11", text="by GTP", fallback=["ip"])
                await eventually(_said(stage, push, "later"), "the history's word that the subscriber is off line")
                await network.attach_listening(MOST_S, APP_PORT)
                await eventually(_said(stage, push, "notified"), "the terminal's own acknowledgement of the datagram")
                payload = parse_payload(network.woken[0])
                check((payload.title, payload.text) == ("c11", "by GTP"), f"the mobile got {payload.title!r}")
                await _check_private(stage, push, ggsn.IMSI, ggsn.MSISDN, network.pool)
    return "osmo-ggsn asked again until it has sgsnemu's context: the datagram through its GTP tunnel, acknowledged"


def _said(stage: Stage, push: str, word: str) -> Callable[[], Awaitable[bool]]:
    async def probe() -> bool:
        steps = (await stage.look(push))["deliveries"][0]["steps"]
        return any(step["channel"] == "ip" and word in (step["what"], step["detail"]) for step in steps)

    return probe


async def by_source_ip(_stage: Stage, _fleet: Fleet) -> str:
    """C15: the address a terminal comes from leads to its ids while accounting says that it has it."""
    async with network() as there:
        ids = await attach(there.stage, IMSI, MSISDN)
        before = await trigger(there.stage, "source_ip", ("ip", POOLED))
        check(before.status_code == 404, f"an address nobody has: {before.status_code}")
        await there.nas.tell(ip=POOLED, imsi=IMSI)
        found = await trigger(there.stage, "source_ip", ("ip", POOLED))
        check(found.status_code == 200, f"refused: {found.status_code} {found.text}")
        check([each["id"] for each in found.json()["ids"]] == ids, "other ids than the attach drew")
        check(not any(secret in found.text for secret in (IMSI, MSISDN[1:], POOLED)), "the answer shows a network id")
        await there.nas.tell(STOP, ip=POOLED, imsi=IMSI)
        after = await trigger(there.stage, "source_ip", ("ip", POOLED))
        check(after.status_code == 404, f"after the Stop: {after.status_code}")
        by_what = there.by_what
    return f"the attach's ids by source address from Accounting-Start to Stop by {by_what}; 404 before and after"


CLAUSES = {
    "C11": ("a terminal woken over IP", by_ip),
    "C15": ("found by source address", by_source_ip),
}
