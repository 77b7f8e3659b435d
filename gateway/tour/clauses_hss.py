"""Clause C7: an HSS holds whom an id stands for, and is asked by Diameter; on a gateway of its own with HSS and SMSC
beside it. Raises Failed where it does not hold.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import NamedTuple

from gateway.diameter.codes import Application
from gateway.diameter.local import LocalDiameter, Subscription
from gateway.paging.sms.local import LocalSmsc
from gateway.tour.bare import BareDevice
from gateway.tour.fleet import Fleet
from gateway.tour.stage import Stage, check, eventually

#: as an operator would have given it to the device's owner; this gateway never drew it
EXTERNAL_ID = "Meter-17.hall@push.example.com"
IMSI, MSISDN = "001010123456789", "491511234567"


class Home(NamedTuple):
    stage: Stage
    hss: LocalDiameter
    smsc: LocalSmsc


@contextlib.asynccontextmanager
async def home() -> AsyncIterator[Home]:
    hss, smsc = LocalDiameter(), LocalSmsc()
    try:
        stage = Stage("identity.host=push.example.com", "identity.mapping=hss", "delivery.retry_ms=200")
        file = stage.folder / "smsc-password"
        file.write_text(smsc.password)
        file.chmod(0o600)
        stage.add_settings(
            f"paging.smscs=smpp://{smsc.system_id}@127.0.0.1:{await smsc.start()}",
            f"paging.smsc_password_file={file}",
            f"diameter.peers=127.0.0.1:{await hss.start()}",
            "diameter.origin_host=pushgw.example.net",
            "diameter.origin_realm=example.net",
            "diameter.reconnect_s=0.1",
            "diameter.reconnect_max_s=0.2",
        )
        async with stage:
            yield Home(stage, hss, smsc)
    finally:
        await smsc.close()
        await hss.close()


async def by_hss(_stage: Stage, _fleet: Fleet) -> str:
    """C7: while the HSS is down a push waits; once it answers, the push goes to the number it names."""
    async with home() as network:
        stage, hss, smsc = network
        hss.by_external_id[EXTERNAL_ID] = Subscription(MSISDN, IMSI)
        await hss.close()
        device = BareDevice(stage.device_port)
        token = await device.connect("c7", addresses={"sms": EXTERNAL_ID})
        await device.close()
        await stage.disconnected(token)
        push = await stage.push({"token": token}, "c7", text="wake up", fallback=["sms"])

        async def waits() -> bool:
            return "sms lookup_failed" in (await stage.call("GET", "/metrics")).text

        await eventually(waits, "a try that found no HSS")
        check(not smsc.submissions, "a message went out without the HSS")
        await hss.start(hss.port)

        async def arrived() -> bool:
            return bool(smsc.submissions)

        await eventually(arrived, "the short message")
        check(smsc.submissions[0].message.destination.digits == MSISDN, "it went to another number")
        asked = hss.requests[-1]
        check(asked.header.application == Application.S6M, f"asked by application {asked.header.application}")
        faults = hss.faults + smsc.faults
        check(not faults, f"the operator's servers complain: {faults}")
        log = (stage.folder / "gateway.log").read_text()
        shown = log + (await stage.call("GET", "/metrics")).text + str(await stage.look(push))
        check(not any(secret in shown for secret in (IMSI, MSISDN)), "a number was shown")
    return "an id the gateway never drew; HSS down: the push waits; up: S6m names the number, the SMS goes there"


CLAUSES = {"C7": ("an HSS says whom an id stands for", by_hss)}
