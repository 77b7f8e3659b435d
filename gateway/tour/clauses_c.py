"""Clauses C: ids that stand for an operator's subscribers; each on a gateway of its own; nothing is sent in them. One
function a row, raises Failed where it does not hold.
"""

from __future__ import annotations

from gateway.tour.fleet import Fleet
from gateway.tour.network import IMSI, MSISDN, NAI, operator
from gateway.tour.stage import APP, Stage, check


async def ids(_stage: Stage, _fleet: Fleet) -> str:
    """C1 to C4: drawn at an attach, told apart by what they stand for, ended by a location update."""
    async with operator(own=True) as network:
        made = await network.trigger("attach")
        kinds = [each["kinds"] for each in made["ids"]]
        check(kinds == [["o-tmsi"], ["o-tmsn"], ["app-uid"]], f"an attach drew {kinds}")
        ends = [each["until_ms"] for each in made["ids"]]
        check(None not in ends and len(set(ends)) == len(ends), f"the ids end at {ends}, not each at a time of its own")
        shown = str(made)
        check(not any(secret in shown for secret in (IMSI, MSISDN[1:], NAI)), "the answer shows a network id")
        again = await network.trigger("session")
        check([each["id"] for each in again["ids"]] == [each["id"] for each in made["ids"]], "a session drew others")
        moved = await network.trigger("location_update", replace=True)
        check(moved["replaced"] is True, f"the location update answered {moved}")
        old, new = made["ids"][0]["id"], moved["ids"][0]["id"]
        check(old != new, "the id is the same after it was replaced")
        found = await network.ask("/resolve", {"id": new, "app": APP})
        check({"kind": "imsi", "value": IMSI} in found["network_ids"], f"the new id leads to {found}")
        raw = b"".join(file.read_bytes() for file in (network.stage.folder / "store").iterdir() if file.is_file())
        check(not any(secret.encode() in raw for secret in (IMSI, MSISDN[1:], NAI)), "the store shows a network id")
    return (
        f"{len(made['ids'])} ids at the attach, each with an end of its own, the same in a session, others after a"
        " location update; sealed at rest"
    )


async def app_server(_stage: Stage, _fleet: Fleet) -> str:
    """C5, C6: an app server gets its ids by a NAI and by its feed, and the id names the gateway."""
    async with operator(own=True) as network:
        made = await network.trigger("attach")
        answer = await network.stage.call("POST", "/v1/subscriber-ids", json={"nai": NAI})
        check(answer.status_code == 200, f"refused: {answer.status_code} {answer.text}")
        told = answer.json()["ids"]
        check([each["id"] for each in told] == [each["id"] for each in made["ids"]], f"by NAI: {told}")
        unknown = await network.stage.call("POST", "/v1/subscriber-ids", json={"nai": "nobody@example.com"})
        check(unknown.status_code == 404, f"a stranger's NAI: {unknown.status_code}")
        feed = (await network.stage.call("GET", "/v1/subscriber-ids")).json()["ids"]
        check({each["id"] for each in feed} == {each["id"] for each in made["ids"]}, f"the feed: {feed}")
        check(told[0]["id"].endswith("@push.example.com"), f"the id is {told[0]['id']}")
    return "by NAI and by the feed the same ids, each with the gateway's host; a stranger's NAI: 404"


CLAUSES = {
    "C1": ("opaque ids, drawn and replaced", ids),
    "C5": ("an app server asks, and is told", app_server),
}
#: clauses without a row of their own, and the row in which they are shown
SHOWN_BY = {"C2": "C1", "C3": "C1", "C4": "C1", "C6": "C5"}
