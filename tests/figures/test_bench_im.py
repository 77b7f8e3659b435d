"""D2 and D3 take what they say, at a small size, through the whole gateway; and what they reckon with."""

import pytest

from bench.system import im_messages, im_storm
from bench.system.figures import Run
from bench.system.pacing import LagProbe, most_in, pace


def test_the_most_in_a_window_are_counted() -> None:
    assert most_in([], 1.0) == 0
    assert most_in([0.0, 0.9, 1.0, 1.5, 3.0], 1.0) == 3


@pytest.mark.parametrize("rate", [0, 2_000])
async def test_each_is_done_once_and_in_order(rate: float) -> None:
    done: list[int] = []
    seconds = await pace(200, rate, done.append)
    assert done == list(range(200))
    assert seconds >= (200 / rate if rate else 0) - 0.05


async def test_a_turn_that_took_long_counts_for_every_tick_it_missed() -> None:
    probe = LagProbe()
    assert probe.note(1.0, 1.001) == pytest.approx(1.005)
    assert probe.note(1.005, 1.203) == pytest.approx(1.205)
    late = await probe.stop()
    assert late["most_ms"] == pytest.approx(198)
    assert late["p50_ms"] == pytest.approx(98, abs=6)


async def test_all_accounts_of_a_small_storm_connect_once_and_within_the_bounds() -> None:
    said: list[str] = []
    settings = ("im.connects_per_s=200", "im.connects_at_once=7")
    measured = await im_storm.measure(20, Run(say=said.append), *settings, per_s=200)
    assert measured.more["connects"] == 20
    assert measured.more["most_at_once"] <= 7
    assert measured.value is not None
    assert measured.value >= im_storm.LOGIN_MS / 1e3 * (20 // 7)
    assert said


async def test_every_message_of_a_small_run_reaches_its_device() -> None:
    measured = await im_messages.measure(10, 200, Run(), 0.5)
    assert measured.more["lost"] == 0
    assert measured.value is not None
    assert measured.value > 0
    assert measured.more["p50_ms"] > 0
