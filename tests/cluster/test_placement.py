"""Servers that do not know each other yet refuse a stream of three copies for a moment: that is waited for."""

from __future__ import annotations

import asyncio
from itertools import repeat

import pytest
from nats.js.errors import APIError
from virtual_time import run

from gateway.cluster.jetstream import PLACE_S, Refused, placed

TOO_FEW = Refused(10005, "no suitable peers for placement, peer offline")
FULL = Refused(10023, "insufficient resources")


class Server:
    """Answers with each of these in turn."""

    def __init__(self, *answers: object) -> None:
        self.asked = 0
        self._answers = iter(answers)

    async def make(self) -> object:
        self.asked += 1
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_a_stream_is_made_once_the_servers_know_each_other() -> None:
    server = Server(TOO_FEW, TOO_FEW, "made")
    assert run(placed(server.make, Refused)) == "made"
    assert server.asked == 3


def test_what_the_client_library_raises_is_told_alike() -> None:
    few = APIError(code=400, err_code=10005, description="no suitable peers for placement")
    assert run(placed(Server(few, "made").make, APIError)) == "made"


def test_servers_that_stay_too_few_are_told_of_in_the_end() -> None:
    server = Server(*repeat(TOO_FEW, 1_000))

    async def ask() -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(Refused, match="no suitable peers"):
            await placed(server.make, Refused)
        return loop.time() - began

    assert PLACE_S <= run(ask()) < PLACE_S + 1


def test_another_refusal_is_told_at_once() -> None:
    server = Server(FULL, "made")
    with pytest.raises(Refused, match="insufficient"):
        run(placed(server.make, Refused))
    assert server.asked == 1
