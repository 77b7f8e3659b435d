"""More PDUs on one CAT_TP link than there are sequence numbers (E8)."""

from __future__ import annotations

import dataclasses

import pytest
from cattp_net import FAST, Net

pytestmark = pytest.mark.slow


def test_all_sixteen_bits_go_round() -> None:
    """More PDUs than there are numbers."""
    limits = dataclasses.replace(FAST, max_pdu=19, max_sdu=4_000, window=100, flight=100)
    net = Net(card=limits, server=limits)
    net.open()
    for number in range(17):
        net.send(net.server, bytes((number,)) * 4_000)
        net.until(lambda number=number: len(net.card.sdus) == number + 1, 500_000)
    assert net.card.sdus == [bytes((number,)) * 4_000 for number in range(17)]
    assert net.server.link.counts["resent"] == 0
