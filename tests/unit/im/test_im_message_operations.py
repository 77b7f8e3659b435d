"""What a device or a REST call asks of messages, history and presence, by the operations that both doors run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from im_heart import Heart, now_ms, until

from gateway.im.operation import Caller, Operation
from gateway.im.operations.history import build_history_operations
from gateway.im.operations.messages import build_message_operations
from gateway.model.errors import GatewayError, InvalidField
from gateway.model.frames import FRAME_BYTES
from gateway.model.im import Befriend
from gateway.model.im_people import Item, ItemKind, build_user_id

Build = Callable[..., Heart]


class Door:
    """Runs operations by their names, from JSON to JSON, as a door does."""

    def __init__(self, heart: Heart, user: bytes) -> None:
        operations = [
            *build_message_operations(heart.outbox, heart.own),
            *build_history_operations(heart.log, heart.presence),
        ]
        self.operations: dict[str, Operation] = {operation.name: operation for operation in operations}
        assert len(self.operations) == len(operations)
        self._user = user

    async def ask(self, name: str, **fields: Any) -> Any:
        operation = self.operations[name]
        ask = msgspec.json.decode(msgspec.json.encode(fields), type=operation.ask)
        reply = await operation.run(Caller(self._user, None, now_ms()), ask)
        assert isinstance(reply, operation.reply)
        return msgspec.json.decode(msgspec.json.encode(reply))


async def test_a_message_is_sent_and_read_back_from_the_log(build_heart: Build) -> None:
    heart = build_heart()
    anna = heart.user("anna")
    number = heart.bind(anna, "sina")
    door = Door(heart, anna)
    answer = await door.ask(
        "send",
        to=[
            {"account": number, "conversation": "friend@there"},
            {"account": "sina", "conversation": "room", "kind": "room"},
            {"site": "sina"},
            {"account": "nothing", "conversation": "x"},
        ],
        text="hello",
        geo={"latitude": 48.2, "longitude": 16.3},
    )
    assert [one["state"] for one in answer["results"]] == ["accepted", "accepted", "accepted", "refused"]
    assert answer["results"][3]["error"] == "not_found"
    assert answer["results"][3]["field"] == "account"
    await until(lambda: len(heart.items(anna, ItemKind.RESULT)) == 3)
    page = await door.ask("history", after=0, limit=4)
    assert [item["cursor"] for item in page["items"]] == [1, 2, 3, 4]
    assert (page["more"], page["first"], page["last"]) == (True, 1, 6)
    page = await door.ask("history", after=4)
    assert [item["cursor"] for item in page["items"]] == [5, 6]
    assert page["more"] is False
    assert (await door.ask("history", after=6))["items"] == []


async def test_acts_are_answered_with_the_number_of_their_result(build_heart: Build) -> None:
    heart = build_heart()
    anna = heart.user("anna")
    number = heart.bind(anna, "sina")
    door = Door(heart, anna)
    numbers = [
        (await door.ask("befriend", account=str(number), remote_id="b", text="hi"))["number"],
        (await door.ask("answer", account=number, remote_id="b", accept=True))["number"],
        (await door.ask("join_room", account=number, room="r"))["number"],
        (await door.ask("leave_room", account="sina", room="r"))["number"],
        (await door.ask("mark_read", account=number, conversation="c", remote_id="r1"))["number"],
    ]
    await until(lambda: len(heart.items(anna, ItemKind.RESULT)) == 5)
    assert [outgoing for outgoing, _, _ in heart.results(anna)] == numbers
    assert heart.box("sina").acts[0] == Befriend("b", "hi")
    await door.ask("typing", account=number, conversation="c")
    await until(lambda: len(heart.box("sina").acts) == 6)


async def test_own_im_needs_no_account(build_heart: Build) -> None:
    heart = build_heart()
    anna, bert = heart.user("anna"), heart.user("bert")
    heart.befriend(anna, bert)
    heart.door.come(b"bert")
    door = Door(heart, anna)
    (result,) = (await door.ask("send", to=[{"user": build_user_id(bert)}], text="hello"))["results"]
    assert result["state"] == "sent"
    theirs = Door(heart, bert)
    read = {"account": 0, "conversation": build_user_id(anna), "remote_id": result["remote_id"]}
    assert await theirs.ask("mark_read", **read) == {}
    await door.ask("typing", account=0, conversation=build_user_id(bert), is_typing=False)
    assert [item.state for item in heart.pushes.told[b"bert"]] == ["paused"]
    assert [item.kind for item in heart.log.items[anna]] == ["message", "read"]
    assert await door.ask("presence") == {"available": [build_user_id(bert)]}


@pytest.mark.parametrize(
    "fields",
    [
        {"to": [], "text": "x"},
        {"to": [{"account": 1, "conversation": "x"}], "text": "x", "more": 1},
        {"to": [{"account": -1, "conversation": "x"}], "text": "x"},
        {"to": [{"account": 1, "conversation": "x", "kind": "crowd"}], "text": "x"},
    ],
)
async def test_what_is_no_ask_is_told_so(build_heart: Build, fields: dict[str, Any]) -> None:
    heart = build_heart()
    with pytest.raises(msgspec.ValidationError):
        await Door(heart, heart.user("anna")).ask("send", **fields)


async def test_places_outside_the_globe_are_none(build_heart: Build) -> None:
    heart = build_heart()
    door = Door(heart, heart.user("anna"))
    with pytest.raises(InvalidField) as caught:
        await door.ask("send", to=[{"site": "x"}], geo={"latitude": 91.0, "longitude": 0.0})
    assert caught.value.field == "geo"
    with pytest.raises(GatewayError):
        await door.ask("typing", account=0, conversation="nobody")


async def test_nothing_that_was_asked_is_shown_by_a_repr(build_heart: Build) -> None:
    operations = Door(build_heart(), b"u" * 16).operations
    ask = msgspec.json.decode(
        b'{"to": [{"account": "hush", "conversation": "hush"}], "text": "hush"}', type=operations["send"].ask
    )
    assert "hush" not in repr(ask)
    assert "hush" not in repr(ask.to)


async def test_a_page_of_long_items_fits_a_frame_and_the_next_goes_on(build_heart: Build) -> None:
    heart = build_heart()
    anna = heart.user("anna")
    texts = ["x" * 30_000, "y" * 200_000, *("z" * 900 for _ in range(200))]
    heart.log.append(anna, [Item(ItemKind.CONTACT, 0, text=text) for text in texts])
    door, found, sizes = Door(heart, anna), [], []
    page = await door.ask("history", limit=500)
    while True:
        sizes.append(len(msgspec.msgpack.encode(page)))
        found += page["items"]
        if not page["more"]:
            break
        page = await door.ask("history", after=found[-1]["cursor"], limit=500)
    assert [item["text"] for item in found] == texts
    # one that is larger than a frame comes alone: it is for REST
    assert sorted(sizes)[-2] < FRAME_BYTES < sorted(sizes)[-1]
    assert len(sizes) < 8
