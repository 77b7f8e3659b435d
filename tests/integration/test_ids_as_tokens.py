"""Opaque ids in the place of tokens on a whole gateway with an SMSC that runs here (C1, C12): paged where no device is
known, over the link where one proved that it is paged, and one answer for every id that does not lead anywhere."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import lmdb
import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from open_house import until
from paged_scene import IMSI, MSISDN, NETWORK_IDS, STRANGER, paged_settings
from paged_scene import PagedScene as Scene

from gateway.client import Provider, PushResult
from gateway.config.logging import setup_logging
from gateway.config.sections import Log
from gateway.model.errors import GatewayError, UnknownToken
from gateway.model.frames import FrameType
from gateway.model.registration import build_token
from gateway.paging.sms.local import LocalSmsc

Open = Callable[..., Any]


@pytest.fixture
async def scene(open_house: Open, tmp_path: Path) -> AsyncIterator[Scene]:
    smsc = LocalSmsc()
    house = await open_house(await paged_settings(smsc, tmp_path))
    await until(lambda: smsc.is_bound)
    yield Scene(house, smsc)
    assert smsc.faults == []
    await smsc.close()


@pytest.fixture
def all_logs() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level, before = root.handlers[:], root.level, structlog.get_config()
    stream = io.StringIO()
    setup_logging(Log(level="debug"), stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**before)


async def test_a_push_to_an_id_of_who_was_never_connected_goes_out_by_sms(scene: Scene) -> None:
    o_tmsi, o_tmsn = await scene.ids()
    push = await scene.house.shop.push(o_tmsi, "first", text="there is news")
    payload = await scene.paged(1)
    assert (payload.title, payload.text) == ("first", "there is news")
    assert scene.smsc.submissions[0].message.destination.digits == MSISDN.removeprefix("+")
    await scene.house.shop.reaches(push, "notified")
    found = await scene.house.shop.look(push)
    assert found["target"] == {"token": o_tmsi}
    assert found["deliveries"][0]["token"] == build_token(payload.token)
    # every id of the subscriber leads to the one registration, in every form
    local, _, host = o_tmsn.partition("@")
    top, operator, name = reversed(host.split("."))
    for count, form in enumerate(
        (o_tmsn, o_tmsi.upper(), f"https://{host}/push/{local}", f"{top}.MNO{operator}.HOST{name}.User{local}"), 2
    ):
        await scene.house.shop.push(form, f"number {count}")
        assert (await scene.paged(count)).token == payload.token
    # ... and so does its token, as any token does
    await scene.house.shop.push(build_token(payload.token), "by token")
    await scene.paged(6)
    assert scene.registrations == scene.events("made") == 1


async def test_everything_a_token_can_do(scene: Scene) -> None:
    """Batches, streams of them, collapse, recall, look-up, receipts, revocation."""
    opaque = (await scene.ids())[0]
    shop = scene.house.shop
    pushes = [{"target": {"token": opaque}, "title": f"batch {n}"} for n in range(3)]
    many = await shop.push_many([*pushes, {"target": {"token": opaque}, "title": "scheduled", "deliver_at": 1}])
    assert len(set(many)) == 4
    await scene.paged(4)
    kept = await shop.push(opaque, "kept", fallback=[])
    newer = await shop.push(opaque, "newer", fallback=[], collapse_key="k")
    newest = await shop.push(opaque, "newest", fallback=[], collapse_key="k")
    assert (await shop.reaches(newer, "replaced"))["state"] == "replaced"
    assert await shop.recall(newest) == {"recalled": 1, "too_late": 0}
    view = await shop.call("GET", f"/v1/registrations/{opaque}")
    token = view.json()["token"]
    assert (view.status_code, view.json()["version"], view.json()["connected"]) == (200, "paging-only", False)
    receipts = (await shop.call("GET", "/v1/receipts?after=0")).json()["receipts"]
    assert {(each["push"], each["token"], each["state"]) for each in receipts} == {
        (newer, token, "replaced"),
        (newest, token, "recalled"),
    }
    # it is nobody's device: no audience but its own has it
    for target in ({"where": {"not": {"tag": "vip"}}}, {"where": {"not_seen_for": 3600}}, {"versions": ">=0"}):
        looked_for = await shop.push(target, "all", fallback=["sms"])

        async def is_looked_for(push: str = looked_for) -> bool:
            return (await shop.look(push))["state"] in ("done", "live")

        await until(is_looked_for)
    everyone = await shop.push({"everyone": True}, "all", fallback=["sms"])
    await scene.house.gateway.dispatcher.backlog.wait_idle()
    await shop.push(opaque, "after them")
    assert (await scene.paged(5)).title == "after them"
    assert (await shop.figures(everyone)).get("notified", 0) == 0
    assert (await shop.call("DELETE", f"/v1/registrations/{opaque}")).status_code == 204
    await shop.reaches(kept, "recalled", "rejected", "expired")
    # revoked for good: the subscriber gets another one, and the old token stays dead
    await shop.push(opaque, "again")
    assert build_token((await scene.paged(6)).token) != token
    assert (await shop.call("GET", f"/v1/registrations/{token}")).status_code == 404


async def test_a_device_that_proved_it_is_paged_gets_them_over_its_link(scene: Scene) -> None:
    o_tmsi, o_tmsn = await scene.ids()
    await scene.house.shop.push(o_tmsn, "wake up")
    proof = build_token((await scene.paged(1)).token)
    device, token = await scene.device(o_tmsi, proof)
    for opaque in (o_tmsi, o_tmsn):
        push = await scene.house.shop.push(opaque, f"to {opaque}")
        assert (await device.note(ack=True))["title"] == f"to {opaque}"
        assert (await scene.house.shop.reaches(push, "acked"))["token"] == token
    assert len(scene.smsc.submissions) == 1
    assert scene.events("claimed") == 1
    # after a restart, without a word of the device
    await scene.house.restart()
    again = await scene.house.shop.push(o_tmsn, "later", fallback=[])
    await device.end()
    await device.login()
    await device.register()
    assert (await device.note(ack=True))["title"] == "later"
    await scene.house.shop.reaches(again, "acked")
    # off line: its own chain, like any device's
    device.close()
    await until(lambda: not scene.house.counter("links"))
    await scene.house.shop.push(o_tmsi, "by its own chain", fallback=["sms"])
    assert build_token((await scene.paged(2)).token) == token


async def test_a_device_without_the_proof_gets_nothing(scene: Scene) -> None:
    """Whoever is told an id (it stands in providers' lists) must not get what is pushed to it."""
    opaque = (await scene.ids())[0]
    other = await scene.house.create_app("other")
    thief, _ = await scene.device(opaque)
    await scene.house.shop.push(opaque, "first")
    token = build_token((await scene.paged(1)).token)
    guesses = (opaque, STRANGER[:22], "A" * 22, opaque.partition("@")[0], "")
    for guess in guesses:
        addresses = {"sms": opaque} | ({"claim": guess} if guess else {})
        await thief.register(addresses=addresses)
    own = await thief.register(addresses={"sms": opaque})
    await thief.register(addresses={"sms": opaque, "claim": own})
    # the proof of this app is none in another, and none without the subscriber's id
    await thief.register("other", addresses={"sms": opaque, "claim": token})
    await thief.register(account="b", keep=True, addresses={"sms": f"{STRANGER}@push.example.com", "claim": token})
    await thief.register(account="c", keep=True, addresses={"claim": token})
    await scene.house.shop.push(opaque, "second")
    await scene.paged(2)
    await thief.sync()
    assert not thief.waiting()
    assert scene.events("claimed") == 0
    assert scene.events("claim_refused") == 8
    assert (await other.call("GET", f"/v1/registrations/{opaque}")).status_code == 404


async def test_a_phone_that_was_given_away_loses_its_claim_with_its_ids(scene: Scene) -> None:
    opaque = (await scene.ids())[0]
    await scene.house.shop.push(opaque, "first")
    proof = build_token((await scene.paged(1)).token)
    old, _ = await scene.device(opaque, proof)
    await scene.house.shop.push(opaque, "to the old one")
    await old.note(ack=True)
    fresh = (await scene.ids("location_update", replace=True))[0]
    await scene.house.shop.push(fresh, "to the subscriber")
    assert (await scene.paged(2)).title == "to the subscriber"
    # the new phone has the card, so it gets the proof and the id; the newest claim holds
    new, token = await scene.device(fresh, build_token((await scene.paged(2)).token))
    push = await scene.house.shop.push(fresh, "to the new one")
    await new.note(ack=True)
    assert (await scene.house.shop.reaches(push, "acked"))["token"] == token
    await old.sync()
    assert not old.waiting()
    # an account that is signed out on the phone gets nothing there (A5)
    await new.ask(FrameType.UNREGISTER, token=token)
    await scene.house.shop.push(fresh, "signed out")
    assert (await scene.paged(3)).title == "signed out"


async def test_ids_that_lead_nowhere_are_answered_like_an_unknown_token(scene: Scene) -> None:
    shop = scene.house.shop
    other = await scene.house.create_app("other")
    o_tmsi, revoked = await scene.ids()
    await shop.push(o_tmsi, "there is a registration")
    foreign = (await scene.ids(app="other"))[0]
    out = [{"kind": "imsi", "value": "001010000000002"}]
    opted_out = (await scene.operator("", {"network_ids": out, "trigger": "attach", "app": "shop"}))["ids"][0]["id"]
    await scene.operator("/opt-out", {"network_id": out[0], "app": "shop"})
    replaced = o_tmsi
    alive = (await scene.ids("location_update", replace=True))[0]
    local = alive.partition("@")[0]
    bad = [
        "W6yX1vV3S0i2kq0m9aUo_w",
        f"{STRANGER}@push.example.com",
        foreign,
        opted_out,
        replaced,
        revoked,
        f"{local}@push.other.net",
        f"{local}@evil.example",
        f"https://evil.example/push/{local}",
        local,
        "x" * 512,
    ]

    async def answers(send: Callable[[str], Any]) -> set[tuple[int, str]]:
        return {(got.status_code, got.text) for got in [await send(text) for text in bad]}

    pushed = await answers(lambda text: shop.call("POST", "/v1/push", json={"target": {"token": text}, "title": "t"}))
    assert len(pushed) == 1
    assert next(iter(pushed))[0] == 404
    assert len(await answers(lambda text: shop.call("GET", f"/v1/registrations/{text.replace('/', '%2F')}"))) <= 2
    batch = await shop.call("POST", "/v1/push/batch", json=[{"target": {"token": text}, "title": "t"} for text in bad])
    lines = [json.loads(line) for line in batch.text.splitlines()]
    assert len({json.dumps(line | {"index": 0}) for line in lines}) == 1
    assert lines[0]["status"] == 404
    # at this door an id of another app is that app's
    paths = [bad[0], *(text.partition("@")[0] for text in (bad[1], opted_out, replaced, revoked)), "x" * 512]
    doors = {(got.status_code, got.text) for got in [await scene.house.http.post(f"/push/{path}") for path in paths]}
    assert len(doors) == 1
    assert next(iter(doors))[0] == 404
    assert (await other.call("POST", "/v1/push", json={"target": {"token": alive}, "title": "t"})).status_code == 404
    await shop.push(alive, "this one is good")
    assert (await scene.paged(2)).title == "this one is good"
    assert scene.registrations == 1


async def test_an_id_at_the_web_push_door(scene: Scene) -> None:
    """The id's URL form is the door's own; it selects the app, so only ids of one app work there (C6, C12)."""
    opaque = (await scene.ids())[0]
    of_terminal = (await scene.operator("", {"network_ids": NETWORK_IDS, "trigger": "attach"}))["ids"][0]["id"]
    http = scene.house.http
    path = f"/push/{opaque.partition('@')[0]}"
    assert (await http.get(path)).status_code == 200
    assert scene.registrations == 0, "a look makes nothing"
    assert (await http.post(path, content=b"x", headers={"ttl": "60"})).status_code == 401
    admin = {"authorization": f"Bearer {scene.house.gateway.admin_key_file.read_text().strip()}"}
    assert (await http.patch("/v1/apps/shop", json={"webpush": "open"}, headers=admin)).status_code == 200
    pushed = await http.post(path, headers={"ttl": "60"})
    assert pushed.status_code == 201, pushed.text
    await scene.paged(1)
    assert (await http.get(pushed.headers["location"])).json()["state"] in ("accepted", "notified")
    unknown = await http.post(f"/push/{of_terminal.partition('@')[0]}", headers={"ttl": "60"})
    stranger = await http.post(f"/push/{STRANGER}", headers={"ttl": "60"})
    assert (unknown.status_code, unknown.text) == (stranger.status_code, stranger.text)
    shop_push = await scene.house.shop.push(of_terminal, "with the app beside it")
    await scene.house.shop.reaches(shop_push, "notified")


async def test_renewed_with_an_overlap_and_ended(scene: Scene) -> None:
    scene.house.gateway.config.identity.renew_s = 0
    old = (await scene.ids("service", validity_s=3))[0]
    new = (await scene.ids("terminal", further=True, validity_s=3600))[-1]
    await scene.house.shop.push(old, "by the old id")
    first = await scene.paged(1)
    for count, opaque in enumerate((new, old, new), 2):
        await scene.house.shop.push(opaque, "the same")
        assert (await scene.paged(count)).token == first.token
    assert scene.events("renewed") == 1, "two ids that are good at once do not take turns"
    number = scene.house.gateway.store.directory.find(build_token(first.token), "shop")
    record = scene.house.gateway.store.directory.registration(number)
    assert record is not None
    assert record.addresses["sms"] == new


async def test_a_registration_whose_ids_ended_is_removed_and_told(scene: Scene) -> None:
    opaque, second = await scene.ids()
    shop = scene.house.shop
    kept = await shop.push(opaque, "kept", fallback=[])
    token = (await shop.call("GET", f"/v1/registrations/{opaque}")).json()["token"]
    ended = scene.house.gateway.operator.ended_ids
    assert await ended.sweep(0) == 0
    await scene.operator("/revoke", {"id": opaque})
    assert await ended.sweep(0) == 1
    assert scene.events("ended") == 1
    assert (await shop.delivery(kept))["state"] in ("recalled", "rejected")
    dead = (await shop.call("GET", "/v1/dead-tokens?after=0")).json()["dead_tokens"]
    assert [(each["token"], each["why"]) for each in dead] == [(token, "revoked")]
    # the subscriber's other id goes on, with a new token
    await shop.push(second, "on")
    assert build_token((await scene.paged(1)).token) != token
    assert await ended.sweep(0) == 0


async def test_what_was_accepted_for_an_id_goes_out_after_a_restart(scene: Scene) -> None:
    opaque = (await scene.ids())[0]
    later = await scene.house.shop.push(opaque, "later", deliver_at=int(time.time()) + 3_000)
    soon = await scene.house.shop.push(opaque, "before", fallback=[])
    await scene.house.restart()
    await until(lambda: scene.smsc.is_bound)
    await scene.house.shop.push(opaque, "after")
    payload = await scene.paged(1)
    assert payload.title == "after"
    assert (await scene.house.shop.delivery(soon))["token"] == build_token(payload.token)
    assert scene.events("made") == 0
    assert (await scene.house.shop.look(later))["state"] == "scheduled"


async def test_many_first_pushes_at_once_make_one_registration(scene: Scene) -> None:
    opaque, other = await scene.ids()
    pushes = [scene.house.shop.push(each, "t", fallback=[]) for each in (opaque, other) * 20]
    assert len(set(await asyncio.gather(*pushes))) == 40
    assert scene.registrations == 1


async def test_no_network_id_is_shown(scene: Scene, all_logs: io.StringIO) -> None:
    shop = scene.house.shop
    opaque = (await scene.ids())[0]
    push = await shop.push(opaque, "a secret title")
    await scene.paged(1)
    await shop.reaches(push, "notified")
    await scene.device(opaque, "A" * 22)
    shown = [
        (await shop.call("GET", path)).text
        for path in (f"/v1/push/{push}", f"/v1/registrations/{opaque}", "/v1/receipts", "/metrics", "/v1/dead-tokens")
    ]
    shown += [(await shop.call("POST", "/v1/push", json={"target": {"token": opaque + "x"}})).text, all_logs.getvalue()]
    text = "\n".join(shown)
    assert "POST /v1/push" in text
    assert not [secret for secret in (IMSI, MSISDN[1:], "a secret title") if secret in text]
    assert opaque not in all_logs.getvalue()


async def test_on_the_provider_stream_and_the_apns_door(scene: Scene) -> None:
    house = scene.house
    o_tmsi, o_tmsn = await scene.ids()
    await scene.operator("/revoke", {"id": o_tmsn})
    async with Provider("127.0.0.1", house.port, key=house.shop.key) as provider:
        results = await asyncio.gather(*(_outcome(provider, each) for each in (o_tmsi, "A" * 22, o_tmsn)))
    assert isinstance(results[0], PushResult)
    assert [repr(each) for each in results[1:2]] == [repr(each) for each in results[2:]]
    assert isinstance(results[1], UnknownToken)
    token = (await scene.paged(1)).token
    signer = ec.generate_private_key(ec.SECP256R1())
    pem = signer.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    admin = {"authorization": f"Bearer {house.gateway.admin_key_file.read_text().strip()}"}
    key = {"key_id": "K", "team_id": "T", "public_key": pem}
    changed = await house.http.patch("/v1/apps/shop", headers=admin, json={"apns_topic": "t", "apns_keys": [key]})
    assert changed.status_code == 200
    bearer = jwt.encode({"iss": "T", "iat": int(time.time())}, signer, "ES256", headers={"kid": "K"})
    head = {"authorization": f"bearer {bearer}", "apns-topic": "t"}

    async def post(device: str) -> Any:
        return await house.http.post(f"/3/device/{device}", headers=head, json={"aps": {"alert": "by apns"}})

    assert (await post(o_tmsi)).status_code == 200
    payload = await scene.paged(2)
    assert (payload.text, payload.token) == ("by apns", token)
    unknown, ended = await post("A" * 22), await post(o_tmsn)
    assert (unknown.status_code, unknown.json()) == (400, {"reason": "BadDeviceToken"})
    assert (ended.status_code, ended.json()) == (400, {"reason": "BadDeviceToken"})


async def _outcome(provider: Provider, target: str) -> PushResult | GatewayError:
    try:
        return await provider.push(target={"token": target}, title="by stream")
    except GatewayError as error:
        return error


async def test_a_first_push_that_can_not_be_written_leaves_nothing_and_the_next_one_is_the_first(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, expected_errors: set[str]
) -> None:
    expected_errors.add("store_not_writable")
    opaque = (await scene.ids())[0]
    store = scene.house.gateway.store
    apply = store._environment.apply

    def fail(groups: Any) -> None:
        for _ in map(list, groups):
            pass
        raise lmdb.Error("mdb_txn_commit: No space left on device")

    monkeypatch.setattr(store._environment, "apply", fail)
    refused = await scene.house.shop.call("POST", "/v1/push", json={"target": {"token": opaque}, "title": "lost"})
    assert refused.status_code == 503, refused.text
    assert scene.registrations == 0
    monkeypatch.setattr(store._environment, "apply", apply)
    await until(lambda: store.committer.writable)
    push = await scene.house.shop.push(opaque, "first", fallback=[])
    assert scene.registrations == 1
    assert (await scene.house.shop.delivery(push))["token"]


@pytest.mark.parametrize("odd", ["%ED%A0%80", "%FF", "%00", "a%40b", "%F0%9F%9A%80" * 20, "k" * 600])
async def test_odd_paths_are_nobodys(scene: Scene, odd: str) -> None:
    for path in (f"/v1/registrations/{odd}", f"/push/{odd}"):
        assert (await scene.house.shop.call("GET", path)).status_code == 404, path


async def test_addresses_of_a_paging_only_registration_are_the_gateways_own(scene: Scene) -> None:
    opaque = (await scene.ids())[0]
    shop = scene.house.shop
    kept = await shop.push(opaque, "kept", fallback=[])
    for field, value in (("addresses", {"sms": opaque}), ("addresses", {}), ("fallback", [])):
        answer = await shop.call("PUT", f"/v1/registrations/{opaque}", json={field: value})
        assert (answer.status_code, answer.json()["error"]["field"]) == (400, field)
    assert await scene.house.gateway.operator.ended_ids.sweep(0) == 0
    assert (await shop.delivery(kept))["state"] == "waiting"
    assert (await shop.call("PUT", f"/v1/registrations/{opaque}", json={"tags": ["vip"]})).status_code == 200
