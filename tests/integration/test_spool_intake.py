"""A push of a spool becomes one of a real core: once, whoever repeats it, with what is left of its life."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from open_house import House

from gateway.api.once import hash_body
from gateway.delivery.request import PushRequest
from gateway.fleet.spool_intake import REST_S, Intake, answer_known, answer_take
from gateway.fleet.spool_record import DOUBT_S, Kept, build_kept, pack_request
from gateway.model.errors import BadRequest, GatewayError, NodeUnreachable, UnknownApp, UnknownFrame, UnknownToken


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


async def test_whether_it_was_taken_in_is_told_without_taking_it_in(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        what = kept(house, push(await house.device().join()))

        async def known(one: Kept) -> int:
            answer = answer_known(house.gateway.core, build_kept(one))
            return int.from_bytes(answer if isinstance(answer, bytes) else await answer, "big")

        other = msgspec.structs.replace(what, body_hash=b"another")  # by the same key
        assert await known(what) == 0
        taking = answer_take(house.gateway.core, build_kept(what))
        assert await known(other) == 0
        seq = await known(what)  # in this very turn
        assert int.from_bytes(await taking, "big") == seq != 0
        await house.restart()
        assert await known(what) == seq
        assert await known(other) == 0
        assert await known(kept(house, push("t"), app="none")) == 0


async def test_its_key_is_kept_as_long_as_it_may_be_asked_for_again(tmp_path: Path) -> None:
    async with House(tmp_path, {"api.idempotency_s": 0}) as house:
        what = kept(house, push(await house.device().join(), ttl=600))
        seq = await take(house, what)
        await house.restart()
        assert await take(house, what) == seq
        backend = house.gateway.core.backend
        backend.now_ms = house.gateway.core.store.receipts._clock = lambda: what.deadline_ms + DOUBT_S * 1000 - 1
        assert await take(house, what) == seq  # its life is over, and it was in time


async def test_the_owner_of_the_partition_is_asked() -> None:
    asked: list[tuple[int, str, bytes]] = []

    async def ask(partition: int, kind: str, body: bytes) -> bytes:
        asked.append((partition, kind, body))
        return (77).to_bytes(8, "big") if partition == 3 else b"?"

    what = Kept("shop", "k", 1, 2, "key", b"", pack_request(push("t")))
    intake = Intake(ask, lambda app, request: 3, lambda: 0.0)
    assert (await intake.take(what), await intake.known(what)) == (77, 77)
    assert asked == [(3, "spool.take", build_kept(what)), (3, "spool.known", build_kept(what))]
    with pytest.raises(NodeUnreachable):
        await Intake(ask, lambda app, request: 4, lambda: 0.0).take(what)


async def test_a_partition_that_is_nobody_s_is_asked_once_in_a_while() -> None:
    """Each try takes as long as an owner is looked for, and others wait for their turn."""
    asked: list[int] = []
    now_s = 100.0
    has_owner = False

    async def ask(partition: int, kind: str, body: bytes) -> bytes:
        asked.append(partition)
        if partition == 3 and not has_owner:
            error = NodeUnreachable()
            error.nothing_done = True
            raise error
        return (1).to_bytes(8, "big")

    intake = Intake(ask, lambda app, request: int(request.title), lambda: now_s)

    async def take(partition: int) -> int:
        return await intake.take(Kept("shop", "k", 1, 2, "key", b"", pack_request(push("t", title=f"{partition}"))))

    for _ in range(5):
        with pytest.raises(NodeUnreachable) as caught:
            await take(3)
        assert caught.value.nothing_done
    assert await take(4) == 1
    assert asked == [3, 4]
    now_s += REST_S
    for _ in range(5):
        with pytest.raises(NodeUnreachable):
            await take(3)
    assert asked == [3, 4, 3]
    has_owner = True
    now_s += REST_S
    assert [await take(3) for _ in range(5)] == [1] * 5


async def test_an_owner_that_refuses_is_there() -> None:
    """Pushes of an app that was removed must not hold up those behind them."""
    answers: list[GatewayError | None] = [NodeUnreachable(), UnknownApp(), UnknownApp(), None]
    answers[0].nothing_done = True  # type: ignore[union-attr]
    now_s = 100.0

    async def ask(partition: int, kind: str, body: bytes) -> bytes:
        if (error := answers.pop(0)) is not None:
            raise error
        return (1).to_bytes(8, "big")

    intake = Intake(ask, lambda app, request: 3, lambda: now_s)
    what = Kept("shop", "k", 1, 2, "key", b"", pack_request(push("t")))
    with pytest.raises(NodeUnreachable):
        await intake.take(what)
    now_s += REST_S
    for _ in range(2):
        with pytest.raises(UnknownApp):
            await intake.take(what)
    assert await intake.take(what) == 1


async def test_an_owner_of_an_older_version_can_not_say_what_it_has() -> None:
    async def ask(partition: int, kind: str, body: bytes) -> bytes:
        raise UnknownFrame

    intake = Intake(ask, lambda app, request: 3, lambda: 0.0)
    with pytest.raises(NodeUnreachable):  # to be asked again, and not a fault of who asks
        await intake.known(Kept("shop", "k", 1, 2, "key", b"", pack_request(push("t"))))
