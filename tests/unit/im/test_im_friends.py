"""Friend requests: what comes of them, and that nobody learns from one what the other did not say."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from im_ust_rig import ANNA, BERT, CARL, UstRig, rig_in_ram

from gateway.metrics.names import Metric
from gateway.model.errors import BadRequest, Conflict, GatewayError, NotFound, TooManyRequests
from gateway.model.im_people import FriendState, ItemKind, build_user_id

STRANGER = "+4915112345699"


async def _three(rig: UstRig) -> tuple[bytes, bytes, bytes]:
    one, two, three = [
        await rig.sign_up(number, name=number[-1], is_discoverable=True) for number in (ANNA, BERT, CARL)
    ]
    return one, two, three


async def _states(rig: UstRig, user: bytes) -> dict[str, str]:
    return {one["user"]: one["state"] for one in (await rig.do("friends", user))["friends"]}


async def test_a_request_by_number_is_told_and_accepted(rig: UstRig) -> None:
    anna, bert, _ = await _three(rig)
    await rig.do("ask_friend", anna, to="+49 1511 2345602", text="it is me")
    (item,) = rig.told(bert)
    assert (item.kind, item.by.remote_id, item.by.display, item.text) == (
        ItemKind.FRIEND_REQUEST,
        build_user_id(anna),
        "1",
        "it is me",
    )
    assert rig.told(anna) == []
    assert await _states(rig, anna) == {}  # what waits for another is listed for nobody
    assert await _states(rig, bert) == {build_user_id(anna): "waiting"}
    with pytest.raises(NotFound):
        rig.gate.check_reachable(anna, bert)
    await rig.do("answer_friend", bert, user=build_user_id(anna), accept=True)
    (item,) = rig.told(anna)
    assert (item.kind, item.state, item.by.remote_id) == (ItemKind.FRIEND_ANSWER, "accepted", build_user_id(bert))
    assert [item.kind for item in rig.told(bert)] == [ItemKind.CONTACT]
    assert await _states(rig, anna) == {build_user_id(bert): "friends"}
    assert rig.gate.check_reachable(anna, bert).user == bert
    assert rig.gate.check_reachable(bert, anna).user == anna


async def test_a_mailbox_and_an_id_reach_those_who_are_hidden_a_number_does_not(rig: UstRig) -> None:
    anna = await rig.sign_up(ANNA)
    bert = await rig.sign_up(BERT, mailbox="bert")
    for to, is_told in ((BERT, False), ("Bert@here.example", True), (build_user_id(bert), True)):
        await rig.do("ask_friend", anna, to=to)
        assert bool(rig.told(bert)) is is_told
        await rig.do("remove_friend", anna, user=build_user_id(bert))
    assert await _states(rig, bert) == {}


async def test_both_asked_and_so_both_are_friends(rig: UstRig) -> None:
    anna, bert, _ = await _three(rig)
    await asyncio.gather(rig.do("ask_friend", anna, to=BERT), rig.do("ask_friend", bert, to=ANNA))
    assert await _states(rig, anna) == {build_user_id(bert): "friends"}
    assert await _states(rig, bert) == {build_user_id(anna): "friends"}
    assert [item.kind for item in rig.told(anna)] == [ItemKind.FRIEND_ANSWER]


async def test_asking_again_is_no_news(rig: UstRig) -> None:
    anna, bert, _ = await _three(rig)
    for _ in range(3):
        await rig.do("ask_friend", anna, to=BERT)
    assert len(rig.told(bert)) == 1
    await rig.do("answer_friend", bert, user=build_user_id(anna), accept=True)
    await rig.do("ask_friend", anna, to=BERT)
    await rig.do("ask_friend", bert, to=ANNA)
    assert [item.kind for item in rig.told(bert)] == [ItemKind.CONTACT]


async def test_a_refusal_and_a_block_are_silence(rig: UstRig) -> None:
    anna, bert, carl = await _three(rig)
    await rig.do("ask_friend", anna, to=BERT)
    await rig.do("answer_friend", bert, user=build_user_id(anna), accept=False)
    await rig.do("block_friend", carl, user=build_user_id(anna))
    rig.told(bert)
    for to in (BERT, CARL):
        await rig.do("ask_friend", anna, to=to)
    assert rig.told(anna) == rig.told(bert) == rig.told(carl) == []
    assert await _states(rig, anna) == {}
    # the one who refused may ask later: the other has asked already
    await rig.do("ask_friend", bert, to=ANNA)
    assert await _states(rig, anna) == {build_user_id(bert): "friends"}


async def test_a_block_ends_a_friendship_as_a_removal_does(rig: UstRig) -> None:
    anna, bert, carl = await _three(rig)
    for other in (bert, carl):
        await rig.befriend(anna, other)
    rig.told(anna)
    await rig.do("block_friend", bert, user=build_user_id(anna))
    await rig.do("remove_friend", carl, user=build_user_id(anna))
    blocked, removed = rig.told(anna)
    assert (blocked.kind, blocked.state) == (removed.kind, removed.state) == (ItemKind.CONTACT, "gone")
    assert await _states(rig, anna) == {}
    with pytest.raises(NotFound):
        rig.gate.check_reachable(bert, anna)
    # who is blocked can not take the block away
    await rig.do("remove_friend", anna, user=build_user_id(bert))
    await rig.do("ask_friend", anna, to=BERT)
    assert await _states(rig, bert) == {build_user_id(anna): "blocked"}
    # who blocks can, and then one may be asked again
    await rig.do("remove_friend", bert, user=build_user_id(anna))
    await rig.do("ask_friend", anna, to=BERT)
    assert await _states(rig, bert) == {build_user_id(anna): "waiting"}


async def test_nobody_is_a_friend_of_themselves(rig: UstRig) -> None:
    anna = await rig.sign_up(ANNA, mailbox="anna", is_discoverable=True)
    for to in (ANNA, "anna@here.example", build_user_id(anna)):
        with pytest.raises(BadRequest):
            await rig.do("ask_friend", anna, to=to)
    with pytest.raises(BadRequest):
        await rig.do("block_friend", anna, user=build_user_id(anna))
    assert rig.users.friends(anna) == []


async def test_who_asks_learns_nothing_by_answer_by_list_or_by_work() -> None:
    rig = rig_in_ram()
    anna, bert, carl = await _three(rig)
    hidden = await rig.sign_up("+4915112345604")
    refuser = await rig.sign_up("+4915112345605", is_discoverable=True)
    await rig.do("block_friend", carl, user=build_user_id(anna))
    await rig.do("ask_friend", anna, to="+4915112345605")
    await rig.do("answer_friend", refuser, user=build_user_id(anna), accept=False)
    gone = await rig.sign_up("+4915112345606", is_discoverable=True)
    await rig.do("remove_me", gone)
    seen = []
    asked = [BERT, STRANGER, "+4915112345604", CARL, "+4915112345605", "+4915112345606"]
    asked += [build_user_id(one) for one in (bert, hidden, gone, b"x" * 16)]
    asked += ["bert@here.example", "bert@mail.example"]
    for to in asked:
        rig.users.calls.clear()
        before = await rig.do("friends", anna)
        rig.users.calls.clear()
        rig.log.calls.clear()
        answer = await rig.do("ask_friend", anna, to=to)
        calls = dict(rig.users.calls)
        looked_up = calls.pop("find_user", 0) + calls.pop("find_mailbox", 0)
        assert looked_up == (not to.startswith("user_"))
        # where somebody is told, that is the second write; else the first is taken back
        writes = calls.pop("put_friends") + calls.pop("remove_friends", 0) + rig.log.calls.pop("append", 0)
        seen.append((answer, await rig.do("friends", anna) == before, calls, writes))
    assert all(one == seen[0] for one in seen), seen
    assert seen[0][0] == {}
    assert rig.metrics.value(Metric.IM_FRIENDS, "nobody") == 10
    assert rig.told(hidden)[0].kind is ItemKind.FRIEND_REQUEST  # by the id alone


async def test_answers_come_in_steps_of_time_whoever_is_asked_for() -> None:
    rig = rig_in_ram(answer_step_s=0.05)
    anna, *_ = await _three(rig)
    loop = asyncio.get_running_loop()
    for to in (BERT, STRANGER):
        begun = loop.time()
        await rig.do("ask_friend", anna, to=to)
        assert loop.time() - begun >= 0.049


async def test_requests_of_a_day_are_bounded() -> None:
    rig = rig_in_ram(requests_per_day=2)
    anna, *_ = await _three(rig)
    await rig.do("ask_friend", anna, to=BERT)
    with pytest.raises(BadRequest):
        await rig.do("ask_friend", anna, to="nobody")  # costs nothing
    await rig.do("ask_friend", anna, to=STRANGER)
    with pytest.raises(TooManyRequests) as caught:
        await rig.do("ask_friend", anna, to=CARL)
    assert caught.value.after_ms > 0
    await rig.do("remove_me", anna)
    again = await rig.sign_up(ANNA)  # gives no second day
    with pytest.raises(TooManyRequests):
        await rig.do("ask_friend", again, to=CARL)


async def test_a_full_list_is_told_to_its_own_user_alone() -> None:
    rig = rig_in_ram(friends_per_user=1)
    anna, bert, carl = await _three(rig)
    await rig.befriend(anna, bert)
    rig.told(anna)
    answer = await rig.do("ask_friend", carl, to=ANNA)
    assert answer == await rig.do("ask_friend", carl, to=STRANGER)
    assert rig.told(anna) == []
    assert rig.metrics.value(Metric.IM_FRIENDS, "full") == 1
    with pytest.raises(Conflict):
        await rig.do("ask_friend", anna, to=CARL)
    with pytest.raises(Conflict):
        await rig.do("block_friend", anna, user=build_user_id(carl))


async def test_an_answer_needs_a_request(rig: UstRig) -> None:
    anna, bert, carl = await _three(rig)
    await rig.befriend(anna, carl)
    told = set()
    for user in (build_user_id(bert), build_user_id(carl), build_user_id(b"x" * 16)):
        for accept in (True, False):
            with pytest.raises(NotFound) as caught:
                await rig.do("answer_friend", anna, user=user, accept=accept)
            told.add((caught.value.message, caught.value.field))
    assert len(told) == 1
    for name in ("block_friend", "remove_friend"):
        assert await rig.do(name, anna, user=build_user_id(b"x" * 16)) == {}
    for text in ("x", "user_1", "user_" + "G" * 32):
        with pytest.raises(BadRequest):
            await rig.do("remove_friend", anna, user=text)


async def test_a_list_comes_in_pages(rig: UstRig) -> None:
    anna = await rig.sign_up(ANNA)
    others = [await rig.sign_up(f"+491511234580{n}") for n in range(5)]
    for other in others:
        await rig.befriend(anna, other)
    listed: list[Any] = []
    page = await rig.do("friends", anna, limit=2)
    while True:
        listed += page["friends"]
        if "next" not in page:
            break
        page = await rig.do("friends", anna, limit=2, after=page["next"])
    assert [one["user"] for one in listed] == sorted(map(build_user_id, others))


acts = st.lists(
    st.tuples(
        st.sampled_from(["ask_friend", "accept", "refuse", "remove_friend", "block_friend"]),
        st.permutations(range(3)).map(lambda order: order[:2]),
    ),
    max_size=25,
)


@settings(max_examples=60)
@given(acts)
def test_whatever_happens_friendship_is_mutual_and_blocks_hold(steps: list[tuple[str, list[int]]]) -> None:
    async def play() -> None:
        rig = rig_in_ram(requests_per_day=1_000)
        users = await _three(rig)
        blocks: set[tuple[bytes, bytes]] = set()
        for name, (one, other) in steps:
            me, them = users[one], users[other]
            is_blocked = (them, me) in blocks
            rig.told(them)
            fields: dict[str, Any] = {"user": build_user_id(them)}
            if name == "ask_friend":
                fields = {"to": build_user_id(them)}
            elif name in ("accept", "refuse"):
                fields["accept"] = name == "accept"
                name = "answer_friend"
            try:
                await rig.do(name, me, **fields)
            except GatewayError as refused:
                assert isinstance(refused, NotFound)  # noqa: PT017
            if name == "block_friend":
                blocks.add((me, them))
            elif name == "remove_friend":
                blocks.discard((me, them))
            if is_blocked:
                assert rig.told(them) == []
            for a in users:
                for b in users:
                    here, there = rig.users.friend(a, b), rig.users.friend(b, a)
                    are_friends = here is not None and here.state is FriendState.FRIENDS
                    assert are_friends is (there is not None and there.state is FriendState.FRIENDS)
                    assert (here is not None and here.state is FriendState.BLOCKED) is ((a, b) in blocks)
                    assert not (a == b and here)

    asyncio.run(play())
