"""A user's profile, mailbox and end."""

from __future__ import annotations

import asyncio

import pytest
from im_ust_rig import ANNA, BERT, CARL, UstRig, rig_in_ram

from gateway.model.errors import BadRequest, Conflict, NotConfigured, NotFound, TooManyRequests
from gateway.model.im_people import FriendState, ItemKind, build_user_id

PHONE = b"p" * 16
FORM = {"address": "anna@paper.example", "password": "open sesame"}


async def test_what_is_not_said_stays(rig: UstRig) -> None:
    anna = await rig.sign_up(ANNA, name="Anna")
    assert (await rig.do("change_profile", anna, is_discoverable=True))["name"] == "Anna"
    profile = await rig.do("change_profile", anna, name="")
    assert (profile["name"], profile["is_discoverable"]) == ("", True)
    with pytest.raises(BadRequest):
        await rig.do("change_profile", anna, name="Anna\u202e")


async def test_two_who_want_the_same_mailbox_at_once_get_it_once(rig: UstRig) -> None:
    anna, bert = await rig.sign_up(ANNA), await rig.sign_up(BERT)
    results = await asyncio.gather(
        rig.do("change_profile", anna, mailbox="Sun.Flower"),
        rig.do("change_profile", bert, mailbox="sun.flower"),
        return_exceptions=True,
    )
    assert results[0]["mailbox"] == "sun.flower@here.example"
    assert isinstance(results[1], Conflict)
    assert results[1].field == "mailbox"
    assert rig.users.find_mailbox("sun.flower") == anna
    assert rig.users.user(bert).mailbox == ""


async def test_a_mailbox_is_chosen_once(rig: UstRig) -> None:
    anna = await rig.sign_up(ANNA)
    await rig.do("change_profile", anna, mailbox="anna")
    await rig.do("change_profile", anna, mailbox="ANNA")
    with pytest.raises(Conflict):
        await rig.do("change_profile", anna, mailbox="anne")
    for name in ("postmaster", "a b", "-a", "a..b", "a@b", "ä"):
        with pytest.raises(BadRequest):
            await rig.do("change_profile", await rig.sign_up(BERT), mailbox=name)
        rig.now_ms += 3_600_000


async def test_names_of_mailboxes_can_not_be_tried_without_end() -> None:
    rig = rig_in_ram(mailbox_tries_per_day=3)
    anna, bert = await rig.sign_up(ANNA), await rig.sign_up(BERT)
    await rig.do("change_profile", anna, mailbox="anna")
    for _ in range(3):
        with pytest.raises(Conflict):
            await rig.do("change_profile", bert, mailbox="anna")
    with pytest.raises(TooManyRequests):
        await rig.do("change_profile", bert, mailbox="anna")


async def test_without_a_domain_there_are_no_mailboxes() -> None:
    rig = rig_in_ram(mail_domain="")
    anna = await rig.sign_up(ANNA)
    with pytest.raises(NotConfigured, match="mail_domain"):
        await rig.do("change_profile", anna, mailbox="anna")
    assert "mailbox" not in await rig.do("profile", anna)


async def test_who_goes_takes_everything_along(rig: UstRig) -> None:
    anna, bert, carl = [await rig.sign_up(one, name=one[-1]) for one in (ANNA, BERT, CARL)]
    await rig.sign_up(ANNA, PHONE)
    await rig.do("change_profile", anna, mailbox="anna")
    await rig.befriend(anna, bert)
    await rig.do("ask_friend", anna, to=build_user_id(carl))
    account = await rig.do("bind", anna, network="paper", name="paper", credentials=FORM)
    group = await rig.do("create_group", anna, name="garden", members=[build_user_id(bert)])
    for user in (anna, bert, carl):
        rig.told(user)
    await rig.do("remove_me", anna)
    assert rig.users.user(anna) is None
    assert rig.users.find_user(ANNA) is None
    assert rig.users.find_mailbox("anna") is None
    assert rig.users.signed_in(PHONE) is None
    assert rig.supervision.calls[-1] == ("unbound", account["number"])
    assert rig.devices[-2:] == [("out", PHONE, anna), ("gone", b"", anna)]
    assert rig.gate.owner(account["number"]) is None
    told = {item.kind: item for item in rig.told(bert)}
    assert (told[ItemKind.CONTACT].state, told[ItemKind.CONTACT].by.remote_id) == ("gone", build_user_id(anna))
    assert told[ItemKind.GROUP].state == "left"
    assert rig.told(carl) == []
    assert (await rig.do("friends", bert))["friends"] == (await rig.do("friends", carl))["friends"] == []
    left = await rig.do("group", bert, group=group["group"])
    assert (left["owner"], len(left["members"])) == (build_user_id(bert), 1)
    with pytest.raises(NotFound):
        await rig.do("profile", anna)
    assert await rig.sign_up(ANNA) != anna


async def test_an_account_bound_while_its_user_goes_is_cut_too() -> None:
    rig = rig_in_ram()
    anna, bert = await rig.sign_up(ANNA), await rig.sign_up(BERT)
    await rig.befriend(anna, bert)
    rig.users.holds = True
    going = asyncio.ensure_future(rig.do("remove_me", anna))
    await asyncio.sleep(0)
    account = await rig.do("bind", anna, network="paper", name="paper", credentials=FORM)
    rig.users.release()
    await going
    assert rig.supervision.calls == [("bound", account["number"]), ("unbound", account["number"])]


async def test_a_friend_who_is_gone_is_a_friend_of_nobody(rig: UstRig) -> None:
    anna, bert = await rig.sign_up(ANNA), await rig.sign_up(BERT)
    await rig.befriend(anna, bert)
    assert rig.users.friend(anna, bert).state is FriendState.FRIENDS
    await rig.do("remove_me", bert)
    with pytest.raises(NotFound):
        rig.gate.check_reachable(anna, bert)
    await rig.do("remove_friend", anna, user=build_user_id(bert))
