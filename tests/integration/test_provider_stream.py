"""The provider stream over TCP: logins, batches, windows, receipts with a cursor, cuts, restarts, bad input."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from bare_device import BareDevice, frame, pack
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from open_house import House, until

from gateway.client import LinkLost, Provider, PushResult, PushUncertain
from gateway.metrics import Metric
from gateway.model.errors import Forbidden, GatewayError, QueueFull, Unauthorized, UnknownToken
from gateway.model.frames import FrameType

Open = Callable[..., Any]


async def stream(house: House, app: str = "shop", **hello: Any) -> BareDevice:
    """A provider by hand, logged in."""
    link = await house.device().connect()
    link.send(FrameType.HELLO, {"v": 1, "role": "provider", "key": house.providers[app].key, **hello})
    link.welcome = await link.receive(FrameType.WELCOME)  # type: ignore[attr-defined]
    return link


async def push(link: BareDevice, req: int, *pushes: Any) -> list[Any]:
    link.send(FrameType.PUSH, {"req": req, "pushes": list(pushes)})
    pushed = await link.receive(FrameType.PUSHED)
    assert pushed["req"] == req
    return list(pushed["results"])


def to(token: str, **fields: Any) -> dict[str, Any]:
    return {"target": {"token": token}, **fields}


async def test_welcome_says_whose_stream_it_is_and_its_bounds(house: House) -> None:
    link = await stream(house)
    welcome = link.welcome  # type: ignore[attr-defined]
    assert (welcome["app"], welcome["window"], welcome["max_batch"], welcome["max_frame"]) == (
        "shop",
        10_000,
        1_000,
        262_144,
    )
    link.send(FrameType.PING)
    await link.receive(FrameType.PONG)
    assert house.value(Metric.PROVIDER_STREAMS) == 1
    link.close()
    await until(lambda: house.value(Metric.PROVIDER_STREAMS) == 0)


@pytest.mark.parametrize("key", ["", "hk_nonsense", "hk_aaaaaaaa_" + "x" * 43])
async def test_a_wrong_key_is_refused_and_the_link_closed(house: House, key: str) -> None:
    link = await house.device().connect()
    link.send(FrameType.HELLO, {"v": 1, "role": "provider", "key": key})
    assert (await link.receive(FrameType.ERROR))["name"] == "unauthorized"
    await until(lambda: link.closed)


async def test_the_operators_key_opens_no_stream(house: House) -> None:
    key = house.gateway.admin_key_file.read_text().strip()
    with pytest.raises(Forbidden):
        async with Provider("127.0.0.1", house.port, key=key):
            pass


async def test_a_batch_reaches_its_devices_and_each_push_has_its_result(house: House) -> None:
    devices = [house.device() for _ in range(3)]
    tokens = [await device.join() for device in devices]
    link = await stream(house)
    results = await push(link, 1, *(to(t, title=f"n{i}", data={"n": i}) for i, t in enumerate(tokens)))
    assert all(isinstance(result, str) for result in results)
    for i, device in enumerate(devices):
        note = await device.note(ack=True)
        assert (note["title"], note["data"], note["token"]) == (f"n{i}", {"n": i}, tokens[i])
    for result in results:
        delivery = await house.shop.reaches(result, "acked")
        assert [step["what"] for step in delivery["steps"]] == ["accepted", "sent", "acked"]


async def test_every_kind_of_target_and_of_error_in_one_batch(house: House) -> None:
    device = house.device()
    await device.login()
    token = await device.register(alias="ann", tags=["beta"])
    link = await stream(house)
    results = await push(
        link,
        7,
        to(token, title="plain"),
        {"target": {"alias": "ann"}, "title": "alias"},
        {"target": {"tag": "beta"}, "title": "tag"},
        {"target": {"everyone": True}, "title": "all"},
        to("A" * 22),
        to(token, nonsense=1),
        {"target": {}},
        to(token, ttl=-1),
        to(token, fallback=["carrier-pigeon"]),
        5,
        to(token, title="keyed", idempotency_key="k1"),
        to(token, title="keyed", idempotency_key="k1"),
        to(token, title="other", idempotency_key="k1"),
    )
    assert isinstance(results[0], str)
    assert isinstance(results[1], str)
    assert isinstance(results[2], str)
    assert results[3]["targeted"] is None
    names = [result["name"] for result in results[4:10]]
    assert names == ["unknown_token", *["bad_request"] * 5]
    assert results[4]["field"] == "target.token"
    assert results[10] == results[11]
    assert results[12]["name"] == "conflict"
    titles = sorted([(await device.note(ack=True))["title"] for _ in range(5)])
    assert titles == ["alias", "all", "keyed", "plain", "tag"]


async def test_a_device_that_is_away_gets_it_when_it_is_back_and_a_kill_between_does_not_matter(house: House) -> None:
    device = house.device()
    token = await device.join()
    device.close()
    await house.is_empty()
    link = await stream(house)
    (result,) = await push(link, 1, to(token, title="later"))
    assert (await house.shop.delivery(result))["state"] == "waiting"
    await house.restart()
    await device.join()
    assert (await device.note(ack=True))["title"] == "later"
    await house.shop.reaches(result, "acked")


async def test_without_an_ack_the_ack_time_runs_and_a_late_ack_counts(open_house: Open) -> None:
    house = await open_house({"delivery.ack_ms": 100, "delivery.retry_ms": 100})
    device = house.device()
    token = await device.join()
    link = await stream(house)
    (result,) = await push(link, 1, to(token, title="slow"))
    note = await device.note()
    await until(lambda: house.value(Metric.DELIVERY_STEPS, "ack_timeout") >= 1)
    device.ack(note["id"])
    delivery = await house.shop.reaches(result, "acked")
    assert "ack_timeout" in [step["what"] for step in delivery["steps"]]


async def test_what_is_refused_does_not_count_for_the_day(open_house: Open) -> None:
    house = await open_house(apps={"shop": {"limits": {"per_day": 3}}})
    token = await house.device().join()
    link = await stream(house)
    assert [isinstance(r, str) for r in await push(link, 1, to("A" * 22), to(token), to(token, ttl=-1))] == [0, 1, 0]
    told = await push(link, 2, to("A" * 22, idempotency_key="k"), to(token, idempotency_key="l"))
    assert [isinstance(result, str) for result in told] == [False, True]
    told = await push(link, 3, to(token), to(token))
    assert isinstance(told[0], str)
    assert told[1]["name"] == "too_many_requests"


async def test_past_the_window_a_batch_is_refused_whole(open_house: Open) -> None:
    house = await open_house({"edge.provider_window": 5, "store.commit_ms": 200})
    token = await house.device().join()
    link = await stream(house)
    link.send(FrameType.PUSH, {"req": 1, "pushes": [to(token)] * 4})
    link.send(FrameType.PUSH, {"req": 2, "pushes": [to(token)] * 2})
    answers = {body["req"]: body["results"] for body in [await link.receive(FrameType.PUSHED) for _ in range(2)]}
    assert [result["name"] for result in answers[2]] == ["queue_full"] * 2
    assert all(isinstance(result, str) for result in answers[1])


async def test_a_batch_that_is_too_long_or_no_array_is_an_error_for_its_req(house: House) -> None:
    link = await stream(house)
    for req, pushes in ((1, [{}] * 1_001), (2, {"target": 1}), (3, "x")):
        link.send(FrameType.PUSH, {"req": req, "pushes": pushes})
        error = await link.receive(FrameType.ERROR)
        assert (error["req"], error["name"]) == (req, "invalid_field")
    link.send(FrameType.REGISTER, {"req": 4, "app": "shop", "version": "1"})
    assert (await link.receive(FrameType.ERROR))["name"] == "unknown_frame"
    assert await push(link, 5) == []


async def test_large_frames_are_a_providers_privilege(house: House) -> None:
    token = await house.device().join()
    link = await stream(house)
    assert len(await push(link, 1, *[to(token, text="x" * 100)] * 1_000)) == 1_000
    link.send_raw(frame(FrameType.PUSH, bytes(262_145)))
    assert (await link.receive(FrameType.ERROR))["name"] == "frame_too_large"
    device = house.device()
    await device.join()
    device.send_raw(frame(FrameType.STATE, bytes(70_000)))
    assert (await device.receive(FrameType.ERROR))["name"] == "frame_too_large"


async def test_acks_on_a_stream_and_a_second_hello_end_it(house: House) -> None:
    for body in ((FrameType.ACK, [1]), (FrameType.HELLO, {"v": 1, "role": "provider"})):
        link = await stream(house)
        link.send(*body)
        assert (await link.receive(FrameType.ERROR))["name"] == "out_of_order"
        await until(lambda link=link: link.closed)  # type: ignore[misc]


async def test_a_key_that_was_revoked_ends_its_stream_at_the_next_push(house: House) -> None:
    token = await house.device().join()
    link = await stream(house)
    store = house.gateway.store
    app = store.directory.app("shop")
    assert app is not None
    await store.directory.put_app(msgspec.structs.replace(app, keys=[]))
    link.send(FrameType.PUSH, {"req": 1, "pushes": [to(token)]})
    assert (await link.receive(FrameType.ERROR))["name"] == "unauthorized"
    await until(lambda: link.closed)


async def test_streams_are_bounded(open_house: Open) -> None:
    house = await open_house({"edge.max_providers": 1})
    await stream(house)
    link = await house.device().connect()
    link.send(FrameType.HELLO, {"v": 1, "role": "provider", "key": house.shop.key})
    assert (await link.receive(FrameType.ERROR))["name"] == "overloaded"


async def test_receipts_stream_within_their_window_and_go_on_after_a_cursor(house: House) -> None:
    device = house.device()
    token = await device.join()
    link = await stream(house)
    link.send(FrameType.RECEIPTS, {"req": 9, "after": 0, "window": 2})
    assert (await link.receive(FrameType.DONE))["req"] == 9
    ids = await push(link, 1, *(to(token, title=str(i)) for i in range(5)))
    for _ in range(5):
        await device.note(ack=True)

    got: list[dict[str, Any]] = []
    while len(got) < 2:
        got += (await link.receive(FrameType.RECEIPT))["receipts"]
    await house.shop.reaches(ids[4], "acked")
    assert not [f for f in link.frames if f.kind == FrameType.RECEIPT]
    link.send(FrameType.RECEIVED, {"cursor": got[1]["cursor"]})
    while len(got) < 4:
        got += (await link.receive(FrameType.RECEIPT))["receipts"]
    link.vanish()

    link = await stream(house)
    link.send(FrameType.RECEIPTS, {"req": 1, "after": got[3]["cursor"]})
    got += (await link.receive(FrameType.RECEIPT))["receipts"]
    assert [receipt["push"] for receipt in got] == ids
    assert {receipt["state"] for receipt in got} == {"acked"}
    cursors = [receipt["cursor"] for receipt in got]
    assert cursors == sorted(set(cursors))


async def test_a_stream_whose_key_was_deleted_gets_no_receipts(house: House) -> None:
    device = house.device()
    token = await device.join()
    link = await stream(house)
    link.send(FrameType.RECEIPTS, {"req": 1})
    await link.receive(FrameType.DONE)
    await push(link, 2, to(token))
    directory = house.gateway.store.directory
    app = directory.app("shop")
    assert app
    await directory.put_app(msgspec.structs.replace(app, keys=[]))
    await device.note(ack=True)
    assert (await link.receive(FrameType.ERROR))["name"] == "unauthorized"
    assert not [f for f in link.frames if f.kind == FrameType.RECEIPT]


async def test_two_apps_never_see_each_others_receipts_nor_tokens(open_house: Open) -> None:
    house = await open_house(apps={"shop": {}, "bank": {}})
    device = house.device()
    token = await device.join()
    shop, bank = await stream(house), await stream(house, "bank")
    bank.send(FrameType.RECEIPTS, {"req": 1, "after": 0})
    shop.send(FrameType.RECEIPTS, {"req": 1, "after": 0})
    assert [result["name"] for result in await push(bank, 2, to(token))] == ["unknown_token"]
    await push(shop, 2, to(token))
    await device.note(ack=True)
    await shop.receive(FrameType.RECEIPT)
    assert not [f for f in bank.frames if f.kind == FrameType.RECEIPT]


async def test_a_drain_sends_the_provider_away_with_its_answers(house: House) -> None:
    token = await house.device().join()
    link = await stream(house)
    await push(link, 1, to(token))
    house.gateway.streams._backend.stopping.set()
    results = await push(link, 2, to(token))
    assert results[0]["name"] == "draining"
    await house.gateway.drain()
    assert (await link.receive(FrameType.GOAWAY))["name"] == "draining"


async def test_a_link_cut_in_a_frame_or_that_sends_garbage_ends_alone(house: House) -> None:
    token = await house.device().join()
    other = await stream(house)
    link = await stream(house)
    asked = {"req": 1, "pushes": [to(token)] * 100}
    whole, whole_body = pack(FrameType.PUSH, asked), msgspec.msgpack.encode(asked)
    link.send_raw(whole[: len(whole) // 2])
    link.vanish()
    for garbage in (b"\xc1", whole_body[:-1], whole_body + b"\xc0", b"\x82\xa3req\x01\xa6pushes\xdd\x00\x00\x0f\xff"):
        link = await stream(house)
        link.send_raw(frame(FrameType.PUSH, garbage))
        assert (await link.receive(FrameType.ERROR))["name"] == "malformed_frame"
    assert isinstance((await push(other, 1, to(token)))[0], str)


# --- the SDK ---------------------------------------------------------------------------------------------------------


async def test_the_sdk_pushes_from_many_tasks_in_few_batches(house: House) -> None:
    device = house.device()
    token = await device.join()
    async with Provider("127.0.0.1", house.port, key=house.shop.key) as provider:
        assert provider.app == "shop"
        results = await asyncio.gather(*(provider.push(target={"token": token}, title=str(i)) for i in range(50)))
        assert len({result.id for result in results}) == 50
        assert house.value(Metric.PROVIDER_BATCHES) == 1
        answers = await provider.push_many([to(token), to("A" * 22), {"target": {"everyone": True}}])
        assert [type(answer) for answer in answers] == [PushResult, UnknownToken, PushResult]
        with pytest.raises(GatewayError, match="ttl"):
            await provider.push(target={"token": token}, ttl=-5)


async def test_the_sdk_keeps_inside_the_window(open_house: Open) -> None:
    house = await open_house({"edge.provider_window": 10, "edge.provider_batch": 4})
    token = await house.device().join()
    async with Provider("127.0.0.1", house.port, key=house.shop.key) as provider:
        answers = await provider.push_many([to(token)] * 100)
        assert all(isinstance(answer, PushResult) for answer in answers)
    assert house.value(Metric.PUSHES_REFUSED, QueueFull.name) == 0


async def test_the_sdk_follows_receipts_over_a_restart_without_a_gap_or_a_repetition(house: House) -> None:
    device = house.device()
    token = await device.join()
    got: list[str] = []
    async with Provider("127.0.0.1", house.port, key=house.shop.key) as provider:
        receipts = provider.receipts(after=0)
        ids = [(await provider.push(target={"token": token}, idempotency_key=f"a{i}")).id for i in range(3)]
        for _ in range(3):
            await device.note(ack=True)
        for _ in range(2):
            got.append((await anext(receipts))["push"])
        await house.restart()
        await device.join()
        ids += [(await provider.push(target={"token": token}, idempotency_key=f"b{i}")).id for i in range(2)]
        for _ in range(2):
            await device.note(ack=True)
        for _ in range(3):
            got.append((await asyncio.wait_for(anext(receipts), 20))["push"])
    assert got == ids


async def test_what_had_no_answer_at_a_cut_is_uncertain_unless_it_has_a_key(open_house: Open) -> None:
    house = await open_house({"store.commit_ms": 500})
    token = await house.device().join()
    async with Provider("127.0.0.1", house.port, key=house.shop.key) as provider:
        plain = asyncio.ensure_future(provider.push(target={"token": token}))
        keyed = asyncio.ensure_future(provider.push(target={"token": token}, idempotency_key="k"))
        await until(lambda: house.value(Metric.PROVIDER_BATCHES) >= 1)
        for link in list(house.gateway.edge._streams):
            house.gateway.edge.close(link, None)
        with pytest.raises(PushUncertain):
            await plain
        assert isinstance(await asyncio.wait_for(keyed, 20), PushResult)


async def test_the_sdk_says_why_it_can_not_log_in_and_that_it_was_closed(house: House) -> None:
    with pytest.raises(Unauthorized):
        async with Provider("127.0.0.1", house.port, key="hk_wrong"):
            pass
    provider = Provider("127.0.0.1", house.port, key=house.shop.key)
    with pytest.raises(LinkLost):
        await provider.push(target={"token": "x"})


# --- any bytes --------------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
PUSHES = st.lists(
    st.fixed_dictionaries(
        {"target": st.fixed_dictionaries({"token": st.just("TOKEN") | st.text(max_size=30)}) | VALUES},
        optional={
            "title": st.text(max_size=8) | VALUES,
            "text": VALUES,
            "data": VALUES,
            "ttl": st.integers(-3, 2**33) | VALUES,
            "urgency": st.sampled_from(["very-low", "low", "normal", "high"]) | VALUES,
        },
    )
    | VALUES,
    max_size=6,
)


async def test_any_batch_gets_a_result_each_the_same_as_over_http(house: House) -> None:
    token = await house.device().join()
    link = await stream(house)

    async def both(pushes: list[Any]) -> None:
        over_stream = await push(link, 1, *pushes)
        assert len(over_stream) == len(pushes)
        names = [result["name"] if isinstance(result, dict) and "name" in result else "" for result in over_stream]
        maps = [one for one in pushes if isinstance(one, dict)]
        assert all(name for one, name in zip(pushes, names, strict=True) if not isinstance(one, dict))
        over_http = await house.http.post(
            "/v1/push/batch",
            content=msgspec.msgpack.encode(maps),
            headers={
                "content-type": "application/msgpack",
                "accept": "application/x-ndjson",
                "authorization": f"Bearer {house.shop.key}",
            },
        )
        assert over_http.status_code == 200, over_http.text
        results = [msgspec.json.decode(line) for line in over_http.content.splitlines()]
        wanted = [name for one, name in zip(pushes, names, strict=True) if isinstance(one, dict)]
        assert [result["error"]["name"] if result.get("error") else "" for result in results] == wanted

    loop = asyncio.get_running_loop()

    @settings(max_examples=60, suppress_health_check=list(HealthCheck))
    @given(PUSHES)
    def run(pushes: list[Any]) -> None:
        for one in pushes:
            if isinstance(one, dict) and isinstance(one.get("target"), dict) and one["target"].get("token") == "TOKEN":
                one["target"]["token"] = token
        asyncio.run_coroutine_threadsafe(both(pushes), loop).result(20)

    await asyncio.to_thread(run)


async def test_any_bytes_in_a_push_frame_get_an_answer_or_end_the_link(house: House) -> None:
    loop = asyncio.get_running_loop()

    async def send(raw: bytes) -> None:
        link = await stream(house)
        link.send_raw(frame(FrameType.PUSH, raw))
        link.send(FrameType.PING)
        await until(lambda: link.closed or link.take(FrameType.PONG))
        if not link.closed:
            link.vanish()

    @settings(max_examples=60, suppress_health_check=list(HealthCheck))
    @given(st.binary(max_size=60) | st.builds(lambda raw: b"\x82\xa3req\x01\xa6pushes" + raw, st.binary(max_size=60)))
    def run(raw: bytes) -> None:
        asyncio.run_coroutine_threadsafe(send(raw), loop).result(20)

    await asyncio.to_thread(run)


# --- a slow reader ----------------------------------------------------------------------------------------------------


async def test_a_provider_that_reads_nothing_is_cut_off_and_what_it_pushed_is_safe(open_house: Open) -> None:
    house = await open_house(
        {"edge.outbox_bytes": 4_096, "edge.slow_timeout_s": 0.5, "store.max_pending_per_registration": 50_000_000}
    )
    device = house.device()
    token = await device.join()
    device.close()
    await until(lambda: not house.sessions)
    link = await house.device().connect(receive_buffer=4_096)
    link.send(FrameType.HELLO, {"v": 1, "role": "provider", "key": house.shop.key})
    await link.receive(FrameType.WELCOME)
    link.transport.pause_reading()
    batch = pack(FrameType.PUSH, {"req": 1, "pushes": [to(token)] * 500})

    async def push_on() -> bool:
        link.send_raw(batch)
        return bool(house.ended("slow_consumer"))

    await until(push_on, 40)
    other = await stream(house)
    assert isinstance((await push(other, 1, to(token)))[0], str)
    accepted = int(house.value(Metric.PUSHES, "token"))
    await until(lambda: house.gateway.store.journal.pending_count() == accepted)
    await house.restart()
    assert house.gateway.store.journal.pending_count() == accepted
