"""Clause C10: a device that is away is triggered in its network's signalling, over T8 at an exposure function of our
own (there is none to install), and over Tsp, through freeDiameterd where it is installed; each on a gateway of its own;
raises Failed where it does not hold.
"""

from __future__ import annotations

import base64
import secrets
from typing import Any

from gateway.diameter import codes
from gateway.diameter.avps import Avps, parse_avps
from gateway.diameter.local import Behaviour as Reaction
from gateway.diameter.tbcd import parse_tbcd
from gateway.paging.app_payload import parse_payload
from gateway.paging.trigger.local import Behaviour, LocalScef
from gateway.tour.bare import BareDevice
from gateway.tour.fleet import Fleet
from gateway.tour.home import Home
from gateway.tour.network import IMSI, MSISDN, NETWORK_IDS
from gateway.tour.operator.prism import PACKAGE, SCS_AS_ID, Prism, find_prism
from gateway.tour.stage import APP, Stage, check, eventually


async def _attach(stage: Stage) -> str:
    """As the operator's core tells it; returns the opaque id."""
    body = {"network_ids": NETWORK_IDS, "trigger": "attach", "app": APP}
    answer = await stage.call("POST", "/v1/subscribers", json=body, headers=stage.as_operator())
    check(answer.status_code == 200, f"the attach was refused: {answer.status_code} {answer.text}")
    return str(answer.json()["ids"][0]["id"])


async def _heard(stage: Stage, push: Any, word: str) -> None:
    async def probe() -> bool:
        steps = (await stage.look(push))["deliveries"][0]["steps"]
        return any((step["what"], step["channel"]) == (word, "trigger") for step in steps)

    await eventually(probe, f"{word!r} in the history")


async def by_trigger(_stage: Stage, _fleet: Fleet) -> str:
    """The same over both of the network's interfaces."""
    program = find_prism()
    if program:
        async with Prism(program) as prism:  # it starts meanwhile
            over_t8, checked = await _over_t8(), await _checked(prism)
    else:
        over_t8, checked = await _over_t8(), f"npm's Prism did not check it (npm install -g {PACKAGE})"
    return f"{over_t8}; {checked}; {await _over_tsp()}; no number in log, metrics or history"


async def _over_t8() -> str:
    """The device is away: a trigger goes out over T8, a newer push replaces it, and the network's report stands in the
    history."""
    scef = LocalScef(client_secret=secrets.token_urlsafe(12))
    root = await scef.start()
    stage = Stage("identity.host=push.example.com", "paging.coalesce_s=0")
    file = stage.add_secret("scef-secret", scef.client_secret)
    stage.add_settings(
        f"trigger.t8={root}",
        f"trigger.scs_as_id={scef.scs_as_id}",
        "trigger.auth=oauth2",
        f"trigger.token_url={scef.token_url}",
        "trigger.client_id=pushgw",
        f"trigger.client_secret_file={file}",
    )
    try:
        async with stage:
            token = await _away(stage)
            scef.next.append(Behaviour(results=()))
            older = await stage.push({"token": token}, "c10", text="first", fallback=["trigger"])
            await eventually(_has(scef, 1), "the trigger")
            newer = await stage.push({"token": token}, "c10", text="second", fallback=["trigger"])
            await _heard(stage, newer, "delivered")
            await _heard(stage, older, "replaced")
            first, second = scef.triggers
            check((first.method, second.method, len(scef.live)) == ("POST", "PUT", 1), "it was not replaced")
            check(second.body["msisdn"] == MSISDN[1:], "the network was told another device")
            payload = parse_payload(base64.b64decode(second.body["triggerPayload"]))
            check((payload.title, payload.text) == ("c10", "second"), f"the device got {payload.title!r}")
            check(not scef.faults, f"the network complains: {scef.faults}")
            await _check_private(stage, newer, scef.client_secret)
    finally:
        await scef.close()
    return "T8 (an SCEF of our own): taken by the network, replaced by a newer push, delivered"


async def _checked(prism: Prism) -> str:
    """The same request before a server that holds it against a description of the API, and whose report comes back."""
    await prism.listens()
    stage = Stage("identity.host=push.example.com")
    stage.add_settings(
        f"trigger.t8={prism.root}",
        f"trigger.scs_as_id={SCS_AS_ID}",
        "trigger.auth=bearer",
        f"trigger.token_file={stage.add_secret('scef-token', secrets.token_urlsafe(12))}",
    )
    async with stage:
        push = await stage.push({"token": await _away(stage)}, "c10", text="first", fallback=["trigger"])
        await _heard(stage, push, "delivered")
        check(not prism.violations, f"Prism complains: {prism.said}")
        await _check_private(stage, push)
    return "npm's Prism finds it as the API has it"


async def _over_tsp() -> str:
    """As Diameter has it: the MTC-IWF takes the trigger, the newer one replaces it, its report is answered."""
    async with Home() as home:
        await home.start()
        settings = ("trigger.way=tsp", "trigger.scs_as_id=pushgw", "paging.coalesce_s=0", *home.settings)
        async with Stage("identity.host=push.example.com", *settings) as stage:
            token = await _away(stage)

            async def is_up() -> bool:
                lines = (await stage.call("GET", "/metrics")).text.splitlines()
                return any(line.startswith("heliograph_diameter_peers{") and line.endswith(" 1.0") for line in lines)

            await eventually(is_up, "the Diameter connection")
            older = await stage.push({"token": token}, "c10", text="first", fallback=["trigger"])
            await _heard(stage, older, "notified")
            home.hss.next.append(Reaction(outcome=0))
            newer = await stage.push({"token": token}, "c10", text="second", fallback=["trigger"])
            await _heard(stage, newer, "delivered")
            await _heard(stage, older, "replaced")
            first, second = (avps.group(codes.DEVICE_ACTION) or Avps() for _, avps in home.hss.requests)
            references = first.u32(codes.REFERENCE_NUMBER), second.u32(codes.OLD_REFERENCE_NUMBER)
            check(references[0] == references[1], f"it replaced {references[1]}, not {references[0]}")
            check(parse_tbcd(second.first(codes.MSISDN) or b"") == MSISDN[1:], "the network was told another device")
            data = parse_avps(second.first(codes.TRIGGER_DATA) or b"")
            payload = parse_payload(data.first(codes.PAYLOAD) or b"")
            check((payload.title, payload.text) == ("c10", "second"), f"the device got {payload.title!r}")
            check(not home.hss.faults, f"the network complains: {home.hss.faults}")
            await _check_private(stage, newer)
    return f"Tsp ({home.by_what}): the same"


async def _away(stage: Stage) -> str:
    """The token of a device that was here once."""
    device = BareDevice(stage.device_port)
    token = await device.connect("c10", addresses={"trigger": await _attach(stage)})
    await device.close()
    await stage.disconnected(token)
    return token


async def _check_private(stage: Stage, push: str, *secrets_of_it: str) -> None:
    shown = (stage.folder / "gateway.log").read_text() + (await stage.call("GET", "/metrics")).text
    shown += str(await stage.look(push))
    check(not any(word in shown for word in (IMSI, MSISDN[1:], *secrets_of_it)), "a secret was shown")


def _has(scef: LocalScef, triggers: int) -> Any:
    async def probe() -> bool:
        return len(scef.triggers) >= triggers

    return probe


CLAUSES = {"C10": ("a device triggered through its network", by_trigger)}
