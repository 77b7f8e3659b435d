"""Opaque ids on a whole gateway: from an attach to an app server's question, over a restart, with nothing left behind
that shows who is who (C1–C6, C12, C15)."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from open_house import House

from gateway.config.logging import setup_logging
from gateway.config.sections import Log
from gateway.model.subscriber import Subscriber

IMSI, MSISDN, NAI, IP = "001010123456789", "+491511234567", "ann.subscriber@example.com", "10.11.12.13"
SECRETS = (IMSI, MSISDN, MSISDN[1:], NAI, "ann.subscriber", IP)
SETTINGS = {
    "identity.host": "push.example.com",
    "identity.ask_apps": ["shop"],
    "identity.classes": ["apn:internet=shop"],
    "identity.domains": ["push.other.net"],
}
NETWORK_IDS = [
    {"kind": "imsi", "value": IMSI},
    {"kind": "msisdn", "value": MSISDN},
    {"kind": "nai", "value": NAI},
    {"kind": "ip", "value": IP},
]


async def operator(house: House, path: str, body: Any, status: int = 200) -> Any:
    key = house.gateway.admin_key_file.read_text().strip()
    answer = await house.http.post(f"/v1/subscribers{path}", json=body, headers={"authorization": f"Bearer {key}"})
    assert answer.status_code == status, answer.text
    return answer.json()


def resolve(house: House, opaque: str, app: str) -> Subscriber | None:
    identity = house.gateway.identity
    return identity.local.find(opaque, app)


async def test_from_attach_to_the_app_server_and_over_a_restart(open_house: Callable[..., Any]) -> None:
    house: House = await open_house(SETTINGS)
    other = await house.create_app("other")
    made = await operator(house, "", {"network_ids": NETWORK_IDS, "trigger": "attach", "app": "shop"})
    assert [each["kinds"] for each in made["ids"]] == [["o-tmsi"], ["o-tmsn"], ["app-uid"]]
    answer = await house.shop.call("POST", "/v1/subscriber-ids", json={"nai": NAI})
    assert answer.json() == {"ids": made["ids"]}
    assert (await other.call("POST", "/v1/subscriber-ids", json={"nai": NAI})).status_code == 403
    o_tmsi = made["ids"][0]["id"]
    for _ in range(2):
        found = resolve(house, o_tmsi, "shop")
        assert found is not None
        assert (found.imsi, found.msisdn, found.nai, found.ip, found.app) == (IMSI, MSISDN, NAI, IP, "shop")
        assert resolve(house, o_tmsi, "other") is None
        await house.restart()
    by_ip = await operator(house, "", {"network_ids": NETWORK_IDS[3:], "trigger": "source_ip", "class": "apn:internet"})
    assert by_ip["drawn"] == 3
    moved = await operator(
        house, "", {"network_ids": NETWORK_IDS[:1], "trigger": "location_update", "app": "shop", "replace": True}
    )
    assert moved["replaced"] is True
    assert resolve(house, o_tmsi, "shop") is None
    (line,) = (await operator(house, "/history", {"id": o_tmsi}))["history"]
    assert (line["network_ids"], line["why"]) == ([NETWORK_IDS[0]], "replaced")
    await operator(house, "/opt-out", {"network_id": NETWORK_IDS[2], "app": "shop"})
    await house.restart()
    assert resolve(house, moved["ids"][0]["id"], "shop") is None
    assert resolve(house, by_ip["ids"][0]["id"], "shop") is None
    assert (await house.shop.call("POST", "/v1/subscriber-ids", json={"nai": NAI})).status_code == 404


@pytest.fixture
def all_logs() -> Iterator[io.StringIO]:
    """As a gateway writes them, and more of them."""
    root = logging.getLogger()
    handlers, level, before = root.handlers[:], root.level, structlog.get_config()
    stream = io.StringIO()
    setup_logging(Log(level="debug"), stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**before)


async def test_nothing_that_is_left_behind_shows_who_is_who(
    open_house: Callable[..., Any], all_logs: io.StringIO, tmp_path: Path
) -> None:
    house: House = await open_house(SETTINGS)
    made = await operator(house, "", {"network_ids": NETWORK_IDS, "trigger": "attach", "app": "shop"})
    await operator(house, "", {"network_ids": NETWORK_IDS, "trigger": IMSI}, 400)
    await operator(house, "/ids", {"network_id": {"kind": "imsi", "value": IMSI + "0"}}, 400)
    await operator(house, "/resolve", {"id": made["ids"][0]["id"], "app": "shop"})
    answers = [json.dumps(made)]  # of opaque ids alone
    for body in ({"nai": NAI}, {"nai": NAI, IMSI: 1}, {"nai": NAI + "@"}, {"nai": NAI, "class": "apn:none"}):
        answers.append((await house.shop.call("POST", "/v1/subscriber-ids", json=body)).text)
    for path in ("/metrics", "/readyz", "/openapi.json"):
        answers.append((await house.http.get(path)).text)
    logs = all_logs.getvalue()
    assert logs.count('"POST /v1/subscribers"') == 2
    assert "heliograph_subscriber_ids_total" in "".join(answers)
    assert not [secret for secret in SECRETS if secret in "\n".join([logs, *answers])]
    await house.gateway.store.backup(tmp_path / "copy")
    folders = (house.gateway.store.path, tmp_path / "copy")
    raw = b"".join(file.read_bytes() for folder in folders for file in folder.iterdir() if file.is_file())
    assert not [secret for secret in SECRETS if secret.encode() in raw]
    assert not [each["id"] for each in made["ids"] if each["id"].partition("@")[0].encode() in raw]
