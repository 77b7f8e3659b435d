"""Clauses D1 to D11 without any network of others: our own users among themselves, on a gateway with IM and an SMSC for
its codes; one function a row, raises Failed where it does not hold."""

from __future__ import annotations

from gateway.model.errors import GatewayError
from gateway.model.im_people import ItemKind
from gateway.tour.fleet import Fleet
from gateway.tour.im_scene import Person, im_scene
from gateway.tour.stage import Stage, check


async def group(_stage: Stage, _fleet: Fleet) -> str:
    """D5: ad-hoc group chat among our own users."""
    async with im_scene() as scene:
        ann, bob = await scene.friends()
        cid = await scene.person("Cid", "+491511234569")
        await ann.im.ask("ask_friend", to=cid.user)
        await scene.until(lambda: cid.of(ItemKind.FRIEND_REQUEST), "the friend request")
        await cid.im.ask("answer_friend", user=ann.user, accept=True)
        await scene.until(lambda: len(ann.of(ItemKind.FRIEND_ANSWER)) == 2, "the answer to it")
        made = await ann.im.ask("create_group", name="Ausflug", members=[bob.user, cid.user])
        room = {"group": made["group"]}
        await scene.until(lambda: bob.of(ItemKind.GROUP) and cid.of(ItemKind.GROUP), "the group at its members")
        for number in range(5):
            for person in (ann, bob, cid):
                await person.im.send(room, f"{person.name} {number}")
        everybody = (ann, bob, cid)
        await scene.until(lambda: all(len(one.messages()) == 10 for one in everybody), "what the others said")
        for person in everybody:
            order = [item.envelope.text for item in person.messages() if item.envelope is not None]
            for other in (ann, bob, cid):
                said = [text for text in order if text.startswith(other.name)]
                check(said == sorted(said), f"{person.name} heard {other.name} in another order: {said}")
        await bob.im.ask("leave_group", group=made["group"])
        await ann.im.send(room, "after")
        await scene.until(lambda: len(cid.messages()) == 11, "what was said after")
        check(len(bob.messages()) == 10, "who has left heard more")
        scene.check_private("Ausflug", "after")
    return "a group of three: 15 messages to each of the two others, each sender's in order; who left heard no more"


async def address_book(_stage: Stage, _fleet: Fleet) -> str:
    """D9: which of these numbers are registered users; only those who want to be found."""
    async with im_scene() as scene:
        ann, bob = await scene.person("Ann", "+491511234567"), await scene.person("Bob", "+491511234568")
        numbers = [f"+49151{5_550_000 + number}" for number in range(200)]
        asked = {"numbers": [*numbers, bob.number, "no number"]}
        before = await ann.im.ask("find_contacts", **asked)
        check(not before["found"], "somebody was found who did not say that they may be")
        await bob.im.ask("change_profile", is_discoverable=True)
        after = await ann.im.ask("find_contacts", **asked)
        found = [(one["number"], one["user"]) for one in after["found"]]
        check(found == [(bob.number, bob.user)], f"found: {len(found)} users")
        check(after["unreadable"] == [201], "what is no number is not said")
        scene.check_private()
    return "201 numbers and one that is none: nobody before Bob said that he may be found, then Bob alone"


async def receipts(_stage: Stage, _fleet: Fleet) -> str:
    """D10: the sender is told that it was delivered and read, offline delivery too."""
    async with im_scene() as scene:
        ann, bob = await scene.friends()
        (verdict,) = await ann.im.send({"user": bob.user}, "Bist du da?")
        await scene.until(bob.messages, "the message")
        await scene.until(lambda: ann.of(ItemKind.DELIVERED), "that it was delivered")
        await bob.im.typing(0, ann.user)
        await scene.until(lambda: [item for item in ann.told if item.state == "typing"], "that Bob types")
        await bob.im.mark_read(0, ann.user, verdict["remote_id"])

        def read_by_bob() -> bool:
            return any(item.by is not None and item.by.remote_id == bob.user for item in ann.of(ItemKind.READ))

        await scene.until(read_by_bob, "that it was read")
        await bob.leave()
        await scene.until(lambda: [item for item in ann.told if item.state == "away"], "that Bob is away")
        for number in range(20):
            await ann.im.send({"user": bob.user}, f"away {number}")
        check(len(ann.of(ItemKind.DELIVERED)) == 1, "what nobody has was said to be delivered")
        await bob.come()
        await scene.until(lambda: len(bob.messages()) == 21, "what was kept for Bob")
        await scene.until(lambda: len(ann.of(ItemKind.DELIVERED)) == 21, "that the rest was delivered")
        texts = [item.envelope.text for item in bob.messages() if item.envelope is not None]
        check(texts[1:] == [f"away {number}" for number in range(20)], "what was kept came in another order")
        scene.check_private("Bist du da", "away 7")
    return "delivered, typing, read; 20 messages to a device that was away came in order when it was back"


async def friends(_stage: Stage, _fleet: Fleet) -> str:
    """D11: mutual friend requests by number or service mailbox, accepted or refused."""
    settings = ("im.mail_domain=im.test",)
    async with im_scene(settings=settings) as scene:
        ann, bob = await scene.person("Ann", "+491511234567"), await scene.person("Bob", "+491511234568")
        await bob.im.ask("change_profile", mailbox="bob")
        check(not await _may_write(ann, bob), "strangers may write to each other")
        nobody = await ann.im.ask("ask_friend", to="+4915100000000")
        absent = await ann.im.ask("ask_friend", to="nobody@im.test")
        there = await ann.im.ask("ask_friend", to="bob@im.test", text="Ann hier")
        check(nobody == absent == there, "the answer tells whether somebody is a user")
        await scene.until(lambda: bob.of(ItemKind.FRIEND_REQUEST), "the request")
        await bob.im.ask("answer_friend", user=ann.user, accept=False)
        check(not await _may_write(ann, bob), "who was refused may write")
        check(not ann.of(ItemKind.FRIEND_ANSWER), "who was refused was told")
        await bob.im.ask("ask_friend", to=ann.number)
        # Ann still asks: now both have
        await scene.until(lambda: ann.of(ItemKind.FRIEND_ANSWER), "that both asked")
        check(await _may_write(ann, bob) and await _may_write(bob, ann), "friends may not write to each other")
        try:
            await ann.im.ask("ask_friend", to=ann.number)
        except GatewayError as exc:
            check(exc.field == "to", f"a request to oneself: {exc.message}")
        else:
            check(False, "one may be one's own friend")
        scene.check_private("Ann hier")
    return (
        "by service mailbox, refused in silence; by number the other way, and both are friends; "
        "absent and there get the same answer; not to oneself"
    )


async def _may_write(one: Person, other: Person) -> bool:
    (verdict,) = await one.im.send({"user": other.user}, "?")
    return bool(verdict["state"] == "sent")


CLAUSES = {
    "D5": ("ad-hoc group chat", group),
    "D9": ("which numbers are users", address_book),
    "D10": ("delivered, read, typing, away", receipts),
    "D11": ("friend requests, both ways", friends),
}
