"""The notifier `trigger` before an exposure function that behaves, and what it hears of each trigger (C10)."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest
from trigger_scene import MSISDN, NAI, OPAQUE, OTHER, QUIET, TriggerScene, until

from gateway.metrics import Metric
from gateway.model.errors import BadRequest
from gateway.model.notification import Content
from gateway.paging.app_payload import parse_payload
from gateway.paging.trigger.local import Behaviour
from gateway.paging.trigger.settings import check_settings


@pytest.fixture(autouse=True)
async def in_time() -> Any:
    async with asyncio.timeout(30):
        yield


# --- what is sent


async def test_a_push_triggers_the_device_and_its_history_says_that_it_was_delivered() -> None:
    async with TriggerScene() as scene:
        result = await scene.push(urgency=3)
        assert (result.ok, result.detail) == (True, "ok")
        (trigger,) = scene.scef.triggers
        body = trigger.body
        assert body["msisdn"] == MSISDN
        assert "externalId" not in body
        assert (body["priority"], body["applicationPortId"], body["supportedFeatures"]) == ("PRIORITY", 16_000, "0")
        assert 3_590 <= body["validityPeriod"] <= 3_600
        payload = parse_payload(base64.b64decode(body["triggerPayload"]))
        assert (payload.title, payload.text, payload.token) == ("Hi", "there", b"t" * 16)
        await until(lambda: scene.history.words == ["delivered"])
        assert scene.history.steps[0] == (9, 3, "delivered", "trigger", "")
        assert scene.pending == 0
        await until(lambda: scene.scef.answered == [204])
        scene.assert_strict()


@pytest.mark.parametrize(
    ("identify", "expected"),
    [("msisdn", {"msisdn": MSISDN}), ("external_id", {"externalId": NAI}), ("opaque_id", {"externalId": OPAQUE})],
)
async def test_the_network_is_told_what_it_knows_the_device_by(identify: str, expected: dict[str, str]) -> None:
    async with TriggerScene(identify=identify) as scene:
        assert (await scene.push()).ok
        body = scene.scef.triggers[0].body
        assert {key: body[key] for key in ("msisdn", "externalId") if key in body} == expected
        scene.assert_strict()


@pytest.mark.parametrize("identify", ["msisdn", "external_id"])
async def test_nothing_that_the_network_knows_is_dead(identify: str) -> None:
    async with TriggerScene(identify=identify) as scene:
        scene.subscribers.ids = []
        result = await scene.push()
        assert (result.dead, result.detail) == (True, "no_number")
        assert scene.scef.triggers == []
        assert scene.pending == 0


@pytest.mark.parametrize("address", ["", "nobody@push.example.com"])
async def test_an_id_that_stands_for_nobody_is_dead_and_the_network_is_not_asked(address: str) -> None:
    async with TriggerScene() as scene:
        assert (await scene.push(address=address)).dead
        assert scene.scef.triggers == []


async def test_the_payload_is_cut_to_what_the_network_takes() -> None:
    async with TriggerScene(payload_bytes=60) as scene:
        assert (await scene.push(content=Content(title="Hi", text="ä" * 500))).ok
        payload = base64.b64decode(scene.scef.triggers[0].body["triggerPayload"])
        assert len(payload) == 59
        assert parse_payload(payload).is_cut


@pytest.mark.parametrize(("ttl_s", "expected"), [(0, 30), (500, 500), (10_000_000, 7_200)])
async def test_the_validity_is_what_is_left_of_the_push_inside_its_bounds(ttl_s: int, expected: int) -> None:
    async with TriggerScene(validity_max_s=7_200) as scene:
        scene.scef.behaviour = QUIET
        assert (await scene.push(expires_s=scene.clock() // 1000 + ttl_s)).ok
        assert expected - 2 <= scene.scef.triggers[0].body["validityPeriod"] <= expected


async def test_an_app_has_a_port_of_its_own() -> None:
    async with TriggerScene() as scene:
        scene.app_settings = {"port": "16123"}
        assert (await scene.push()).ok
        assert scene.scef.triggers[0].body["applicationPortId"] == 16_123
    check_settings({"port": "16999"})
    for key, value in (("port", "2948"), ("port", "x"), ("port", "١٦٠٠٠"), ("mode", "text")):
        with pytest.raises(BadRequest) as caught:
            check_settings({key: value})
        assert caught.value.field == f"notifiers.trigger.{key}"


# --- what became of it


@pytest.mark.parametrize(
    ("results", "words", "detail"),
    [
        (("SUCCESS",), ["delivered"], ""),
        (("TRIGGERED", "SUCCESS"), ["delivered"], ""),
        (("UNKNOWN",), ["failed"], "unknown"),
        (("FAILURE",), ["failed"], "failure"),
        (("TERMINATE",), ["failed"], "terminate"),
        (("EXPIRED",), ["expired"], ""),
        (("UNCONFIRMED",), ["unconfirmed"], ""),
        (("A_WORD_OF_A_LATER_RELEASE",), ["failed"], "unknown"),
        (("SUCCESS", "SUCCESS", "FAILURE"), ["delivered"], ""),
    ],
)
async def test_each_result_is_a_line_of_the_history(results: tuple[str, ...], words: list[str], detail: str) -> None:
    async with TriggerScene() as scene:
        scene.scef.behaviour = Behaviour(results=results)
        assert (await scene.push()).ok
        await until(lambda: len(scene.scef.answered) == len(results))
        assert scene.scef.answered == [204] * len(results)
        assert scene.history.words == words
        assert scene.history.steps[0][4] == detail
        assert scene.reports(words[0]) == 1
        scene.assert_strict()


async def test_a_report_that_is_faster_than_the_answer_is_heard() -> None:
    async with TriggerScene() as scene:
        scene.scef.behaviour = Behaviour(report_first=True)
        assert (await scene.push()).ok
        assert scene.history.words == ["delivered"]
        assert scene.pending == 0
        # and a trigger that is over is not replaced
        assert (await scene.push(seq=10)).detail == "ok"
        assert [trigger.method for trigger in scene.scef.triggers] == ["POST", "POST"]


async def test_a_report_with_another_transaction_is_not_believed_and_the_right_one_is() -> None:
    async with TriggerScene() as scene:
        scene.scef.behaviour = QUIET
        assert (await scene.push()).ok
        (trigger,) = scene.scef.triggers
        assert await scene.scef.report(trigger, "SUCCESS", f"{trigger.url}0") == 400
        assert scene.callbacks("mismatch") == 1
        assert scene.history.words == []
        # by the last part of its path: a proxy may have another host
        assert await scene.scef.report(trigger, "SUCCESS", "https://inner/x/t1") == 204
        assert scene.history.words == ["delivered"]


async def test_a_report_that_never_comes_is_said_when_its_time_is_over() -> None:
    async with TriggerScene(report_s=60) as scene:
        scene.scef.behaviour = QUIET
        assert (await scene.push()).ok
        assert scene.pending == 1
        scene.moved_ms = 3_700_000
        scene.scef.behaviour = Behaviour()
        assert (await scene.push(registration=4, seq=10)).ok
        await until(lambda: len(scene.history.words) == 2)
        assert sorted(scene.history.words) == ["delivered", "unconfirmed"]
        assert (9, 3, "unconfirmed", "trigger", "no report") in scene.history.steps
        # it comes after all: known to nobody any more
        assert await scene.scef.report(scene.scef.triggers[0], "SUCCESS") in (204, 404)
        assert len(scene.history.words) == 2


async def test_past_the_bound_the_oldest_is_forgotten_and_counted() -> None:
    async with TriggerScene(outstanding=3) as scene:
        scene.scef.behaviour = QUIET
        for registration in range(1, 6):
            assert (await scene.push(registration=registration, seq=registration)).ok
        assert scene.pending == 3
        assert scene.metrics.value(Metric.DELIVERY_MEMORY_EVICTED, "trigger") == 2
        assert await scene.scef.report(scene.scef.triggers[0], "SUCCESS") == 404
        assert await scene.scef.report(scene.scef.triggers[4], "SUCCESS") == 204
        assert scene.history.steps == [(5, 5, "delivered", "trigger", "")]


async def test_a_restart_forgets_whose_reports_are_whose() -> None:
    async with TriggerScene() as first:
        first.scef.behaviour = QUIET
        assert (await first.push()).ok
        await first.notifier.close()
        async with TriggerScene(first.scef, t8=first.scef.root) as second:
            assert (await second.push(registration=4)).ok
            before, after = (each.body["notificationDestination"].partition("/3gpp") for each in first.scef.triggers)
            url = after[0] + before[1] + before[2]
            assert await first.scef.post(url, {"transaction": "https://x/t1", "result": "SUCCESS"}) == 404
            assert second.history.words == []


# --- replacing


async def test_a_newer_push_replaces_the_trigger_that_waits() -> None:
    async with TriggerScene() as scene:
        scene.scef.behaviour = QUIET
        assert (await scene.push(seq=1)).detail == "ok"
        assert (await scene.push(seq=2)).detail == "replaced"
        assert (await scene.push(seq=3)).detail == "replaced"
        first, second, third = scene.scef.triggers
        assert [trigger.method for trigger in scene.scef.triggers] == ["POST", "PUT", "PUT"]
        assert first.url == second.url == third.url
        assert len({trigger.body["notificationDestination"] for trigger in scene.scef.triggers}) == 3
        assert scene.history.steps == [(1, 3, "replaced", "trigger", ""), (2, 3, "replaced", "trigger", "")]
        assert await scene.scef.report(first, "REPLACED") == 204  # to where the old one's reports went
        assert await scene.scef.report(third, "SUCCESS") == 204
        assert scene.history.steps[2] == (3, 3, "delivered", "trigger", "")
        assert scene.pending == 0
        scene.assert_strict()


async def test_another_registration_is_not_replaced_nor_is_anything_where_that_is_off() -> None:
    async with TriggerScene() as scene:
        scene.scef.behaviour = QUIET
        assert (await scene.push(registration=1)).ok
        assert (await scene.push(registration=2)).ok
        assert len(scene.scef.live) == 2
    async with TriggerScene(replace=False) as scene:
        scene.scef.behaviour = QUIET
        assert (await scene.push()).ok
        assert (await scene.push()).ok
        assert len(scene.scef.live) == 2


async def test_a_registration_that_stands_for_another_subscriber_now_replaces_nothing() -> None:
    async with TriggerScene() as scene:
        scene.scef.behaviour = QUIET
        assert (await scene.push(address=OPAQUE)).ok
        assert (await scene.push(address=OTHER)).detail == "ok"
        assert (await scene.push(address=OTHER)).detail == "replaced"
        assert [trigger.method for trigger in scene.scef.triggers] == ["POST", "POST", "PUT"]


@pytest.mark.parametrize("status", [403, 404, 405, 409, 410, 501])
async def test_what_can_not_be_replaced_gets_a_trigger_beside_it(status: int) -> None:
    async with TriggerScene() as scene:
        scene.scef.behaviour = QUIET
        assert (await scene.push(seq=1)).ok
        scene.scef.next.append(Behaviour(status=status))
        assert (await scene.push(seq=2)).detail == "ok"
        assert [trigger.method for trigger in scene.scef.triggers] == ["POST", "POST"]
        for trigger in scene.scef.triggers:
            assert await scene.scef.report(trigger, "SUCCESS") == 204
        assert scene.history.words == ["delivered", "delivered"]


async def test_a_replacement_that_fails_for_now_leaves_the_old_one_as_it_is() -> None:
    async with TriggerScene() as scene:
        scene.scef.behaviour = QUIET
        assert (await scene.push(seq=1)).ok
        scene.scef.next.append(Behaviour(status=500))
        assert not (await scene.push(seq=2)).ok
        assert scene.pending == 1
        assert (await scene.push(seq=2)).detail == "replaced"


@pytest.mark.parametrize(
    "location",
    [
        "",
        "https://evil.example/3gpp-device-triggering/v1/pushgw/transactions/t1",
        "{url}/more",
        "{url}?x=1",
        "/elsewhere/t1",
        "x" * 3_000,
    ],
)
async def test_a_resource_that_is_none_of_ours_is_never_asked(location: str) -> None:
    async with TriggerScene() as scene:
        scene.scef.behaviour = Behaviour(results=(), location=location)
        assert (await scene.push()).ok
        assert (await scene.push()).detail == "ok"
        assert [trigger.method for trigger in scene.scef.triggers] == ["POST", "POST"]
        scene.assert_strict()


async def test_a_relative_location_is_one_of_ours() -> None:
    async with TriggerScene() as scene:
        path = "/3gpp-device-triggering/v1/pushgw/transactions/t1"
        scene.scef.behaviour = Behaviour(results=(), location=path)
        assert (await scene.push()).ok
        assert (await scene.push()).detail == "replaced"


# --- many at once


async def test_many_at_once_each_get_their_own_report() -> None:
    async with TriggerScene() as scene:
        results = await asyncio.gather(*(scene.push(registration=n, seq=n) for n in range(1, 41)))
        assert all(result.ok for result in results)
        await until(lambda: len(scene.history.words) == 40)
        assert {(seq, registration) for seq, registration, *_ in scene.history.steps} == {(n, n) for n in range(1, 41)}
        assert scene.pending == 0
        scene.assert_strict()


async def test_one_page_in_a_while_stands_for_several() -> None:
    scene = TriggerScene()
    scene.config.paging.coalesce_s = 5
    async with scene:
        results = await asyncio.gather(*(scene.push(seq=n) for n in range(1, 6)))
        assert all(result.ok for result in results)
        assert len(scene.scef.triggers) == 1
