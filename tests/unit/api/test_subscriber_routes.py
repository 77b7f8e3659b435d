"""The operator's and the app servers' routes to opaque ids: what they take, and that no app server learns a network id
(C4, C5, C6, C12, C15)."""

from __future__ import annotations

import json
from typing import Any

import httpx
import msgspec
import pytest
import structlog
from api_doubles import Door, error_of
from identity_rig import ALL, HOST, IMSI, IMSI_2, MSISDN, NAI, Scene

from gateway.api.server import build_app, build_routes
from gateway.model.errors import StoreUnavailable
from gateway.model.subscriber import NetworkId

INTERNET = "apn:internet"


class House:
    """A door with identity behind it."""

    def __init__(self, **settings: Any) -> None:
        self.scene = Scene(**settings)
        self.door = Door()
        self.mail_key = self.door.add_app("mail")
        self.door.backend.identity = self.scene.identity
        self.door.asgi = build_app(self.door.backend)

    async def operator(self, path: str, body: Any, status: int = 200) -> Any:
        return await self._post(self.door.operator_key, f"/v1/subscribers{path}", body, status)

    async def app(self, path: str, body: Any, status: int = 200, key: str = "") -> Any:
        return await self._post(key or self.door.app_key, f"/v1/subscriber-ids{path}", body, status)

    async def _post(self, key: str, path: str, body: Any, status: int) -> Any:
        async with self.door.client(key) as http:
            answer = await http.post(path, json=body)
        assert answer.status_code == status, answer.text
        return error_of(answer) if status >= 400 else answer.json()

    async def trigger(self, *network: NetworkId, status: int = 200, **more: Any) -> Any:
        body = {"network_ids": [view(each) for each in network], "trigger": "service", **more}
        return await self.operator("", body, status)


def view(network_id: NetworkId) -> dict[str, str]:
    return {"kind": network_id.kind.name.lower(), "value": network_id.value}


async def test_from_a_trigger_to_an_id_and_back() -> None:
    house = House()
    made = await house.trigger(IMSI, MSISDN, app="chat", kinds=["o-tmsi"], trigger="attach")
    (issued,) = made["ids"]
    local, _, host = issued["id"].partition("@")
    assert (host, len(local)) == (HOST, 26)
    assert issued["url"] == f"https://{HOST}/push/{local}"
    assert (issued["kinds"], issued["app"], issued["class"]) == (["o-tmsi"], "chat", None)
    assert (made["drawn"], made["replaced"]) == (1, False)
    for network_id in (IMSI, MSISDN):
        assert (await house.operator("/ids", {"network_id": view(network_id)}))["ids"] == [issued]
    for form in (issued["id"], issued["url"], f"com.MNOexample.HOSTpush.User{local}"):
        found = await house.operator("/resolve", {"id": form, "app": "chat"})
        assert found == {"network_ids": [view(IMSI), view(MSISDN)], "kinds": ["o-tmsi"], "elsewhere": None}


async def test_what_is_given_together_is_one_id_and_permanent_where_it_is_asked_for() -> None:
    house = House()
    made = await house.trigger(IMSI, MSISDN, together=True, validity_s=0, **{"class": INTERNET})
    (issued,) = made["ids"]
    assert (issued["kinds"], issued["class"], issued["until_ms"]) == (["o-tmsi", "o-tmsn"], INTERNET, None)


async def test_unknown_expired_revoked_opted_out_and_foreign_are_one_answer() -> None:
    house = House()
    ids = {}
    for name in ("expired", "revoked", "other app's"):
        ids[name] = (await house.trigger(IMSI, kinds=["o-tmsi"], app="chat", further=True))["ids"][-1]["id"]
    ids["opted out"] = (await house.trigger(IMSI_2, kinds=["o-tmsi"], app="chat"))["ids"][0]["id"]
    ids["unknown"] = f"{'a' * 26}@{HOST}"
    ids["of a host of no list"] = ids["other app's"].replace(HOST, "push.evil.example")
    ids["no id at all"] = "x"
    good = (await house.trigger(IMSI, kinds=["o-tmsi"], app="chat", further=True, validity_s=0))["ids"][-1]["id"]
    await house.operator("/revoke", {"id": ids["revoked"]})
    await house.operator("/opt-out", {"network_id": view(IMSI_2), "app": "chat"})
    house.scene.now_ms += 86_400_000
    ids["other app's"] = good
    answers = set()
    async with house.door.operator() as http:
        for name, opaque in ids.items():
            app = "mail" if name == "other app's" else "chat"
            answer = await http.post("/v1/subscribers/resolve", json={"id": opaque, "app": app})
            headers = {k: v for k, v in answer.headers.items() if k != "x-request-id"}
            answers.add((answer.status_code, answer.text, json.dumps(headers)))
    assert len(answers) == 1
    assert next(iter(answers))[0] == 404
    await house.operator("/resolve", {"id": good, "app": "chat"})


async def test_revoking_all_and_forgetting() -> None:
    house = House()
    await house.trigger(IMSI, MSISDN)
    await house.operator("/opt-out", {"network_id": view(IMSI)})
    assert await house.operator("/revoke", {"network_id": view(IMSI)}) == {"revoked": 2}
    assert await house.operator("/ids", {"network_id": view(IMSI)}) == {"ids": []}
    await house.operator("/revoke", {"network_id": view(MSISDN), "forget": True})
    assert (await house.operator("/ids", {"network_id": view(IMSI)}, 404))["name"] == "unknown_subscriber"


async def test_opting_out_and_in() -> None:
    house = House()
    assert await house.operator("/opt-out", {"network_id": view(NAI), "class": INTERNET}) == {
        "out": [f"class:{INTERNET}"]
    }
    assert await house.operator("/opt-out", {"network_id": view(NAI)}) == {"out": ["*", f"class:{INTERNET}"]}
    assert (await house.trigger(NAI, status=409))["name"] == "conflict"
    await house.operator("/opt-out", {"network_id": view(NAI), "out": False})
    await house.trigger(NAI)


async def test_an_app_server_asks_with_a_nai() -> None:  # C5, C15
    house = House()
    await house.trigger(IMSI, NAI)
    made = await house.app("", {"nai": "ann@EXAMPLE.com"})
    assert {each["app"] for each in made["ids"]} == {"chat"}
    of_class = await house.app("", {"nai": NAI.value, "class": INTERNET})
    assert {each["class"] for each in of_class["ids"]} == {INTERNET}
    assert (await house.app("", {"nai": NAI.value}, 403, key=house.mail_key))["name"] == "forbidden"
    unknown = await house.app("", {"nai": "nobody@example.com"}, 404)
    await house.operator("/opt-out", {"network_id": view(NAI), "app": "chat"})
    assert await house.app("", {"nai": NAI.value}, 404) == unknown


async def test_where_an_id_belongs() -> None:  # C6
    house = House()
    local = "a" * 26
    for form in (
        f"{local}@push.other.net",
        f"https://push.other.net/push/{local}",
        f"net.MNOother.HOSTpush.User{local}",
    ):
        assert await house.app("/locate", {"id": form}) == {"gateway": "https://push.other.net"}
        found = await house.operator("/resolve", {"id": form, "app": "chat"})
        assert found == {"network_ids": [], "kinds": [], "elsewhere": "https://push.other.net"}
    assert await house.app("/locate", {"id": f"{local}@{HOST}"}) == {"gateway": f"https://{HOST}"}
    for form in (f"{local}@push.evil.example", "x"):
        await house.app("/locate", {"id": form}, 404)


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        (
            "",
            {"network_ids": [{"kind": "imsi", "value": "12SECRET34"}], "trigger": "attach"},
            400,
            "network_ids[0].value",
        ),
        (
            "",
            {"network_ids": [view(IMSI), {"kind": "ip", "value": "10.SECRET"}], "trigger": "attach"},
            400,
            "network_ids[1].value",
        ),
        ("", {"network_ids": [], "trigger": "attach"}, 400, "network_ids"),
        ("", {"network_ids": [view(IMSI)], "trigger": "SECRET"}, 400, "trigger"),
        ("", {"network_ids": [{"kind": "SECRET", "value": "1"}], "trigger": "attach"}, 400, "network_ids[0].kind"),
        ("", {"network_ids": [{**view(IMSI), "SECRET": 1}], "trigger": "attach"}, 400, "network_ids[0]"),
        ("", {"SECRET.SECRET": 1}, 400, None),
        ("", {"network_ids": [view(IMSI)], "trigger": "attach", "kinds": ["o-tmsn"]}, 400, "kinds"),
        ("", {"network_ids": [view(IMSI)], "trigger": "attach", "class": "apn:none"}, 400, "class"),
        ("", {"network_ids": [view(IMSI)], "trigger": "attach", "class": INTERNET, "app": "chat"}, 400, "class"),
        ("", {"network_ids": [view(IMSI)], "trigger": "attach", "app": "nobody"}, 404, None),
        ("", {"network_ids": [view(IMSI)], "trigger": "source_ip"}, 404, None),
        ("/ids", {"network_id": {"kind": "mac", "value": "SECRET"}}, 400, "network_id.value"),
        ("/revoke", {}, 400, "id"),
        ("/revoke", {"id": "x", "forget": True}, 400, "forget"),
        ("/revoke", {"id": "SECRET"}, 404, None),
        ("/opt-out", {"network_id": view(IMSI), "class": "apn:none"}, 400, "class"),
        ("/opt-out", {"network_id": {"kind": "nai", "value": "SECRET"}}, 400, "network_id.value"),
        ("/resolve", {"id": "", "app": "chat"}, 400, "id"),
        ("/history", {"id": "SECRET"}, 404, None),
    ],
)
async def test_errors_name_the_field_and_never_what_was_given(
    path: str, body: Any, status: int, field: str | None
) -> None:
    error = await House().operator(path, body, status)
    assert error["field"] == field
    shown = json.dumps(error)
    assert not [each for each in ("SECRET", IMSI.value) if each in shown]


async def test_who_may() -> None:
    house = House()
    paths = ("", "/ids", "/revoke", "/opt-out", "/resolve", "/history")
    for key in (house.door.app_key, None):
        async with house.door.client(key) as http:
            codes = [(await http.post(f"/v1/subscribers{path}", json={})).status_code for path in paths]
        assert set(codes) == {403 if key else 401}
    async with house.door.operator() as http:
        assert (await http.post("/v1/subscriber-ids", json={"nai": NAI.value})).status_code in (401, 403)


async def test_what_can_not_be_written_is_not_answered() -> None:
    house = House()
    house.scene.records.error = StoreUnavailable()
    assert (await house.trigger(IMSI, status=503))["name"] == "store_unavailable"


async def test_msgpack_goes_as_well() -> None:
    house = House()
    body = msgspec.msgpack.encode({"network_ids": [view(IMSI)], "trigger": "attach"})
    async with house.door.operator() as http:
        answer = await http.post("/v1/subscribers", content=body, headers={"content-type": "application/msgpack"})
    assert msgspec.msgpack.decode(answer.content)["drawn"] == 1


async def test_no_network_id_in_any_log_metric_error_or_answer_of_an_app_server() -> None:
    house = House()
    answers: list[httpx.Response] = []
    with structlog.testing.capture_logs() as logs:
        await house.trigger(*ALL[:1], *ALL[2:], app="chat", trigger="attach")
        await house.trigger(IMSI_2)
        async with house.door.operator() as http:  # errors of every sort
            for path in ("", "/ids", "/revoke", "/opt-out", "/resolve", "/history"):
                for each in ALL:
                    for body in (
                        {"network_id": view(each), "network_ids": [view(each)]},
                        {"network_ids": [{**view(each), "value": each.value + "\x00"}], "trigger": "attach"},
                        {"network_ids": [view(IMSI), view(IMSI_2), view(each)], "trigger": "attach"},
                        {"network_id": {**view(each), "kind": each.value}},
                        {"id": each.value, "app": each.value},
                        {each.value: each.value},
                    ):
                        answer = await http.post(f"/v1/subscribers{path}", json=body)
                        if answer.status_code >= 400:
                            answers.append(answer)
        async with house.door.provider() as http:
            for path in ("", "/locate"):
                for each in ALL:
                    for body in ({"nai": each.value}, {"nai": each.value, "class": INTERNET}, {"id": each.value}):
                        answers.append(await http.post(f"/v1/subscriber-ids{path}", json=body))
            metrics = await http.get("/metrics")
    assert {200, 400, 404, 409} <= {answer.status_code for answer in answers}
    shown = "\n".join([answer.text + str(answer.headers) for answer in answers] + [metrics.text, repr(logs)])
    assert len(logs) > 100
    assert "heliograph_subscriber_ids_total" in shown
    assert not [each.value for each in ALL if each.value in shown]
    assert not [each.value for each in ALL if each.value.lstrip("+") in shown]


def test_a_door_without_identity_has_none_of_these() -> None:
    backend = Door().backend
    paths = [[route.path for route in build_routes(backend)]]
    backend.identity = None
    paths.append([route.path for route in build_routes(backend)])
    assert [len([path for path in some if "subscriber" in path]) for some in paths] == [9, 0]


def test_no_path_or_query_takes_a_network_id() -> None:
    from gateway.api.subscribers.door import SubscriberRoutes
    from gateway.api.subscribers.routes import subscriber_routes

    house = House()
    for route in subscriber_routes(SubscriberRoutes(house.door.backend, house.scene.identity)):
        assert "{" not in route.path
        assert [param.name for param in route.params] == ([] if route.method == "POST" else ["after", "limit"])


async def test_an_app_is_told_of_new_ids_and_of_each_re_allocation() -> None:  # C5
    house = House()
    first = (await house.trigger(IMSI, app="chat"))["ids"]
    await house.trigger(IMSI)  # the terminal's own
    second = (await house.trigger(IMSI, app="chat", trigger="location_update", replace=True))["ids"]
    of_class = (await house.trigger(IMSI, **{"class": INTERNET}))["ids"]

    async def told(key: str, after: int = 0) -> Any:
        async with house.door.client(key) as http:
            answer = await http.get(f"/v1/subscriber-ids?after={after}&limit=2")
        assert answer.status_code == 200
        return answer.json()

    page = await told(house.door.app_key)
    assert [(each["id"], each["replaces"]) for each in page["ids"]] == [
        (first[0]["id"], []),
        (second[0]["id"], [first[0]["id"]]),
    ]
    rest = await told(house.door.app_key, page["cursor"])
    assert [(each["id"], each["class"]) for each in rest["ids"]] == [(of_class[0]["id"], INTERNET)]
    assert await told(house.door.app_key, rest["cursor"]) == {"ids": [], "cursor": rest["cursor"]}
    assert [each["id"] for each in (await told(house.mail_key))["ids"]] == [of_class[0]["id"]]
    assert (await told(house.door.other_key))["ids"] == []
