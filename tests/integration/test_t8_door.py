"""The T8 door on a whole gateway with an SMSC that runs here: triggers for opaque ids, what became of them, and what is
refused (TS 29.122 §5.7)."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from open_house import until
from paged_scene import IMSI, MSISDN, STRANGER, PagedScene, paged_settings

from gateway.metrics import Metric
from gateway.model.registration import build_token
from gateway.paging.sms.local import Behaviour, LocalSmsc

Open = Callable[..., Any]
ROOT = "/3gpp-device-triggering/v1"
EVERY = f"{ROOT}/shop/transactions"


@pytest.fixture
async def scene(open_house: Open, tmp_path: Path) -> AsyncIterator[PagedScene]:
    smsc = LocalSmsc()
    house = await open_house(await paged_settings(smsc, tmp_path))
    await until(lambda: smsc.is_bound)
    yield PagedScene(house, smsc)
    assert smsc.faults == []
    await smsc.close()


def asked(opaque: str, payload: bytes = b"wake up", **changes: Any) -> dict[str, Any]:
    body: dict[str, Any] = {
        "externalId": opaque,
        "validityPeriod": 3600,
        "priority": "NO_PRIORITY",
        "applicationPortId": 16000,
        "triggerPayload": base64.b64encode(payload).decode(),
        "notificationDestination": "https://app.example.com/reports",
        **changes,
    }
    return {name: value for name, value in body.items() if value is not None}


async def create(scene: PagedScene, opaque: str, payload: bytes = b"wake up", **changes: Any) -> dict[str, Any]:
    answer = await scene.house.shop.call("POST", EVERY, json=asked(opaque, payload, **changes))
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert answer.headers["location"] == made["self"]
    return dict(made)


async def look(scene: PagedScene, transaction: dict[str, Any]) -> dict[str, Any]:
    answer = await scene.house.shop.call("GET", transaction["self"])
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def becomes(scene: PagedScene, transaction: dict[str, Any], result: str) -> dict[str, Any]:
    last: dict[str, Any] = {}

    async def is_there() -> bool:
        last.update(await look(scene, transaction))
        return bool(last["deliveryResult"] == result)

    await until(is_there)
    return last


async def test_a_trigger_goes_out_and_the_network_says_that_it_came(scene: PagedScene) -> None:
    scene.smsc.behaviour = Behaviour(receipt_delay_s=0.05)
    opaque = (await scene.ids())[0]
    made = await create(scene, opaque, b"news for you", priority="PRIORITY", appSrcPortId=7, supportedFeatures="F")
    assert made | {"self": ""} == asked(opaque, b"news for you", priority="PRIORITY") | {
        "self": "",
        "appSrcPortId": 7,
        "supportedFeatures": "0",
        "deliveryResult": "TRIGGERED",
    }
    payload = await scene.paged(1)
    assert (payload.text, payload.urgency) == ("news for you", 3)
    found = await becomes(scene, made, "SUCCESS")
    assert found == made | {"deliveryResult": "SUCCESS"}
    # the same after a restart
    await scene.house.restart()
    assert (await scene.house.shop.call("GET", made["self"])).json() == found
    assert (await scene.house.shop.call("GET", EVERY)).json() == [found]


async def test_a_connected_device_gets_port_and_payload(scene: PagedScene) -> None:
    opaque = (await scene.ids())[0]
    await create(scene, opaque)
    device, _ = await scene.device(opaque, build_token((await scene.paged(1)).token))
    made = await create(scene, opaque, b"\x00\xff\x01")
    note = await device.note(ack=True)
    assert note["data"] == {"applicationPortId": 16000, "triggerPayload": "AP8B"}
    assert not note.get("text")
    await becomes(scene, made, "SUCCESS")


async def test_put_replaces_and_delete_recalls(scene: PagedScene) -> None:
    opaque = (await scene.ids())[0]
    scene.smsc.behaviour = Behaviour(receipt_delay_s=600)
    first, second = await create(scene, opaque, b"one"), await create(scene, opaque, b"two")
    await scene.paged(2)
    shop = scene.house.shop
    answer = await shop.call("PUT", first["self"], json=asked(opaque, b"three", validityPeriod=60))
    assert answer.status_code == 200, answer.text
    assert answer.json() == first | {"triggerPayload": "dGhyZWU=", "validityPeriod": 60}
    assert (await scene.paged(3)).text == "three"
    assert await look(scene, first) == answer.json()
    other_device = (await scene.ids("terminal", further=True))[-1]
    moved = await shop.call("PUT", first["self"], json=asked(other_device))
    assert (moved.status_code, moved.json()["invalidParams"][0]["param"]) == (400, "externalId")
    gone = await shop.call("DELETE", first["self"])
    assert (gone.status_code, gone.json()["deliveryResult"]) == (200, "TERMINATE")
    for method in ("GET", "DELETE", "PUT"):
        answer = await shop.call(method, first["self"], json=asked(opaque) if method == "PUT" else None)
        assert answer.status_code == 404, method
    assert [each["self"] for each in (await shop.call("GET", EVERY)).json()] == [second["self"]]
    await shop.call("DELETE", second["self"])
    third = await create(scene, opaque, validityPeriod=0)
    await scene.paged(4)
    await scene.house.restart()
    assert (await shop.call("PUT", second["self"], json=asked(opaque))).status_code == 404
    assert third["validityPeriod"] == 0


async def test_what_is_over_can_not_be_replaced_and_says_why(scene: PagedScene) -> None:
    scene.smsc.behaviour = Behaviour(receipt_delay_s=600)
    opaque = (await scene.ids())[0]
    made = await create(scene, opaque)
    await scene.paged(1)
    await scene.operator("/revoke", {"id": opaque})
    assert await scene.house.gateway.operator.ended_ids.sweep(0) == 1
    found = await look(scene, made)
    assert found["deliveryResult"] in ("TERMINATE", "FAILURE")
    answer = await scene.house.shop.call("PUT", made["self"], json=asked(opaque))
    assert (answer.status_code, answer.json()["cause"]) == (409, "CONFLICT")


async def test_what_is_refused(scene: PagedScene) -> None:
    opaque = (await scene.ids())[0]
    other = await scene.house.create_app("other")
    shop = scene.house.shop
    token = await scene.house.device().join()

    async def post(body: Any, status: int, param: str = "", **options: Any) -> dict[str, Any]:
        answer: httpx.Response = await shop.call("POST", EVERY, **({"json": body} | options))
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        problem = dict(answer.json())
        assert problem["status"] == status
        if param:
            assert problem["invalidParams"][0]["param"].removeprefix("$.") == param, problem
        return problem

    refused = await post(asked(opaque, externalId=None, msisdn=MSISDN), 400, "msisdn")
    assert MSISDN[1:] not in str(refused)
    await post(asked(opaque, msisdn=MSISDN), 400, "msisdn")
    await post(asked(opaque, externalId=None), 400, "externalId")
    await post(asked(opaque, triggerPayload="no base64!"), 400, "triggerPayload")
    await post(asked(opaque, validityPeriod=10**9), 400)
    for name in ("validityPeriod", "priority", "applicationPortId", "triggerPayload", "notificationDestination"):
        await post(asked(opaque, **{name: None}), 400)
    for name, value in (("priority", "URGENT"), ("applicationPortId", 70_000), ("notificationDestination", "ftp://x")):
        await post(asked(opaque, **{name: value}), 400)
    nobody = [
        await post(asked(each), 404)
        for each in (f"{STRANGER}@push.example.com", token, (await scene.ids(app="other"))[0])
    ]
    assert nobody[0] == nobody[1] == nobody[2]
    # a key is good for its own app alone, and no key for nothing
    for path in (EVERY, f"{ROOT}/nobody/transactions"):
        answer = await other.call("POST", path, json=asked(opaque))
        assert (answer.status_code, answer.json()["cause"]) == (403, "FORBIDDEN")
    assert (await scene.house.http.post(EVERY, json=asked(opaque))).status_code == 401
    made = await create(scene, opaque)
    assert (await other.call("GET", made["self"])).status_code == 403
    stolen = made["self"].replace("/shop/", "/other/")
    assert (await other.call("GET", stolen)).status_code == 404
    answer = await shop.call("PATCH", made["self"], json={})
    assert (answer.status_code, answer.json()["cause"]) == (405, "METHOD_NOT_ALLOWED")
    metrics = (await scene.house.http.get("/metrics")).text
    assert not [secret for secret in (IMSI, MSISDN[1:]) if secret in metrics]


async def test_many_transactions_are_listed_newest_first(scene: PagedScene) -> None:
    opaque = (await scene.ids())[0]
    urls = [(await create(scene, opaque, f"{n}".encode()))["self"] for n in range(5)]
    listed = [each["self"] for each in (await scene.house.shop.call("GET", EVERY)).json()]
    assert listed == urls[::-1]
    at_once = await asyncio.gather(*(create(scene, opaque) for _ in range(110)))
    listed = [each["self"] for each in (await scene.house.shop.call("GET", EVERY)).json()]
    assert len(listed) == 100
    assert set(listed) <= {each["self"] for each in at_once}


class Destination:
    """An app server's, where reports come in."""

    def __init__(self) -> None:
        self.reports: list[dict[str, Any]] = []
        self.heads: list[bytes] = []
        self.status = b"204 No Content"

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"http://localhost:{self._server.sockets[0].getsockname()[1]}/reports?a=b"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        size = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        self.reports.append(json.loads(await reader.readexactly(size)))
        self.heads.append(head)
        writer.write(b"HTTP/1.1 " + self.status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        writer.close()

    async def close(self) -> None:
        self._server.close()
        await self._server.wait_closed()


@pytest.fixture
async def destination() -> AsyncIterator[Destination]:
    destination = Destination()
    yield destination
    await destination.close()


async def test_the_destination_is_told_what_became_of_a_trigger(scene: PagedScene, destination: Destination) -> None:
    await scene.house.restart(api__t8_private=True, api__receipts_retry_s=0.05)
    await until(lambda: scene.smsc.is_bound)
    url = await destination.start()
    scene.smsc.behaviour = Behaviour(receipt_delay_s=0.05)
    opaque = (await scene.ids())[0]
    made = await create(scene, opaque, notificationDestination=url)
    await until(lambda: destination.reports)
    assert destination.reports == [{"transaction": made["self"], "result": "SUCCESS"}]
    head = destination.heads[0].lower()
    assert head.startswith(b"post /reports?a=b http/1.1")
    assert b"host: localhost:" in head
    # told once, though the push goes on until an app acks it or it is over; over a restart too
    scene.smsc.behaviour = Behaviour(receipt_delay_s=600)
    destination.status = b"500 Oops"
    failing = await create(scene, opaque, notificationDestination=url, validityPeriod=1)
    await scene.paged(2)
    await until(lambda: len(destination.reports) >= 3)
    assert destination.reports[1:3] == [{"transaction": failing["self"], "result": "UNCONFIRMED"}] * 2
    await scene.house.restart()
    destination.status = b"204 No Content"
    seen = len(destination.reports)
    await until(lambda: len(destination.reports) > seen)
    assert destination.reports[-1] == {"transaction": failing["self"], "result": "UNCONFIRMED"}
    await until(lambda: scene.house.value(Metric.T8_REPORTS, "told") >= 1)  # counted behind the answer


async def test_a_destination_in_a_private_network_is_never_connected_to(
    scene: PagedScene, destination: Destination
) -> None:
    url = await destination.start()
    await scene.house.restart(api__receipts_retry_s=0.05, api__t8_report_tries=2)
    await until(lambda: scene.smsc.is_bound)
    opaque = (await scene.ids())[0]
    for each in (url, url.replace("localhost", "127.0.0.1"), url.replace("localhost", "[::ffff:127.0.0.1]")):
        await create(scene, opaque, notificationDestination=each)
    await until(lambda: scene.house.value(Metric.T8_REPORTS, "given_up") == 3)
    assert scene.house.value(Metric.T8_REPORTS, "address") == 6
    assert not destination.reports


async def test_what_put_makes_of_a_trigger_that_came_is_reported_too(
    scene: PagedScene, destination: Destination
) -> None:
    await scene.house.restart(api__t8_private=True, api__receipts_retry_s=0.05)
    await until(lambda: scene.smsc.is_bound)
    url = await destination.start()
    scene.smsc.behaviour = Behaviour(receipt_delay_s=0.05)
    opaque = (await scene.ids())[0]
    made = await create(scene, opaque, b"one", notificationDestination=url)
    await until(lambda: len(destination.reports) == 1)
    answer = await scene.house.shop.call("PUT", made["self"], json=asked(opaque, b"two", notificationDestination=url))
    assert answer.status_code == 200, answer.text
    await until(lambda: len(destination.reports) == 2)
    assert destination.reports == [{"transaction": made["self"], "result": "SUCCESS"}] * 2


async def test_put_and_delete_leave_nothing_behind_where_the_id_leads_elsewhere_now(scene: PagedScene) -> None:
    opaque = (await scene.ids())[0]
    scene.smsc.behaviour = Behaviour(receipt_delay_s=600)
    shop = scene.house.shop
    made = await create(scene, opaque, b"one")
    device, _ = await scene.device(opaque, build_token((await scene.paged(1)).token))
    assert (await shop.call("PUT", made["self"], json=asked(opaque, b"two"))).status_code == 200
    assert (await device.note(ack=False))["data"]["triggerPayload"] == "dHdv"
    assert (await shop.call("DELETE", made["self"])).json()["deliveryResult"] == "TERMINATE"
    receipts = (await shop.call("GET", "/v1/receipts?after=0")).json()["receipts"]
    assert [each["state"] for each in receipts] == ["recalled", "recalled"]


async def test_a_destination_that_hangs_has_eight_posts_and_delays_no_other_app(
    scene: PagedScene, destination: Destination
) -> None:
    await scene.house.restart(api__t8_private=True, paging__subscriber_per_hour=0)
    await until(lambda: scene.smsc.is_bound)
    hanging = 0

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal hanging
        hanging += 1
        await reader.read()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    nowhere = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    scene.smsc.behaviour = Behaviour(receipt_delay_s=0.01)
    other = await scene.house.create_app("other")
    opaque, others = (await scene.ids())[0], (await scene.ids(app="other"))[0]
    for _ in range(120):
        await create(scene, opaque, notificationDestination=nowhere)
    await until(lambda: hanging >= 8)
    url = await destination.start()
    answer = await other.call(
        "POST", EVERY.replace("/shop/", "/other/"), json=asked(others, notificationDestination=url)
    )
    assert answer.status_code == 201, answer.text
    await until(lambda: destination.reports, 5)
    assert hanging == 8
    server.close()


async def test_no_cookie_of_one_apps_server_goes_to_anothers(scene: PagedScene, destination: Destination) -> None:
    await scene.house.restart(api__t8_private=True)
    await until(lambda: scene.smsc.is_bound)
    url = await destination.start()
    destination.status = b"204 No Content\r\nset-cookie: mark=shop; path=/"
    scene.smsc.behaviour = Behaviour(receipt_delay_s=0.01)
    other = await scene.house.create_app("other")
    opaque, others = (await scene.ids())[0], (await scene.ids(app="other"))[0]
    await create(scene, opaque, notificationDestination=url)
    await until(lambda: len(destination.reports) == 1)
    body = asked(others, notificationDestination=url.replace("localhost", "127.0.0.1"))
    assert (await other.call("POST", EVERY.replace("/shop/", "/other/"), json=body)).status_code == 201
    await until(lambda: len(destination.reports) == 2)
    assert b"cookie" not in destination.heads[1].lower()
