"""The asyncio Device against a scripted gateway over real TCP; sleep and random are handed in."""

from __future__ import annotations

import asyncio
import logging
import socket

import msgspec
import pytest
from scripted_gateway import Conversation, Hourglass, ScriptedGateway, error, goaway, notify, token, welcome

from gateway.client import (
    AckPolicy,
    Connection,
    Credentials,
    Device,
    DeviceClosed,
    DeviceState,
    Fetched,
    FileCredentials,
    LinkLost,
    MemoryCredentials,
    Notification,
    Recall,
    RegistrationEnded,
    Tip,
)
from gateway.model import errors, frames
from gateway.model.frames import FrameType, build_frame


@pytest.fixture(autouse=True)
async def no_leaked_tasks():
    yield
    for _ in range(5):  # sockets closed by a test get their connection_lost
        await asyncio.sleep(0)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, f"leaked tasks: {left}"


def device(gateway: ScriptedGateway, **options) -> Device:
    options.setdefault("sleep", Hourglass())
    options.setdefault("random", lambda: 0.5)
    return Device("127.0.0.1", gateway.port, **options)


async def stay(talk: Conversation) -> None:
    await talk.expect_end()


# --- login -----------------------------------------------------------------------------------------------------------


async def test_the_issued_secret_is_kept_and_presented_at_the_next_start(tmp_path):
    async def first(talk):
        hello = await talk.login(device="lamp~xyz", secret=b"s1")
        assert (hello.v, hello.device, hello.secret) == (1, "lamp", b"")
        await stay(talk)

    async def second(talk):
        hello = await talk.login(device="lamp~xyz", secret=b"s2")  # the server key was rotated
        assert (hello.device, hello.secret) == ("lamp~xyz", b"s1")
        await stay(talk)

    async def third(talk):
        hello = await talk.login(device="lamp~xyz")
        assert (hello.device, hello.secret) == ("lamp~xyz", b"s2")
        await stay(talk)

    path = tmp_path / "device.json"
    async with ScriptedGateway(first, second, third) as gateway:
        for secret in (b"s1", b"s2", b"s2"):
            async with device(gateway, label="lamp", store=FileCredentials(path)) as phone:
                await phone.connected()
                assert phone.id == "lamp~xyz"
                while await FileCredentials(path).load() != Credentials("lamp~xyz", secret):
                    await asyncio.sleep(0.001)
    assert await FileCredentials(path).load() == Credentials("lamp~xyz", b"s2")  # a WELCOME without one changes none


async def test_a_signed_token_is_asked_for_before_each_login():
    asked = 0

    async def provider() -> str:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise RuntimeError("the identity service is away")
        return f"jwt-{asked}"

    async def first(talk):
        hello = await talk.login(device="sub")
        assert (hello.jwt, hello.device, hello.secret) == ("jwt-1", "", b"")
        talk.abort()

    async def second(talk):
        assert (await talk.login(device="sub")).jwt == "jwt-3"
        await stay(talk)

    sleep = Hourglass()
    async with ScriptedGateway(first, second) as gateway:
        logging.getLogger("gateway.client").disabled = True
        try:
            async with device(gateway, jwt=provider, sleep=sleep) as phone:
                async for state in phone.states():
                    if state.connection is Connection.ONLINE and asked == 3:
                        break
                assert phone.counters.callback_errors == 1
        finally:
            logging.getLogger("gateway.client").disabled = False
    assert sleep.delays == pytest.approx([1.0, 1.8])


@pytest.mark.parametrize("kind", [errors.Unauthorized, errors.UnsupportedVersion])
async def test_a_refused_login_stops_the_device_with_a_typed_error(kind):
    async def refuse(talk):
        await talk.expect(FrameType.HELLO)
        talk.send(error(kind))

    states: list[DeviceState] = []
    async with ScriptedGateway(refuse) as gateway, device(gateway, on_state=states.append) as phone:
        with pytest.raises(kind):
            await phone.register("mail", "1")
        with pytest.raises(kind):
            await phone.connected()
        with pytest.raises(kind):
            await phone.set_urgency(1)
    assert [s.connection.value for s in states] == ["connecting", "login", "stopped"]
    assert type(phone.error) is kind


async def test_an_unreadable_credential_store_stops_the_device(tmp_path):
    path = tmp_path / "device.json"
    path.write_bytes(b"{")
    async with ScriptedGateway() as gateway, device(gateway, store=FileCredentials(path)) as phone:
        with pytest.raises(ValueError, match="no credentials file"):
            await phone.connected()


async def test_a_store_that_can_not_be_written_costs_nothing_but_a_counter(caplog):
    class Broken(MemoryCredentials):
        async def save(self, credentials: Credentials) -> None:
            raise OSError("disk full")

    async def script(talk):
        await talk.login(device="d~1", secret=b"topsecret")
        await talk.bind("tok")
        await stay(talk)

    async with ScriptedGateway(script) as gateway, device(gateway, store=Broken()) as phone:
        await phone.register("mail", "1")
        assert phone.counters.credentials_unsaved == 1
        assert phone.id == "d~1"
    assert "topsecret" not in caplog.text
    assert "d~1" not in caplog.text


# --- coming back -----------------------------------------------------------------------------------------------------


async def test_takeover_stops_the_device():
    async def script(talk):
        await talk.login()
        await talk.bind("tok")
        talk.send(goaway(errors.Takeover))
        await talk.expect_end()

    sleep = Hourglass()
    async with ScriptedGateway(script) as gateway, device(gateway, sleep=sleep) as phone:
        registration = await phone.register("mail", "1")
        assert [item async for item in registration] == []  # ends with the device
        assert isinstance(phone.error, errors.Takeover)
    assert sleep.delays == []


async def test_goaway_is_honoured_to_the_millisecond_and_everything_registered_again():
    async def first(talk):
        await talk.login()
        await talk.bind("t-mail")
        await talk.bind("t-chat")
        talk.send(goaway(errors.Draining, after_ms=2000, jitter_ms=8000))
        await talk.expect_end()

    async def second(talk):
        await talk.login()
        bound = [await talk.bind("t-mail"), await talk.bind("t-chat")]
        assert [(r.app, r.version, r.account, r.keep, r.alias, r.tags) for r in bound] == [
            ("mail", "1", "anna", False, "a1", ["x"]),
            ("chat", "2", "", True, None, None),
        ]
        talk.send(notify(1, "t-mail"))
        assert await talk.expect(FrameType.ACK) == [1]
        await stay(talk)

    sleep = Hourglass()
    got = asyncio.Event()
    async with ScriptedGateway(first, second) as gateway, device(gateway, sleep=sleep) as phone:
        await phone.register("mail", "1", account="anna", alias="a1", tags=["x"], on_message=lambda n: got.set())
        await phone.register("chat", "2", keep=True)
        await got.wait()
    assert sleep.delays == [6.0]


async def test_cuts_are_retried_with_growing_pauses():
    async def cut(talk):
        await talk.expect(FrameType.HELLO)
        talk.abort()

    async def stays(talk):
        await talk.login()
        await stay(talk)

    sleep = Hourglass()
    states: list[DeviceState] = []
    gateway = ScriptedGateway(cut, cut, cut, stays)
    async with gateway, device(gateway, sleep=sleep, on_state=states.append) as phone:
        await phone.connected()
    assert sleep.delays == pytest.approx([1.0, 1.8, 3.24])
    waiting = [s for s in states if s.connection is Connection.WAITING]
    assert [s.retry_s for s in waiting] == sleep.delays
    assert all(isinstance(s.error, LinkLost) for s in waiting)


async def test_an_unreachable_gateway_is_tried_again():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        sleep = Hourglass(run=False)
        async with Device("127.0.0.1", port, sleep=sleep, random=lambda: 0.5) as phone:
            await sleep.asked.wait()
            assert phone.state.connection is Connection.WAITING
            assert phone.counters.cuts == 0


async def test_a_gateway_that_sends_rubbish_is_left_and_tried_again():
    async def rubbish(talk):
        await talk.login()
        talk.send(b"\x08\xff\xff\xff\xff\xff")
        await talk.expect_end()

    async def stays(talk):
        await talk.login()
        await stay(talk)

    async with ScriptedGateway(rubbish, stays) as gateway, device(gateway) as phone:
        async for state in phone.states():
            if state.connection is Connection.WAITING:
                assert isinstance(state.error, errors.MalformedFrame)
                break
        await phone.connected()
        assert phone.counters.broken_links == 1


async def test_a_gateway_that_says_goaway_at_once_is_understood():
    async def away(talk):
        talk.send(goaway(errors.Overloaded, after_ms=1000))

    async def stays(talk):
        await talk.login()
        await stay(talk)

    sleep = Hourglass()
    async with ScriptedGateway(away, stays) as gateway, device(gateway, sleep=sleep) as phone:
        await phone.connected()
    assert len(sleep.delays) == 1


# --- registrations ---------------------------------------------------------------------------------------------------


async def test_a_refused_registration_raises_and_the_link_goes_on():
    async def script(talk):
        await talk.login()
        register = await talk.expect(FrameType.REGISTER)
        talk.send(error(errors.UnknownApp, req=register.req))
        await talk.bind("tok")
        await stay(talk)

    async with ScriptedGateway(script) as gateway, device(gateway) as phone:
        with pytest.raises(errors.UnknownApp):
            await phone.register("nobody", "1")
        registration = await phone.register("mail", "1")
        assert (registration.token, registration.active) == ("tok", True)


async def test_account_switch_ends_the_old_registration():  # A5
    release = asyncio.Event()

    async def script(talk):
        await talk.login()
        await talk.bind("t-old")
        talk.send(*(notify(i, "t-old") for i in range(5)))
        assert await talk.expect(FrameType.ACK) == [0, 1, 2, 3, 4]
        await talk.bind("t-new")
        talk.send(notify(10, "t-old"), notify(11, "t-new"))
        assert await talk.expect(FrameType.ACK) == [11]
        await stay(talk)

    seen: list[tuple[str, int]] = []
    first, second = asyncio.Event(), asyncio.Event()

    async def slow(n: Notification) -> None:
        seen.append((n.account, n.id))
        first.set()
        await release.wait()

    def quick(n: Notification) -> None:
        seen.append((n.account, n.id))
        second.set()

    async with ScriptedGateway(script) as gateway, device(gateway) as phone:
        old = await phone.register("mail", "1", account="old", on_message=slow)
        await first.wait()
        while old.queued < 4:
            await asyncio.sleep(0)
        await phone.register("mail", "1", account="new", on_message=quick)
        assert not old.active
        release.set()
        await second.wait()
        with pytest.raises(RegistrationEnded):
            await old.fetch()
        assert phone.counters.discarded == 4
        assert phone.counters.unbound == 1
    assert seen == [("old", 0), ("new", 11)]


async def test_what_was_dropped_is_confirmed_and_not_handed_out_later():
    """It was for somebody else, who used the same registration (an IM user who signed out)."""

    async def script(talk):
        await talk.login()
        await talk.bind("tok")
        talk.send(*(notify(i, "tok", title="t") for i in range(6)))
        confirmed = []
        while len(confirmed) < 6:
            kind, body = await talk.next()
            confirmed += body if kind is FrameType.ACK else []
        assert confirmed == [0, 1, 2, 3, 4, 5]
        await stay(talk)

    async with ScriptedGateway(script) as gateway, device(gateway, queue=4) as phone:
        app = await phone.register("mail", "1", foreground=False)
        waiting = asyncio.create_task(phone.set_urgency(1))  # an answer is waited for, so reading goes on
        while app.queued < 6:
            await asyncio.sleep(0)
        app.drop()
        assert app.queued == 0
        assert phone.counters.discarded == 12  # tips, and the messages behind them
        app.set_foreground(True)
        while phone.counters.acks < 6:
            await asyncio.sleep(0)
        assert app.queued == 0
        waiting.cancel()


async def test_unregister_and_forget():
    async def script(talk):
        await talk.login()
        await talk.bind("tok")
        leave = await talk.expect(FrameType.UNREGISTER)
        assert (leave.token, leave.forget) == ("tok", True)
        talk.send(build_frame(FrameType.DONE, frames.Done(req=leave.req)))
        await stay(talk)

    async with ScriptedGateway(script) as gateway, device(gateway) as phone:
        registration = await phone.register("mail", "1")
        await registration.unregister(forget=True)
        await registration.unregister()
        assert not registration.active
        assert [i async for i in registration] == []


async def test_the_same_account_again_changes_the_registration_there_is():
    async def script(talk):
        await talk.login()
        await talk.bind("tok")
        again = await talk.bind("tok")
        assert (again.version, again.tags) == ("2", ["beta"])
        await stay(talk)

    async with ScriptedGateway(script) as gateway, device(gateway) as phone:
        registration = await phone.register("mail", "1")
        assert await phone.register("mail", "2", tags=["beta"]) is registration
        assert registration.version == "2"


async def test_a_replaced_token_is_told():
    async def first(talk):
        await talk.login()
        await talk.bind("t1")
        talk.abort()

    async def second(talk):
        await talk.login()
        await talk.bind("t2")
        await stay(talk)

    told: asyncio.Queue[str] = asyncio.Queue()
    async with ScriptedGateway(first, second) as gateway, device(gateway) as phone:
        registration = await phone.register("mail", "1", on_token=told.put_nowait)
        assert await told.get() == "t2"
        assert registration.token == "t2"


async def test_a_cancelled_registration_is_taken_back():
    asked = asyncio.Event()

    async def script(talk):
        await talk.login()
        register = await talk.expect(FrameType.REGISTER)
        asked.set()
        await gone.wait()
        talk.send(token(register.req, "late"))
        assert (await talk.expect(FrameType.UNREGISTER)).token == "late"
        taken_back.set()
        await stay(talk)

    gone, taken_back = asyncio.Event(), asyncio.Event()
    async with ScriptedGateway(script) as gateway, device(gateway) as phone:
        task = asyncio.create_task(phone.register("mail", "1"))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gone.set()
        await taken_back.wait()


# --- notifications ---------------------------------------------------------------------------------------------------


async def test_messages_are_acked_on_receipt_deduped_and_come_from_the_gateway():
    async def script(talk):
        await talk.login()
        await talk.bind("tok")
        talk.send(notify(1, "tok", title="a", data=msgspec.Raw(b"\x81\xa1k\x01")), notify(2, app="mail", title="b"))
        assert await talk.expect(FrameType.ACK) == [1, 2]
        talk.send(notify(1, "tok", title="a"), notify(3, "tok"))
        assert await talk.expect(FrameType.ACK) == [1, 3]
        await stay(talk)

    async with ScriptedGateway(script) as gateway, device(gateway) as phone:
        registration = await phone.register("mail", "1", account="anna")
        items = [await anext(registration) for _ in range(3)]
        assert [(n.id, n.title, n.data, n.broadcast, n.channel, n.account) for n in items] == [
            (1, "a", {"k": 1}, False, "edge", "anna"),
            (2, "b", None, True, "edge", "anna"),
            (3, "", None, False, "edge", "anna"),
        ]
        assert "anna" not in repr(items)
        assert "tok" not in repr(items)


async def test_on_display_only_what_was_shown_is_acked():
    async def script(talk):
        await talk.login()
        await talk.bind("tok")
        talk.send(notify(1, "tok"), notify(2, "tok"))
        assert await talk.expect(FrameType.SHOWN) == [2]
        await stay(talk)

    async with ScriptedGateway(script) as gateway, device(gateway) as phone:
        registration = await phone.register("mail", "1", ack=AckPolicy.DISPLAY)
        _, second = await anext(registration), await anext(registration)
        second.shown()
        second.shown()
        while not phone.counters.shown:
            await asyncio.sleep(0)


async def test_background_tips_then_messages_in_the_foreground_bodies_fetched():  # B2, B6
    async def script(talk):
        await talk.login()
        await talk.bind("tok")
        assert (await talk.expect(FrameType.STATE)).foreground is False
        talk.send(
            notify(1, "tok", title="whole", data=msgspec.Raw(b"\x01")), notify(2, "tok", title="light", more=True)
        )
        assert await talk.expect(FrameType.ACK) == [1, 2]
        fetch, state = None, None
        for _ in range(2):
            kind, body = await talk.next()
            fetch, state = (body, state) if kind is FrameType.FETCH else (fetch, body)
        assert fetch.ids == [2]
        assert state.foreground is True
        talk.send(notify(2, "tok", title="light", data=msgspec.Raw(b"\x02")))
        talk.send(build_frame(FrameType.FETCHED, frames.Fetched(req=fetch.req, count=1)))
        assert await talk.expect(FrameType.WHOLE) == [2]
        await stay(talk)

    items: asyncio.Queue = asyncio.Queue()
    async with ScriptedGateway(script) as gateway, device(gateway) as phone:
        registration = await phone.register(
            "mail", "1", foreground=False, on_message=items.put_nowait, on_tip=items.put_nowait
        )
        tips = [await items.get(), await items.get()]
        assert all(isinstance(t, Tip) for t in tips)
        assert [t.title for t in tips] == ["whole", "light"]
        assert items.empty()
        phone.set_foreground("mail", True)
        assert registration.foreground
        messages = [await items.get(), await items.get()]
        assert [(type(m), m.id, m.data) for m in messages] == [(Notification, 1, 1), (Notification, 2, 2)]
        while phone.counters.acks < 3:
            await asyncio.sleep(0)


async def test_fetch_from_inside_a_callback_with_a_full_queue_does_not_lock_up():
    async def script(talk):
        await talk.login()
        await talk.bind("tok")
        talk.send(*(notify(i, "tok") for i in range(8)))
        acked: list[int] = []
        while True:
            kind, body = await talk.next()
            if kind is FrameType.FETCH:
                talk.send(build_frame(FrameType.FETCHED, frames.Fetched(req=body.req, count=0)))
                break
            acked += body
        while len(acked) < 8:
            acked += await talk.expect(FrameType.ACK)
        assert sorted(acked) == list(range(8))
        await stay(talk)

    results: list[tuple[Fetched, int, int]] = []
    done = asyncio.Event()

    async with ScriptedGateway(script) as gateway, device(gateway, queue=2) as phone:

        async def on_message(n: Notification) -> None:
            if n.id == 0:
                while not phone.counters.pauses:  # its queue is full, reading has stopped
                    await asyncio.sleep(0)
                fetched = await registration.fetch()
                await asyncio.sleep(0.01)
                # All have come, but what is past the queue's bound is not confirmed before it is inside.
                results.append((fetched, phone.counters.acks, registration.queued))
            if n.id == 7:
                done.set()

        registration = await phone.register("mail", "1", on_message=on_message)
        await done.wait()
        while phone.counters.acks < 8:
            await asyncio.sleep(0)
    assert results == [(Fetched(0, more=False), 3, 7)]


async def test_a_slow_app_stops_the_reading_and_nothing_is_lost():
    total, queue = 4000, 16
    body = msgspec.Raw(msgspec.msgpack.encode("x" * 4000))
    stuck = asyncio.Event()

    async def script(talk):
        await talk.login(window=60_000)
        await talk.bind("tok")
        talk.send(*(notify(i, "tok", data=body) for i in range(total)))
        before = -1
        while not phone.counters.pauses or talk.unsent != before:
            before = talk.unsent
            await asyncio.sleep(0.05)
        assert talk.unsent > 0  # the kernel's buffers are full: back-pressure reaches the gateway
        assert len(phone._session._reader) < 512 * 1024
        stuck.set()
        acked: list[int] = []
        while len(acked) < total:
            acked += await talk.expect(FrameType.ACK)
        assert acked == list(range(total))
        await stay(talk)

    got: list[int] = []
    async with ScriptedGateway(script) as gateway, device(gateway, queue=queue) as phone:
        registration = await phone.register("mail", "1")
        await stuck.wait()
        assert registration.queued == queue
        assert phone.counters.notifications <= queue + 1
        while len(got) < total:
            got.append((await anext(registration)).id)
            assert registration.queued <= queue
        while phone.counters.acks < total:
            await asyncio.sleep(0)
    assert got == list(range(total))


async def test_a_recall_removes_what_waits_and_is_told():
    async def script(talk):
        await talk.login()
        await talk.bind("tok")
        talk.send(notify(1, "tok"), notify(2, "tok"), build_frame(FrameType.RECALL, [1, 99]), notify(3, "tok"))
        await talk.expect(FrameType.ACK)
        await stay(talk)

    async with ScriptedGateway(script) as gateway, device(gateway) as phone:
        registration = await phone.register("mail", "1")
        while registration.queued < 3:
            await asyncio.sleep(0)
        items = [await anext(registration) for _ in range(3)]
        assert [i.id for i in items] == [2, 1, 3]
        assert items[1] == Recall(1)


async def test_a_failing_callback_is_counted_and_the_next_one_called(caplog):
    async def script(talk):
        await talk.login()
        await talk.bind("tok")
        talk.send(notify(1, "tok"), notify(2, "tok"))
        await talk.expect(FrameType.ACK)
        await stay(talk)

    seen: list[int] = []
    done = asyncio.Event()

    def on_message(n: Notification) -> None:
        seen.append(n.id)
        if n.id == 1:
            raise RuntimeError("app bug")
        done.set()

    async with ScriptedGateway(script) as gateway, device(gateway) as phone:
        await phone.register("mail", "1", on_message=on_message)
        await done.wait()
        assert phone.counters.callback_errors == 1
    assert seen == [1, 2]
    assert "a callback of app mail failed" in caplog.text


async def test_urgency_is_asked_for_now_and_in_the_next_hello():
    async def first(talk):
        await talk.login()
        state = await talk.expect(FrameType.STATE)
        assert state.urgency == 3
        talk.send(build_frame(FrameType.DONE, frames.Done(req=state.req)))
        await go.wait()
        talk.abort()

    async def second(talk):
        assert (await talk.login()).urgency == 3
        await stay(talk)

    go = asyncio.Event()
    async with ScriptedGateway(first, second) as gateway, device(gateway) as phone:
        await phone.set_urgency(3)
        go.set()
        async for state in phone.states():
            if state.connection is Connection.ONLINE and phone.counters.links == 2:
                break


async def test_heartbeats_go_out_by_themselves():
    async def script(talk):
        await talk.login(heartbeat=1, heartbeat_min=1, heartbeat_max=1)
        await talk.expect(FrameType.PING)
        talk.send(b"\x02\x00")
        await stay(talk)

    async with ScriptedGateway(script) as gateway, device(gateway) as phone:
        await phone.connected()
        while not phone.counters.pongs:
            await asyncio.sleep(0.01)
        assert phone.heartbeat == 1


# --- ends ------------------------------------------------------------------------------------------------------------


async def test_close_hands_out_what_was_acked_and_says_goodbye():
    async def script(talk):
        await talk.login()
        await talk.bind("tok")
        talk.send(*(notify(i, "tok") for i in range(3)))
        assert await talk.expect(FrameType.ACK) == [0, 1, 2]
        await talk.expect_end()

    seen: list[int] = []

    async def on_message(n: Notification) -> None:
        await asyncio.sleep(0)
        seen.append(n.id)

    async with ScriptedGateway(script) as gateway:
        async with device(gateway) as phone:
            await phone.register("mail", "1", on_message=on_message)
            while phone.counters.acks < 3:
                await asyncio.sleep(0)
        assert seen == [0, 1, 2]
        with pytest.raises(DeviceClosed):
            await phone.register("mail", "1")
        assert phone.state.connection is Connection.STOPPED


@pytest.mark.parametrize("turns", range(14))
async def test_closing_at_any_moment_leaves_nothing_behind(turns):
    async def script(talk):
        try:
            await talk.login()
            await talk.bind("tok")
            talk.send(*(notify(i, "tok") for i in range(3)))
            while await talk.next() is not None:
                pass
        except (AssertionError, ConnectionError):
            pass  # it left before that

    async def waiter(phone: Device) -> None:
        try:
            async for _ in await phone.register("mail", "1"):
                pass
        except DeviceClosed:
            pass
        assert isinstance(phone.error, DeviceClosed)

    gateway = ScriptedGateway(script)
    async with gateway:
        phone = device(gateway)
        phone.start()
        task = asyncio.create_task(waiter(phone))
        for _ in range(turns):
            await asyncio.sleep(0)
        await phone.aclose()
        await phone.aclose()
        await task
        gateway._scripts.clear()


async def test_a_callback_that_never_ends_is_cancelled_on_close(monkeypatch):
    monkeypatch.setattr("gateway.client.device.CLOSE_S", 0.01)
    cancelled = asyncio.Event()
    started = asyncio.Event()

    async def script(talk):
        await talk.login()
        await talk.bind("tok")
        talk.send(notify(1, "tok"))
        await talk.expect(FrameType.ACK)
        await stay(talk)

    async def on_message(_: Notification) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with ScriptedGateway(script) as gateway, device(gateway) as phone:
        await phone.register("mail", "1", on_message=on_message)
        await started.wait()
    assert cancelled.is_set()


async def test_a_device_can_be_closed_from_its_own_callback():
    async def script(talk):
        await talk.login()
        await talk.bind("tok")
        talk.send(notify(1, "tok"))
        while await talk.next() is not None:
            pass

    async with ScriptedGateway(script) as gateway:
        phone = device(gateway)
        phone.start()
        closed = asyncio.Event()

        async def on_message(_: Notification) -> None:
            await phone.aclose()
            closed.set()

        await phone.register("mail", "1", on_message=on_message)
        await closed.wait()
        assert isinstance(phone.error, DeviceClosed)


async def test_hundreds_of_devices_share_one_loop():

    async def script(talk):
        hello = await talk.expect(FrameType.HELLO)
        talk.send(welcome(device=hello.device))
        register = await talk.expect(FrameType.REGISTER)
        talk.send(token(register.req, f"tok-{hello.device}"), notify(1, f"tok-{hello.device}"))
        assert await talk.expect(FrameType.ACK) == [1]
        await stay(talk)

    scripts = [script] * 200  # two descriptors each
    async with ScriptedGateway(*scripts) as gateway:
        phones = [device(gateway, label=f"d{i}") for i in range(len(scripts))]
        for phone in phones:
            phone.start()
        registrations = await asyncio.gather(*(phone.register("mail", "1") for phone in phones))
        items = await asyncio.gather(*(anext(r) for r in registrations))
        assert {i.id for i in items} == {1}
        while sum(p.counters.acks for p in phones) < len(phones):
            await asyncio.sleep(0)
        await asyncio.gather(*(phone.aclose() for phone in phones))


async def test_misuse_is_refused_plainly():
    phone = Device("127.0.0.1", 1)
    with pytest.raises(RuntimeError, match="not started"):
        await phone.register("mail", "1")
    with pytest.raises(ValueError, match="at least 1"):
        Device("127.0.0.1", 1, queue=0)
    await phone.aclose()
