"""Rates of messages to cards, their sender, the country code: what is read, and what is refused."""

from __future__ import annotations

import pytest

from gateway.config.ota_rates import check_rates, read_rates
from gateway.config.ota_section import Ota
from gateway.model.errors import ConfigError

NAME = "smsc.example.net:2775"


def test_rates_are_read_by_the_smscs_place() -> None:
    ota = Ota(smsc_rates=[f"push@{NAME}=10", "x@[2001:db8::1]:3550=0.5", "y@B.example:1=0"])
    assert read_rates(ota) == {NAME: 10.0, "2001:db8::1:3550": 0.5, "b.example:1": 0.0}


def test_a_section_as_it_comes_is_right() -> None:
    check_rates(Ota(), [NAME])


@pytest.mark.parametrize(
    ("section", "field", "words"),
    [
        (Ota(smsc_rates=["push@smsc.example.net=10"]), "ota.smsc_rates", "entry 1 is no rate"),
        (Ota(smsc_rates=[f"{NAME}=10"]), "ota.smsc_rates", "write it as system_id@"),
        (Ota(smsc_rates=[f"push@{NAME}=fast"]), "ota.smsc_rates", "entry 1 is no rate"),
        (Ota(smsc_rates=[f"push@{NAME}=-1"]), "ota.smsc_rates", "entry 1 is no rate"),
        (Ota(smsc_rates=[f"push@{NAME}=inf"]), "ota.smsc_rates", "entry 1 is no rate"),
        (Ota(smsc_rates=[f"push@{NAME}=100001"]), "ota.smsc_rates", "at most 100_000"),
        (Ota(smsc_rates=[f"push@{NAME}=1", f"push@{NAME}=2"]), "ota.smsc_rates", "a second time"),
        (Ota(smsc_rates=["push@other.example.net:2775=1"]), "ota.smsc_rates", "none of paging.smscs"),
        (Ota(source="far too long a name"), "ota.source", "is no sender"),
        (Ota(country_code="+49"), "ota.country_code", "1 to 3 digits"),
        (Ota(country_code="0"), "ota.country_code", "1 to 3 digits"),
    ],
)
def test_what_is_refused_names_the_setting_and_the_fix(section: Ota, field: str, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_rates(section, [NAME])
    assert error.value.field == field
    assert words in error.value.message
