"""Apps and keys: who may, what is kept, and that no secret comes out again."""

from __future__ import annotations

import asyncio

import pytest
from api_doubles import Door, error_of
from msgspec.structs import replace

from gateway.model.errors import StoreUnavailable


@pytest.fixture
def door() -> Door:
    return Door()


ROUTES = [
    ("POST", "/v1/apps"),
    ("GET", "/v1/apps"),
    ("GET", "/v1/apps/chat"),
    ("PATCH", "/v1/apps/chat"),
    ("POST", "/v1/apps/chat/keys"),
    ("GET", "/v1/apps/chat/keys"),
    ("PATCH", "/v1/apps/chat/keys/x"),
    ("DELETE", "/v1/apps/chat/keys/x"),
]
NEW = {
    "name": "shop",
    "ack_ms": 5000,
    "ttl": 60,
    "fallback": ["webhook"],
    "notifiers": {"webhook": {"url": "https://hook.example", "secret": "hush-hush"}},
    "receipts_url": "https://receipts.example/in",
    "receipts_secret": "never-shown",
}


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_only_the_operator_may(door, method, path):
    async with door.client() as client:
        assert (await client.request(method, path)).status_code == 401
    async with door.provider() as client:
        answer = await client.request(method, path)
    assert (answer.status_code, error_of(answer)["name"]) == (403, "forbidden")


async def test_a_new_app_and_its_key_work_at_once_and_the_key_is_shown_once(door):
    async with door.operator() as client:
        made = await client.post("/v1/apps", json=NEW)
        assert made.status_code == 201
        assert made.headers["location"] == "/v1/apps/shop"
        key = made.json()["key"]
        everything = [made.json()["app"]]
        for path in ("/v1/apps", "/v1/apps/shop", "/v1/apps/shop/keys"):
            everything.append((await client.get(path)).text)
        said = str(everything)
        assert key.split("_", 2)[2] not in said
        for secret in ("hush-hush", "never-shown", "hook.example"):
            assert secret not in said
        assert made.json()["app"]["notifiers"] == {"webhook": {"secret": "***", "url": "***"}}
        assert made.json()["app"]["receipts_signed"] is True
    kept = door.floors.apps["shop"]
    assert (kept.ack_ms, kept.ttl_s, kept.receipts_secret) == (5000, 60, "never-shown")
    assert key.split("_", 2)[2].encode() not in kept.keys[0].hash
    async with door.client(key) as client:
        assert (await client.post("/v1/push", json={"target": {"everyone": True}})).status_code == 201
    assert door.floors.pushed[-1][0] == "shop"


async def test_a_name_is_taken_once_even_by_two_at_a_time(door):
    async with door.operator() as client:
        answers = await asyncio.gather(*(client.post("/v1/apps", json={"name": "twice"}) for _ in range(4)))
    assert sorted(a.status_code for a in answers) == [201, 409, 409, 409]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "a/b"}, "name"),
        ({"name": "x", "colour": 1}, "colour"),
        ({"name": "x", "ack_ms": -1}, "ack_ms"),
        ({"name": "x", "ack_ms": "5"}, "ack_ms"),
        ({"name": "x", "fallback": ["pigeon"]}, "fallback"),
        ({"name": "x", "notifiers": {"pigeon": {}}}, "notifiers"),
        ({"name": "x", "notifiers": {"webhook": {"url": 5}}}, "notifiers"),
        ({"name": "x", "receipts_url": "ftp://x"}, "receipts_url"),
    ],
)
async def test_what_is_wrong_is_named(door, body, field):
    async with door.operator() as client:
        answer = await client.post("/v1/apps", json=body)
    assert answer.status_code == 400
    assert error_of(answer)["field"].startswith(field)
    assert "x" not in door.floors.apps


async def test_patch_changes_what_is_named_and_only_that(door):
    async with door.operator() as client:
        await client.post("/v1/apps", json=NEW)
        answer = await client.patch("/v1/apps/shop", json={"ack_ms": 9, "ttl": 0})
        assert (answer.json()["ack_ms"], answer.json()["ttl"]) == (9, 0)
        assert (await client.patch("/v1/apps/shop", json={"name": "other"})).status_code == 400
    kept = door.floors.apps["shop"]
    assert (kept.ack_ms, kept.ttl_s, kept.fallback, kept.receipts_secret) == (9, 0, ["webhook"], "never-shown")


async def test_patch_of_one_notifier_leaves_the_others_and_null_takes_one_away(door):
    async with door.operator() as client:
        await client.post("/v1/apps", json=NEW)
        answer = await client.patch("/v1/apps/shop", json={"notifiers": {"webpush": WEBPUSH}})
        assert sorted(answer.json()["notifiers"]) == ["webhook", "webpush"]
        kept = door.floors.apps["shop"].notifiers
        assert kept == {**NEW["notifiers"], "webpush": WEBPUSH}
        answer = await client.patch("/v1/apps/shop", json={"notifiers": {"webpush": {**WEBPUSH, "subject": ""}}})
        assert error_of(answer)["field"] == "notifiers.webpush.subject"
        for body in ({}, {"notifiers": {}}, {"ttl": 3}):
            assert (await client.patch("/v1/apps/shop", json=body)).status_code == 200
        assert door.floors.apps["shop"].notifiers == kept
        answer = await client.patch("/v1/apps/shop", json={"notifiers": {"webhook": None, "never-there": None}})
        assert answer.status_code == 200
        assert door.floors.apps["shop"].notifiers == {"webpush": WEBPUSH}
        assert (await client.post("/v1/apps", json={"name": "x", "notifiers": {"webhook": None}})).status_code == 400


VAPID = "q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94"
WEBPUSH = {"vapid_key": VAPID, "subject": "mailto:push@shop.example"}


async def test_settings_of_a_notifier_are_shown_without_its_secrets(door):
    async with door.operator() as client:
        made = await client.post("/v1/apps", json={"name": "shop", "notifiers": {"webpush": WEBPUSH}})
        assert made.status_code == 201
        shown = {"webpush": {"vapid_key": "***", "subject": "mailto:push@shop.example"}}
        assert made.json()["app"]["notifiers"] == shown
        for path in ("/v1/apps", "/v1/apps/shop"):
            answer = await client.get(path)
            assert VAPID not in answer.text
            assert "mailto:push@shop.example" in answer.text


async def test_private_key_that_lies_in_a_field_that_is_shown_is_not_shown(door):
    """Such settings are refused now; of those that were taken before, the store still has some."""
    combined = "-----BEGIN PRIVATE KEY-----\nMIGH\n-----END PRIVATE KEY-----\n"
    chat = door.floors.apps["chat"]
    door.floors.apps["chat"] = replace(chat, notifiers={"apns": {"topic": "com.example.chat", "certificate": combined}})
    async with door.operator() as client:
        shown = (await client.get("/v1/apps/chat")).json()["notifiers"]
    assert shown == {"apns": {"topic": "com.example.chat", "certificate": "***"}}


async def test_what_was_shown_as_hidden_and_comes_back_stays_as_it_is(door):
    async with door.operator() as client:
        await client.post("/v1/apps", json={"name": "shop", "notifiers": {"webpush": WEBPUSH}})
        shown = (await client.get("/v1/apps/shop")).json()["notifiers"]
        shown["webpush"]["subject"] = "mailto:other@shop.example"
        answer = await client.patch("/v1/apps/shop", json={"notifiers": shown})
        assert answer.status_code == 200
        assert VAPID not in answer.text
        assert door.floors.apps["shop"].notifiers == {
            "webpush": {"vapid_key": VAPID, "subject": "mailto:other@shop.example"}
        }
        refused = await client.patch("/v1/apps/shop", json={"notifiers": {"webhook": {"url": "***"}}})
        assert (refused.status_code, error_of(refused)["field"]) == (400, "notifiers.webhook.url")


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"webpush": {**WEBPUSH, "vapid_key": "not a key"}}, "notifiers.webpush.vapid_key"),
        ({"webpush": {**WEBPUSH, "vapid_key": "***"}}, "notifiers.webpush.vapid_key"),
        ({"webpush": {**WEBPUSH, "colour": "red"}}, "notifiers.webpush.colour"),
        ({"apns": {"topic": "com.example.shop"}}, "notifiers.apns.key"),
        ({"fcm": {}}, "notifiers.fcm.service_account"),
        ({"webhook": {"url": "ftp://x"}}, "notifiers.webhook.url"),
    ],
)
async def test_settings_that_can_not_work_are_refused_by_field_and_not_repeated(door, settings, field):
    async with door.operator() as client:
        answer = await client.post("/v1/apps", json={"name": "shop", "notifiers": settings})
        assert (answer.status_code, error_of(answer)["field"]) == (400, field)
        assert "not a key" not in answer.text
        await client.post("/v1/apps", json={"name": "other"})
        answer = await client.patch("/v1/apps/other", json={"notifiers": settings})
        assert (answer.status_code, error_of(answer)["field"]) == (400, field)
    assert "shop" not in door.floors.apps
    assert door.floors.apps["other"].notifiers == {}


async def test_concurrent_changes_are_all_kept(door):
    async with door.operator() as client:
        await asyncio.gather(
            client.patch("/v1/apps/chat", json={"ack_ms": 1}),
            client.patch("/v1/apps/chat", json={"ttl": 2}),
            *(client.post("/v1/apps/chat/keys") for _ in range(5)),
        )
    kept = door.floors.apps["chat"]
    assert (kept.ack_ms, kept.ttl_s, len(kept.keys)) == (1, 2, 6)


async def test_keys_are_rotated_without_a_gap(door):
    async with door.operator() as client:
        made = await client.post("/v1/apps/chat/keys", json={"label": "new"})
        assert (made.status_code, made.json()["label"]) == (201, "new")
        listed = (await client.get("/v1/apps/chat/keys")).json()["keys"]
        assert [k["label"] for k in listed] == ["test", "new"]
        assert all(set(k) == {"id", "label", "limits", "created_at"} for k in listed)
        assert (await client.delete(f"/v1/apps/chat/keys/{listed[0]['id']}")).status_code == 204
        assert (await client.delete(f"/v1/apps/chat/keys/{listed[0]['id']}")).status_code == 404
    async with door.provider() as client:
        assert (await client.get("/v1/receipts")).status_code == 401
    async with door.client(made.json()["key"]) as client:
        assert (await client.get("/v1/receipts")).status_code == 200


async def test_the_number_of_keys_is_bounded(door):
    async with door.operator() as client:
        statuses = [(await client.post("/v1/apps/chat/keys", json={})).status_code for _ in range(33)]
    assert statuses == [201] * 31 + [409] * 2


@pytest.mark.parametrize(("method", "path"), [r for r in ROUTES if "chat" in r[1]])
async def test_an_unknown_app_is_404(door, method, path):
    async with door.operator() as client:
        answer = await client.request(method, path.replace("chat", "nosuch"), json={} if method != "GET" else None)
    assert (answer.status_code, error_of(answer)["name"]) == (404, "unknown_app")


async def test_a_store_that_can_not_write_is_503_and_changes_nothing(door):
    door.floors.write_error = StoreUnavailable()
    async with door.operator() as client:
        answer = await client.post("/v1/apps", json={"name": "late"})
        assert (answer.status_code, error_of(answer)["name"]) == (503, "store_unavailable")
        assert (await client.post("/v1/apps/chat/keys")).status_code == 503
    assert "late" not in door.floors.apps
    assert len(door.floors.apps["chat"].keys) == 1
