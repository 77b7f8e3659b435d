"""The API description is taken at its word: whatever it allows, and much of what it does not, ends in no 5xx."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import pytest
from card_scene import SELECT, CardScene
from open_house import House
from web_push_sender import Sender

from gateway.metrics import Metric

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

EXAMPLES = 25


async def run(house: House, folder: Path, key: str, *options: str, parameters: dict[str, str]) -> tuple[int, str]:
    """schemathesis in a process of its own against the gateway here."""
    url = f"http://127.0.0.1:{house.gateway.api.port}"
    config = folder / "schemathesis.toml"
    lines = [f'"{name}" = "{value}"' for name, value in parameters.items()]
    config.write_text("\n".join(["[parameters]", *lines, ""]))
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("schemathesis")),
        "--config-file",
        str(config),
        "run",
        f"{url}/openapi.json",
        "--header",
        f"Authorization: Bearer {key}",
        "--checks",
        "not_a_server_error",
        "--phases",
        "examples,coverage,fuzzing",
        "--max-examples",
        str(EXAMPLES),
        "--request-timeout",
        "45",
        "--generation-database",
        "none",
        "--seed",
        "1",
        "--no-color",
        *options,
        cwd=folder,
        env=os.environ | {"SCHEMATHESIS_HOOKS": "msgpack_for_schemathesis", "PYTHONPATH": str(Path(__file__).parent)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    return process.returncode or 0, out.decode()


@pytest.fixture
async def house(tmp_path: Path):
    async with House(tmp_path / "house") as house:
        yield house


async def test_no_provider_gets_a_5xx(house, tmp_path):
    sender = Sender()
    device = house.device()
    token = await device.join()
    admin = house.gateway.admin_key_file.read_text().strip()
    answer = await house.http.patch(
        "/v1/apps/shop",
        headers={"authorization": f"Bearer {admin}"},
        json={
            "webpush": "open",
            "apns_topic": "t",
            "apns_keys": [{"key_id": "K", "team_id": "T", "public_key": sender.public_pem()}],
        },
    )
    assert answer.status_code == 200
    code, out = await run(
        house,
        tmp_path,
        house.shop.key,
        "--exclude-path",
        "/v1/receipts/stream",
        "--exclude-path-regex",
        "^/v1/apps",
        "--exclude-method",
        "DELETE",
        parameters={
            "path.token": token,
            "path.scs_as_id": "shop",
            "query.wait": "0",
            "header.Content-Encoding": "aes128gcm",
        },
    )
    assert code == 0, out
    bearer = sender.token(headers={"kid": "K"}, aud=None, exp=None, sub=None, iss="T", iat=int(time.time()))
    options = ("--include-path-regex", "^/3/")
    code, out = await run(house, tmp_path, bearer, *options, parameters={"path.token": token, "header.apns-topic": "t"})
    assert code == 0, out
    described = (await house.http.get("/openapi.json")).json()["paths"]
    t8 = "/3gpp-device-triggering/v1/{scs_as_id}/transactions"
    assert {"/push/{token}", "/3/device/{token}", "/v1/push", t8, f"{t8}/{{transaction_id}}"} <= set(described)


async def test_the_operator_gets_no_5xx_nor_does_who_deletes(house, tmp_path):
    device = house.device()
    token = await device.join()
    admin = house.gateway.admin_key_file.read_text().strip()
    code, out = await run(house, tmp_path, admin, "--include-path-regex", "^/v1/apps", parameters={"path.app": "shop"})
    assert code == 0, out
    code, out = await run(
        house,
        tmp_path,
        house.shop.key,
        "--include-method",
        "DELETE",
        parameters={"path.token": token, "path.scs_as_id": "shop"},
    )
    assert code == 0, out


async def test_nobody_gets_a_5xx_where_there_are_cards(tmp_path):
    async with CardScene(tmp_path / "scene", 3, **{"log.level": "warning"}) as scene:
        cards = await scene.bring_in()
        await scene.power_on()
        download = await scene.start(cards[0], [SELECT])
        body = {"name": "c", "commands": [SELECT], "query": "all"}
        campaign = (await scene.shop.call("POST", "/v1/campaigns", json=body)).json()["id"]
        admin = scene.house.gateway.admin_key_file.read_text().strip()
        options = ("--include-path-regex", "^/v1/(cards|downloads|campaigns)")
        for key, name in ((admin, "operator"), (scene.shop.key, "app")):
            for of, given in (("downloads", download), ("campaigns", campaign)):
                folder = tmp_path / f"{name} {of}"
                folder.mkdir()
                code, out = await run(
                    scene.house, folder, key, *options, parameters={"path.card": cards[0], "path.id": given}
                )
                assert code == 0, out
        # it was a real run: what is right was taken, what is wrong refused
        for route in ("POST /v1/cards", "POST /v1/downloads", "POST /v1/campaigns", "GET /v1/downloads"):
            for status in ("2xx", "4xx"):
                assert scene.house.value(Metric.API_REQUESTS, f"{route} {status}") > 1, (route, status)
        described = (await scene.house.http.get("/openapi.json")).json()["paths"]
        assert {"/v1/cards", "/v1/cards/{card}/capability", "/v1/downloads/{id}", "/v1/campaigns"} <= set(described)
