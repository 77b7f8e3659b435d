"""Ids that nobody may use, each for a reason of its own, and the doors that an outsider can ask about them at."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
from open_house import House, until
from paged_scene import STRANGER, PagedScene, paged_settings

from gateway.paging.sms.local import LocalSmsc
from gateway.store.records import DELETE, PUT, Db

HOST = "push.example.com"
UNKNOWN_NAI, OUT_NAI = "nobody@example.com", "eve@example.com"
Ask = Callable[[str], Awaitable[httpx.Response]]


async def refused_settings(smsc: LocalSmsc, folder: Path) -> dict[str, Any]:
    return {
        **await paged_settings(smsc, folder),
        "identity.classes": ["apn:internet=other", "service:news=shop"],
        "identity.ask_apps": ["shop"],
        "identity.asks_per_minute": 100_000,
        "identity.draws_per_hour": 1_000,
    }


#: the apps there are
APPS: dict[str, dict[str, Any]] = {
    "shop": {"webpush": "open"},
    "other": {"webpush": "open"},
    "shut": {"webpush": "off"},
}


class Refused:
    """`ids`: by why nobody may use it in the app shop; each is of a subscriber of its own."""

    def __init__(self, house: House, smsc: LocalSmsc) -> None:
        self.house = house
        self.ids: dict[str, str] = {}
        self.without_app = self.shut = ""
        self._scene = PagedScene(house, smsc)
        self._subscribers = 0

    async def _new(
        self, more: list[dict[str, str]] | None = None, **how: Any
    ) -> tuple[list[dict[str, str]], list[str]]:
        """(network ids, opaque ids) of somebody new; ids of the app shop where nothing else is said."""
        self._subscribers += 1
        network = [
            {"kind": "imsi", "value": f"0010100000{self._subscribers:05d}"},
            {"kind": "msisdn", "value": f"+4915100{self._subscribers:05d}"},
            *(more or []),
        ]
        scope = {} if {"app", "class"} & how.keys() else {"app": "shop"}
        body = {"network_ids": network, "trigger": "attach", **scope, **how}
        made = await self._scene.operator("", body)
        return network, [each["id"] for each in made["ids"]]

    async def make(self) -> None:
        """Also those that were pushed to while they could be."""
        shop = self.house.shop
        ids = self.ids
        _, (ids["lapsed"], *_) = await self._new(validity_s=1)
        _, (swept, *_) = await self._new(validity_s=1)
        ids["unknown"], ids["unknown, too"] = f"{STRANGER}@{HOST}", f"{'b' * 26}@{HOST}"
        ids["of nobody's form"] = f"whoever@{HOST}"
        ids["of another gateway"] = f"{STRANGER}@push.other.net"
        ids["of a host in no list"] = f"{STRANGER}@nowhere.example"
        _, (live, *_) = await self._new()
        ids["live, with another gateway's host"] = f"{live.partition('@')[0]}@push.other.net"
        _, (ids["of another app"], *_) = await self._new(app="other")
        _, (ids["of another app's class"], *_) = await self._new(**{"class": "apn:internet"})
        for was_pushed in (False, True):
            when = ", after a push" if was_pushed else ""
            network, (revoked, replaced, out) = [], ["", "", ""]
            _, (revoked, *_) = await self._new()
            network, (replaced, *_) = await self._new()
            others, (out, *_) = await self._new()
            if was_pushed:
                for each in (revoked, replaced, out):
                    await shop.push(each, "while it could be")
            await self._scene.operator("/revoke", {"id": revoked})
            body = {"network_ids": network, "trigger": "location_update", "app": "shop", "replace": True}
            assert (await self._scene.operator("", body))["replaced"]
            await self._scene.operator("/opt-out", {"network_id": others[0], "app": "shop"})
            ids |= {f"revoked{when}": revoked, f"replaced{when}": replaced, f"opted out{when}": out}
        network, (ids["opted out of everything"], *_) = await self._new()
        await self._scene.operator("/opt-out", {"network_id": network[0]})
        network, (ids["opted out of a class of the app's"], *_) = await self._new()
        await self._scene.operator("/opt-out", {"network_id": network[0], "class": "service:news"})
        network, (ids["forgotten"], *_) = await self._new()
        await self._scene.operator("/revoke", {"network_id": network[0], "forget": True})
        network, _ = await self._new([{"kind": "nai", "value": OUT_NAI}])
        await self._scene.operator("/opt-out", {"network_id": network[0], "app": "shop"})
        # at the Web Push door, where the id selects its app, nobody may use these either
        _, (self.without_app, *_) = await self._new(app=None)
        _, (self.shut, *_) = await self._new(app="shut")
        resolver = self.house.gateway.identity.local
        await until(lambda: not any(resolver.find(each, "shop") for each in (ids["lapsed"], swept)))
        self._sweep(swept)
        ids["lapsed, and swept"] = swept
        self._close_history()

    async def make_crowded(self) -> str:
        """An id of another app, of somebody who has as many ids as may be."""
        network, (first, *_) = await self._new(app="other")
        body = {"network_ids": network, "trigger": "service", "app": "other", "further": True}
        while (
            len((await self._scene.operator("", body))["ids"]) < self.house.gateway.config.identity.ids_per_subscriber
        ):
            pass
        return first

    def _sweep(self, opaque: str) -> None:
        """As the sweep does in a while, for this one alone: the others stay as they are."""
        subscribers = self.house.gateway.store.subscribers
        key = subscribers._rows.opaque_key(opaque.partition("@")[0])
        subscribers._committer.accept([(DELETE, Db.OPAQUE_IDS, key, b"")])

    def _close_history(self) -> None:
        """A row after all others: a test's few leave room for a look-up whose keyed hash is above each of them,
        and that one would read a row less."""
        self.house.gateway.store.subscribers._committer.accept([(PUT, Db.OPAQUE_HISTORY, b"\xff" * 48, b"")])

    @property
    def doors(self) -> dict[str, Ask]:
        """Where an app's server may name an id."""
        shop = self.house.shop

        def ask(method: str, path: str, **body: Any) -> Ask:
            def asked(opaque: str) -> Awaitable[httpx.Response]:
                filled = {name: _fill(value, opaque) for name, value in body.items()}
                return shop.call(method, path.replace("{id}", opaque), **({"json": filled} if filled else {}))

            return asked

        return {
            "push": ask("POST", "/v1/push", target={"token": "{id}"}, title="t"),
            "push in a batch": lambda opaque: shop.call(
                "POST", "/v1/push/batch", json=[{"target": {"token": opaque}, "title": "t"}]
            ),
            "registration": ask("GET", "/v1/registrations/{id}"),
            "labels": ask("PUT", "/v1/registrations/{id}", tags=["x"]),
            "revocation": ask("DELETE", "/v1/registrations/{id}"),
            "trigger": ask(
                "POST",
                "/3gpp-device-triggering/v1/shop/transactions",
                externalId="{id}",
                validityPeriod=60,
                priority="PRIORITY",
                applicationPortId=16000,
                triggerPayload="d2FrZQ==",
                notificationDestination="https://app.example.com/reports",
            ),
        }


def _fill(value: Any, opaque: str) -> Any:
    if isinstance(value, dict):
        return {name: _fill(each, opaque) for name, each in value.items()}
    return opaque if value == "{id}" else value


def shown(answer: httpx.Response) -> tuple[int, bytes, tuple[tuple[str, str], ...]]:
    """All of an answer but the time it was made and the number of the request."""
    headers = tuple((name, value) for name, value in answer.headers.items() if name not in ("date", "x-request-id"))
    return answer.status_code, answer.content, headers
