"""Device triggering over Tsp before an MTC-IWF that takes triggers, refuses them by every number it has, reports what
became of them, or says something else (C10)."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from diameter_scene import EXTERNAL_ID, IMSI, MSISDN, DiameterScene, until
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from gateway.config.sections import Config
from gateway.diameter import codes
from gateway.diameter.avps import Avps, Malformed, build_group, build_octets, build_u32, parse_avps
from gateway.diameter.codes import Application, Command, Result
from gateway.diameter.local import Behaviour
from gateway.diameter.messages import PROXIABLE, REQUEST, Header, Message
from gateway.diameter.node import ResultOf
from gateway.diameter.peer import PeerLost, Unanswerable
from gateway.diameter.tbcd import parse_tbcd
from gateway.model.subscriber import NetworkId, NetworkIdKind, OpaqueKind, Subscriber
from gateway.notifiers.upstream import GARBAGE, Verdict
from gateway.paging.errors import NO_NUMBER
from gateway.paging.trigger import tsp_errors
from gateway.paging.trigger.tsp import TspWay, build_tsp, parse_report
from gateway.paging.trigger.tsp_errors import parse_outcome
from gateway.paging.trigger.way import DeviceTrigger, Outcome, Replacing, TriggerWay

TRIGGER = DeviceTrigger(reference=77, payload=b"\x01wake", port=16_002, validity_s=300, is_urgent=True)
SECRETS = (MSISDN, IMSI, EXTERNAL_ID, "wake")


def subscriber(**ids: str) -> Subscriber:
    return Subscriber(
        b"h" * 16, [NetworkId(NetworkIdKind[kind], value) for kind, value in ids.items()], OpaqueKind(3), ""
    )


ANN = subscriber(MSISDN=f"+{MSISDN}", IMSI=IMSI)


class Heard(list[tuple[int, Outcome, str]]):
    """OnOutcome that remembers."""

    def __call__(self, reference: int, outcome: Outcome, detail: str) -> None:
        self.append((reference, outcome, detail))


def way_of(scene: DiameterScene, heard: Heard | None = None, **trigger: Any) -> TspWay:
    config = Config()
    for name, value in trigger.items():
        setattr(config.trigger, name, value)
    config.diameter.scs_identity, config.diameter.mtc_iwf_host = "pushgw", "mtc-iwf.example.net"
    way = build_tsp(config, scene.node, heard if heard is not None else Heard())
    way.start()
    return way


async def test_a_trigger_is_taken_with_everything_in_its_place() -> None:
    async with DiameterScene() as scene:
        way: TriggerWay = way_of(scene)
        assert (await way.send(ANN, TRIGGER)).row is tsp_errors.OK
        (asked,) = scene.hss.requests
        assert (asked.header.application, asked.header.command) == (Application.TSP, Command.DEVICE_ACTION)
        assert asked.avps.text(codes.DESTINATION_HOST) == "mtc-iwf.example.net"
        action = asked.avps.group(codes.DEVICE_ACTION) or Avps()
        assert parse_tbcd(action.first(codes.MSISDN) or b"") == MSISDN
        assert action.first(codes.SCS_IDENTITY) == b"pushgw"
        assert action.u32(codes.REFERENCE_NUMBER) == 77
        assert action.u32(codes.ACTION_TYPE) == 1
        assert action.u32(codes.VALIDITY_TIME) == 300
        data = action.group(codes.TRIGGER_DATA) or Avps()
        assert data.first(codes.PAYLOAD) == b"\x01wake"
        assert data.u32(codes.PRIORITY_INDICATION) == 1
        assert data.u32(codes.APPLICATION_PORT_IDENTIFIER) == 16_002
    assert scene.hss.faults == []


@pytest.mark.parametrize("identify", ["external_id", "opaque_id"])
async def test_a_device_is_named_by_external_identifier_where_that_is_set(identify: str) -> None:
    async with DiameterScene() as scene:
        way = way_of(scene, identify=identify)
        named = subscriber(MSISDN=f"+{MSISDN}", NAI="ann@example.net")
        assert (await way.send(named, TRIGGER._replace(external_id=EXTERNAL_ID))).row is tsp_errors.OK
        action = scene.hss.requests[0].avps.group(codes.DEVICE_ACTION) or Avps()
        expected = "ann@example.net" if identify == "external_id" else EXTERNAL_ID
        assert action.text(codes.EXTERNAL_IDENTIFIER) == expected
    assert scene.hss.faults == []


@pytest.mark.parametrize("identify", ["msisdn", "external_id", "opaque_id"])
async def test_who_is_not_known_by_what_is_set_is_not_asked_for(identify: str) -> None:
    async with DiameterScene() as scene:
        way = way_of(scene, identify=identify)
        for nobody in (subscriber(IMSI=IMSI), subscriber(MSISDN="no number")):
            assert (await way.send(nobody, TRIGGER)).row is NO_NUMBER
        assert scene.hss.requests == []


async def test_a_trigger_replaces_an_earlier_one() -> None:
    async with DiameterScene() as scene:
        way = way_of(scene)
        assert isinstance(way, Replacing)
        answer, has_replaced = await way.replace(76, ANN, TRIGGER)
        assert (answer.row, has_replaced) == (tsp_errors.OK, True)
        action = scene.hss.requests[0].avps.group(codes.DEVICE_ACTION) or Avps()
        assert [action.u32(codes.ACTION_TYPE), action.u32(codes.OLD_REFERENCE_NUMBER)] == [4, 76]
        assert action.u32(codes.REFERENCE_NUMBER) == 77
    assert scene.hss.faults == []


async def test_where_the_earlier_one_is_out_the_network_takes_the_new_one_as_its_own() -> None:
    async with DiameterScene() as scene:
        scene.hss.next.append(Behaviour(status=112))
        answer, has_replaced = await way_of(scene).replace(76, ANN, TRIGGER)
        assert (answer.row, has_replaced, len(scene.hss.requests)) == (tsp_errors.OK, False, 1)


@pytest.mark.parametrize("behaviour", [Behaviour(status=110), Behaviour(status=999), Behaviour(result=5004)])
async def test_where_nothing_is_replaced_a_trigger_of_its_own_goes_out(behaviour: Behaviour) -> None:
    async with DiameterScene() as scene:
        scene.hss.next.append(behaviour)
        answer, has_replaced = await way_of(scene).replace(76, ANN, TRIGGER)
        assert (answer.row, has_replaced) == (tsp_errors.OK, False)
        action = scene.hss.requests[1].avps.group(codes.DEVICE_ACTION) or Avps()
        assert action.u32(codes.ACTION_TYPE) == 1


async def test_a_replacement_that_is_refused_for_its_device_is_refused() -> None:
    async with DiameterScene() as scene:
        scene.hss.next.append(Behaviour(status=102))
        answer, has_replaced = await way_of(scene).replace(76, ANN, TRIGGER)
        assert (answer.row.reason, has_replaced, len(scene.hss.requests)) == ("INVEXTID", False, 1)


@pytest.mark.parametrize("row", tsp_errors.STATUSES, ids=lambda row: row.reason)
async def test_every_request_status_leads_to_its_row(row: tsp_errors.Row) -> None:
    async with DiameterScene() as scene:
        scene.hss.behaviour = Behaviour(status=row.status)
        answer = await way_of(scene).send(ANN, TRIGGER)
        assert (answer.row, answer.detail) == (row, row.reason)


@pytest.mark.parametrize("row", tsp_errors.RESULTS, ids=lambda row: row.reason)
async def test_every_result_leads_to_its_row(row: tsp_errors.Row) -> None:
    async with DiameterScene() as scene:
        scene.hss.behaviour = Behaviour(result=row.status)
        assert (await way_of(scene).send(ANN, TRIGGER)).row is row


@pytest.mark.parametrize(
    ("result", "row"),
    [
        (3009, tsp_errors.OTHER_PROTOCOL),
        (4002, tsp_errors.OTHER_TRANSIENT),
        (5005, tsp_errors.OTHER_PERMANENT),
        (9999, tsp_errors.OTHER_PERMANENT),
    ],
)
async def test_other_results_go_by_their_class(result: int, row: tsp_errors.Row) -> None:
    async with DiameterScene() as scene:
        scene.hss.behaviour = Behaviour(result=result)
        answer = await way_of(scene).send(ANN, TRIGGER)
        assert (answer.row, answer.detail) == (row, f"{row.reason} {result}")


@given(st.integers(0, 0xFFFFFFFF), st.booleans(), st.one_of(st.none(), st.integers(0, 0xFFFFFFFF)))
def test_any_answer_has_a_row(code: int, is_experimental: bool, status: int | None) -> None:
    answer = parse_outcome(ResultOf(code, is_experimental), status)
    assert answer.row in tsp_errors.ROWS
    assert (answer.row.verdict is Verdict.OK) == (status == 112 or (2000 <= code < 3000 and not status))


async def test_success_beside_the_result_is_success() -> None:
    async with DiameterScene() as scene:
        scene.hss.behaviour = Behaviour(status=0)
        assert (await way_of(scene).send(ANN, TRIGGER)).row is tsp_errors.OK


@pytest.mark.parametrize(
    "avps", [b"", build_u32(codes.RESULT_CODE, 2001) + build_octets(codes.DEVICE_NOTIFICATION, b"x")]
)
async def test_an_answer_that_is_none_is_garbage(avps: bytes) -> None:
    async with DiameterScene() as scene:
        scene.hss.behaviour = Behaviour(avps=avps)
        assert (await way_of(scene).send(ANN, TRIGGER)).row is GARBAGE


async def test_an_mtc_iwf_that_hangs_or_goes_away_can_not_be_asked() -> None:
    async with DiameterScene(answer_s=0.1) as scene:
        way = way_of(scene)
        scene.hss.next += [Behaviour(hangs=True), Behaviour(closes=True)]
        with pytest.raises(TimeoutError):
            await way.send(ANN, TRIGGER)
        with pytest.raises(PeerLost):
            await way.send(ANN, TRIGGER)


@pytest.mark.parametrize(
    ("number", "outcome", "detail"),
    [
        (0, Outcome.DELIVERED, ""),
        (1, Outcome.EXPIRED, ""),
        (2, Outcome.FAILED, "temporary error"),
        (3, Outcome.FAILED, "undeliverable"),
        (4, Outcome.UNCONFIRMED, ""),
    ],
)
async def test_a_report_says_what_became_of_a_trigger(number: int, outcome: Outcome, detail: str) -> None:
    async with DiameterScene() as scene:
        heard = Heard()
        way = way_of(scene, heard)
        scene.hss.next.append(Behaviour(outcome=number))
        await way.send(ANN, TRIGGER)
        await until(lambda: bool(heard))
        assert heard == [(77, outcome, detail)]
        answer = await scene.hss.report(4_294_967_295, number)
        assert answer.avps.u32(codes.RESULT_CODE) == Result.SUCCESS
        assert answer.header.flags == PROXIABLE
        assert heard[1][0] == 4_294_967_295
    assert scene.hss.faults == []


async def test_a_report_that_says_too_little_or_nonsense_is_refused() -> None:
    async with DiameterScene() as scene:
        heard = Heard()
        way_of(scene, heard)
        reference, action = build_u32(codes.REFERENCE_NUMBER, 1), build_u32(codes.ACTION_TYPE, 2)
        outcome = build_u32(codes.DELIVERY_OUTCOME, 0)
        for inner, result in (
            ([reference, action], Result.MISSING_AVP),
            ([action, outcome], Result.MISSING_AVP),
            ([reference, build_u32(codes.ACTION_TYPE, 1), outcome], Result.INVALID_AVP_VALUE),
            ([reference, action, build_u32(codes.DELIVERY_OUTCOME, 99)], Result.INVALID_AVP_VALUE),
            ([reference, action, build_octets(codes.DELIVERY_OUTCOME, b"1")], Result.INVALID_AVP_LENGTH),
            ([b"\1\2\3\4"], Result.INVALID_AVP_LENGTH),
        ):
            avps = build_group(codes.DEVICE_NOTIFICATION, *inner)
            answer = await scene.hss.ask(Command.DEVICE_NOTIFICATION, Application.TSP, avps, REQUEST | PROXIABLE)
            assert answer.avps.u32(codes.RESULT_CODE) == result
        answer = await scene.hss.ask(Command.DEVICE_NOTIFICATION, Application.TSP, b"", REQUEST | PROXIABLE)
        assert answer.avps.u32(codes.RESULT_CODE) == Result.MISSING_AVP
        failed = answer.avps.group(codes.FAILED_AVP) or Avps()
        assert [avp.code for avp in failed] == [codes.DEVICE_NOTIFICATION.code]
        assert heard == []


@given(st.binary(max_size=120))
def test_any_report_is_read_or_refused(data: bytes) -> None:
    message = Message(
        Header(REQUEST, Command.DEVICE_NOTIFICATION, Application.TSP),
        parse_avps(build_octets(codes.DEVICE_NOTIFICATION, data)),
    )
    with pytest.raises((Malformed, Unanswerable)):
        parse_report(message)


async def test_after_its_end_reports_are_refused() -> None:
    async with DiameterScene() as scene:
        heard = Heard()
        way = way_of(scene, heard)
        await way.close()
        answer = await scene.hss.report(77, 0)
        assert answer.avps.u32(codes.RESULT_CODE) == Result.APPLICATION_UNSUPPORTED
        assert heard == []


async def test_no_trouble_shows_whom_or_what(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    shown = []
    with capture_logs() as logs:
        async with DiameterScene(answer_s=0.1) as scene:
            way = way_of(scene)
            for behaviour in (
                *(Behaviour(status=row.status) for row in tsp_errors.STATUSES),
                Behaviour(result=5012),
                Behaviour(avps=b""),
                Behaviour(raw=b"\xff" * 40),
                Behaviour(hangs=True),
                Behaviour(closes=True),
                Behaviour(outcome=3),
            ):
                await until(lambda: scene.node.open_peers == 1)
                scene.hss.next.append(behaviour)
                try:
                    shown.append(repr(await way.send(ANN, TRIGGER)))
                except OSError as error:
                    shown.append(f"{error!r}{error.__context__!r}")
            shown += [scene.metrics.render().decode(), repr(scene.hss.requests)]
    everything = str(logs) + caplog.text + "".join(shown)
    assert not [secret for secret in SECRETS if secret in everything]
