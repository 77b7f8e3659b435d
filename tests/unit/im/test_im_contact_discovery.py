"""Which numbers of an address book are users': only those who agreed, and nothing by which to tell the others apart."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from im_ust_rig import ANNA, BERT, CARL, START_MS, UstRig, rig_in_ram

from gateway.im.ust import rates
from gateway.metrics import Metrics
from gateway.metrics.names import Metric
from gateway.model.errors import BadRequest, Forbidden, TooManyRequests
from gateway.model.im_people import build_user_id

DAY_MS = 86_400_000


async def test_those_who_agreed_are_found_however_their_number_is_written(rig: UstRig) -> None:
    anna = await rig.sign_up(ANNA, is_discoverable=True)
    bert = await rig.sign_up(BERT, is_discoverable=True)
    await rig.sign_up(CARL)
    asked = ["01511 2345602", "+49 (0)1511/2345602", CARL, "+4915112345699", "x", ANNA, ""]
    found = await rig.do("find_contacts", anna, numbers=asked, region="DE")
    assert found == {
        "found": [{"number": number, "user": build_user_id(bert)} for number in asked[:2]],
        "unreadable": [4, 6],
    }
    assert (await rig.do("find_contacts", anna, numbers=["01511 2345602"])) == {"found": [], "unreadable": [0]}
    with pytest.raises(BadRequest) as caught:
        await rig.do("find_contacts", anna, numbers=[BERT], region="XX")
    assert caught.value.field == "region"


async def test_absent_hidden_blocking_and_gone_are_the_same_in_bytes_and_work() -> None:
    rig = rig_in_ram()
    anna = await rig.sign_up(ANNA)
    await rig.sign_up(BERT)
    carl = await rig.sign_up(CARL, is_discoverable=True)
    await rig.do("block_friend", carl, user=build_user_id(anna))
    gone = await rig.sign_up("+4915112345604", is_discoverable=True)
    await rig.do("remove_me", gone)
    seen = set()
    for number in (BERT, CARL, "+4915112345604", "+4915112345699"):
        rig.users.calls.clear()
        answer = msgspec.json.encode(await rig.do("find_contacts", anna, numbers=[number]))
        seen.add((answer, tuple(sorted(rig.users.calls.items()))))
    assert len(seen) == 1
    # and so is one who is found, but for the answer
    dora = await rig.sign_up("+4915112345605", is_discoverable=True)
    rig.users.calls.clear()
    assert (await rig.do("find_contacts", anna, numbers=["+4915112345605"]))["found"][0]["user"] == build_user_id(dora)
    assert tuple(sorted(rig.users.calls.items())) == seen.pop()[1]


async def test_a_number_is_looked_up_once_however_often_it_is_asked_for() -> None:
    rig = rig_in_ram()
    anna = await rig.sign_up(ANNA)
    bert = await rig.sign_up(BERT, is_discoverable=True)
    rig.users.calls.clear()
    found = await rig.do("find_contacts", anna, numbers=[BERT, CARL, "+49 1511 2345602"] * 100)
    assert len(found["found"]) == 200
    assert {one["user"] for one in found["found"]} == {build_user_id(bert)}
    assert rig.users.calls["find_user"] == 2


async def test_only_who_has_a_number_may_ask_for_numbers(rig: UstRig) -> None:
    anna = await rig.sign_up("anna@mail.example")
    with pytest.raises(Forbidden):
        await rig.do("find_contacts", anna, numbers=[BERT])


async def test_numbers_are_bounded_at_once_and_a_day() -> None:
    rig = rig_in_ram(discovery_batch=3, discovery_per_day=5)
    rig.now_ms = START_MS - START_MS % DAY_MS
    anna = await rig.sign_up(ANNA)
    with pytest.raises(BadRequest):
        await rig.do("find_contacts", anna, numbers=[BERT] * 4)
    await rig.do("find_contacts", anna, numbers=[BERT] * 3)
    rig.users.calls.clear()
    with pytest.raises(TooManyRequests) as caught:
        await rig.do("find_contacts", anna, numbers=[BERT] * 3)
    assert caught.value.after_ms == DAY_MS
    assert rig.users.calls["find_user"] == 0  # nothing of it is looked up
    await rig.do("find_contacts", anna, numbers=[BERT] * 2)
    assert rig.metrics.value(Metric.IM_DISCOVERY, "asked") == 5
    assert rig.metrics.value(Metric.IM_DISCOVERY, "limit") == 3
    rig.now_ms += DAY_MS
    await rig.do("find_contacts", anna, numbers=[BERT] * 3)


async def test_to_go_and_come_back_gives_no_second_day() -> None:
    rig = rig_in_ram(discovery_per_day=5)
    anna = await rig.sign_up(ANNA)
    await rig.do("add_address", anna, address="anna@mail.example")
    await rig.do("confirm_address", anna, address="anna@mail.example", code=rig.mail.codes[-1][1])
    await rig.do("find_contacts", anna, numbers=[BERT] * 4)
    await rig.do("remove_me", anna)
    again = await rig.sign_up(ANNA)
    with pytest.raises(TooManyRequests):
        await rig.do("find_contacts", again, numbers=[BERT] * 2)
    # with another number it is another day, but not with the old mailbox
    other = await rig.sign_up(CARL)
    await rig.do("add_address", other, address="anna@mail.example")
    await rig.do("confirm_address", other, address="anna@mail.example", code=rig.mail.codes[-1][1])
    with pytest.raises(TooManyRequests):
        await rig.do("find_contacts", other, numbers=[BERT] * 2)


async def test_a_large_book_leaves_the_loop_to_others() -> None:
    rig = rig_in_ram()
    anna = await rig.sign_up(ANNA)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.ensure_future(others())
    await rig.do("find_contacts", anna, numbers=[f"+49151{n:08d}" for n in range(2_000)])
    beside.cancel()
    assert turns >= 2_000 // 64


def test_counts_of_too_many_begin_anew_and_that_is_counted() -> None:
    metrics = Metrics(process=False)
    rate = rates.Rate("numbers", 1, DAY_MS, metrics, max_keys=2)
    assert [rate.take(key, 0) for key in (b"a", b"b", b"c")] == [0, 0, 0]
    assert metrics.value(Metric.IM_RATES_FORGOTTEN, "numbers") == 1
    assert rate.take(b"c", 0) == DAY_MS
    assert rate.take(b"a", 0) == 0
