"""What waits for an app: callbacks that are cancelled, and recalls of what is queued."""

from __future__ import annotations

import asyncio

from scripted_gateway import Conversation, Hourglass, ScriptedGateway, notify

from gateway.client import Device, Item, Notification, Recall
from gateway.model import frames
from gateway.model.frames import FrameType, build_frame


def device(gateway: ScriptedGateway, **options) -> Device:
    return Device("127.0.0.1", gateway.port, sleep=Hourglass(), random=lambda: 0.5, **options)


async def confirmed(talk: Conversation, count: int) -> list[int]:
    ids: list[int] = []
    while len(ids) < count:
        kind, body = await talk.next()
        ids += body if kind is FrameType.ACK else []
    return ids


async def test_a_callback_that_awaits_what_was_cancelled_is_one_that_failed():
    async def script(talk):
        await talk.login()
        await talk.bind("tok")
        talk.send(*(notify(i, "tok") for i in range(5)))
        assert await confirmed(talk, 5) == [0, 1, 2, 3, 4]
        await talk.expect_end()

    came: list[int] = []
    done = asyncio.Event()

    async def on_message(message: Notification) -> None:
        came.append(message.id)
        if message.id == 0:
            cancelled = asyncio.ensure_future(done.wait())
            cancelled.cancel()
            await cancelled
        if message.id == 4:
            done.set()

    async with ScriptedGateway(script) as gateway, device(gateway, queue=2) as phone:
        await phone.register("mail", "1", on_message=on_message)
        await asyncio.wait_for(done.wait(), 30)
        assert came == [0, 1, 2, 3, 4]
        assert phone.counters.callback_errors == 1


async def test_a_callback_that_is_cancelled_itself_ends():
    async def script(talk):
        await talk.login()
        await talk.bind("tok")
        talk.send(notify(0, "tok"))
        await talk.expect(FrameType.ACK)
        await talk.expect_end()

    begun, never = asyncio.Event(), asyncio.Event()

    async def on_message(_: Notification) -> None:
        begun.set()
        await never.wait()

    async with ScriptedGateway(script) as gateway, device(gateway) as phone:
        await phone.register("mail", "1", on_message=on_message)
        await asyncio.wait_for(begun.wait(), 30)
        (worker,) = phone._workers
        worker.cancel()
        await asyncio.wait([worker])
        assert worker.cancelled()
        assert phone.counters.callback_errors == 0


async def test_what_a_recall_moves_up_in_the_queue_is_confirmed():
    recalled = asyncio.Event()

    async def script(talk):
        await talk.login()
        await talk.bind("tok")
        fetch = await talk.expect(FrameType.FETCH)
        talk.send(*(notify(i, "tok") for i in range(4)))
        assert await confirmed(talk, 2) == [0, 1]  # what is inside the limit
        talk.send(build_frame(FrameType.RECALL, [0]))
        assert await confirmed(talk, 1) == [2]
        recalled.set()
        assert await confirmed(talk, 1) == [3]
        talk.send(build_frame(FrameType.FETCHED, frames.Fetched(req=fetch.req, count=4)))
        await talk.expect_end()

    async with ScriptedGateway(script) as gateway, device(gateway, queue=2) as phone:
        app = await phone.register("mail", "1")
        fetching = asyncio.create_task(app.fetch())  # an answer is waited for, so reading goes on
        await asyncio.wait_for(recalled.wait(), 30)
        came: list[Item] = [await anext(app) for _ in range(4)]
        assert [item.id for item in came] == [1, 2, 3, 0]
        assert isinstance(came[-1], Recall)
        assert (await fetching).count == 4
