"""What is done for cards as `ota` names it: what is wrong is named with its setting and the fix (E2, E6)."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.check import advice, conflicts
from gateway.config.ota import NOTICE_SEPTETS, parse_bearer, read_public_address
from gateway.config.ota_section import Ota
from gateway.config.sections import Config
from gateway.model.errors import ConfigError


@pytest.fixture
def config(tmp_path) -> Config:
    """Cards are reached, from the network."""
    password = tmp_path / "smsc"
    password.write_text("pw\n")
    password.chmod(0o600)
    config = Config()
    config.paging.smscs = ["smpps://gw@smsc.example.net:3550"]
    config.paging.smsc_password_file = str(password)
    config.ota = Ota(host="0.0.0.0", port=10_500, public_address="192.0.2.7")
    return config


def fields(found: list[tuple[str, str]]) -> list[str]:
    return [field for field, _ in found if field.startswith(("ota.", "paging."))]


def test_the_defaults_and_a_whole_section_are_in_order(config) -> None:
    config.ota.smsc_rates = ["gw@smsc.example.net:3550=5"]
    assert conflicts(Config()) == []
    assert fields(advice(Config())) == []
    assert conflicts(config) == []
    assert fields(advice(config)) == []
    assert read_public_address(config.ota) == ip_address("192.0.2.7")
    assert read_public_address(Ota(host="2001:db8::7")) == ip_address("2001:db8::7")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"rto_least_ms": 70_000, "rto_first_ms": 70_000, "rto_most_ms": 60_000}, "rto_least_ms"),
        ({"rto_first_ms": 1_000}, "rto_least_ms"),
        ({"rto_first_ms": 61_000}, "rto_first_ms"),
        ({"max_half_open": 100_001}, "max_half_open"),
        ({"at_once": 200_000}, "at_once"),
        ({"at_once": 90_000, "max_expected": 80_000}, "at_once"),
        ({"packet_bytes": 4_096, "max_sdu_bytes": 4_095}, "packet_bytes"),
        ({"queued_bytes": 1_000}, "packet_bytes"),
        ({"retry_s": 30_000.0}, "retry_s"),
        ({"ttl_s": 200}, "validity_s"),
        ({"idle_s": 60.0}, "idle_s"),
        ({"bearer": ""}, "bearer"),
        ({"bearer": "35"}, "bearer"),
        ({"bearer": "350203"}, "bearer"),
        ({"bearer": "360103"}, "bearer"),
        ({"bearer": "zz"}, "bearer"),
        ({"apn": "a..b"}, "apn"),
        ({"apn": "ü.example"}, "apn"),
        ({"notice": ""}, "notice"),
        ({"notice": "Обновление"}, "notice"),
        ({"notice": "a" * 161}, "notice"),
        ({"notice": "€" * 81}, "notice"),
        ({"source": "far too long a name"}, "source"),
        ({"smsc_rates": ["gw@smsc.example.net:3550"]}, "smsc_rates"),
        ({"smsc_rates": ["gw@other.example.net:3550=5"]}, "smsc_rates"),
        ({"country_code": "+49"}, "country_code"),
        ({"host": "cards.example.net"}, "host"),
        ({"host": "0.0.0.0", "public_address": ""}, "host"),
        ({"public_address": "cards.example.net"}, "public_address"),
        ({"public_address": "::"}, "public_address"),
        ({"public_address": "224.0.0.1"}, "public_address"),
    ],
)
def test_the_setting_that_is_wrong_is_named(changes, field, config) -> None:
    for name, value in changes.items():
        setattr(config.ota, name, value)
    assert f"ota.{field}" in fields(conflicts(config))


def test_a_host_that_cards_can_not_see_names_the_fix(config) -> None:
    config.ota.public_address = ""
    assert "ota.public_address" in dict(conflicts(config))["ota.host"]


def test_it_needs_an_smsc_that_is_heard(config) -> None:
    config.paging.smsc_bind = "transmitter"
    assert fields(conflicts(config)) == ["paging.smsc_bind"]
    config.paging.smscs = []
    assert fields(conflicts(config)) == ["paging.smscs"]
    config.ota.port = -1
    assert conflicts(config) == []


@pytest.mark.parametrize("notice", ["a" * NOTICE_SEPTETS, "€" * 80, "Füße, ñu, è: 5 £ @ home?"])
def test_a_notice_fits_one_message(notice, config) -> None:
    config.ota.notice = notice
    assert conflicts(config) == []


@given(st.text(max_size=90) | st.binary(max_size=45).map(bytes.hex))
def test_any_text_is_a_bearer_or_a_config_error(text: str) -> None:
    try:
        value = parse_bearer(text, "ota.bearer")
    except ConfigError:
        return
    assert bytes.fromhex(text)[2:] == value


@given(st.text(max_size=45))
def test_any_text_is_an_address_or_a_config_error(text: str) -> None:
    try:
        found = read_public_address(Ota(public_address=text))
    except ConfigError:
        return
    assert len(found.packed) in (4, 16)


def test_what_may_surprise_is_worth_a_word(config) -> None:
    config.ota.host = "127.0.0.1"
    assert fields(advice(config)) == ["ota.host"]
    config.ota.public_address = ""
    assert fields(advice(config)) == ["ota.host"]
    config.ota.host, config.ota.public_address, config.ota.capability_days = "0.0.0.0", "127.0.0.1", 0.5
    assert fields(advice(config)) == ["ota.public_address", "ota.capability_days"]
    config.ota.port = -1
    assert fields(advice(config)) == ["ota.port"]


def test_a_sender_that_no_card_can_answer_is_worth_a_word(config) -> None:
    config.ota.source = "+4999"
    assert fields(advice(config)) == []
    config.ota.source = "Shop"
    assert fields(advice(config)) == ["ota.source"]
    config.ota.source, config.paging.sms_source = "", "Shop"
    assert fields(advice(config)) == ["paging.sms_source"]
