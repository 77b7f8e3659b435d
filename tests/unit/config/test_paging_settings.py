"""SMSCs, passwords, senders and hosts as `paging` names them: what is wrong is named, a password never is."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.check import advice, conflicts
from gateway.config.operator_sections import Paging
from gateway.config.paging import parse_host, parse_source, read_smscs
from gateway.config.sections import Config
from gateway.model.errors import ConfigError


@pytest.fixture
def password(tmp_path: Path) -> str:
    file = tmp_path / "password"
    file.write_text("pa55word\n")
    file.chmod(0o600)
    return str(file)


def test_smscs_with_their_defaults_and_passwords(password: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("x")
    paging = Paging(
        smscs=["smpp://gw@smsc.example.net", f"smpps://gw@[::1]:3551?password_file={other}"],
        smsc_password_file=password,
    )
    first, second = read_smscs(paging)
    assert (first.name, first.port, first.tls, first.password) == ("smsc.example.net:2775", 2775, False, "pa55word")
    assert (second.host, second.port, second.tls, second.password) == ("::1", 3551, True, "x")
    assert "pa55word" not in repr(first)


@pytest.mark.parametrize(
    "entry",
    [
        "smsc.example.net:2775",
        "http://gw@smsc.example.net",
        "smpp://smsc.example.net:2775",
        "smpp://gw:pa55word@smsc.example.net",
        "smpp://gw@smsc.example.net:99999",
        "smpp://gw@smsc.example.net/path",
        "smpp://gw@smsc.example.net?colour=red",
        "smpp://a-system-id-that-is-too-long@smsc.example.net",
        "",
    ],
)
def test_what_is_no_smsc_is_refused_and_a_password_not_repeated(entry: str, password: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_smscs(Paging(smscs=[entry], smsc_password_file=password))
    assert caught.value.field == "paging.smscs"
    assert "pa55word" not in caught.value.message


@pytest.mark.parametrize("text", ["", "123456789", "ä", "a\0b"])
def test_a_file_without_an_smpp_password_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_smscs(Paging(smscs=["smpp://gw@smsc"], smsc_password_file=str(file)))
    assert caught.value.field == "paging.smsc_password_file"
    assert not text or text not in caught.value.message


@given(st.text(max_size=60))
def test_any_text_is_an_smsc_a_host_a_sender_or_a_config_error(text: str) -> None:
    for read in (
        lambda: read_smscs(Paging(smscs=[text])),
        lambda: parse_host(text, "paging.hlr"),
        lambda: parse_source(text, "paging.sms_source"),
    ):
        try:
            read()
        except ConfigError:
            continue


def test_check_config_names_the_field(password: str) -> None:
    config = Config()
    assert conflicts(config) == []
    config.paging.smscs = ["smpp://gw@smsc.example.net", "smpp://gw@smsc.example.net"]
    config.paging.smsc_password_file = password
    config.paging.hlr = "hlr"
    config.paging.sms_source = "a sender that is too long"
    config.paging.smsc_answer_s = 10
    config.paging.smsc_reconnect_s = 61
    fields = [field for field, _ in conflicts(config)]
    assert fields == [
        "paging.smscs",
        "paging.sms_source",
        "paging.hlr",
        "paging.smsc_answer_s",
        "paging.smsc_reconnect_s",
    ]


def test_every_entry_and_file_that_is_wrong_is_named_by_its_place() -> None:
    config = Config()
    nothing = "/no/such/file"
    config.paging.smscs = [
        f"smpp://gw@one?password_file={nothing}1",
        "pa55word",
        f"smpp://gw@two?password_file={nothing}2",
    ]
    config.paging.smsc_system_type = "x" * 13
    config.paging.smsc_ca = nothing
    found = conflicts(config)
    fields = ["smsc_system_type", "smsc_ca", "smscs", "smscs", "smscs"]
    assert [field for field, _ in found] == [f"paging.{field}" for field in fields]
    words = " ".join(text for _, text in found)
    assert f"{nothing}1" in words
    assert f"{nothing}2" in words
    assert "entry 2 is no SMSC" in words
    assert "pa55word" not in words


def test_advice_on_plain_smpp_and_open_files(password: str) -> None:
    config = Config()
    config.paging.smscs = ["smpp://gw@smsc.example.net"]
    config.paging.smsc_password_file = password
    Path(password).chmod(0o644)
    found = [words for field, words in advice(config) if field == "paging.smscs"]
    assert len(found) == 2
    config.paging.smscs = ["smpps://gw@smsc.example.net"]
    Path(password).chmod(0o600)
    assert not [words for field, words in advice(config) if field == "paging.smscs"]
