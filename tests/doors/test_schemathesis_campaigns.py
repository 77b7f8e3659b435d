"""The description of the routes to campaigns and downloads is taken at its word, with cards, and an SMSC that is not
there: no 5xx."""

from __future__ import annotations

from pathlib import Path

import pytest
from open_house import House
from test_schemathesis import run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

KEYS = {"number": 1, "algorithm": "aes", "kic": "11" * 16, "kid": "22" * 16}


async def test_no_app_gets_a_5xx_for_its_campaigns(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("secret")
    password.chmod(0o600)
    settings = {
        "ota.port": 0,
        "paging.smscs": ["smpp://pushgw@127.0.0.1:1"],
        "paging.smsc_password_file": str(password),
        "store.max_bytes": 1 << 30,
    }
    async with House(tmp_path / "house", settings) as house:
        admin = house.gateway.admin_key_file.read_text().strip()
        cards = [
            {"iccid": f"894412345678901{at:04d}", "msisdn": f"+44770090{at:04d}", "key_sets": [KEYS], "tar": "B00011"}
            for at in range(50)
        ]
        answer = await house.http.post("/v1/cards", headers={"authorization": f"Bearer {admin}"}, json=cards)
        assert answer.json()["imported"] == 50, answer.text
        made = await house.shop.call(
            "POST", "/v1/campaigns", json={"name": "n", "commands": ["00A40004023F00"], "query": "all", "start": False}
        )
        assert made.status_code == 201, made.text
        parameters = {"path.id": made.json()["id"]}
        options = ("--include-path-regex", "^/v1/(campaigns|downloads)", "--exclude-method", "DELETE")
        code, out = await run(house, tmp_path, house.shop.key, *options, parameters=parameters)
        assert code == 0, out
        assert "/v1/campaigns/{id}/cards" in (await house.http.get("/openapi.json")).json()["paths"]
        seen = await house.shop.call("GET", "/v1/campaigns")
        assert seen.status_code == 200
