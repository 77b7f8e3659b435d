"""Clause C8: a push reaches a terminal as a short message, through osmo-msc, osmo-hlr and an MME where they are
installed, else through an SMSC of our own; raises Failed where it does not hold.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from gateway.paging.app_payload import AppPayload, parse_payload
from gateway.paging.sms.local import Behaviour, LocalSmsc
from gateway.paging.udh import parse_header
from gateway.tour.bare import BareDevice
from gateway.tour.fleet import Fleet
from gateway.tour.operator.osmo import CTRL_PORT, NEEDED, PASSWORD, SMPP_PORT, SYSTEM_ID, Operator
from gateway.tour.operator.programs import missing
from gateway.tour.operator.terminal import IMSI, MSISDN, Terminal
from gateway.tour.stage import APP, Stage, check, eventually

_NETWORK_IDS = [{"kind": "imsi", "value": IMSI}, {"kind": "msisdn", "value": f"+{MSISDN}"}]


async def by_sms(_stage: Stage, _fleet: Fleet) -> str:
    """The device is away; its operator's SMSC gets a short message, and its receipt stands in the history."""
    packages = missing(NEEDED)
    return await (_by_our_own(packages) if packages else _by_osmocom())


async def _by_osmocom() -> str:
    with tempfile.TemporaryDirectory(prefix="heliograph-tour-") as folder:
        async with Operator(Path(folder)) as network, Terminal(network.ip) as terminal:
            await terminal.attach()
            stage = _stage_before(f"{network.ip}:{SMPP_PORT}", SYSTEM_ID, PASSWORD)
            stage.add_settings(f"paging.hlr={network.ip}:{CTRL_PORT}")
            async with stage:
                await _wake(stage)

                async def arrived() -> bool:
                    return bool(terminal.delivered)

                await eventually(arrived, "the short message at the terminal")
                payload = _read(terminal.delivered[0].data)
                check(terminal.pagings >= 1, "the terminal was not paged")
    return (
        f"looked up at osmo-hlr, sent by osmo-msc, paged by the MME, {payload.title!r} at the app's port, receipt"
        " delivered; no number in log, metrics or history"
    )


async def _by_our_own(packages: str) -> str:
    smsc = LocalSmsc()
    port = await smsc.start()
    smsc.behaviour = Behaviour(receipt_delay_s=0.05)
    try:
        async with _stage_before(f"127.0.0.1:{port}", smsc.system_id, smsc.password) as stage:
            await _wake(stage)
            _read(smsc.submissions[0].message.message)
            check(not smsc.faults, f"the SMSC complains: {smsc.faults}")
    finally:
        await smsc.close()
    return (
        "at the app's port, receipt delivered; no number in log, metrics or history"
        f" (an SMSC of our own; for a real one: apt install {packages})"
    )


def _stage_before(smsc: str, system_id: str, password: str) -> Stage:
    stage = Stage("identity.host=push.example.com")
    file = stage.folder / "smsc-password"
    file.write_text(password)
    file.chmod(0o600)
    stage.add_settings(f"paging.smscs=smpp://{system_id}@{smsc}", f"paging.smsc_password_file={file}")
    return stage


async def _wake(stage: Stage) -> None:
    """Push to a device that is away; wait for the receipt, and look that nothing shows who it is."""
    admin = (stage.folder / "store" / "admin.key").read_text().strip()
    body = {"network_ids": _NETWORK_IDS, "trigger": "attach", "app": APP}
    made = await stage.call("POST", "/v1/subscribers", json=body, headers={"authorization": f"Bearer {admin}"})
    check(made.status_code == 200, f"the attach was refused: {made.status_code} {made.text}")
    device = BareDevice(stage.device_port)
    token = await device.connect("c8", addresses={"sms": made.json()["ids"][0]["id"]})
    await device.close()
    await stage.disconnected(token)
    push = await stage.push({"token": token}, "c8", text="wake up", fallback=["sms"])

    async def delivered() -> bool:
        steps = (await stage.look(push))["deliveries"][0]["steps"]
        return any((step["what"], step["channel"]) == ("delivered", "sms") for step in steps)

    await eventually(delivered, "the receipt of the short message")
    shown: list[Any] = [
        (stage.folder / "gateway.log").read_text(),
        (await stage.call("GET", "/metrics")).text,
        await stage.look(push),
    ]
    check(not any(secret in str(shown) for secret in (IMSI, MSISDN)), "a number was shown")


def _read(message: bytes) -> AppPayload:
    _, body = parse_header(message)
    payload = parse_payload(body)
    check((payload.title, payload.text) == ("c8", "wake up"), f"the terminal got {payload.title!r}")
    return payload


CLAUSES = {"C8": ("a terminal woken by SMS", by_sms)}
