"""Which gateway a device goes to next: the addresses it was given, and the one that GOAWAY named."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.client.addresses import LEAD_S, LEADS_MAX, Addresses, parse_node
from gateway.model.device_address import DeviceAddress

GIVEN = [("a", 1), ("b", 2), ("c", 3)]
OTHER = DeviceAddress("other", 7, 8)


def in_order() -> Addresses:
    return Addresses(GIVEN, iter(range(100)).__next__)


def hosts(addresses: Addresses, tries: int) -> list[str]:
    """Where it goes while nothing answers."""
    seen = []
    for _ in range(tries):
        seen.append(addresses.next(0.0).host)
        addresses.ended(logged_in=False, good=False)
    return seen


def test_each_address_is_tried_before_the_wait_grows() -> None:
    addresses = in_order()
    grows = []
    for _ in range(6):
        addresses.next(0.0)
        grows.append(not addresses.ended(logged_in=False, good=False))
    assert grows == [False, False, True, False, False, True]
    assert hosts(in_order(), 4) == ["a", "b", "c", "a"]


def test_one_address_alone_backs_off_as_ever() -> None:
    addresses = Addresses([("a", 1)], random.random)
    assert not addresses.ended(logged_in=False, good=False)
    assert addresses.next(0.0).host == "a"


def test_devices_spread_over_the_addresses() -> None:
    first = [Addresses(GIVEN, random.Random(seed).random).next(0.0).host for seed in range(300)]
    assert all(first.count(host) > 60 for host, _ in GIVEN)


def test_a_cut_is_tried_again_at_the_same_gateway_and_draining_at_the_next() -> None:
    addresses = in_order()
    addresses.ended(logged_in=True, good=True)
    assert addresses.next(0.0).host == "a"
    addresses.ended(logged_in=True, good=True, sent_away=True)
    assert addresses.next(0.0).host == "b"


def test_the_named_gateway_is_next_and_stays_while_it_works() -> None:
    addresses = in_order()
    assert addresses.sent_to(OTHER, 0.0, tls=False, believed=True)
    assert not addresses.ended(logged_in=True, good=True, sent_away=True)
    assert addresses.next(1.0) == ("other", 7, "a")
    addresses.ended(logged_in=True, good=True)
    assert addresses.next(2.0).host == "other"


def test_a_named_gateway_that_fails_once_is_left_for_the_given_ones() -> None:
    addresses = in_order()
    addresses.sent_to(OTHER, 0.0, tls=False, believed=True)
    addresses.ended(logged_in=True, good=True, sent_away=True)
    addresses.next(1.0)
    assert addresses.ended(logged_in=False, good=False)  # soon, at another
    assert addresses.next(2.0).host == "a"


def test_a_named_gateway_is_forgotten_after_an_hour() -> None:
    addresses = in_order()
    addresses.sent_to(OTHER, 0.0, tls=False, believed=True)
    addresses.ended(logged_in=True, good=True, sent_away=True)
    assert addresses.next(LEAD_S - 1).host == "other"
    assert addresses.next(LEAD_S).host == "a"


def test_who_is_not_believed_names_nobody() -> None:
    addresses = in_order()
    assert not addresses.sent_to(OTHER, 0.0, tls=False, believed=False)
    assert addresses.next(0.0).host == "a"


def test_inside_tls_the_device_stays_there_and_checks_the_name_it_was_given() -> None:
    addresses = in_order()
    assert not addresses.sent_to(DeviceAddress("plain", 7, 0), 0.0, tls=True, believed=True)
    assert addresses.sent_to(OTHER, 0.0, tls=True, believed=True)
    assert addresses.next(0.0) == ("other", 8, "a")
    # and that name goes on to whom the next one names
    addresses.ended(logged_in=True, good=True, sent_away=True)
    assert addresses.sent_to(DeviceAddress("third", 0, 9), 1.0, tls=True, believed=True)
    assert addresses.next(1.0) == ("third", 9, "a")


def test_gateways_that_send_a_device_in_circles_are_left() -> None:
    addresses = in_order()
    followed = 0
    for now in range(10):
        addresses.next(float(now))
        followed += addresses.sent_to(OTHER, float(now), tls=False, believed=True)
        addresses.ended(logged_in=True, good=False, sent_away=True)
    assert followed == LEADS_MAX
    addresses.ended(logged_in=True, good=True)  # a good link ends the row
    assert addresses.sent_to(OTHER, 11.0, tls=False, believed=True)


@given(st.text(max_size=20))
def test_a_name_from_outside_that_is_no_host_is_not_followed(host: str) -> None:
    addresses = in_order()
    if addresses.sent_to(DeviceAddress(host, 7), 0.0, tls=False, believed=True):
        assert host.isascii()
        assert not set(host) & set(" /@\\\0\n")


@given(st.text(max_size=20) | st.from_regex(r"[a-z\[\]:.]{0,8}:[0-9]{0,6}", fullmatch=True))
def test_any_text_is_a_gateway_or_a_value_error(text: str) -> None:
    try:
        host, port = parse_node(text)
    except ValueError:
        return
    assert host
    assert 0 < port < 65_536


def test_gateways_are_given_as_host_and_port() -> None:
    assert parse_node("gw.example:7400") == ("gw.example", 7400)
    assert parse_node("[::1]:7400") == ("::1", 7400)
    with pytest.raises(ValueError, match="host:port"):
        parse_node("gw.example")
