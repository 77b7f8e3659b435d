"""Registering: codes that hold once and for a while, answers that tell nothing, devices and session keys."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from im_ust_rig import ANNA, BERT, START_MS, UstRig, rig_in_ram

from gateway.im.ust.code_log import LoggedCodes
from gateway.metrics.names import Metric
from gateway.model.errors import (
    AcceptTimeout,
    BadRequest,
    Conflict,
    NotConfigured,
    NotFound,
    QueueFull,
    StoreUnavailable,
    TooManyRequests,
)
from gateway.model.im_people import build_user_id

PHONE, TABLET = b"p" * 16, b"t" * 16
HOUR_MS, DAY_MS = 3_600_000, 86_400_000


async def test_a_code_makes_a_user_and_signs_the_device_in(rig: UstRig) -> None:
    code = await rig.code("+49 1511 2345601", PHONE)
    assert rig.phone.codes == [(ANNA, code)]
    assert len(code) == 6
    verified = await rig.do("verify", token=PHONE, address=ANNA, code=code, name=" Anna ")
    assert verified == {"user": verified["user"], "is_new": True}  # no key: the device is signed in
    user = rig.users.signed_in(PHONE)
    assert build_user_id(user) == verified["user"]
    assert rig.devices == [("in", PHONE, user)]
    assert await rig.do("profile", user) == {
        "user": verified["user"],
        "name": "Anna",
        "addresses": [ANNA],
        "is_discoverable": False,
    }


async def test_the_same_address_finds_the_same_user_and_keeps_the_name(rig: UstRig) -> None:
    anna = await rig.sign_up("Anna@Mail.Example", PHONE, "Anna")
    assert await rig.sign_up("anna@mail.example", TABLET, "Mallory") == anna
    assert rig.users.user(anna).name == "Anna"
    assert sorted(rig.users.devices(anna)) == [PHONE, TABLET]


async def test_a_device_changes_hands(rig: UstRig) -> None:
    anna = await rig.sign_up(ANNA, PHONE)
    bert = await rig.sign_up(BERT, PHONE)
    assert rig.users.signed_in(PHONE) == bert
    assert rig.users.devices(anna) == []
    assert rig.devices == [("in", PHONE, anna), ("out", PHONE, anna), ("in", PHONE, bert)]


async def test_over_rest_there_is_a_key_that_lives_by_being_used(rig: UstRig) -> None:
    code = await rig.code(ANNA)
    verified = await rig.do("verify", address=ANNA, code=code)
    key = verified["key"]
    assert key.startswith("usk_")
    sessions = rig.ust.sessions
    user = sessions.user(key, rig.now_ms)
    assert user is not None
    assert not any(sessions.user(wrong, rig.now_ms) for wrong in ("", "usk_", key[:-1], key + "A", "usk_" + "A" * 43))
    await rig.do("sign_out", user, key=key)
    assert sessions.user(key, rig.now_ms) is None


async def test_a_used_key_is_renewed_and_not_at_every_use() -> None:
    rig = rig_in_ram(session_days=10.0)
    code = await rig.code(ANNA)
    key = (await rig.do("verify", address=ANNA, code=code))["key"]
    for day in range(1, 31):
        rig.now_ms = rig.users.now_ms = START_MS + day * DAY_MS
        for _ in range(20):
            assert rig.ust.sessions.user(key, rig.now_ms)
    assert rig.users.calls["put_session"] == 31
    rig.users.is_down = True  # a store that can not be written signs nobody out
    rig.now_ms = rig.users.now_ms = rig.now_ms + DAY_MS
    assert rig.ust.sessions.user(key, rig.now_ms)
    rig.now_ms = rig.users.now_ms = rig.now_ms + 10 * DAY_MS
    assert rig.ust.sessions.user(key, rig.now_ms) is None


async def test_a_code_holds_once_and_only_where_it_was_asked_for(rig: UstRig) -> None:
    code = await rig.code(ANNA, PHONE)
    for token in (None, TABLET):
        with pytest.raises(BadRequest):
            await rig.do("verify", token=token, address=ANNA, code=code)
    with pytest.raises(BadRequest):
        await rig.do("verify", token=PHONE, address=BERT, code=code)
    await rig.do("verify", token=PHONE, address=ANNA, code=code)
    with pytest.raises(BadRequest):
        await rig.do("verify", token=PHONE, address=ANNA, code=code)


async def test_a_code_is_over_after_its_time_its_tries_and_the_next_one() -> None:
    rig = rig_in_ram(code_s=60.0, code_tries=3, codes_per_hour=10)
    late = await rig.code(ANNA)
    rig.now_ms += 60_000
    with pytest.raises(BadRequest):
        await rig.do("verify", address=ANNA, code=late)
    tried = await rig.code(ANNA)
    for _ in range(3):
        with pytest.raises(BadRequest):
            await rig.do("verify", address=ANNA, code=_other_than(tried))
    with pytest.raises(BadRequest):
        await rig.do("verify", address=ANNA, code=tried)
    older, newer = await rig.code(ANNA), await rig.code(ANNA)
    if older != newer:
        with pytest.raises(BadRequest):
            await rig.do("verify", address=ANNA, code=older)
    await rig.do("verify", address=ANNA, code=newer)
    assert rig.metrics.value(Metric.IM_CODES, "sent") == 4
    assert rig.metrics.value(Metric.IM_CODES, "right") == 1


@pytest.mark.parametrize("code", ["", "000000\n", "１２３４５６", "\ud800", "x" * 32])
async def test_any_text_is_a_wrong_code(code: str) -> None:
    rig = rig_in_ram()
    await rig.code(ANNA)
    with pytest.raises(BadRequest) as caught:
        await rig.ust.users.verify(ANNA, code, None, rig.now_ms)
    assert caught.value.field == "code"


async def test_nothing_tells_whether_an_address_is_a_users(rig: UstRig) -> None:
    await rig.sign_up(ANNA)
    answers, work, refusals = [], [], []
    for address in (ANNA, BERT):
        if isinstance(getattr(rig.users, "calls", None), Counter):
            rig.users.calls.clear()
        answers.append(await rig.do("register", address=address))
        with pytest.raises(BadRequest) as caught:
            await rig.do("verify", address=address, code="no")
        refusals.append((type(caught.value), caught.value.message, caught.value.field, caught.value.after_ms))
        work.append(dict(getattr(rig.users, "calls", {})))
    assert answers[0] == answers[1]
    assert refusals[0] == refusals[1]
    assert work == [{}, {}]  # who is who is not even looked up


async def test_codes_are_bounded_by_address_by_device_and_in_all() -> None:
    rig = rig_in_ram(codes_per_hour=2, codes_total_per_hour=5)
    rig.now_ms = START_MS - START_MS % HOUR_MS + 600_000
    for _ in range(2):
        await rig.code(ANNA)
    with pytest.raises(TooManyRequests) as caught:
        await rig.code(ANNA)
    assert caught.value.after_ms == HOUR_MS - 600_000
    for number in range(2):
        await rig.code(f"+491511234570{number}", PHONE)
    with pytest.raises(TooManyRequests):
        await rig.code("+4915112345709", PHONE)
    await rig.code("+4915112345709")
    with pytest.raises(TooManyRequests):
        await rig.code("+4915112345708")
    assert [rig.metrics.value(Metric.IM_CODES, limit) for limit in ("address", "device", "total")] == [1, 1, 1]
    rig.now_ms += HOUR_MS
    await rig.code(ANNA)
    rig.now_ms -= HOUR_MS  # a clock that is set back gives no second hour
    await rig.code(ANNA)
    with pytest.raises(TooManyRequests):
        await rig.code(ANNA)


async def test_codes_of_a_day_for_one_address_are_bounded() -> None:
    rig = rig_in_ram(codes_per_hour=2, codes_per_day=5)
    rig.now_ms = START_MS - START_MS % DAY_MS
    for code in range(5):
        rig.now_ms += HOUR_MS
        assert len(await rig.code(ANNA)) == 6, code
    rig.now_ms += HOUR_MS
    with pytest.raises(TooManyRequests) as caught:
        await rig.code(ANNA)
    assert caught.value.after_ms == 18 * HOUR_MS
    await rig.code(BERT)


async def test_two_who_verify_at_once_are_one_user_and_one_of_them_is_in(rig: UstRig) -> None:
    code = await rig.code(ANNA)
    results = await asyncio.gather(
        *(rig.do("verify", address=ANNA, code=code) for _ in range(2)), return_exceptions=True
    )
    assert sorted(type(result) for result in results if isinstance(result, Exception)) == [BadRequest]
    codes = [await rig.code(BERT, token) for token in (PHONE, TABLET)]
    both = await asyncio.gather(
        *(
            rig.do("verify", token=token, address=BERT, code=one)
            for token, one in zip((PHONE, TABLET), codes, strict=True)
        )
    )
    assert both[0]["user"] == both[1]["user"]
    assert [one["is_new"] for one in both] == [True, False]


async def test_a_code_survives_a_store_that_takes_nothing() -> None:
    rig = rig_in_ram()
    code = await rig.code(ANNA, PHONE)
    rig.users.is_down = True
    with pytest.raises(StoreUnavailable):
        await rig.do("verify", token=PHONE, address=ANNA, code=code)
    rig.users.is_down = False
    assert (await rig.do("verify", token=PHONE, address=ANNA, code=code))["is_new"]


async def test_devices_of_a_user_are_bounded_and_the_others_can_be_signed_out() -> None:
    rig = rig_in_ram(devices_per_user=2, codes_per_hour=10)
    anna = await rig.sign_up(ANNA, PHONE)
    await rig.sign_up(ANNA, TABLET)
    watch = b"w" * 16
    code = await rig.code(ANNA, watch)
    with pytest.raises(Conflict) as caught:
        await rig.do("verify", token=watch, address=ANNA, code=code)
    assert caught.value.field == "sign_out_others"
    await rig.do("verify", token=watch, address=ANNA, code=code, sign_out_others=True)
    assert rig.users.devices(anna) == [watch]
    assert rig.devices[-3:] == [("out", PHONE, anna), ("out", TABLET, anna), ("in", watch, anna)]


async def test_signing_out_ends_a_device_or_all(rig: UstRig) -> None:
    anna = await rig.sign_up(ANNA, PHONE)
    await rig.sign_up(ANNA, TABLET)
    await rig.do("sign_out", anna, PHONE)
    assert rig.users.signed_in(PHONE) is None
    with pytest.raises(BadRequest) as caught:
        await rig.do("sign_out", anna)
    assert caught.value.field == "key"
    key = (await rig.do("verify", address=ANNA, code=await rig.code(ANNA)))["key"]
    await rig.do("sign_out", anna, everywhere=True)
    assert rig.ust.sessions.user(key, rig.now_ms) is None
    assert rig.users.devices(anna) == []
    assert await rig.sign_up(ANNA, PHONE) == anna


async def test_who_can_not_be_sent_a_code_is_told_why() -> None:
    rig = rig_in_ram(request_s=0.05)
    with pytest.raises(BadRequest):
        await rig.code("+499001234567")  # premium
    with pytest.raises(BadRequest):
        await rig.code("anna@HERE.example.")  # a mailbox of our own
    rig.phone.error = QueueFull()
    with pytest.raises(QueueFull):
        await rig.code(ANNA)

    async def hang(address: str, code: str) -> None:
        await asyncio.Event().wait()

    rig.phone.send = hang  # type: ignore[method-assign]
    with pytest.raises(AcceptTimeout):
        await rig.code(ANNA)
    assert rig.metrics.value(Metric.IM_CODES, "failed") == 2
    rig.ust.users._senders = rig.ust.users._senders._replace(phone=None)
    with pytest.raises(NotConfigured, match=r"im\.phone_codes"):
        await rig.code(ANNA)


async def test_the_log_sender_writes_no_address(capsys: pytest.CaptureFixture[str]) -> None:
    await LoggedCodes().send("anna@mail.example", "123456")
    written = "".join(capsys.readouterr())
    assert "anna" not in written


async def test_a_further_address_is_added_by_its_code(rig: UstRig) -> None:
    anna = await rig.sign_up(ANNA, PHONE)
    await rig.do("add_address", anna, PHONE, address="anna@mail.example")
    code = rig.mail.codes[-1][1]
    with pytest.raises(BadRequest):  # a code for adding does not sign in
        await rig.do("verify", token=PHONE, address="anna@mail.example", code=code)
    profile = await rig.do("confirm_address", anna, PHONE, address="anna@mail.example", code=code)
    assert profile["addresses"] == [ANNA, "anna@mail.example"]
    assert await rig.sign_up("anna@mail.example", TABLET) == anna
    profile = await rig.do("remove_address", anna, address="+49 1511 2345601")
    assert profile["addresses"] == ["anna@mail.example"]
    with pytest.raises(Conflict):
        await rig.do("remove_address", anna, address="anna@mail.example")
    with pytest.raises(NotFound):
        await rig.do("remove_address", anna, address=ANNA)
    assert await rig.sign_up(ANNA) != anna


async def test_an_address_of_another_user_is_theirs_and_only_its_owner_is_told(rig: UstRig) -> None:
    anna, bert = await rig.sign_up(ANNA, PHONE), await rig.sign_up(BERT, TABLET)
    answer = await rig.do("add_address", anna, PHONE, address=BERT)
    assert answer == await rig.do("add_address", anna, PHONE, address="+4915112345699")
    code = next(code for address, code in reversed(rig.phone.codes) if address == BERT)
    with pytest.raises(Conflict):
        await rig.do("confirm_address", anna, PHONE, address=BERT, code=code)
    assert rig.users.find_user(BERT) == bert


async def test_addresses_of_a_user_are_bounded() -> None:
    rig = rig_in_ram(addresses_per_user=1)
    anna = await rig.sign_up(ANNA)
    with pytest.raises(Conflict):
        await rig.do("add_address", anna, address=BERT)


def _other_than(code: str) -> str:
    return "000000" if code != "000000" else "000001"
