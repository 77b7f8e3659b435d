"""Statistics, scheduled pushes, dead tokens, limits: what a provider sees of its own, and of nobody else's."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from api_doubles import Door, error_of, record

from gateway.model.errors import StoreUnavailable
from gateway.model.notification import Notification
from gateway.model.outcome import Outcome, State, Step
from gateway.model.ports import Death, PushRecord
from gateway.model.registration import Limits, build_token


@pytest.fixture
def door() -> Door:
    return Door()


def limit(door: Door, **limits: int) -> None:
    app = door.floors.apps["chat"]
    app.limits = Limits(**limits)


# --- limits


async def test_too_many_pushes_are_told_when_to_come_back(door):
    limit(door, per_s=2)
    async with door.provider() as client:
        answers = [await client.post("/v1/push", json=door.to_token()) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [201, 201, 429]
    assert answers[2].headers["retry-after"] == "1"
    assert error_of(answers[2])["name"] == "too_many_requests"
    assert len(door.floors.pushed) == 2


async def test_a_batch_is_taken_as_far_as_the_quota_goes(door):
    limit(door, per_day=3)
    batch = [door.to_token(title=str(n)) for n in range(5)]
    async with door.provider() as client:
        answer = await client.post("/v1/push/batch", json=batch)
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["status"] for line in lines] == [201, 201, 201, 429, 429]
    assert lines[3]["error"]["name"] == "too_many_requests"


async def test_what_is_refused_does_not_count_for_the_day(door):
    limit(door, per_day=2)
    async with door.provider() as client:
        assert (await client.post("/v1/push", json={"target": {"token": door.foreign_token}})).status_code == 404
        assert (await client.post("/v1/push", json=door.to_token(data=2**64, idempotency_key="k"))).status_code == 400
        door.floors.refuse = StoreUnavailable()
        assert (await client.post("/v1/push", json=door.to_token())).status_code == 503
        door.floors.refuse = None
        answers = [await client.post("/v1/push", json=door.to_token()) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [201, 201, 429]


@pytest.mark.parametrize("key", ["", "k"])
async def test_the_bad_ones_of_a_batch_do_not_use_up_the_quota_of_the_good(door, key):
    limit(door, per_day=2)
    bad = {"target": {"token": door.foreign_token}, "idempotency_key": key}
    batch = [bad, bad, door.to_token(title="a"), bad, door.to_token(title="b"), door.to_token(title="c"), bad]
    async with door.provider() as client:
        answer = await client.post("/v1/push/batch", json=batch)
    assert [json.loads(line)["status"] for line in answer.text.splitlines()] == [404, 404, 201, 404, 201, 429, 429]


async def test_a_commit_of_a_batch_that_fails_does_not_count_for_the_day(door):
    limit(door, per_day=3)
    door.floors.hold = []
    async with door.provider() as client:
        asked = asyncio.create_task(client.post("/v1/push/batch", json=[door.to_token()] * 3))
        while len(door.floors.hold) < 3:
            await asyncio.sleep(0)
        door.floors.hold[0].set_result(None)
        for done in door.floors.hold[1:]:
            done.set_exception(StoreUnavailable())
        await asked
    assert sum(door.counts.values()) == 1


async def test_another_app_is_not_held_back(door):
    limit(door, per_day=1)
    async with door.provider() as client:
        await client.post("/v1/push", json=door.to_token())
    async with door.client(door.other_key) as client:
        answer = await client.post("/v1/push", json={"target": {"token": door.foreign_token}, "title": "x"})
    assert answer.status_code == 201


async def test_limits_are_set_and_shown_for_apps_and_keys(door):
    async with door.operator() as client:
        made = await client.post("/v1/apps", json={"name": "new", "limits": {"per_s": 5}, "device_per_hour": 3})
        assert made.json()["app"]["limits"] == {"per_s": 5, "burst": 0, "per_day": 0}
        changed = await client.patch("/v1/apps/new", json={"limits": {"per_day": 9}, "device_per_day": 4})
        assert changed.json()["limits"] == {"per_s": 0, "burst": 0, "per_day": 9}
        assert (changed.json()["device_per_hour"], changed.json()["device_per_day"]) == (3, 4)
        key = await client.post("/v1/apps/new/keys", json={"label": "ci", "limits": {"per_s": 1}})
        assert key.status_code == 201
        keys = (await client.get("/v1/apps/new/keys")).json()["keys"]
        assert [k["limits"]["per_s"] for k in keys] == [0, 1]
        bad = await client.patch("/v1/apps/new", json={"limits": {"per_s": -1}})
        assert (bad.status_code, error_of(bad)["field"]) == (400, "limits.per_s")


async def test_a_burst_without_a_rate_is_refused(door):
    async with door.operator() as client:
        burst = {"limits": {"burst": 3, "per_day": 9}}
        name = (await client.get("/v1/apps")).json()["apps"][0]["name"]
        for answer in (
            await client.post("/v1/apps", json={"name": "new", **burst}),
            await client.patch(f"/v1/apps/{name}", json=burst),
            await client.post(f"/v1/apps/{name}/keys", json=burst),
            await client.patch(f"/v1/apps/chat/keys/{door.app_key.split('_')[1]}", json=burst),
        ):
            assert (answer.status_code, error_of(answer)["field"]) == (400, "limits.burst")
        assert (await client.patch(f"/v1/apps/{name}", json={"limits": {"per_s": 1, "burst": 3}})).status_code == 200


async def test_limits_and_label_of_a_key_are_changed_and_the_key_stays(door):
    key_id = door.app_key.split("_")[1]
    path = f"/v1/apps/chat/keys/{key_id}"
    async with door.operator() as client, door.provider() as provider:
        changed = await client.patch(path, json={"limits": {"per_day": 1}})
        assert (changed.status_code, changed.json()["limits"]) == (200, {"per_s": 0, "burst": 0, "per_day": 1})
        statuses = [(await provider.post("/v1/push", json=door.to_token())).status_code for _ in range(2)]
        assert statuses == [201, 429]
        named = (await client.patch(path, json={"label": "ci"})).json()
        assert (named["id"], named["label"], named["limits"]["per_day"]) == (key_id, "ci", 1)
        assert (await client.get("/v1/apps/chat/keys")).json()["keys"] == [named]
        await client.patch(path, json={"limits": {}})
        assert (await provider.post("/v1/push", json=door.to_token())).status_code == 201
        assert (await client.patch("/v1/apps/chat/keys/nosuch", json={})).status_code == 404
        assert (await client.patch(path, json={"hash": "x"})).status_code == 400
        assert (await provider.patch(path, json={})).status_code == 403


# --- statistics


async def test_statistics_of_a_push_to_several_count_steps_by_version(door):
    n: Notification = record("chat", 50, states=[State.ACKED, State.SENT, State.EXPIRED]).notification
    door.add_registration(3, "chat", version="2.0")
    outcomes = [
        Outcome(51, 50, 1, "chat", State.ACKED, 9, [Step(1, "sent", "edge"), Step(2, "acked"), Step(3, "shown")]),
        Outcome(52, 50, 1, "chat", State.SENT, 0, []),
        Outcome(53, 50, 3, "chat", State.EXPIRED, 9, [Step(1, "notified", "apns"), Step(2, "expired")]),
    ]
    door.floors.records[50] = PushRecord(n, outcomes, {"targeted": 3}, None)
    async with door.provider() as client:
        answer = await client.get(f"/v1/push/{door.push_ids.build('chat', 50)}/statistics")
    body = answer.json()
    wanted = {"targeted": 3, "sent": 2, "acked": 1, "shown": 1, "notified": 1, "expired": 1, "pending": 1}
    assert {name: body[name] for name in wanted} == wanted
    assert body["complete"] is True
    assert {version: counts["targeted"] for version, counts in body["versions"].items()} == {"1.0": 2, "2.0": 1}
    assert body["versions"]["2.0"]["notified"] == 1


async def test_statistics_of_a_broadcast_come_from_its_figures(door):
    n = record("chat", 60, broadcast=True).notification
    figures = {
        "targeted": 9,
        "acked": 5,
        "sent": 7,
        "targeted@1.0": 4,
        "acked@1.0": 4,
        "targeted@2.0": 5,
        "acked@2.0": 1,
    }
    door.floors.records[60] = PushRecord(n, [], figures, int(State.ACCEPTED))
    async with door.provider() as client:
        path = f"/v1/push/{door.push_ids.build('chat', 60)}"
        body = (await client.get(f"{path}/statistics")).json()
        assert "targeted@1.0" not in (await client.get(path)).json()["figures"]
    assert (body["targeted"], body["sent"], body["acked"], body["pending"]) == (9, 7, 5, 4)
    assert {v: (c["acked"], c["pending"]) for v, c in body["versions"].items()} == {"1.0": (4, 0), "2.0": (1, 4)}


async def test_a_push_to_a_token_that_ended_before_its_time_counts_as_one(door):
    found = record("chat", 50, states=[State.EXPIRED])
    door.floors.records[50] = found._replace(state=int(State.EXPIRED), figures={"expired": 1})
    async with door.provider() as client:
        path = f"/v1/push/{door.push_ids.build('chat', 50)}"
        body = (await client.get(f"{path}/statistics")).json()
        shown = (await client.get(path)).json()
    assert (body["targeted"], body["expired"], body["pending"]) == (1, 1, 0)
    assert (shown["state"], [delivery["state"] for delivery in shown["deliveries"]]) == ("expired", ["expired"])


@pytest.mark.parametrize(("state", "pending", "recalled"), [(State.ACCEPTED, 5, 1), (State.RECALLED, 0, 6)])
async def test_who_was_notified_of_a_broadcast_is_pending_until_an_ack_or_the_end(door, state, pending, recalled):
    n: Notification = record("chat", 60).notification
    figures = {"targeted": 10, "notified": 4, "acked": 2, "expired": 1, "rejected": 1, "recalled": 1, "@adopted": 2}
    door.floors.records[60] = PushRecord(n, [], figures, int(state))
    async with door.provider() as client:
        body = (await client.get(f"/v1/push/{door.push_ids.build('chat', 60)}/statistics")).json()
    assert (body["notified"], body["acked"], body["expired"], body["rejected"]) == (4, 2, 1, 1)
    assert (body["pending"], body["recalled"]) == (pending, recalled)


async def test_who_counts_much_leaves_others_their_place_and_small_pushes_need_none(door):
    large = [State.ACKED] * 3_000
    door.floors.records = {
        1: record("chat", 1, states=large),
        2: record("other", 2, states=large),
        3: record("chat", 3),
    }
    async with door.provider() as client, door.client(door.other_key) as other:

        async def ask(of: httpx.AsyncClient, app: str, seq: int) -> int:
            return (await of.get(f"/v1/push/{door.push_ids.build(app, seq)}/statistics")).status_code

        asked = [ask(client, "chat", 1) for _ in range(8)]
        *much, of_another, small = await asyncio.gather(*asked, ask(other, "other", 2), ask(client, "chat", 3))
        assert sorted(much) == [200] * 3 + [429] * 5
        assert (of_another, small) == (200, 200)
        assert await ask(client, "chat", 1) == 200


async def test_nobody_sees_statistics_of_anothers_push(door):
    door.floors.records[50] = record("chat", 50)
    async with door.client(door.other_key) as client:
        for name in ("other", "chat"):
            answer = await client.get(f"/v1/push/{door.push_ids.build(name, 50)}/statistics")
            assert answer.status_code == 404


# --- scheduled, dead tokens


async def test_scheduled_pushes_are_listed_in_pages(door):
    door.kept.rows = {"chat": [(n, 1_800_000_000_000 + n * 1_000) for n in range(1, 6)], "other": [(9, 1)]}
    async with door.provider() as client:
        page = (await client.get("/v1/scheduled", params={"limit": 2, "offset": 2})).json()
    assert page["count"] == 5
    assert [row["deliver_at"] for row in page["scheduled"]] == [1_800_000_003, 1_800_000_004]
    assert page["next_offset"] == 4
    assert door.push_ids.parse(page["scheduled"][0]["id"], "chat") == 3


async def test_dead_tokens_are_those_of_the_app_after_the_cursor(door):
    door.dead.rows = [
        ("chat", Death(1, b"a" * 16, 5, "gone", "apns")),
        ("other", Death(2, b"b" * 16, 5, "revoked", "")),
        ("chat", Death(3, b"a" * 16, 6, "revoked", "")),
    ]
    async with door.provider() as client:
        page = (await client.get("/v1/dead-tokens")).json()
        rest = (await client.get("/v1/dead-tokens", params={"after": page["cursor"]})).json()
    assert [(row["cursor"], row["why"], row["channel"]) for row in page["dead_tokens"]] == [
        (1, "gone", "apns"),
        (3, "revoked", ""),
    ]
    assert page["dead_tokens"][0]["token"] == build_token(b"a" * 16)
    assert rest == {"dead_tokens": [], "cursor": 3}


async def test_a_scheduled_push_says_so_when_it_is_looked_up(door):
    n = record("chat", 70).notification
    door.floors.records[70] = PushRecord(n, [], {}, None, 1_800_000_000_000)
    async with door.provider() as client:
        body = (await client.get(f"/v1/push/{door.push_ids.build('chat', 70)}")).json()
        stats = (await client.get(f"/v1/push/{door.push_ids.build('chat', 70)}/statistics")).json()
    assert (body["state"], body["deliver_at"], body["next_offset"]) == ("scheduled", 1_800_000_000, None)
    assert stats["targeted"] == 0
