"""Push, look-up, recall and registrations as a provider meets them."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest
from api_doubles import Door, error_of, record

from gateway.auth.api_keys import issue_key
from gateway.metrics import Metric
from gateway.model.errors import QueueFull, StoreUnavailable
from gateway.model.outcome import State


@pytest.fixture
def door() -> Door:
    return Door()


PROVIDER_ROUTES = [
    ("POST", "/v1/push"),
    ("POST", "/v1/push/batch"),
    ("GET", "/v1/push/x"),
    ("DELETE", "/v1/push/x"),
    ("GET", "/v1/receipts"),
    ("GET", "/v1/receipts/stream"),
    ("GET", "/v1/registrations?alias=a"),
    ("GET", "/v1/registrations/x"),
    ("PUT", "/v1/registrations/x"),
    ("DELETE", "/v1/registrations/x"),
]


@pytest.mark.parametrize(("method", "path"), PROVIDER_ROUTES)
async def test_every_provider_route_wants_a_key_of_an_app(door, method, path):
    for key in (None, "nonsense", issue_key()[1]):
        async with door.client(key) as client:
            answer = await client.request(method, path)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert error_of(answer)["name"] == "unauthorized"
    async with door.operator() as client:
        answer = await client.request(method, path)
    assert (answer.status_code, error_of(answer)["name"]) == (403, "forbidden")


# --- push ---


async def test_a_push_is_answered_with_its_id_and_place(door):
    async with door.provider() as client:
        answer = await client.post("/v1/push", json=door.to_token(ttl=5, urgency="high", data={"n": 1}))
        assert answer.status_code == 201
        body = answer.json()
        assert answer.headers["location"] == f"/v1/push/{body['id']}"
        assert body["targeted"] == 1
        assert (await client.get(answer.headers["location"])).json()["id"] == body["id"]
    app, request = door.floors.pushed[0]
    assert (app, request.ttl, request.urgency, request.data) == ("chat", 5, "high", {"n": 1})


async def test_no_answer_before_the_push_is_safe(door):
    door.floors.hold = []
    async with door.provider() as client:
        asked = asyncio.create_task(client.post("/v1/push", json=door.to_token()))
        while not door.floors.hold:
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        assert not asked.done()
        door.floors.hold[0].set_result(None)
        assert (await asked).status_code == 201


@pytest.mark.parametrize("error", [StoreUnavailable(), QueueFull()])
async def test_what_fails_now_or_at_the_commit_is_503_with_a_time_to_come_back(door, error):
    async with door.provider() as client:
        door.floors.refuse = error
        at_once = await client.post("/v1/push", json=door.to_token())
        door.floors.refuse, door.floors.hold = None, []
        asked = asyncio.create_task(client.post("/v1/push", json=door.to_token()))
        while not door.floors.hold:
            await asyncio.sleep(0)
        door.floors.hold[0].set_exception(error)
        for answer in (at_once, await asked):
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) >= 1
            assert error_of(answer)["name"] == error.name


async def test_a_commit_that_takes_too_long_is_503_and_advises_a_key():
    door = Door(accept_timeout_s=0.02)
    door.floors.hold = []
    async with door.provider() as client:
        answer = await client.post("/v1/push", json=door.to_token())
    assert answer.status_code == 503
    assert error_of(answer)["name"] == "accept_timeout"
    assert "idempotency key" in error_of(answer)["message"]
    assert not door.floors.hold[0].cancelled()
    door.floors.hold[0].set_exception(StoreUnavailable())  # late, and no "never retrieved" warning


async def test_unknown_revoked_and_foreign_tokens_get_the_same_answer(door):
    async with door.provider() as client:
        assert (await client.delete(f"/v1/registrations/{door.token}")).status_code == 204
        said = set()
        for token in (door.token, door.foreign_token, "A" * 22, "nonsense"):
            answer = await client.post("/v1/push", json={"target": {"token": token}})
            assert answer.status_code == 404
            said.add(answer.content)
            for method in ("GET", "PUT", "DELETE"):
                other = await client.request(method, f"/v1/registrations/{token}")
                assert other.status_code == 404
                said.add(other.content)
    assert len(said) == 1


# --- idempotency ---


async def test_the_same_key_and_body_is_one_push(door):
    async with door.provider() as client:
        headers = {"idempotency-key": "order 17"}
        first = await client.post("/v1/push", json=door.to_token(data={"a": 1, "b": 2}), headers=headers)
        assert first.status_code == 201
        assert "idempotent-replay" not in first.headers
        in_field = door.to_token(data={"b": 2, "a": 1}, idempotency_key="order 17")  # another spelling
        packed = msgspec.msgpack.encode(in_field)
        for again in (
            await client.post("/v1/push", json=in_field),
            await client.post("/v1/push", json=in_field, headers=headers),
            await client.post("/v1/push", content=packed, headers={"content-type": "application/msgpack"}),
        ):
            assert again.status_code == 200
            assert again.headers["idempotent-replay"] == "true"
            body = msgspec.msgpack.decode(again.content) if b"{" not in again.content[:1] else again.json()
            assert body == first.json()
    assert len(door.floors.pushed) == 1
    assert door.metrics.value(Metric.API_REPLAYS) == 3


async def test_only_a_push_with_a_key_waits_for_the_disk_before_it_leaves(door):
    async with door.provider() as client:
        await client.post("/v1/push", json=door.to_token())
        await client.post("/v1/push", json=door.to_token(idempotency_key="k"))
    assert door.floors.durable_first == [False, True]


async def test_the_same_key_with_another_body_is_a_conflict(door):
    async with door.provider() as client:
        for title, status in (("one", 201), ("two", 409), ("one", 200)):
            answer = await client.post("/v1/push", json=door.to_token(title=title, idempotency_key="k"))
            assert answer.status_code == status
    async with door.client(door.other_key) as client:  # keys of another app are other keys
        answer = await client.post("/v1/push", json={"target": {"everyone": True}, "idempotency_key": "k"})
        assert answer.status_code == 201


async def test_concurrent_duplicates_wait_for_the_first(door):
    door.floors.hold = []
    async with door.provider() as client:
        body = door.to_token(idempotency_key="k")
        asked = [asyncio.create_task(client.post("/v1/push", json=body)) for _ in range(20)]
        while not door.floors.hold:
            await asyncio.sleep(0)
        other = await client.post("/v1/push", json=door.to_token(title="x", idempotency_key="k"))
        assert other.status_code == 409
        for _ in range(50):
            await asyncio.sleep(0)
        assert not any(task.done() for task in asked)
        assert len(door.floors.hold) == 1
        door.floors.hold[0].set_result(None)
        answers = await asyncio.gather(*asked)
    assert sorted(a.status_code for a in answers) == [200] * 19 + [201]
    assert len({a.json()["id"] for a in answers}) == 1
    assert len(door.floors.pushed) == 1


async def test_where_the_first_fails_the_key_is_free_again(door):
    door.floors.hold = []
    async with door.provider() as client:
        body = door.to_token(idempotency_key="k")
        asked = [asyncio.create_task(client.post("/v1/push", json=body)) for _ in range(3)]
        for _ in range(50):
            await asyncio.sleep(0)
        door.floors.kept.clear()  # the store takes the key back with the failed commit
        door.floors.hold[0].set_exception(StoreUnavailable())
        assert {(await task).status_code for task in asked} == {503}
        door.floors.hold = None
        assert (await client.post("/v1/push", json=body)).status_code == 201


async def test_a_key_kept_by_the_store_outlives_the_process(door):
    async with door.provider() as client:
        body = door.to_token(idempotency_key="k")
        first = await client.post("/v1/push", json=body)
    reborn = Door()
    reborn.floors.kept = door.floors.kept
    reborn.floors.records = door.floors.records
    async with reborn.provider() as client:
        again = await client.post("/v1/push", json=body)
    assert (again.status_code, again.json()) == (200, first.json())
    assert not reborn.floors.pushed


@pytest.mark.parametrize(("later_s", "status"), [(86_400 * 8 - 10, 200), (86_400 * 8 + 10, 201)])
async def test_a_key_is_remembered_from_the_time_of_its_push_on(door, later_s, status):
    body = door.to_token(idempotency_key="k", deliver_at=int(time.time()) + 86_400 * 7)
    async with door.provider() as client:
        first = await client.post("/v1/push", json=body)
        door.floors.later_s = later_s
        again = await client.post("/v1/push", json=body)
    assert (first.status_code, again.status_code) == (201, status)
    assert len(door.floors.pushed) == (1 if status == 200 else 2)


@pytest.mark.parametrize("key", ["", "x" * 129])
async def test_a_bad_idempotency_key_is_refused(door, key):
    async with door.provider() as client:
        answer = await client.post("/v1/push", json=door.to_token(), headers={"idempotency-key": key})
        assert (answer.status_code, error_of(answer)["field"]) == (400, "Idempotency-Key")
        answer = await client.post(
            "/v1/push", json=door.to_token(idempotency_key="a"), headers={"idempotency-key": "b"}
        )
        assert (answer.status_code, error_of(answer)["field"]) == (400, "idempotency_key")


@pytest.mark.parametrize(
    ("field", "value"), [("data", 2**64), ("data", {"deep": [-(2**63) - 1]}), ("ttl", 2**64), ("ttl", 2**32)]
)
async def test_a_number_that_fits_nowhere_is_refused_with_its_field_also_under_a_key(door, field, value):
    async with door.provider() as client:
        answer = await client.post("/v1/push", json=door.to_token(idempotency_key="k", **{field: value}))
    assert (answer.status_code, error_of(answer)["field"]) == (400, field)
    assert not door.floors.pushed


# --- where is my push? ---


async def test_look_up_shows_state_history_and_never_content_or_device(door):
    door.floors.records[50] = record("chat", 50, states=[State.ACKED])
    async with door.provider() as client:
        answer = await client.get(f"/v1/push/{door.push_ids.build('chat', 50)}")
    body = answer.json()
    assert body["state"] == "done"
    assert body["deliveries"][0]["token"] == door.token
    assert body["deliveries"][0]["state"] == "acked"
    assert [step["what"] for step in body["deliveries"][0]["steps"]] == ["accepted", "sent"]
    for secret in ("secret title", "very-secret-device", "address.example"):
        assert secret not in answer.text


@pytest.mark.parametrize(
    ("states", "state"),
    [([State.SENT], "pending"), ([State.ACKED, State.WAITING], "pending"), ([State.ACKED, State.EXPIRED], "done")],
)
async def test_a_push_is_done_when_all_its_deliveries_are(door, states, state):
    door.floors.records[50] = record("chat", 50, states=states)
    async with door.provider() as client:
        body = (await client.get(f"/v1/push/{door.push_ids.build('chat', 50)}?limit=0")).json()
    assert body["state"] == state
    assert body["deliveries"] == []


async def test_deliveries_come_in_pages(door):
    door.floors.records[50] = record("chat", 50, states=[State.ACKED] * 5)
    path = f"/v1/push/{door.push_ids.build('chat', 50)}"
    async with door.provider() as client:
        first = (await client.get(path, params={"limit": 3})).json()
        assert (len(first["deliveries"]), first["next_offset"]) == (3, 3)
        second = (await client.get(path, params={"limit": 3, "offset": 3})).json()
        assert (len(second["deliveries"]), second["next_offset"]) == (2, None)
        for params, field in (({"limit": 1001}, "limit"), ({"limit": "x"}, "limit"), ({"offset": -1}, "offset")):
            answer = await client.get(path, params=params)
            assert (answer.status_code, error_of(answer)["field"]) == (400, field)


async def test_a_broadcast_shows_figures(door):
    door.floors.records[50] = record("chat", 50, broadcast=True)
    async with door.provider() as client:
        body = (await client.get(f"/v1/push/{door.push_ids.build('chat', 50)}")).json()
        assert (body["state"], body["figures"], body["deliveries"]) == ("live", {"sent": 3, "acked": 2}, [])
        door.floors.records[50] = door.floors.records[50]._replace(state=State.RECALLED)
        assert (await client.get(f"/v1/push/{body['id']}")).json()["state"] == "recalled"


async def test_unknown_and_foreign_pushes_get_the_same_answer(door):
    door.floors.records[50] = record("other", 50)
    said = set()
    async with door.provider() as client:
        for push_id in (
            door.push_ids.build("chat", 50),
            door.push_ids.build("chat", 51),
            door.push_ids.build("other", 50),
            "nonsense",
            "A" * 24,
        ):
            for method in ("GET", "DELETE"):
                answer = await client.request(method, f"/v1/push/{push_id}")
                assert answer.status_code == 404
                said.add(answer.content)
    assert len(said) == 1


@pytest.mark.parametrize(
    ("states", "answer"),
    [
        ([State.SENT], {"recalled": 1, "too_late": 0}),
        ([State.ACKED], {"recalled": 0, "too_late": 1}),
        ([State.SENT, State.ACKED, State.ACKED], {"recalled": 1, "too_late": 2}),
    ],
)
async def test_recall_says_how_many_came_back_and_how_many_did_not(door, states, answer):
    door.floors.records[50] = record("chat", 50, states=states)
    async with door.provider() as client:
        got = await client.delete(f"/v1/push/{door.push_ids.build('chat', 50)}")
    assert (got.status_code, got.json()) == (200, answer)


# --- registrations ---


async def test_a_registration_shows_what_is_the_providers_and_no_more(door):
    async with door.provider() as client:
        answer = await client.get(f"/v1/registrations/{door.token}")
        assert set(answer.json()) == {
            "token", "app", "version", "account", "alias", "tags", "os", "locale", "timezone", "quiet", "connected",
            "created_at",
        }  # fmt: skip
        assert answer.json()["connected"] is False
        door.floors.connected.add(1)
        assert (await client.get(f"/v1/registrations/{door.token}")).json()["connected"] is True
    for secret in ("very-secret-device", "address.example"):
        assert secret not in answer.text


async def test_put_changes_what_is_named_and_only_that(door):
    async with door.provider() as client:
        answer = await client.put(
            f"/v1/registrations/{door.token}",
            json={"alias": "bob", "addresses": {"webhook": "https://x.example"}, "fallback": []},
        )
        assert answer.status_code == 200
        assert (answer.json()["alias"], answer.json()["tags"]) == ("bob", ["beta"])
        assert "x.example" not in answer.text
        await client.put(f"/v1/registrations/{door.token}", json={"alias": "", "tags": []})
    assert door.floors.updates == [
        {"alias": "bob", "addresses": {"webhook": "https://x.example"}, "fallback": []},
        {"alias": "", "tags": []},
    ]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"device": "x"}, "device"),
        ({"tags": "beta"}, "tags"),
        ({"tags": ["ok", 5]}, "tags[1]"),
        ({"addresses": {"web hook": "x"}}, "addresses"),
        ({"alias": "x" * 257}, "alias"),
    ],
)
async def test_put_refuses_what_is_not_its_own(door, body, field):
    async with door.provider() as client:
        answer = await client.put(f"/v1/registrations/{door.token}", json=body)
    assert answer.status_code == 400
    assert error_of(answer)["field"].startswith(field)
    assert not door.floors.updates


async def test_revoking_ends_what_waits_but_only_once_the_store_has_it(door):
    async with door.provider() as client:
        door.floors.write_error = StoreUnavailable()
        assert (await client.delete(f"/v1/registrations/{door.token}")).status_code == 503
        assert door.floors.revoked == []
        door.floors.write_error = None
        assert (await client.delete(f"/v1/registrations/{door.token}")).status_code == 204
        assert door.floors.revoked == [1]
        assert (await client.get(f"/v1/registrations/{door.token}")).status_code == 404


async def test_registrations_by_alias_and_tag_in_pages_and_only_ones_own(door):
    for number in range(10, 15):
        door.add_registration(number, "chat", tags=["beta"])
    door.add_registration(20, "other", tags=["beta"], alias="ann")
    async with door.provider() as client:
        body = (await client.get("/v1/registrations?alias=ann")).json()
        assert (body["count"], [r["token"] for r in body["registrations"]]) == (1, [door.token])
        body = (await client.get("/v1/registrations?tag=beta&limit=4")).json()
        assert (body["count"], len(body["registrations"]), body["next_offset"]) == (6, 4, 4)
        body = (await client.get("/v1/registrations?tag=beta&limit=4&offset=4")).json()
        assert (len(body["registrations"]), body["next_offset"]) == (2, None)
        assert (await client.get("/v1/registrations?tag=none")).json()["count"] == 0
        for query in ("", "?alias=a&tag=b"):
            assert (await client.get(f"/v1/registrations{query}")).status_code == 400
