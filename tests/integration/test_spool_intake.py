"""A push of a spool becomes one of a real core: once, whoever repeats it, with what is left of its life."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from open_house import House

from gateway.api.once import hash_body
from gateway.delivery.request import PushRequest
from gateway.fleet.spool_intake import answer_take, take_in_by
from gateway.fleet.spool_record import Kept, build_kept, pack_request
from gateway.model.errors import BadRequest, NodeUnreachable, UnknownApp, UnknownToken


def kept(house: House, request: PushRequest, *, waited_ms: int = 0, key: str = "spool-x-1", app: str = "shop") -> Kept:
    accepted_ms = house.gateway.core.backend.now_ms() - waited_ms
    deadline_ms = accepted_ms + (request.ttl or 3_600) * 1000
    return Kept(app, "k", accepted_ms, deadline_ms, key, hash_body(request), pack_request(request))


def push(token: str, **fields: Any) -> PushRequest:
    return msgspec.convert({"target": {"token": token}, "title": "spooled", **fields}, PushRequest)


async def take(house: House, what: Kept) -> int:
    return int.from_bytes(await answer_take(house.gateway.core, build_kept(what)), "big")


async def test_it_is_delivered_once_over_repetitions_and_a_restart(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        device = house.device()
        token = await device.join()
        request = push(token, ttl=600)
        first = kept(house, request, waited_ms=100_000)
        seq = await take(house, first)
        assert await take(house, first) == seq
        assert (await device.note(ack=True))["title"] == "spooled"
        await house.restart()
        assert await take(house, first) == seq  # however much less is left of its life by now
        push_id = house.gateway.core.backend.push_ids.build("shop", seq)
        await house.shop.reaches(push_id, "acked")
        view = await house.shop.look(push_id)
        assert 495 <= view["expires_at"] - view["accepted_at_ms"] // 1000 <= 502
        assert view["figures"] == {"acked": 1}


async def test_the_provider_s_own_key_is_the_same_push_at_the_door(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        token = await house.device().join()
        seq = await take(house, kept(house, push(token), key="order-7"))
        answer = await house.shop.call(
            "POST", "/v1/push", json={"target": {"token": token}, "title": "spooled", "idempotency_key": "order-7"}
        )
        assert (answer.status_code, answer.headers["idempotent-replay"]) == (200, "true")
        assert house.gateway.core.backend.push_ids.parse(answer.json()["id"], "shop") == seq


async def test_what_can_not_be_one_is_refused_for_good(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        token = await house.device().join()
        for what, error in (
            (kept(house, push(token, ttl=10), waited_ms=10_001), BadRequest),
            (kept(house, push("A" * 22)), UnknownToken),
            (kept(house, push(token), app="none"), UnknownApp),
        ):
            with pytest.raises(error) as caught:
                await take(house, what)
            assert not caught.value.retryable
        with pytest.raises(BadRequest):
            await answer_take(house.gateway.core, b"\xc1")


async def test_the_owner_of_the_partition_is_asked() -> None:
    asked: list[tuple[int, str, bytes]] = []

    async def ask(partition: int, kind: str, body: bytes) -> bytes:
        asked.append((partition, kind, body))
        return (77).to_bytes(8, "big") if partition == 3 else b"?"

    what = Kept("shop", "k", 1, 2, "key", b"", pack_request(push("t")))
    assert await take_in_by(ask, lambda app, request: 3)(what) == 77
    assert asked == [(3, "spool.take", build_kept(what))]
    with pytest.raises(NodeUnreachable):
        await take_in_by(ask, lambda app, request: 4)(what)
