"""Streams of one HTTP/2 connection are told apart: what one does, or how its peer leaves, is not the others'."""

from __future__ import annotations

import asyncio
import json

import hpack
import pytest
from api_doubles import Door
from h2.events import StreamReset, WindowUpdated
from hyperframe.frame import DataFrame, GoAwayFrame, HeadersFrame, PingFrame
from raw_http2 import Answer, RawHttp2
from test_http2 import GOOD, cut, key_of, serving, until

from gateway.metrics import Metric

NO_ERROR, PROTOCOL_ERROR, FRAME_SIZE_ERROR, REFUSED_STREAM = 0, 1, 6, 7  # RFC 9113 §7


async def begin_push(door: Door, client: RawHttp2) -> int:
    """A push under way: its handler has it."""
    assert door.floors.hold is not None
    before = len(door.floors.hold)
    stream = client.begin("POST", "/v1/push", key_of(door), end=False)
    client.data(stream, json.dumps(door.to_token()).encode(), end=True)
    await until(lambda: len(door.floors.hold) > before)
    return stream


# --- frames -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [0, 1, 6, 0x42])
async def test_a_frame_larger_than_agreed_is_refused_by_its_header(kind):
    door = Door()
    async with serving(door) as server, RawHttp2(server.port) as client:
        await client.get("/healthz")
        client.send((16_385).to_bytes(3, "big") + bytes((kind, 0)) + b"\0\0\0\3")
        await client.is_closed()  # though nothing of its payload came
        assert (client.goaway, client.goaway_last) == (FRAME_SIZE_ERROR, 1)
    assert cut(door, "frame_too_large") == 1


# --- the peer's GOAWAY --------------------------------------------------------------------------------------------


async def test_requests_under_way_are_answered_after_the_peers_goaway_and_then_it_ends():
    door = Door()
    door.floors.hold = []
    async with serving(door) as server, RawHttp2(server.port) as client:
        streams = [await begin_push(door, client) for _ in range(2)]
        client.say_goaway()
        late = await client.get("/healthz")
        assert late.reset == REFUSED_STREAM
        assert not client.closed.is_set()
        for done in door.floors.hold:
            done.set_result(None)
        assert [(await client.answer(stream)).status for stream in streams] == [201, 201]
        await client.is_closed()
        assert client.goaway is None
    await until(lambda: door.metrics.value(Metric.API_CONNECTIONS) == 0)


async def test_a_goaway_behind_a_request_in_one_piece_leaves_it_its_answer():
    door = Door()
    async with serving(door) as server, RawHttp2(server.port) as client:
        await client.get("/healthz")
        client.answers[3] = Answer()
        client.h2.send_headers(3, GOOD, end_stream=True)
        client.send(client.h2.data_to_send() + GoAwayFrame(0).serialize())
        assert (await client.answer(3)).status == 200
        await client.is_closed()


async def test_a_peer_that_says_goaway_with_nothing_under_way_is_let_go():
    door = Door()
    async with serving(door) as server, RawHttp2(server.port) as client:
        await client.get("/healthz")
        client.send(GoAwayFrame(0).serialize() + PingFrame(0, opaque_data=b"12345678").serialize())
        await client.is_closed()


async def test_an_event_stream_outlives_the_peers_goaway_and_the_connection_ends_with_it():
    door = Door(heartbeat_s=0.05)
    async with serving(door) as server, RawHttp2(server.port) as client:
        stream = client.begin("GET", "/v1/receipts/stream", key_of(door))
        await until(lambda: door.metrics.value(Metric.API_WATCHERS) == 1)
        client.say_goaway()
        door.floors.settle("chat")
        await until(lambda: b"event: receipt" in client.answers[stream].body)
        client.h2.reset_stream(stream)
        client.flush()
        await client.is_closed()
    await until(lambda: door.metrics.value(Metric.API_WATCHERS) == 0)


# --- malformed requests -------------------------------------------------------------------------------------------


def begin_by_hand(client: RawHttp2, fields: list[tuple[str, str]]) -> int:
    """With fields that the client's codec would not send."""
    stream = client.h2.get_next_available_stream_id()
    client.answers[stream] = Answer()
    client.h2.send_headers(stream, GOOD, end_stream=True)
    client.h2.clear_outbound_data_buffer()
    client.h2.encoder = hpack.Encoder()
    frame = HeadersFrame(stream, data=client.h2.encoder.encode(fields))
    frame.flags |= {"END_HEADERS", "END_STREAM"}
    client.send(frame.serialize())
    return stream


BAD = [
    [*GOOD, ("x", "a ")],
    [*GOOD, ("X-Upper", "y")],
    [*GOOD, ("connection", "close")],
    [*GOOD, (":path", "/metrics")],
    [(":status", "100"), *GOOD],
    [*GOOD, ("content-length", "three")],
    [*GOOD, ("content-length", "3"), ("content-length", "4")],
    [*GOOD, ("content-length", "3")],
    [],
]


@pytest.mark.parametrize("fields", BAD, ids=lambda fields: str(fields[-1:]))
async def test_a_malformed_request_is_400_and_the_others_under_way_go_on(fields):
    door = Door()
    door.floors.hold = []
    async with serving(door) as server, RawHttp2(server.port) as client:
        before = await begin_push(door, client)
        answer = await client.answer(begin_by_hand(client, fields))
        assert answer.status == 400
        assert json.loads(answer.body)["error"]["name"] == "bad_request"
        assert answer.reset is None
        after = await begin_push(door, client)
        for done in door.floors.hold:
            done.set_result(None)
        assert [(await client.answer(stream)).status for stream in (before, after)] == [201, 201]
    assert cut(door, "malformed") == 1


@pytest.mark.parametrize("said", [0, 10, 10_000])
@pytest.mark.parametrize("has_trailers", [False, True])
async def test_a_body_of_another_length_is_400_and_the_others_under_way_go_on(said, has_trailers):
    door = Door()
    door.floors.hold = []
    async with serving(door) as server, RawHttp2(server.port) as client:
        before = await begin_push(door, client)
        stream = client.begin("POST", "/v1/push", [*key_of(door), ("content-length", str(said))], end=False)
        client.data(stream, json.dumps(door.to_token()).encode(), end=not has_trailers)
        if has_trailers:
            client.h2.send_headers(stream, [("x", "y")], end_stream=True)
            client.flush()
        assert (await client.answer(stream)).status == 400
        for done in door.floors.hold:
            done.set_result(None)
        assert (await client.answer(before)).status == 201
    assert len(door.floors.pushed) == 1
    assert cut(door, "malformed") == 1


@pytest.mark.parametrize("field", [("x", "y "), (":path", "/"), ("X", "y"), ("content-length", "5")])
async def test_malformed_trailers_spoil_their_request_alone(field):
    door = Door()
    async with serving(door) as server, RawHttp2(server.port) as client:
        stream = client.begin("POST", "/v1/push", key_of(door), end=False)
        client.data(stream, json.dumps(door.to_token()).encode())
        client.h2.send_headers(stream, [field], end_stream=True)
        client.flush()
        assert (await client.answer(stream)).status == 400
        assert (await client.get("/healthz")).status == 200
    assert not door.floors.pushed


async def test_trailers_that_are_well_formed_do_no_harm():
    door = Door()
    async with serving(door) as server, RawHttp2(server.port) as client:
        body = json.dumps(door.to_token()).encode()
        stream = client.begin("POST", "/v1/push", [*key_of(door), ("content-length", str(len(body)))], end=False)
        client.data(stream, body)
        client.h2.send_headers(stream, [("x-checksum", "1")], end_stream=True)
        client.flush()
        assert (await client.answer(stream)).status == 201


async def test_a_body_that_grows_too_long_under_an_answer_resets_it():
    door = Door(heartbeat_s=0.05)
    async with serving(door) as server, RawHttp2(server.port) as client:
        fields = [*key_of(door), ("content-length", "3")]
        stream = client.begin("GET", "/v1/receipts/stream", fields, end=False)
        await until(lambda: client.answers[stream].status == 200)
        client.data(stream, b"four")
        assert (await client.answer(stream)).reset == PROTOCOL_ERROR
        await until(lambda: door.metrics.value(Metric.API_WATCHERS) == 0)
        assert (await client.get("/healthz")).status == 200


# --- answered before the whole request came -----------------------------------------------------------------------


def begin_refused(client: RawHttp2) -> int:
    """A push without a key, whose body is still to come."""
    return client.begin("POST", "/v1/push", [("content-type", "application/json")], end=False)


def resets(client: RawHttp2) -> list[tuple[int | None, int]]:
    return [(each.stream_id, int(each.error_code or 0)) for each in client.events if isinstance(each, StreamReset)]


async def test_a_small_body_that_comes_behind_its_answer_is_taken_without_a_reset():
    door = Door()
    async with serving(door, idle_s=0.05) as server, RawHttp2(server.port) as client:
        stream = begin_refused(client)
        assert (await client.answer(stream)).status == 401
        for _ in range(3):
            client.data(stream, b"x" * 1_000)
        assert (await client.get("/healthz")).status == 200
        client.data(stream, b"x", end=True)
        await client.is_closed()  # idle, so not before the stream was whole
        assert resets(client) == []
    assert cut(door, "body_unread") == 0


async def test_a_body_behind_its_answer_is_given_back_to_both_windows():
    door = Door()
    async with serving(door) as server, RawHttp2(server.port) as client:
        stream = begin_refused(client)
        await client.answer(stream)
        for _ in range(40):  # more in all than the stream's window
            await until(lambda: client.h2.local_flow_control_window(stream) >= 16_000)
            client.data(stream, b"x" * 16_000)
        client.data(stream, b"", end=True)
        assert (await client.get("/healthz")).status == 200
        assert client.h2.outbound_flow_control_window > 500_000
        assert resets(client) == []


async def test_a_body_behind_its_answer_that_grows_past_the_bound_is_reset_once():
    door = Door()
    async with serving(door, linger_bytes=1_000) as server, RawHttp2(server.port) as client:
        stream = begin_refused(client)
        await client.answer(stream)
        client.data(stream, b"x" * 1_000)
        assert (await client.get("/healthz")).status == 200
        assert resets(client) == []
        # What was on its way when the reset came is no fault, and not lost to the connection's window.
        client.send(DataFrame(stream, data=b"x" * 10_000).serialize() * 2)
        await until(lambda: resets(client))
        for _ in range(100):
            client.send(DataFrame(stream, data=b"x" * 10_000).serialize())
        assert (await client.get("/healthz")).status == 200
        assert resets(client) == [(stream, NO_ERROR)]
        assert sum(e.delta or 0 for e in client.events if isinstance(e, WindowUpdated) and not e.stream_id) > 1_400_000
    assert cut(door, "body_unread") == 1


async def test_a_body_behind_its_answer_that_stops_is_reset_in_time():
    door = Door()
    async with serving(door, linger_s=0.05, idle_s=0.05) as server, RawHttp2(server.port) as client:
        streams = [begin_refused(client) for _ in range(3)]
        await client.is_closed()  # and the connection does not stay for them
        assert resets(client) == [(stream, NO_ERROR) for stream in streams]
    assert cut(door, "body_unread") == 3


async def test_bodies_behind_their_answers_count_among_the_streams():
    door = Door()
    door.floors.hold = []
    async with serving(door, max_streams=3) as server, RawHttp2(server.port) as client:
        taken_back = [await begin_push(door, client) for _ in range(2)]
        lingering = begin_refused(client)
        assert (await client.answer(lingering)).status == 401
        for stream in taken_back:
            client.h2.reset_stream(stream)
        assert (await client.get("/healthz")).reset == REFUSED_STREAM
        client.data(lingering, b"", end=True)
        assert (await client.get("/healthz")).status == 200
        for done in door.floors.hold:
            done.set_result(None)


@pytest.mark.parametrize("ends", [True, False])
async def test_a_drain_waits_for_the_rest_of_a_request_but_not_for_long(ends):
    door = Door()
    async with serving(door, linger_s=60 if ends else 0.05) as server, RawHttp2(server.port) as client:
        stream = begin_refused(client)
        await client.answer(stream)
        stopping = asyncio.create_task(server.stop(timeout_s=60))
        await until(lambda: client.goaway is not None)
        if ends:
            client.send(DataFrame(stream, flags=["END_STREAM"]).serialize())
        await client.is_closed()
        await asyncio.wait_for(stopping, 60)
    assert cut(door, "body_unread") == (not ends)


async def test_a_malformed_request_that_goes_on_lingers_too():
    door = Door()
    async with serving(door) as server, RawHttp2(server.port) as client:
        stream = client.begin_with([*GOOD, ("x", "a ")], end=False)
        assert (await client.answer(stream)).status == 400
        client.data(stream, b"x" * 1_000, end=True)
        assert (await client.get("/healthz")).status == 200
        assert resets(client) == []
