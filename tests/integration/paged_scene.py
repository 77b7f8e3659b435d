"""A gateway inside an operator's network: an SMSC that runs here, subscribers that attach, devices that claim."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from open_house import House, until

from gateway.metrics import Metric
from gateway.paging.app_payload import AppPayload, parse_payload
from gateway.paging.sms.local import LocalSmsc
from gateway.paging.udh import parse_header

IMSI, MSISDN = "001010123456789", "+491511234567"
NETWORK_IDS = [{"kind": "imsi", "value": IMSI}, {"kind": "msisdn", "value": MSISDN}]
#: of nobody
STRANGER = "aaaaaaaaaaaaaaaaaaaaaaaaaa"


async def paged_settings(smsc: LocalSmsc, folder: Path) -> dict[str, Any]:
    """Starts the SMSC."""
    file = folder / "smpp-password"
    file.write_text(smsc.password)
    file.chmod(0o600)
    return {
        "paging.smscs": [f"smpp://{smsc.system_id}@127.0.0.1:{await smsc.start()}"],
        "paging.smsc_password_file": str(file),
        "paging.smsc_reconnect_s": 0.05,
        "paging.coalesce_s": 0,
        "paging.jitter_s": 0,
        "delivery.notifier_ack_ms": 60_000,
        "identity.host": "push.example.com",
        "identity.domains": ["push.other.net"],
    }


class PagedScene:
    def __init__(self, house: House, smsc: LocalSmsc) -> None:
        self.house = house
        self.smsc = smsc

    async def operator(self, path: str, body: dict[str, Any]) -> Any:
        key = self.house.gateway.admin_key_file.read_text().strip()
        answer = await self.house.http.post(
            f"/v1/subscribers{path}", json=body, headers={"authorization": f"Bearer {key}"}
        )
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def ids(self, trigger: str = "attach", **more: Any) -> list[str]:
        body = {"network_ids": NETWORK_IDS, "trigger": trigger, "app": "shop", **more}
        return [each["id"] for each in (await self.operator("", body))["ids"]]

    async def paged(self, count: int) -> AppPayload:
        """What the last of so many short messages says to the app."""
        await until(lambda: len(self.smsc.submissions) >= count)
        assert len(self.smsc.submissions) == count
        _, body = parse_header(self.smsc.submissions[-1].message.message)
        return parse_payload(body)

    async def device(self, opaque: str, claim: str = "", **register: Any) -> tuple[Any, str]:
        """A connected one that says it is the subscriber's, with the proof where there is one."""
        device = self.house.device()
        await device.login()
        addresses = {"sms": opaque} | ({"claim": claim} if claim else {})
        return device, await device.register(addresses=addresses, **register)

    def events(self, event: str) -> float:
        return self.house.value(Metric.PAGING_ONLY, event)

    @property
    def registrations(self) -> int:
        return sum(map(len, self.house.gateway.store.directory.everybody()))
