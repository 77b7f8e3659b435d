"""Page keys and tickets of service paging (C13)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.service_keys import Counters, ServiceKeys, Ticket

KEYS = ServiceKeys(b"s" * 32)
TICKET = Ticket(4_711, 3, 1_800_000_000)


@given(st.integers(0, 2**48 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 7))
def test_a_ticket_says_what_was_put_in(push: int, registration: int, expires_s: int, server: int) -> None:
    ticket = Ticket(push, registration, expires_s)
    block = KEYS.build_ticket("shop", ticket, "chat", server)
    assert len(block) == 16
    assert KEYS.parse_ticket("shop", block, "chat", server) == ticket


@given(st.binary(min_size=16, max_size=16))
def test_a_block_that_was_not_made_here_does_not_name_a_registration(block: bytes) -> None:
    ticket = KEYS.parse_ticket("shop", block, "chat", 0)
    assert ticket is None or ticket.registration != TICKET.registration


def test_a_ticket_is_of_one_app_one_aid_one_server_and_one_gateway() -> None:
    block = KEYS.build_ticket("shop", TICKET, "chat", 0)
    for keys, app, aid, server in (
        (KEYS, "other", "chat", 0),
        (KEYS, "shop", "paper", 0),
        (KEYS, "shop", "chat", 1),
        (ServiceKeys(b"t" * 32), "shop", "chat", 0),
    ):
        assert keys.parse_ticket(app, block, aid, server) != TICKET


def test_each_token_has_its_own_page_key_the_same_after_a_restart() -> None:
    assert KEYS.page_key(b"a" * 16) != KEYS.page_key(b"b" * 16)
    assert ServiceKeys(b"s" * 32).page_key(b"a" * 16) == KEYS.page_key(b"a" * 16)
    with pytest.raises(ValueError, match="16 bytes"):
        ServiceKeys(b"short")


def test_counters_grow_though_the_clock_stands_still_or_goes_back() -> None:
    times = iter([100, 100, 50, 200])
    counters = Counters(lambda: next(times))
    assert [counters.next() for _ in range(4)] == [100, 101, 102, 200]
