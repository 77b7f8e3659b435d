"""Statistics, scheduled pushes, dead tokens, limits: what a provider sees of its own, and of nobody else's."""

from __future__ import annotations

import json

import pytest
from api_doubles import Door, error_of, record

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
