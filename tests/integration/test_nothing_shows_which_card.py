"""Everything that leaves a gateway with cards, looked through for which card it was and what was brought to it: its log
at its most talkative, its metrics, every answer to an app and to the operator, what it posts, and its store (E1 to E8,
with all kinds of trouble on the way). What goes to the SMSC and to cards is not looked at.
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.ota.check_request import build_check_request, build_iccid
from gateway.ota.sim.terminal import Behaviour
from gateway.paging.sms.pdu import NPI_E164, TON_INTERNATIONAL, Address, ShortMessage
from gateway.tour.card_issue import IssuedCard, build_imei, issue
from gateway.tour.card_network import CardNetwork
from gateway.tour.stage import APP, Stage, eventually

pytestmark = pytest.mark.timeout(120)

#: what is brought to cards
PAYLOAD = bytes.fromhex("7392846155a1b2c3")
UPDATE = f"00d6000008{PAYLOAD.hex()}"
LARGE = [f"00d6{n:04x}f8{PAYLOAD.hex() * 31}" for n in range(12)]
NOTICE = "Perscrutatio quaestoris"
FINAL = ("done", "noticed", "failed", "stopped", "expired")
CAPABLE, INCAPABLE, STRANGE_KEYS, OFF = range(4)


def look_through(outside: str, words: list[str]) -> list[str]:
    return [word for word in words if word.lower() in outside.lower()]


def words_of(cards: list[IssuedCard]) -> list[str]:
    """Which card somebody has, in every form that it is written in, and its keys."""
    found: list[str] = []
    for card in cards:
        found += [card.iccid, card.imsi, card.msisdn.lstrip("+"), build_iccid(card.iccid).hex()]
        found += [build_imei(card.number).hex(), f"0{card.number:014d}"]
        for keys in (card.message_keys, card.data_keys):
            found += [keys.kic.hex(), keys.kid.hex()]
    return found


class Scene:
    def __init__(self, stage: Stage, network: CardNetwork) -> None:
        self.stage, self.network = stage, network
        self.answers: list[str] = []

    async def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        """An app's; its answer is looked through, and so is the operator's."""
        answer = await self.stage.call(method, path, **options)
        self.answers.append(f"{answer.headers} {answer.text}")
        return answer

    async def operator(self, method: str, path: str, status: int = 200, **options: Any) -> Any:
        admin = (self.stage.folder / "store" / "admin.key").read_text().strip()
        headers = {"authorization": f"Bearer {admin}", **options.pop("headers", {})}
        answer = await self.call(method, path, headers=headers, **options)
        assert answer.status_code == status, answer.text
        return answer.json() if answer.content else None

    async def bring_in(self, lines: list[str]) -> dict[str, Any]:
        headers = {"content-type": "application/x-ndjson"}
        return dict(await self.operator("POST", "/v1/cards", content="\n".join(lines), headers=headers))

    async def download(self, card: str, commands: list[str], *states: str) -> dict[str, Any]:
        body = {"card": card, "commands": commands, "notice": NOTICE}
        answer = await self.call("POST", "/v1/downloads", json=body)
        assert answer.status_code == 201, answer.text

        async def probe() -> dict[str, Any] | None:
            found = dict((await self.call("GET", f"/v1/downloads/{answer.json()['id']}")).json())
            return found if found["state"] in FINAL else None

        found = dict(await eventually(probe, f"the end of {answer.json()['id']}", 30))
        assert found["state"] in states, found
        return found

    def say(self, holder: int, user_data: bytes, *, source: str = "") -> None:
        """A message to the gateway that no card of this network sent."""
        digits = source or self.network.holders[holder].issued.msisdn.lstrip("+")
        message = ShortMessage(
            source=Address(TON_INTERNATIONAL, NPI_E164, digits),
            destination=Address(0, NPI_E164, "4999"),
            message=user_data,
        )
        self.network._post(message, "said")


async def go_well(scene: Scene, cards: list[str]) -> None:
    holder = scene.network.holders[CAPABLE]
    await scene.network.move(holder, imei=build_imei(holder.issued.number + 500))

    async def known() -> bool:
        found = await scene.operator("GET", f"/v1/cards/{cards[CAPABLE]}/capability")
        return bool(found["state"] == "capable")

    await eventually(known, "what a check request leads to", 20)
    await scene.download(cards[CAPABLE], [UPDATE, *LARGE], "done")
    assert UPDATE in [command.hex() for command in holder.card.executed]
    await scene.download(cards[INCAPABLE], [UPDATE], "done")
    await scene.download(cards[INCAPABLE], LARGE, "noticed")


async def go_wrong(scene: Scene, cards: list[str], issued: list[IssuedCard]) -> None:
    await scene.download(cards[STRANGE_KEYS], [UPDATE], "noticed", "failed", "expired")
    await scene.download(cards[OFF], [UPDATE], "noticed", "failed", "expired")
    genuine = issued[CAPABLE]
    request = build_check_request(genuine.iccid, genuine.message_keys)
    for text in (b"", request[:-1], request[:-1] + b"\0", b"\xff" * 140, genuine.msisdn.encode(), PAYLOAD):
        scene.say(CAPABLE, text)
        scene.say(INCAPABLE, request)  # of another card
        scene.say(CAPABLE, text, source=genuine.imsi)
    body = json.loads(genuine.line())
    for changes in (
        {"iccid": genuine.iccid + "x"},
        {"msisdn": f"0{genuine.msisdn[1:]}"},
        {genuine.iccid: 1},
        {"key_sets": [{"number": 1, "kic": genuine.message_keys.kic.hex()[2:], "kid": genuine.message_keys.kid.hex()}]},
        {"key_sets": [{"number": 1, "algorithm": genuine.message_keys.kic.hex(), "kic": "", "kid": ""}]},
        {"iccid": issued[OFF].iccid, "imsi": genuine.imsi},
    ):
        assert (await scene.bring_in([json.dumps(body | changes)]))["refused"] == 1
    await scene.bring_in([genuine.line(), genuine.line(), genuine.msisdn])
    for number in ({"msisdn": genuine.msisdn + "9"}, {"imsi": genuine.iccid}, {genuine.imsi: genuine.imsi}):
        answer = await scene.operator("POST", "/v1/cards/find", 404 if "msisdn" in number else 400, json=number)
        assert answer["error"]
    for changes in ({"card": genuine.iccid}, {"commands": [UPDATE + "0000"]}, {"commands": [UPDATE, PAYLOAD.hex()]}):
        wrong = {"card": cards[CAPABLE], "commands": [UPDATE], **changes}
        assert (await scene.call("POST", "/v1/downloads", json=wrong)).status_code in (400, 404)
    for path in (genuine.iccid, genuine.msisdn, cards[CAPABLE][:-1]):
        await scene.operator("GET", f"/v1/cards/{path}", 404)


async def test_nothing_that_leaves_the_process_shows_a_card_or_what_is_brought_to_it() -> None:
    # numbers that stand in no other test's way
    issued = [issue(739_284_610 + n, b"seed") for n in range(4)]
    behaviours = {issued[INCAPABLE].number: Behaviour(capable=False)}
    network = CardNetwork(issued, behave=lambda n: behaviours.get(n, Behaviour()), know_terminals=True)
    network.smsc.password = secrets.token_urlsafe(6)[:8]
    port = await network.start()
    stage = Stage("log.level=debug")
    password = stage.folder / "smsc"
    password.write_text(network.smsc.password)
    password.chmod(0o600)
    stage.add_settings(
        f"paging.smscs=smpp://{network.smsc.system_id}@127.0.0.1:{port}",
        f"paging.smsc_password_file={password}",
        "ota.port=0",
        "ota.validity_s=1",
        "ota.attempts=2",
        "ota.retry_s=0.1",
        "ota.smsc_retry_s=0.1",
        "ota.sms_parts=2",
        "ota.ttl_s=8",
    )
    try:
        async with stage:
            scene = Scene(stage, network)
            await stage.change_app(receipts_url=stage.endpoint.url, receipts_secret=stage.endpoint.secret)
            lines = [card.line() for card in issued]
            other = issue(issued[STRANGE_KEYS].number, b"other")
            stranger = json.loads(lines[STRANGE_KEYS]) | {"key_sets": json.loads(other.line())["key_sets"]}
            lines[STRANGE_KEYS] = json.dumps(stranger)
            brought = await scene.bring_in(lines)
            assert brought["imported"] == len(issued), brought
            cards = [each["card"] for each in brought["cards"]]
            for place, holder in enumerate(network.holders):
                if place != OFF:
                    await network.power_on(holder)
            await go_well(scene, cards)
            await go_wrong(scene, cards, issued)
            body = {"name": "c", "commands": [UPDATE], "query": "tag:batch-7392846 and capable"}
            await scene.call("POST", "/v1/campaigns", json=body)
            for path in (
                "/v1/receipts",
                "/v1/downloads",
                "/v1/campaigns",
                f"/v1/cards/{cards[CAPABLE]}/capability",
                "/metrics",
                "/readyz",
                "/openapi.json",
            ):
                await scene.call("GET", path)
            for path in ("", *(f"/{card}" for card in cards), *(f"/{card}/capability" for card in cards)):
                await scene.operator("GET", f"/v1/cards{path}")
            await eventually(lambda: has_posts(stage), "posted receipts", 10)
            log = (stage.folder / "gateway.log").read_text()
            posts = json.dumps([post for _, post in stage.endpoint.posts])
            outside = "\n".join([log, posts, *scene.answers])
            store = b"".join(file.read_bytes() for file in (stage.folder / "store").iterdir() if file.is_file())
    finally:
        await network.close()
    # it was a real run
    for word in (
        '"POST /v1/downloads"',
        "heliograph_ota_incoming_total",
        "check_request",
        '"noticed"',
        "terminal_result",
    ):
        assert word in outside, word
    everyone = [*words_of([*issued, other]), network.smsc.password]
    assert look_through(outside, [*everyone, PAYLOAD.hex(), NOTICE]) == []
    assert look_through(store.hex(), [word.encode().hex() for word in (*everyone, PAYLOAD.hex())]) == []
    raw = [word for word in words_of([*issued, other]) if len(word) % 2 == 0 and len(word) >= 16]
    assert look_through(store.hex(), [*raw, PAYLOAD.hex()]) == []
    assert APP in log


async def has_posts(stage: Stage) -> bool:
    return any("download" in json.dumps(post) for _, post in stage.endpoint.posts)


def test_what_is_there_would_be_found(tmp_path: Path) -> None:
    card = issue(739_284_611, b"seed")
    for text in (card.line(), build_iccid(card.iccid).hex().upper(), f"a {card.msisdn} b"):
        assert look_through(text, words_of([card]))
