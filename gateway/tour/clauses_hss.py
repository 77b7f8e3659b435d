"""Clause C7: an HSS holds whom an id stands for, and is asked by Diameter, through freeDiameterd where it is installed;
on a gateway of its own with HSS and SMSC beside it. Raises Failed where it does not hold.
"""

from __future__ import annotations

from gateway.diameter.codes import Application
from gateway.diameter.local import Subscription
from gateway.tour.bare import BareDevice
from gateway.tour.fleet import Fleet
from gateway.tour.home import Home
from gateway.tour.network import IMSI, NUMBER, operator
from gateway.tour.stage import Stage, check, eventually

#: as an operator would have given it to the device's owner; this gateway never drew it
EXTERNAL_ID = "Meter-17.hall@push.example.com"


async def by_hss(_stage: Stage, _fleet: Fleet) -> str:
    """C7: while the HSS is down a push waits; once it answers, the push goes to the number it names."""
    async with Home() as home, operator("identity.mapping=hss", "delivery.retry_ms=200", *home.settings) as network:
        stage = network.stage
        home.hss.by_external_id[EXTERNAL_ID] = Subscription(NUMBER, IMSI)
        device = BareDevice(stage.device_port)
        token = await device.connect("c7", addresses={"sms": EXTERNAL_ID})
        await device.close()
        await stage.disconnected(token)
        push = await stage.push({"token": token}, "c7", text="wake up", fallback=["sms"])

        async def waits() -> bool:
            return "sms lookup_failed" in (await stage.call("GET", "/metrics")).text

        await eventually(waits, "a try that found no HSS")
        check(not network.messages, "a message went out without the HSS")
        await home.start()
        await network.paged(1)
        if network.smsc is not None:  # osmo-msc has one terminal, and no other could have got it
            check(network.smsc.submissions[0].message.destination.digits == NUMBER, "it went to another number")
        asked = home.hss.requests[-1]
        check(asked.header.application == Application.S6M, f"asked by application {asked.header.application}")
        check(not home.hss.faults, f"the HSS complains: {home.hss.faults}")
        network.check_strict()
        log = (stage.folder / "gateway.log").read_text()
        shown = log + (await stage.call("GET", "/metrics")).text + str(await stage.look(push))
        check(not any(secret in shown for secret in (IMSI, NUMBER)), "a number was shown")
    return (
        f"an id the gateway never drew; HSS down: the push waits; up: S6m names the number ({home.by_what}), the SMS"
        f" goes there by {network.by_what}"
    )


CLAUSES = {"C7": ("an HSS says whom an id stands for", by_hss)}
