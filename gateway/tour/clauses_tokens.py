"""Clause C12 with opaque ids in the place of tokens: paged where no device is known, over the link where one showed
that it is paged; and a trigger as T8 has it. One function a row, raises Failed where it does not hold.
"""

from __future__ import annotations

import base64

from gateway.model.registration import CLAIM, build_token
from gateway.paging.app_payload import AppPayload, parse_payload
from gateway.paging.udh import parse_header
from gateway.tour.bare import BareDevice
from gateway.tour.fleet import Fleet
from gateway.tour.network import IMSI, MSISDN, Operator, operator
from gateway.tour.stage import APP, Stage, check, eventually


async def _paged(network: Operator, count: int) -> AppPayload:
    """What the last of so many short messages says to the app."""
    return parse_payload(parse_header(await network.paged(count))[1])


async def ids_as_tokens(_stage: Stage, _fleet: Fleet) -> str:
    """C1, C12: a push names a subscriber by any of its ids, as it would a token."""
    async with operator() as network:
        o_tmsi, o_tmsn, _ = [each["id"] for each in (await network.trigger("attach"))["ids"]]
        await network.stage.push({"token": o_tmsi}, "nobody is connected", fallback=["sms"])
        token = build_token((await _paged(network, 1)).token)
        device, thief = (BareDevice(network.stage.device_port) for _ in range(2))
        try:
            await thief.connect("thief", addresses={"sms": o_tmsi})
            await device.connect("device", addresses={"sms": o_tmsi, CLAIM: token})
            push = await network.stage.push({"token": o_tmsn}, "by its other id")
            device.ack(await device.titled("by its other id"))
            check(await thief.nothing_comes(0.2), "a device got it that knew the id and was never paged")

            async def acked() -> bool:
                return str((await network.stage.look(push))["deliveries"][0]["state"]) == "acked"

            await eventually(acked, "the ack")
        finally:
            await device.close()
            await thief.close()
        await network.ask("/opt-out", {"network_id": {"kind": "imsi", "value": IMSI}, "app": APP})
        unknown = "a" * 26 + "@push.example.com"
        answers = {
            (answer.status_code, answer.text)
            for answer in [
                await network.stage.call("POST", "/v1/push", json={"target": {"token": each}, "title": "t"})
                for each in (o_tmsi, o_tmsn, unknown, "A" * 22)
            ]
        }
        check(len(answers) == 1 and 404 in next(iter(answers)), f"an opt-out answers otherwise: {answers}")
    return (
        f"paged by {network.by_what} first, over the link once a device showed what was paged; opted out: as an unknown"
        " token"
    )


async def trigger(_stage: Stage, _fleet: Fleet) -> str:
    """TS 29.122 §5.7: an app server triggers a device by its External Identifier, which is an opaque id."""
    async with operator() as network:
        opaque = (await network.trigger("attach"))["ids"][0]["id"]
        asked = {
            "externalId": opaque,
            "validityPeriod": 60,
            "priority": "PRIORITY",
            "applicationPortId": 16000,
            "triggerPayload": base64.b64encode(b"wake up").decode(),
            "notificationDestination": "https://app.example.com/reports",
        }
        every = f"/3gpp-device-triggering/v1/{APP}/transactions"
        made = await network.stage.call("POST", every, json=asked)
        check(made.status_code == 201, f"refused: {made.status_code} {made.text}")
        check((await _paged(network, 1)).text == "wake up", "the payload was not paged")

        async def is_told() -> bool:
            found = await network.stage.call("GET", made.headers["location"])
            return bool(found.json()["deliveryResult"] == "SUCCESS")

        await eventually(is_told, "the delivery result")
        numbered = {**asked, "msisdn": MSISDN}
        refused = await network.stage.call("POST", every, json=numbered)
        check(refused.status_code == 400, f"a number was taken: {refused.status_code}")
        check(MSISDN[1:] not in refused.text, "the answer repeats the number")
    return f"201 with Location, paged by {network.by_what}, SUCCESS once it said so; a trigger by number is refused"


CLAUSES = {
    "C12": ("opaque ids in the place of tokens", ids_as_tokens),
    "C12+": ("device triggers, T8", trigger),
}
