"""Sending, windows, pauses and closing in any order, on any network: what came is a beginning of what was sent, and a
link that closed when all was there lost nothing."""

from __future__ import annotations

import dataclasses
import random

import pytest
from cattp_net import FAST, Net

from gateway.ota.cattp import Cause, Delivered, Limits, Refused, State


def limits(rng: random.Random) -> Limits:
    return dataclasses.replace(
        FAST,
        window=rng.randint(1, 12),
        flight=rng.randint(1, 12),
        max_pdu=rng.randint(19, 80),
        max_sdu=rng.randint(1, 500),
        retries=60,
        opening_retries=60,
        zero_window_ms=200_000,
        keep_alive_ms=rng.choice([0, 1_000, 5_000]),
    )


@pytest.mark.parametrize("seed", range(12))
def test_anything_in_any_order(seed: int) -> None:
    rng = random.Random(seed)
    net = Net(
        seed=seed,
        loss=rng.random() * 0.4,
        twice=rng.random() * 0.4,
        delay_ms=(1, rng.randint(1, 600)),
        card=limits(rng),
        server=limits(rng),
        card_first=rng.randint(0, 0xFFFF),
        server_first=rng.choice([65_530, 32_760]),
    )
    sides = (net.card, net.server)
    net.open()
    sent: dict[int, list[bytes]] = {id(side): [] for side in sides}
    for step in range(rng.randint(5, 40)):
        side = rng.choice(sides)
        what = rng.random()
        if what < 0.6 and side.link.state is State.OPEN:
            sdu = bytes((step,)) * rng.randint(1, side.link.most_sdu_bytes)
            try:
                net.send(side, sdu)
            except Refused:
                continue
            sent[id(side)].append(sdu)
        elif what < 0.75:
            pdus = rng.choice([0, 0, 1, side.link.limits.window])
            net.run_outputs(side, side.link.set_window(pdus, net.now_ms))
        else:
            net.run_for(rng.randint(1, 3_000))
    for side in sides:
        net.run_outputs(side, side.link.set_window(side.link.limits.window, net.now_ms))
    first, second = rng.sample(sides, 2)
    net.close(first)
    if rng.random() < 0.5:
        net.close(second)
    net.until(lambda: bool(first.closed))
    if first.closed[0].cause is Cause.ASKED:
        assert second.sdus == sent[id(first)]
    for side in sides:
        theirs = sent[id(net.other(side))]
        assert side.sdus == theirs[: len(side.sdus)]
    delivered = sum(event.sdus for event in first.events if isinstance(event, Delivered))
    assert delivered + first.closed[0].undelivered == len(sent[id(first)])
