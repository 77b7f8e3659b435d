"""The gateway as a Diameter node before peers that answer, do not, go away, or speak of something else (RFC 6733)."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from random import Random

import pytest
from diameter_scene import EXTERNAL_ID, KNOWN, SECRETS, DiameterScene, until
from structlog.testing import capture_logs

from gateway.diameter import codes
from gateway.diameter.avps import Kind, Malformed, build_octets, build_text, build_u32
from gateway.diameter.codes import Application, Command, Result
from gateway.diameter.local import Behaviour
from gateway.diameter.messages import ERROR, REQUEST, RETRANSMITTED, Header, Message, build_message
from gateway.diameter.node import Busy, NotConnected, parse_result
from gateway.diameter.peer import MOST_UNSENT_BYTES, PeerLost, Unanswerable, require
from gateway.diameter.s6m import S6mRegister, build_request
from gateway.metrics import Metric
from gateway.notifiers.local_tls import Authority


async def ask(scene: DiameterScene) -> int:
    """Result-Code of a request by S6m."""
    request = build_request(EXTERNAL_ID)
    answer = await scene.node.request(Application.S6M, Command.SUBSCRIBER_INFORMATION, request, "hss.example.net")
    return parse_result(answer).code


async def test_a_request_is_answered_and_every_rule_is_kept() -> None:
    async with DiameterScene() as scene:
        assert await ask(scene) == Result.SUCCESS
        (asked,) = scene.hss.requests
        assert asked.avps.text(codes.DESTINATION_HOST) == "hss.example.net"
        assert asked.avps.text(codes.ORIGIN_HOST) == "pushgw.example.net"
        assert (asked.avps.text(codes.SESSION_ID) or "").startswith("pushgw.example.net;")
        assert scene.count(Metric.DIAMETER_REQUESTS, "s6m 2001") == 1
    assert scene.hss.faults == []
    assert (scene.hss.exchanges, scene.hss.goodbyes) == (1, 1)


async def test_many_requests_get_their_own_answers_whatever_their_order() -> None:
    async with DiameterScene() as scene:
        for n in range(20):
            scene.hss.by_external_id[f"{n}@push.example.com"] = type(KNOWN)(f"4917{n:04}", "")
        register = S6mRegister(scene.node)
        found = await asyncio.gather(*(register.find(f"{n}@push.example.com") for n in range(20)))
        assert [each and each.msisdn for each in found] == [f"4917{n:04}" for n in range(20)]
        sessions = {asked.avps.text(codes.SESSION_ID) for asked in scene.hss.requests}
        assert len(sessions) == len({asked.header.end_to_end for asked in scene.hss.requests}) == 20
    assert scene.hss.faults == []


async def test_no_answer_is_a_timeout_and_a_late_or_second_one_is_nobodys() -> None:
    async with DiameterScene(answer_s=0.1) as scene:
        scene.hss.next.append(Behaviour(hangs=True))
        with pytest.raises(TimeoutError):
            await ask(scene)
        late = scene.hss.requests[0].header._replace(flags=0x40)
        scene.hss.send(build_message(late, build_u32(codes.RESULT_CODE, 2001)))
        scene.hss.next.append(Behaviour(answers=3))
        assert await ask(scene) == Result.SUCCESS
        assert await ask(scene) == Result.SUCCESS
        assert scene.count(Metric.DIAMETER_REQUESTS, "s6m timeout") == 1


async def test_a_peer_that_goes_away_is_connected_to_again() -> None:
    async with DiameterScene() as scene:
        scene.hss.next.append(Behaviour(closes=True))
        with pytest.raises(PeerLost):
            await ask(scene)
        await until(lambda: scene.hss.exchanges == 2 and scene.node.open_peers == 1)
        assert await ask(scene) == Result.SUCCESS
        assert scene.count(Metric.DIAMETER_REQUESTS, "s6m lost") == 1


async def test_the_next_peer_is_asked_and_told_that_it_is_not_the_first() -> None:
    async with DiameterScene(2) as scene:
        first, second = scene.peers
        first.next.append(Behaviour(closes=True))
        assert await ask(scene) == Result.SUCCESS
        (was,), (now,) = first.requests, second.requests
        assert now.header.flags & RETRANSMITTED
        assert not was.header.flags & RETRANSMITTED
        assert was.header.end_to_end == now.header.end_to_end
        assert was.avps.text(codes.SESSION_ID) == now.avps.text(codes.SESSION_ID)
        assert second.faults == []


@pytest.mark.parametrize("result", [Result.TOO_BUSY, Result.UNABLE_TO_DELIVER])
async def test_where_one_peer_can_not_another_is_asked(result: int) -> None:
    async with DiameterScene(2) as scene:
        scene.hss.next.append(Behaviour(result=result))
        assert await ask(scene) == Result.SUCCESS
        for local in scene.peers:
            local.next.append(Behaviour(result=result))
        assert await ask(scene) == result  # nobody can


async def test_a_peer_that_does_not_speak_the_application_is_passed_over() -> None:
    async with DiameterScene(2, is_up=False) as scene:
        scene.hss.applications = (Application.SH,)
        await until(lambda: scene.node.open_peers == 2)
        if scene.hss.exchanges == 1:  # the first exchange may have been before
            scene.hss.drop()
            await until(lambda: scene.hss.exchanges == 2 and scene.node.open_peers == 2)
        assert await ask(scene) == Result.SUCCESS
        assert len(scene.peers[1].requests) == 1


async def test_a_relay_speaks_every_application() -> None:
    async with DiameterScene(is_up=False) as scene:
        scene.hss.applications = (Application.RELAY,)
        await until(lambda: scene.node.open_peers == 1)
        assert await ask(scene) == Result.SUCCESS


async def test_past_the_bound_a_request_fails_at_once_and_is_counted() -> None:
    async with DiameterScene(answer_s=0.3, most_outstanding=2) as scene:
        scene.hss.behaviour = Behaviour(hangs=True)
        results = await asyncio.gather(*(ask(scene) for _ in range(5)), return_exceptions=True)
        assert sorted(type(result).__name__ for result in results) == ["Busy"] * 3 + ["TimeoutError"] * 2
        assert isinstance(next(each for each in results if isinstance(each, Busy)), OSError)
        assert scene.count(Metric.DIAMETER_REQUESTS, "s6m busy") == 3
        scene.hss.behaviour = Behaviour()
        assert await ask(scene) == Result.SUCCESS


async def test_nobody_to_ask_is_said_at_once() -> None:
    async with DiameterScene() as scene:
        await scene.hss.close()
        await until(lambda: scene.node.open_peers == 0)
        with pytest.raises(NotConnected):
            await ask(scene)
        await scene.hss.start(scene.hss.port)
        await until(lambda: scene.node.open_peers == 1)
        assert await ask(scene) == Result.SUCCESS


# --- capabilities


def refuse(scene: DiameterScene) -> None:
    scene.hss.capabilities_result = Result.UNKNOWN_PEER


def share_nothing(scene: DiameterScene) -> None:
    scene.hss.applications = (4,)


def say_nothing(scene: DiameterScene) -> None:
    scene.hss.answers_capabilities = False


@pytest.mark.parametrize(
    ("how", "reason"),
    [(refuse, "refused_UNKNOWN_PEER"), (share_nothing, "no_common_application"), (say_nothing, "timeout")],
)
async def test_a_peer_that_does_not_take_us_is_tried_again(how: Callable[[DiameterScene], None], reason: str) -> None:
    async with DiameterScene(is_up=False, connect_s=0.1) as scene:
        how(scene)
        await until(lambda: scene.count(Metric.DIAMETER_ENDED, reason) >= 1)
        with pytest.raises(NotConnected):
            await ask(scene)
        scene.hss.capabilities_result, scene.hss.applications = Result.SUCCESS, (Application.S6M,)
        scene.hss.answers_capabilities = True
        await until(lambda: scene.node.open_peers == 1)
        assert await ask(scene) == Result.SUCCESS


@pytest.mark.parametrize(
    "first",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"",
        build_message(Header(REQUEST, Command.DEVICE_WATCHDOG, 0, 1, 1), b""),
        build_message(Header(0, Command.CAPABILITIES_EXCHANGE, 0, 0, 0), build_u32(codes.RESULT_CODE, 2001)),
        build_message(Header(0, Command.CAPABILITIES_EXCHANGE, 0, 1, 1), b"\0\0\1\7"),
        b"\x01\x00\x00\x14" + bytes(3),
    ],
)
async def test_who_is_no_diameter_peer_is_left_and_tried_again(first: bytes) -> None:
    met = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal met
        met += 1
        await reader.read(4_096)
        writer.write(first)
        writer.close()

    async with DiameterScene(is_up=False) as scene:
        port = scene.hss.port
        await scene.hss.close()
        server = await asyncio.start_server(serve, "127.0.0.1", port)
        await until(lambda: met >= 2)
        server.close()
        await server.wait_closed()
        assert scene.node.open_peers == 0


# --- watchdog and goodbye


async def test_a_quiet_peer_is_asked_whether_it_lives_and_stays() -> None:
    async with DiameterScene(watchdog_s=0.05) as scene:
        await until(lambda: scene.hss.watchdogs >= 3)
        assert scene.hss.exchanges == 1
        assert scene.hss.faults == []


async def test_a_peer_that_is_silent_is_asked_no_more_then_closed() -> None:
    async with DiameterScene(2, watchdog_s=0.1, answer_s=5.0) as scene:
        scene.hss.answers_watchdog = False
        scene.hss.behaviour = Behaviour(hangs=True)
        # waits at the silent one until that is suspect, then goes to the other
        assert await ask(scene) == Result.SUCCESS
        assert len(scene.peers[1].requests) == 1
        await until(lambda: scene.count(Metric.DIAMETER_ENDED, "watchdog") >= 1)


async def test_a_suspect_that_speaks_again_is_trusted_again() -> None:
    async with DiameterScene(watchdog_s=0.2) as scene:
        scene.hss.answers_watchdog = False
        await until(lambda: scene.node.open_peers == 0)
        if scene.hss.exchanges == 1:
            scene.hss.send(build_message(Header(0, Command.DEVICE_WATCHDOG, 0, 9, 9), b""))
            scene.hss.answers_watchdog = True
        await until(lambda: scene.node.open_peers == 1)
        assert await ask(scene) == Result.SUCCESS


async def test_our_own_watchdog_answer_has_what_it_has_to() -> None:
    async with DiameterScene() as scene:
        origin = build_text(codes.ORIGIN_HOST, "hss") + build_text(codes.ORIGIN_REALM, "example.net")
        answer = await scene.hss.ask(Command.DEVICE_WATCHDOG, Application.BASE, origin)
        assert answer.avps.u32(codes.RESULT_CODE) == Result.SUCCESS
        assert answer.avps.u32(codes.ORIGIN_STATE_ID)
    assert scene.hss.faults == []


@pytest.mark.parametrize("cause", list(codes.DisconnectCause))
async def test_a_peer_that_says_goodbye_is_answered_and_met_again(cause: int) -> None:
    async with DiameterScene() as scene:
        answer = await scene.hss.disconnect(cause)
        assert answer.avps.u32(codes.RESULT_CODE) == Result.SUCCESS
        await until(lambda: scene.hss.exchanges == 2)
        assert scene.count(Metric.DIAMETER_ENDED, "disconnected") == 1


async def test_a_peer_that_did_not_want_to_talk_is_left_for_longer() -> None:
    async with DiameterScene(reconnect_s=0.01, reconnect_max_s=60.0) as scene:
        with capture_logs() as logs:
            await scene.hss.disconnect(codes.DisconnectCause.BUSY)
            await until(lambda: any(line["event"] == "diameter_peer_down" for line in logs))
        assert next(line for line in logs if line["event"] == "diameter_peer_down")["again_in_s"] >= 30


async def test_an_end_without_a_goodbye_does_not_wait_for_it() -> None:
    scene = DiameterScene(connect_s=0.1)
    async with scene:
        scene.hss.answers_goodbye = False
    assert scene.hss.goodbyes == 1


async def test_nothing_is_left_behind() -> None:
    before = threading.active_count(), len(asyncio.all_tasks())
    async with DiameterScene(2) as scene:
        await ask(scene)
    gc.collect()
    assert (threading.active_count(), len(asyncio.all_tasks())) == before


async def test_a_request_that_waits_when_the_node_ends_is_lost_at_once() -> None:
    async with DiameterScene(answer_s=30.0) as scene:
        scene.hss.behaviour = Behaviour(hangs=True)
        waiting = asyncio.create_task(ask(scene))
        await until(lambda: bool(scene.hss.requests))
        await scene.node.close()
        with pytest.raises(PeerLost):
            await waiting


# --- requests of peers


async def test_requests_nobody_handles_are_refused_by_what_is_wrong_with_them() -> None:
    async with DiameterScene() as scene:
        scene.node.on_request(Application.TSP, Command.DEVICE_NOTIFICATION, lambda _message: b"")
        for application, command, result in (
            (Application.BASE, 999, Result.COMMAND_UNSUPPORTED),
            (Application.TSP, 999, Result.COMMAND_UNSUPPORTED),
            (16_777_251, 316, Result.APPLICATION_UNSUPPORTED),
        ):
            answer = await scene.hss.ask(command, application, build_text(codes.SESSION_ID, "a;1;2"))
            assert answer.avps.u32(codes.RESULT_CODE) == result
            assert answer.header.flags & ERROR
            assert next(iter(answer.avps)).data == b"a;1;2"


def fail_as_ours(_message: Message) -> bytes:
    raise RuntimeError(EXTERNAL_ID)


def fail_as_theirs(_message: Message) -> bytes:
    raise Malformed("something", 5014)


def refuse_it(_message: Message) -> bytes:
    raise Unanswerable(Result.MISSING_AVP, build_octets(codes.DEVICE_NOTIFICATION, b""))


@pytest.mark.parametrize(
    ("handler", "result"), [(fail_as_ours, 5012), (fail_as_theirs, 5014), (refuse_it, Result.MISSING_AVP)]
)
async def test_a_handler_that_fails_is_an_answer_and_the_connection_stays(
    handler: Callable[[Message], bytes], result: int
) -> None:
    with capture_logs() as logs:
        async with DiameterScene() as scene:
            scene.node.on_request(Application.TSP, Command.DEVICE_NOTIFICATION, handler)
            answer = await scene.hss.report(1, 0)
            assert answer.avps.u32(codes.RESULT_CODE) == result
            assert (answer.avps.group(codes.FAILED_AVP) is not None) == (handler is refuse_it)
            assert answer.avps.first(codes.PROXY_INFO)  # goes back as it came
            assert await ask(scene) == Result.SUCCESS
            assert scene.hss.exchanges == 1
    assert EXTERNAL_ID not in str(logs)


async def test_a_request_that_is_whole_and_wrong_is_answered_and_the_next_is_read() -> None:
    async with DiameterScene() as scene:
        answer = await scene.hss.ask(Command.DEVICE_WATCHDOG, Application.BASE, b"\0\0\1\7\x40\0\xff\xff")
        assert answer.avps.u32(codes.RESULT_CODE) == Result.INVALID_AVP_LENGTH
        assert await ask(scene) == Result.SUCCESS
        assert scene.count(Metric.DIAMETER_MALFORMED) == 1


# --- garbage


@pytest.mark.parametrize("garbage", [b"\xff" * 64, b"\x01\xff\xff\xfc" + bytes(60), b"GET / HTTP/1.1\r\n\r\n"])
async def test_garbage_ends_the_connection_and_a_new_one_is_made(garbage: bytes) -> None:
    async with DiameterScene() as scene:
        scene.hss.next.append(Behaviour(raw=garbage))
        with pytest.raises(PeerLost):
            await ask(scene)
        await until(lambda: scene.hss.exchanges == 2 and scene.node.open_peers == 1)
        assert scene.count(Metric.DIAMETER_ENDED, "malformed") == 1
        assert await ask(scene) == Result.SUCCESS


@pytest.mark.parametrize(
    "avps",
    [
        b"",  # no result
        b"\0\0\1\x0c\x40\0\0\x0d\0\0\x07\xd1",  # cut off
        build_octets(codes.RESULT_CODE, b"\1"),
        build_octets(codes.EXPERIMENTAL_RESULT, b"\1\2\3"),
        build_u32(Kind(268, 10415), 2001),
    ],
)
async def test_an_answer_that_is_none_is_malformed_and_the_connection_stays(avps: bytes) -> None:
    async with DiameterScene() as scene:
        scene.hss.next.append(Behaviour(avps=avps))
        with pytest.raises(Malformed):
            await ask(scene)
        assert scene.count(Metric.DIAMETER_REQUESTS, "s6m malformed") == 1
        assert await ask(scene) == Result.SUCCESS
        assert scene.hss.exchanges == 1


async def test_an_answer_to_another_request_is_not_taken() -> None:
    async with DiameterScene(answer_s=0.2) as scene:
        scene.hss.next.append(Behaviour(hangs=True))
        asking = asyncio.create_task(ask(scene))
        await until(lambda: bool(scene.hss.requests))
        header = scene.hss.requests[0].header._replace(flags=0x40)
        for wrong in (header._replace(end_to_end=header.end_to_end ^ 1), header._replace(command=Command.USER_DATA)):
            scene.hss.send(build_message(wrong, build_u32(codes.RESULT_CODE, 2001)))
        with pytest.raises(TimeoutError):
            await asking


async def test_results_of_a_peers_own_do_not_fill_the_metric() -> None:
    async with DiameterScene() as scene:
        for result in range(7_000, 7_020):
            scene.hss.next.append(Behaviour(result=result))
            scene.hss.next.append(Behaviour(experimental=result))
        for _ in range(40):
            await ask(scene)
        labels = {label for metric, label in scene.metrics.counters if metric is Metric.DIAMETER_REQUESTS}
        assert labels == {"s6m other", "s6m 3gpp_other"}


# --- TLS and privacy


async def test_diameter_inside_tls() -> None:
    authority = Authority()
    mine = authority.issue(name="pushgw.example.net")
    server = authority.server_context(asks_client=True)
    async with DiameterScene(server_tls=server, tls=authority.client_context(mine)) as scene:
        assert await ask(scene) == Result.SUCCESS
    stranger = Authority("another")
    async with DiameterScene(server_tls=server, tls=stranger.client_context(), is_up=False) as scene:
        await until(lambda: scene.count(Metric.DIAMETER_ENDED, "tls") >= 1)
        assert scene.node.open_peers == 0


async def test_no_trouble_shows_whom_it_was_about() -> None:
    trouble = [
        Behaviour(closes=True),
        Behaviour(hangs=True),
        Behaviour(raw=b"\xff" * 64),
        Behaviour(avps=b"\0\0\1\x0c\x40\0\0\x0d\0\0\x07\xd1"),
        Behaviour(avps=build_u32(codes.RESULT_CODE, 2001) + build_text(codes.USER_NAME, EXTERNAL_ID)),
        Behaviour(result=5012),
        Behaviour(experimental=5001),
        Behaviour(answers=2),
    ]
    shown = []
    with capture_logs() as logs:
        async with DiameterScene(answer_s=0.2) as scene:
            register = S6mRegister(scene.node)
            for each in trouble:
                await until(lambda: scene.node.open_peers == 1)
                scene.hss.next.append(each)
                try:
                    shown.append(repr(await register.find(EXTERNAL_ID)))
                except (OSError, ValueError) as error:
                    shown.append(f"{error!r} {error} {error.__context__!r}")
            shown.append(scene.metrics.render().decode())
            shown.append(repr(scene.hss.requests))
    everything = str(logs) + "".join(shown)
    assert len(shown) == len(trouble) + 2
    assert not [secret for secret in SECRETS if secret in everything]


async def test_a_peer_that_reads_nothing_is_passed_over_before_memory_fills() -> None:
    async with DiameterScene(2, answer_s=0.3, most_outstanding=1_000) as scene:
        deaf, other = scene.peers
        for connection in deaf._connections:
            connection.writer.transport.pause_reading()  # type: ignore[attr-defined]
        big = build_request("x" * 60_000)

        async def ask_big() -> None:
            await scene.node.request(Application.S6M, Command.SUBSCRIBER_INFORMATION, big, "")

        await asyncio.gather(*(ask_big() for _ in range(200)), return_exceptions=True)
        assert other.requests  # what the deaf one could not be given any more, and was not
        assert not [asked for asked in other.requests if asked.header.flags & RETRANSMITTED]
        unsent = [peer._writer.transport.get_write_buffer_size() for peer in scene.node._peers if peer._writer]
        assert max(unsent) < 2 * MOST_UNSENT_BYTES


def mutate(random: Random, data: bytes) -> bytes:
    """A valid message with a few bytes changed, cut off, or another behind it."""
    changed = bytearray(data)
    for _ in range(random.randrange(4)):
        changed[random.randrange(len(changed))] = random.randrange(256)
    how = random.randrange(4)
    if how == 0:
        changed = changed[: random.randrange(1, len(changed))]
    elif how == 1:
        changed += data
    return bytes(changed)


async def test_no_bytes_of_a_peer_end_in_an_error_of_ours() -> None:
    random = Random(20_260)
    answer = build_text(codes.SESSION_ID, "a;1;2") + build_u32(codes.RESULT_CODE, 2001)
    seeds = [
        build_message(Header(flags, command, application, 1, 1), answer)
        for flags in (REQUEST, 0, REQUEST | 0x40, ERROR)
        for command, application in (
            (Command.DEVICE_WATCHDOG, 0),
            (Command.DISCONNECT_PEER, 0),
            (Command.CAPABILITIES_EXCHANGE, 0),
            (Command.DEVICE_NOTIFICATION, Application.TSP),
            (Command.SUBSCRIBER_INFORMATION, Application.S6M),
        )
    ]
    with capture_logs() as logs:
        async with DiameterScene(reconnect_s=0.05, reconnect_max_s=0.05) as scene:
            scene.node.on_request(
                Application.TSP, Command.DEVICE_NOTIFICATION, lambda message: require(message.avps, codes.SESSION_ID)
            )
            for _ in range(150):
                await until(lambda: scene.node.open_peers == 1)
                for _ in range(5):
                    scene.hss.send(mutate(random, random.choice(seeds)))
                await asyncio.sleep(0.005)
            scene.hss.drop()
            await until(lambda: scene.node.open_peers == 0)
            await until(lambda: scene.node.open_peers == 1)
            assert await ask(scene) == Result.SUCCESS
            ended = {label for metric, label in scene.metrics.counters if metric is Metric.DIAMETER_ENDED}
    assert ended <= {"malformed", "disconnected", "closed", "connection"}
    assert not [line for line in logs if "failed" in line["event"]]
