"""The description of the routes for users of IM is taken at its word, by a user with a friend and a group: no 5xx."""

from __future__ import annotations

from pathlib import Path

import pytest
import structlog
from open_house import House, until
from test_schemathesis import run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SETTINGS = {
    "im.app": "im",
    "im.networks": ["matrix", "irc"],
    "im.phone_codes": "log",
    "im.sends_per_minute": 1_000_000,
    "im.strangers_per_hour": 0,
    "im.session_keys_per_user": 1_000,
    "im.connect_s": 1.0,
}


async def sign_in(house: House, address: str) -> tuple[str, str]:
    """User and session key."""
    with structlog.testing.capture_logs() as logs:
        assert (await house.http.post("/v1/im/register", json={"address": address})).status_code == 200
        await until(lambda: any(line["event"] == "im.code" for line in logs))
    code = next(line["code"] for line in logs if line["event"] == "im.code")
    verified = await house.http.post("/v1/im/verify", json={"address": address, "code": code, "name": "A"})
    assert verified.status_code == 200, verified.text
    return verified.json()["user"], verified.json()["key"]


async def test_no_user_gets_a_5xx(tmp_path: Path) -> None:
    async with House(tmp_path / "house", SETTINGS) as house:
        ann, key = await sign_in(house, "+491511234567")
        bob, other = await sign_in(house, "+491511234568")
        mine, theirs = ({"authorization": f"Bearer {each}"} for each in (key, other))
        assert (await house.http.post("/v1/im/friends", headers=mine, json={"to": bob})).status_code == 200
        answered = await house.http.post(f"/v1/im/friends/{ann}/answer", headers=theirs, json={"accept": True})
        assert answered.status_code == 200, answered.text
        group = await house.http.post("/v1/im/groups", headers=mine, json={"name": "g", "members": [bob]})
        assert group.status_code == 200, group.text
        parameters = {"path.user": bob, "path.group": group.json()["group"]}
        # who signs out has no more to say
        options = ("--include-path-regex", "^/v1/im/(?!sign_out)", "--exclude-method", "DELETE")
        code, out = await run(house, tmp_path, key, *options, parameters=parameters)
        assert code == 0, out
        assert (await house.http.get("/v1/im/me", headers=mine)).status_code == 200
