"""Where devices find a node, as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.device_address import DeviceAddress, parse_device_address

PORTS = st.integers(1, 65_535)
NAMES = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,60}[a-z0-9])?", fullmatch=True)
HOSTS = st.one_of(st.just("::1"), st.just("2001:db8::7"), NAMES)
#: the last one is of another alphabet
WRONG = ["", "host", "host:", ":7400", "host:0", "host:70000", "host:1,70000", "::1:7400", "h:\uff11"]


@given(HOSTS, PORTS, PORTS, st.sampled_from(["plain", "tls", "both"]))
def test_what_is_built_is_parsed_again(host: str, port: int, tls_port: int, kind: str) -> None:
    address = DeviceAddress(host, port if kind != "tls" else 0, tls_port if kind != "plain" else 0)
    assert parse_device_address(str(address)) == address


@given(st.text(max_size=40) | st.from_regex(r"[a-z\[\]:,0-9]{0,20}", fullmatch=True))
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    try:
        address = parse_device_address(text)
    except ValueError:
        return
    assert address.host
    assert 0 < max(address.port, address.tls_port) < 65_536


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"host"):
        parse_device_address(text)


def test_the_port_goes_by_how_the_device_is_connected() -> None:
    address = parse_device_address("gw:7400,7443")
    assert (address.port_for(tls=False), address.port_for(tls=True)) == (7400, 7443)
    assert parse_device_address("gw:,7443").port_for(tls=False) == 0
