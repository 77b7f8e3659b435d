"""What is taken in, with which defaults, and what is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from house import House

from gateway.delivery.request import PushRequest, TargetRequest
from gateway.metrics import Metric
from gateway.model.errors import BadRequest, GatewayError, PayloadTooLarge, QueueFull, StoreUnavailable, UnknownToken
from gateway.model.outcome import State
from gateway.model.registration import build_token


async def test_unknown_revoked_and_foreign_tokens_get_the_same_answer(house: House) -> None:
    house.app(name="bank")
    foreign, revoked = house.directory.add(app="bank"), house.directory.add(revoked_at=1)
    errors = []
    for token in (build_token(foreign.token), build_token(revoked.token), build_token(b"\xff" * 16), "nonsense"):
        with pytest.raises(UnknownToken) as caught:
            house.push(TargetRequest(token=token))
        errors.append((caught.value.message, caught.value.field))
    assert len(set(errors)) == 1
    assert house.counted(Metric.PUSHES_REFUSED, "unknown_token") == 4


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"target": TargetRequest()}, "target"),
        ({"target": TargetRequest(alias="a", tag="b")}, "target"),
        ({"target": TargetRequest(versions="newest")}, "target.versions"),
        ({"ttl": 2_419_201}, "ttl"),
        ({"fallback": ["apns"]}, "fallback"),
        ({"data": 1 << 70}, "data"),
    ],
)
async def test_bad_options_name_their_field(house: House, options: dict[str, Any], field: str) -> None:
    target = options.pop("target", TargetRequest(alias="ann"))
    with pytest.raises(BadRequest) as caught:
        house.push(target, **options)
    assert caught.value.field == field
    assert not house.journal.notifications


async def test_too_much_content_is_refused_and_the_limit_itself_is_not(house: House) -> None:
    house.config.api.max_push_bytes = 1_000
    house.start()
    device = house.directory.add()
    await house.accepted(device, title="é" * 200, text="x" * 600)
    with pytest.raises(PayloadTooLarge):
        house.push(device, title="é" * 200, text="x" * 601)


async def test_alias_without_anybody_is_accepted_with_no_delivery(house: House) -> None:
    taken = house.push(TargetRequest(alias="nobody"))
    await taken.done
    assert taken.targeted == 0
    assert house.journal.notification(taken.seq)
    assert not house.journal.rows


async def test_alias_and_tag_reach_all_their_registrations(house: House) -> None:
    a, b = house.directory.add(alias="ann", tags=["vip"]), house.directory.add(alias="ann")
    house.edge.connect(a.number, b.number)
    assert house.push(TargetRequest(alias="ann")).targeted == 2
    assert house.push(TargetRequest(tag="vip")).targeted == 1
    assert [number for number, _ in house.edge.frames] == [a.number, b.number, a.number]
    assert [f.token for _, f in house.edge.frames] == [build_token(r.token) for r in (a, b, a)]


async def test_times_come_from_push_then_app_then_gateway(house: House) -> None:
    house.app(ttl_s=60, ack_ms=700, notifier_ack_ms=800)
    house.app(name="plain")
    device, plain = house.directory.add(), house.directory.add(app="plain")
    now_s = house.clock.now_ms // 1000
    got = []
    for taken in (
        house.push(device, ttl=5, ack_ms=1, notifier_ack_ms=2),
        house.push(device),
        house.push(plain, app="plain"),
    ):
        n = house.journal.notifications[taken.seq]
        got.append((n.expires_s - now_s, n.ack_ms, n.notifier_ack_ms))
    assert got == [(5, 1, 2), (60, 700, 800), (86_400, 3_000, 30_000)]


async def test_device_is_sent_to_before_the_disk_has_it_and_its_ack_answers_the_provider(house: House) -> None:
    device = house.directory.add()
    house.edge.connect(device.number)
    house.journal.hold = True
    taken = house.push(device)
    assert house.edge.sent_to(device.number) == [taken.seq]
    assert not taken.done.done()
    house.edge.ack(device.number, taken.seq)
    assert taken.done.done()
    house.journal.fail = True
    house.journal.commit()
    await house.settle_down()
    assert taken.done.exception() is None
    assert (device.number, taken.seq) not in house.edge.recalled


async def test_ack_of_a_light_form_does_not_answer_the_provider(house: House) -> None:
    device = house.directory.add()
    house.edge.connect(device.number)
    house.journal.hold = True
    taken = house.push(device, data="body", body="on_demand")
    house.edge.ack(device.number, taken.seq)
    assert not taken.done.done()
    house.journal.commit()
    await house.settle_down()
    assert taken.done.done()


async def test_failed_commit_without_ack_is_refused_and_taken_back(house: House) -> None:
    device = house.directory.add()
    house.edge.connect(device.number)
    house.journal.fail = True
    taken = house.push(device)
    with pytest.raises(StoreUnavailable):
        await taken.done
    assert (device.number, taken.seq) in house.edge.recalled
    house.edge.ack(device.number, taken.seq)  # too late, and of no consequence
    await house.advance(10_000)
    assert len(house.edge.frames) == 1


async def test_store_that_can_not_be_written_refuses_at_once_and_sends_nothing(house: House) -> None:
    device = house.directory.add()
    house.edge.connect(device.number)
    house.journal.writable = False
    with pytest.raises(StoreUnavailable):
        house.push(device)
    house.journal.writable = True
    house.journal.max_pending = 0
    with pytest.raises(QueueFull):
        house.push(device)
    assert not house.edge.frames


async def test_batch_shares_a_commit_and_a_bad_one_does_not_stop_it(house: House) -> None:
    a, b = house.directory.add(), house.directory.add()
    app = house.directory.app("shop")
    assert app
    requests = [
        PushRequest(target=TargetRequest(token=build_token(a.token))),
        PushRequest(target=TargetRequest(token="unknown")),
        PushRequest(target=TargetRequest(token=build_token(b.token))),
    ]
    first, bad, last = house.acceptor.push_many(app, requests, house.clock.now_ms)
    assert isinstance(bad, UnknownToken)
    assert not isinstance(first, GatewayError)
    assert not isinstance(last, GatewayError)
    await first.done
    await last.done
    assert house.journal.commits == 1
    assert house.state(last.seq) is State.WAITING


async def test_provider_that_hung_up_does_not_stop_the_push(house: House) -> None:
    device = house.directory.add()
    taken = house.push(device)
    taken.done.cancel()
    await house.settle_down()
    house.edge.connect(device.number)
    assert house.edge.sent_to(device.number) == [taken.seq]


@pytest.mark.parametrize(
    "body",
    [
        b'{"target": {"token": "t"}, "colour": "red"}',
        b'{"target": {"tokens": "t"}}',
        b'{"target": {"token": "t"}, "ttl": -1}',
        b'{"target": {"token": "t"}, "ttl": "1"}',
        b'{"target": {"token": "t"}, "urgency": "urgent"}',
        b'{"target": {"token": "t"}, "body": "later"}',
        b'{"target": {"token": "t"}, "ack_ms": 0}',
        b'{"target": {"token": "t"}, "collapse_key": "%s"}' % (b"k" * 65),
        b'{"target": {"token": "t"}, "idempotency_key": "%s"}' % (b"k" * 129),
        b'{"target": {"token": "t"}, "fallback": ["UPPER"]}',
        b'{"title": "no target"}',
    ],
)
def test_request_out_of_bounds_is_refused_when_parsed(body: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(body, type=PushRequest)
