"""A whole gateway, its local SMSC, and simulated cards in terminals with real UDP channels behind it."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import httpx
from open_house import House, Provider, until

from gateway.model.cards import parse_card_id
from gateway.ota.sim.terminal import Behaviour
from gateway.tour.card_issue import IssuedCard, issue
from gateway.tour.card_network import CardNetwork, Holder

CAPABLE = Behaviour()
SELECT = "00A40004023F00"


def update(offset: int, data: bytes) -> str:
    """UPDATE BINARY."""
    return (b"\x00\xd6" + offset.to_bytes(2, "big") + bytes((len(data),)) + data).hex()


class CardScene:
    """`async with CardScene(folder, count) as scene`: cards are off and not imported yet."""

    def __init__(
        self, folder: Path, count: int, *, behaviours: dict[int, Behaviour] | None = None, **settings: Any
    ) -> None:
        self.cards: list[IssuedCard] = [issue(number, b"seed") for number in range(count)]
        kinds = behaviours or {}
        self.network = CardNetwork(self.cards, behave=lambda number: kinds.get(number, CAPABLE), know_terminals=True)
        self._folder = folder
        self._settings = settings
        self.house: House

    async def __aenter__(self) -> CardScene:
        smsc = self.network.smsc
        smsc.password = secrets.token_urlsafe(6)[:8]
        port = await self.network.start()
        self._folder.mkdir(exist_ok=True)
        password = self._folder / "smsc"
        password.write_text(smsc.password)
        password.chmod(0o600)
        settings = {
            "paging.smscs": [f"smpp://{smsc.system_id}@127.0.0.1:{port}"],
            "paging.smsc_password_file": str(password),
            "paging.smsc_reconnect_s": 0.05,
            "ota.port": 0,
            "ota.validity_s": 20.0,
            "ota.retry_s": 0.05,
            "ota.smsc_retry_s": 0.05,
            "ota.rto_first_ms": 100,
            "ota.rto_least_ms": 50,
            "ota.smsc_rate": 0.0,
            "paging.smsc_rate": 0.0,
            "log.level": "debug",
        }
        self.house = House(self._folder, {**settings, **self._settings})
        await self.house.__aenter__()
        return self

    async def __aexit__(self, *args: object) -> None:
        await self.house.__aexit__(*args)
        await self.network.close()

    @property
    def shop(self) -> Provider:
        return self.house.shop

    async def operator(self, method: str, path: str, status: int = 200, **options: Any) -> Any:
        admin = self.house.gateway.admin_key_file.read_text().strip()
        headers = {"authorization": f"Bearer {admin}", **options.pop("headers", {})}
        answer: httpx.Response = await self.house.http.request(method, path, headers=headers, **options)
        assert answer.status_code == status, answer.text
        return answer.json() if answer.content else None

    async def bring_in(self) -> list[str]:
        """Every card is imported; their ids."""
        content = "\n".join(card.line() for card in self.cards)
        headers = {"content-type": "application/x-ndjson"}
        body = await self.operator("POST", "/v1/cards", content=content, headers=headers)
        assert body["imported"] == len(self.cards), body
        return [result["card"] for result in body["cards"]]

    async def power_on(self) -> list[Holder]:
        for holder in self.network.holders:
            await self.network.power_on(holder)
        return self.network.holders

    async def capability(self, card: str) -> dict[str, Any]:
        return dict(await self.operator("GET", f"/v1/cards/{card}/capability"))

    async def is_known(self, card: str, state: str) -> dict[str, Any]:
        """Wait until this is concluded of its terminal."""

        async def probe() -> dict[str, Any] | None:
            found = await self.capability(card)
            return found if found["state"] == state else None

        return dict(await until(probe))

    async def start(self, card: str, commands: list[str], **fields: Any) -> str:
        answer = await self.shop.call("POST", "/v1/downloads", json={"card": card, "commands": commands, **fields})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def look(self, download: str) -> dict[str, Any]:
        answer = await self.shop.call("GET", f"/v1/downloads/{download}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def ends(self, download: str, *states: str) -> dict[str, Any]:
        """Wait until it is in one of these states."""
        last: dict[str, Any] = {}

        async def probe() -> bool:
            last.update(await self.look(download))
            return last["state"] in states

        try:
            await until(probe, 30)
        except AssertionError:
            raise AssertionError(f"not {states}, but {last}") from None
        return last

    def executed(self, number: int) -> list[str]:
        return [command.hex() for command in self.network.holders[number].card.executed]


def handle_of(card: str) -> bytes:
    handle = parse_card_id(card)
    assert handle is not None
    return handle
