"""Ad-hoc groups: friends come in, everybody is told, somebody always owns it."""

from __future__ import annotations

import pytest
from im_ust_rig import ANNA, BERT, CARL, UstRig, rig_in_ram

from gateway.model.errors import BadRequest, Conflict, Forbidden, NotFound, TooManyRequests
from gateway.model.im import ConversationKind
from gateway.model.im_people import ItemKind, build_group_id, build_user_id, parse_group_id


async def _friends(rig: UstRig) -> tuple[bytes, bytes, bytes]:
    """Anna knows Bert, Bert knows Carl."""
    anna, bert, carl = [await rig.sign_up(number, name=number[-1]) for number in (ANNA, BERT, CARL)]
    await rig.befriend(anna, bert)
    await rig.befriend(bert, carl)
    for user in (anna, bert, carl):
        rig.told(user)
    return anna, bert, carl


def _ids(*users: bytes) -> list[str]:
    return [build_user_id(user) for user in users]


def _members(view: dict[str, list[dict[str, str]]]) -> list[str]:
    return [member["user"] for member in view["members"]]


async def test_a_group_grows_by_friends_of_its_members(rig: UstRig) -> None:
    anna, bert, carl = await _friends(rig)
    group = await rig.do("create_group", anna, name=" garden ", members=_ids(bert, bert, anna))
    assert (group["name"], group["owner"], _members(group)) == ("garden", build_user_id(anna), _ids(anna, bert))
    with pytest.raises(NotFound):
        await rig.do("add_members", anna, group=group["group"], members=_ids(carl))
    grown = await rig.do("add_members", bert, group=group["group"], members=_ids(carl))
    assert _members(grown) == _ids(anna, bert, carl)
    assert [item.state for item in rig.told(anna)] == ["created", "added"]
    (item,) = rig.told(carl)
    assert (item.kind, item.state, item.text, item.by.remote_id) == (
        ItemKind.GROUP,
        "added",
        "garden",
        build_user_id(bert),
    )
    assert (item.conversation.kind, item.conversation.remote_id) == (ConversationKind.ROOM, group["group"])
    assert rig.gate.own_group(carl, parse_group_id(group["group"])).name == "garden"
    assert [one["members"] for one in (await rig.do("groups", carl))["groups"]] == [3]
    # who is in it already is no news
    await rig.do("add_members", anna, group=group["group"], members=_ids(bert))
    assert rig.told(carl) == []


async def test_a_group_that_is_renamed_without_end_fills_no_log() -> None:
    rig = rig_in_ram(sends_per_minute=3)
    anna, bert, _ = await _friends(rig)
    group = (await rig.do("create_group", anna, name="garden", members=_ids(bert)))["group"]
    for name in ("yard", "park"):
        await rig.do("rename_group", anna, group=group, name=name)
    with pytest.raises(TooManyRequests):
        await rig.do("rename_group", anna, group=group, name="field")
    with pytest.raises(TooManyRequests):
        await rig.do("create_group", anna, name="other", members=_ids(bert))
    assert len(rig.told(bert)) == 3
    await rig.do("leave_group", anna, group=group)


async def test_the_owner_alone_renames_and_removes(rig: UstRig) -> None:
    anna, bert, carl = await _friends(rig)
    group = (await rig.do("create_group", bert, name="garden", members=_ids(anna, carl)))["group"]
    with pytest.raises(Forbidden):
        await rig.do("rename_group", anna, group=group, name="yard")
    with pytest.raises(Forbidden):
        await rig.do("remove_member", anna, group=group, user=build_user_id(carl))
    assert (await rig.do("rename_group", bert, group=group, name="yard"))["name"] == "yard"
    with pytest.raises(Conflict):
        await rig.do("remove_member", bert, group=group, user=build_user_id(bert))
    await rig.do("remove_member", bert, group=group, user=build_user_id(carl))
    assert [item.state for item in rig.told(carl)] == ["created", "renamed", "removed"]
    with pytest.raises(NotFound):
        await rig.do("remove_member", bert, group=group, user=build_user_id(carl))
    with pytest.raises(NotFound):
        await rig.do("group", carl, group=group)


async def test_the_next_one_owns_it_when_the_owner_leaves_and_the_last_one_ends_it(rig: UstRig) -> None:
    anna, bert, carl = await _friends(rig)
    group = (await rig.do("create_group", bert, name="garden", members=_ids(carl, anna)))["group"]
    await rig.do("leave_group", bert, group=group)
    assert (await rig.do("group", anna, group=group))["owner"] == build_user_id(carl)
    assert rig.told(bert)[-1].state == "left"
    for user in (anna, carl):
        await rig.do("leave_group", user, group=group)
    assert rig.users.group(parse_group_id(group)) is None
    assert (await rig.do("groups", carl))["groups"] == []


async def test_a_group_of_others_is_one_that_is_not_there(rig: UstRig) -> None:
    anna, bert, carl = await _friends(rig)
    group = (await rig.do("create_group", anna, name="garden", members=_ids(bert)))["group"]
    asks = {
        "group": {},
        "leave_group": {},
        "add_members": {"members": _ids(bert)},
        "rename_group": {"name": "x"},
        "remove_member": {"user": build_user_id(bert)},
    }
    told = set()
    for name, fields in asks.items():
        for one in (group, build_group_id(b"x" * 16)):
            with pytest.raises(NotFound) as caught:
                await rig.do(name, carl, group=one, **fields)
            told.add((caught.value.message, caught.value.field))
    assert len(told) == 1
    with pytest.raises(BadRequest):
        await rig.do("group", carl, group="garden")
    # a stranger, somebody who is no friend and nobody at all
    told = set()
    for other in (carl, b"x" * 16):
        with pytest.raises(NotFound) as caught:
            await rig.do("create_group", anna, name="x", members=_ids(other))
        told.add((caught.value.message, caught.value.field))
    assert len(told) == 1


async def test_groups_and_their_members_are_bounded() -> None:
    rig = rig_in_ram(group_members=2, groups_per_user=1)
    anna, bert, carl = await _friends(rig)
    with pytest.raises(Conflict):
        await rig.do("create_group", bert, name="x", members=_ids(anna, carl))
    group = (await rig.do("create_group", bert, name="x", members=_ids(anna)))["group"]
    with pytest.raises(Conflict):
        await rig.do("add_members", bert, group=group, members=_ids(carl))
    with pytest.raises(Conflict):
        await rig.do("create_group", bert, name="y")
    await rig.do("leave_group", bert, group=group)
    with pytest.raises(Conflict) as caught:
        await rig.do("create_group", bert, name="y", members=_ids(anna))
    assert caught.value.field == "members"


async def test_groups_come_in_pages(rig: UstRig) -> None:
    anna = await rig.sign_up(ANNA)
    made = [(await rig.do("create_group", anna, name=f"g{n}"))["group"] for n in range(3)]
    first = await rig.do("groups", anna, limit=2)
    second = await rig.do("groups", anna, limit=2, after=first["next"])
    assert [one["group"] for one in first["groups"] + second["groups"]] == sorted(made)
    assert "next" not in second
