"""Clients, secrets and pools as `radius` and `ip` name them: what is wrong is named, a secret never is; and where a
datagram may go."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.check import advice, conflicts
from gateway.config.operator_sections import Ip, Radius
from gateway.config.radius import is_allowed, read_clients, read_networks, wait_s
from gateway.config.sections import Config
from gateway.model.errors import ConfigError


@pytest.fixture
def secret(tmp_path: Path) -> str:
    file = tmp_path / "secret"
    file.write_text("between-us-alone\n")
    file.chmod(0o600)
    return str(file)


def test_clients_narrowest_first_with_their_secrets(secret: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("another-secret")
    clients = read_clients(
        Radius(clients=["10.0.0.0/8", f"10.1.2.3?secret_file={other}", "2001:db8::/32"], secret_file=secret)
    )
    assert [str(client.network) for client in clients] == ["10.1.2.3/32", "2001:db8::/32", "10.0.0.0/8"]
    assert [client.secret for client in clients] == [b"another-secret", b"between-us-alone", b"between-us-alone"]
    assert "between" not in repr(clients)


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "ggsn.example.net",
        "10.0.0.1/8",
        "10.0.0.0/8?secret=pa55word",
        "10.0.0.0/8?",
        "10.0.0.0/8?secret_file=",
        "pa55word@10.0.0.1",
    ],
)
def test_an_entry_that_is_no_client_is_not_repeated(entry: str, secret: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_clients(Radius(clients=[entry], secret_file=secret))
    assert caught.value.field == "radius.clients"
    assert "pa55word" not in caught.value.message


@pytest.mark.parametrize("content", ["short", "x" * 2_000, "two\nlines-of-it", ""])
def test_a_secret_that_is_none(content: str, tmp_path: Path) -> None:
    file = tmp_path / "bad"
    file.write_text(content)
    with pytest.raises(ConfigError) as caught:
        read_clients(Radius(clients=["10.0.0.0/8"], secret_file=str(file)))
    assert caught.value.field == "radius.secret_file"
    assert not content or content not in caught.value.message


def test_a_client_twice_too_many_and_without_a_secret(secret: str) -> None:
    for radius in (
        Radius(clients=["10.0.0.0/8"] * 2, secret_file=secret),
        Radius(clients=[f"10.0.{n // 256}.{n % 256}" for n in range(300)], secret_file=secret),
        Radius(clients=["10.0.0.0/8"]),
        Radius(clients=["10.0.0.0/8"], secret_file="/nowhere/at/all"),
    ):
        with pytest.raises(ConfigError):
            read_clients(radius)


@pytest.mark.parametrize(
    "network",
    ["0.0.0.0/0", "::/0", "224.0.0.0/4", "127.0.0.0/8", "::1", "169.254.0.0/16", "fe80::/10", "x", "10.0.0.1/8"],
)
def test_a_network_that_no_subscriber_can_be_in(network: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_networks(Ip(networks=[network]))
    assert caught.value.field == "ip.networks"


def test_loopback_only_where_it_is_said() -> None:
    assert read_networks(Ip(networks=["127.0.0.0/8"], loopback=True))
    assert is_allowed(ip_address("127.0.0.1"), [ip_network("127.0.0.0/8")], loopback=True)
    assert not is_allowed(ip_address("127.0.0.1"), [ip_network("126.0.0.0/7")], loopback=False)


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("10.45.0.7", True),
        ("10.45.0.0", False),
        ("10.45.255.255", False),
        ("10.46.0.1", False),
        ("2001:db8:1::7", True),
        ("2001:db9::1", False),
        ("::ffff:10.45.0.7", False),
        ("fe80::1", False),
        ("255.255.255.255", False),
        ("192.0.2.7", True),
    ],
)
def test_where_a_datagram_may_go(address: str, allowed: bool) -> None:
    networks = [ip_network(each) for each in ("10.45.0.0/16", "2001:db8::/32", "192.0.2.7/32")]
    assert is_allowed(ip_address(address), networks, loopback=False) is allowed


@given(st.ip_addresses())
def test_nothing_outside_the_pools_and_nothing_special_inside_a_wide_one(address: object) -> None:
    checked = ip_address(str(address))
    wide = [ip_network("128.0.0.0/1"), ip_network("0.0.0.0/1"), ip_network("8000::/1"), ip_network("::/1")]
    if is_allowed(checked, wide, loopback=False):
        assert not any((checked.is_loopback, checked.is_multicast, checked.is_link_local, checked.is_unspecified))
    assert not is_allowed(checked, [], loopback=True)


def test_what_contradicts_is_named(secret: str) -> None:
    config = Config()
    assert conflicts(config) == []
    config.radius.port = 0
    config.ip.networks = ["10.45.0.0/16"]
    config.ip.ack_s, config.ip.retransmits = 2.0, 4
    config.ip.path = "a/b"
    config.ip.ggsn, config.ip.ggsn_name = "nowhere", "two words"
    config.radius.host = "localhost"
    fields = {field for field, _ in conflicts(config)}
    assert fields == {"radius.clients", "radius.host", "ip.ack_s", "ip.path", "ip.ggsn", "ip.ggsn_name"}
    config = Config()
    config.radius.port = 1813
    config.radius.clients, config.radius.secret_file = ["10.0.0.0/8"], secret
    config.ip.ggsn = "10.0.0.3:4260"
    config.ip.networks = ["10.45.0.0/16"]
    assert conflicts(config) == []


def test_the_longest_wait_is_that_of_the_standard() -> None:
    # RFC 7252 §4.8.2: MAX_TRANSMIT_WAIT is 93 s with the defaults of §4.8
    assert wait_s(Ip(ack_s=2.0, retransmits=4)) == 93.0


def test_advice(secret: str) -> None:
    config = Config()
    config.radius.port, config.radius.host = 1813, "0.0.0.0"
    config.radius.clients, config.radius.secret_file = ["10.0.0.0/8"], secret
    config.ip.loopback = True
    before = {field for field, _ in advice(config)}
    assert {"radius.host", "ip.networks", "ip.loopback"} <= before
    assert "radius.clients" not in before
    Path(secret).chmod(0o644)
    assert "radius.clients" in {field for field, _ in advice(config)}


def test_every_client_that_is_wrong_is_named_by_its_place() -> None:
    config = Config()
    config.radius.port = 1813
    config.radius.clients = [
        "10.0.0.1?secret_file=/no/such/1",
        "pa55word",
        "10.0.0.2?secret_file=/no/such/2",
        "10.0.0.3",
    ]
    found = conflicts(config)
    assert [field for field, _ in found] == ["radius.clients"] * 3 + ["radius.secret_file"]
    words = " ".join(text for _, text in found)
    assert "/no/such/1" in words
    assert "/no/such/2" in words
    assert "entry 2" in words
    assert "pa55word" not in words


def test_what_is_set_and_not_used_is_worth_a_word(secret: str) -> None:
    def fields() -> list[str]:
        return [field for field, _ in advice(config) if field.startswith(("radius", "ip"))]

    config = Config()
    config.ip.ggsn = "10.0.0.3:4260"
    assert fields() == ["ip.networks"]
    config.ip.networks = ["10.45.0.0/16"]
    assert fields() == []
    config.radius.clients, config.radius.secret_file = ["10.0.0.0/8"], secret
    ((_, words),) = [each for each in advice(config) if each[0] == "radius.port"]
    assert "radius.clients and radius.secret_file" in words
    config.radius.port = 1813
    assert fields() == []
