"""Clause C10: a device that is away is triggered in its network's signalling; on a gateway of its own with an exposure
function beside it; raises Failed where it does not hold.
"""

from __future__ import annotations

import base64
import secrets
from typing import Any

from gateway.paging.app_payload import parse_payload
from gateway.paging.trigger.local import Behaviour, LocalScef
from gateway.tour.bare import BareDevice
from gateway.tour.clauses_c import IMSI, MSISDN, NETWORK_IDS
from gateway.tour.fleet import Fleet
from gateway.tour.stage import APP, Stage, check, eventually


async def _attach(stage: Stage) -> str:
    """As the operator's core tells it; returns the opaque id."""
    admin = (stage.folder / "store" / "admin.key").read_text().strip()
    body = {"network_ids": NETWORK_IDS, "trigger": "attach", "app": APP}
    answer = await stage.call("POST", "/v1/subscribers", json=body, headers={"authorization": f"Bearer {admin}"})
    check(answer.status_code == 200, f"the attach was refused: {answer.status_code} {answer.text}")
    return str(answer.json()["ids"][0]["id"])


async def _heard(stage: Stage, push: Any, word: str) -> None:
    async def probe() -> bool:
        steps = (await stage.look(push))["deliveries"][0]["steps"]
        return any((step["what"], step["channel"]) == (word, "trigger") for step in steps)

    await eventually(probe, f"{word!r} in the history")


async def by_trigger(_stage: Stage, _fleet: Fleet) -> str:
    """The device is away: a trigger goes out over T8, a newer push replaces it, and the network's report stands in the
    history."""
    scef = LocalScef(client_secret=secrets.token_urlsafe(12))
    root = await scef.start()
    stage = Stage("identity.host=push.example.com", "paging.coalesce_s=0")
    file = stage.folder / "scef-secret"
    file.write_text(scef.client_secret)
    file.chmod(0o600)
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
            opaque = await _attach(stage)
            device = BareDevice(stage.device_port)
            token = await device.connect("c10", addresses={"trigger": opaque})
            await device.close()
            await stage.disconnected(token)
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
            log = (stage.folder / "gateway.log").read_text()
            shown = log + (await stage.call("GET", "/metrics")).text + str(await stage.look(newer))
            check(not any(word in shown for word in (IMSI, MSISDN[1:], scef.client_secret)), "a secret was shown")
    finally:
        await scef.close()
    return "taken by the network, replaced by a newer push, delivered; no number in log, metrics or history"


def _has(scef: LocalScef, triggers: int) -> Any:
    async def probe() -> bool:
        return len(scef.triggers) >= triggers

    return probe


CLAUSES = {"C10": ("a device triggered through its network", by_trigger)}
