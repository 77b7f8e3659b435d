"""The push proxy gateway as `wap` names it: what is wrong is named, a password never is (C9)."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.check import advice, conflicts
from gateway.config.operator_sections import Wap
from gateway.config.sections import Config
from gateway.config.wap import read_ppg
from gateway.model.errors import ConfigError
from gateway.paging.wap.settings import build_ppg_settings

URL = "https://ppg.example.net:8443/wappush"


@pytest.fixture
def password(tmp_path: Path) -> str:
    file = tmp_path / "password"
    file.write_text("pa55wörd of the PPG\n")
    file.chmod(0o600)
    return str(file)


def test_a_ppg_with_its_login(password: str) -> None:
    wap = Wap(ppg=URL, ppg_user="gw", ppg_password_file=password)
    ppg = read_ppg(wap)
    assert ppg is not None
    assert (ppg.url, ppg.host, ppg.name, ppg.is_tls, ppg.user) == (
        URL,
        "ppg.example.net",
        "ppg.example.net",
        True,
        "gw",
    )
    assert ppg.password == "pa55wörd of the PPG"
    settings = build_ppg_settings(wap)
    assert settings is not None
    assert settings.authorization.startswith("Basic ")
    for hidden in ("pa55", settings.authorization):
        assert hidden not in repr(ppg) + repr(settings)
    assert read_ppg(Wap()) is None
    named = read_ppg(Wap(ppg="http://10.0.0.7/", ppg_name="carrier.example"))
    assert named is not None
    assert (named.name, named.user, named.is_tls) == ("carrier.example", "", False)


@pytest.mark.parametrize(
    "url",
    [
        "ppg.example.net",
        "ftp://ppg.example.net",
        "https://",
        "https://gw:pa55@ppg.example.net",
        "https://gw@ppg.example.net",
        "https://ppg.example.net/?password=pa55",
        "https://ppg.example.net/#pa55",
        "https://ppg.example.net:99999",
        "https://ppg.example.net:0",
        "https://ppg example.net",
        "https://ppg.example.net/\n",
        "https://[::1",
        "https://пример.example",
    ],
)
def test_what_is_no_ppg_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_ppg(Wap(ppg=url))
    assert caught.value.field == "wap.ppg"
    assert "pa55" not in caught.value.message


@given(st.text(max_size=60))
def test_any_text_is_a_ppg_or_a_config_error(text: str) -> None:
    for url in (text, "https://" + text, "http://a" + text):
        try:
            ppg = read_ppg(Wap(ppg=url))
        except ConfigError:
            continue
        assert ppg is None or ppg.host


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"ppg_user": "g:w"}, "ppg_user"),
        ({"ppg_user": "g\nw"}, "ppg_user"),
        ({"ppg_user": ""}, "ppg_user"),
        ({"ppg_user": "g" * 300}, "ppg_user"),
        ({"ppg_password_file": ""}, "ppg_password_file"),
        ({"ppg_password_file": "/nowhere/at/all"}, "ppg_password_file"),
        ({"ppg_name": "a b"}, "ppg_name"),
        ({"ppg_ca": "/nowhere/at/all"}, "ppg_ca"),
        ({"ppg_network": "G/M"}, "ppg_network"),
        ({"ppg_bearer": 'S"'}, "ppg_bearer"),
    ],
)
def test_the_field_that_is_wrong_is_named(changes: dict[str, str], field: str, password: str) -> None:
    wap = Wap(ppg=URL, ppg_user="gw", ppg_password_file=password)
    for name, value in changes.items():
        setattr(wap, name, value)
    with pytest.raises(ConfigError) as caught:
        read_ppg(wap)
    assert caught.value.field == f"wap.{field}"


@pytest.mark.parametrize("content", [b"", b"\n", b"a\0b", b"\xff\xfe", b"a" * 300, b"two\nlines"])
def test_a_file_that_holds_no_password_is_refused_and_not_repeated(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_ppg(Wap(ppg=URL, ppg_user="gw", ppg_password_file=str(file)))
    assert caught.value.field == "wap.ppg_password_file"
    assert "two" not in caught.value.message


def test_an_authority_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("hello")
    with pytest.raises(ConfigError) as caught:
        build_ppg_settings(Wap(ppg=URL, ppg_ca=str(file)))
    assert caught.value.field == "wap.ppg_ca"


def test_check_config_names_the_field_and_gives_advice(password: str) -> None:
    config = Config()
    assert not [field for field, _ in conflicts(config) if field.startswith("wap.")]
    config.wap.ppg, config.wap.ppg_timeout_s = "nonsense", 10
    assert [field for field, _ in conflicts(config)] == ["wap.ppg", "wap.ppg_timeout_s"]
    config.wap = Wap(ppg="http://ppg.example.net/", ppg_user="gw", ppg_password_file=password)
    assert conflicts(config) == []
    Path(password).chmod(0o644)
    assert [field for field, _ in advice(config) if field.startswith("wap.")] == ["wap.ppg", "wap.ppg_password_file"]
    config.wap.ppg = "http://127.0.0.1/"
    Path(password).chmod(0o600)
    assert not [field for field, _ in advice(config) if field.startswith("wap.")]


def test_everything_is_said_at_once() -> None:
    config = Config()
    config.wap.ppg, config.wap.ppg_ca, config.wap.ppg_name = "ppg.example.net/pa55word", "/no/such/ca", "a b"
    config.wap.ppg_user, config.wap.ppg_password_file = "g:w", "/no/such/password"
    config.wap.ppg_network, config.wap.ppg_bearer = " GSM", "SMS  "
    found = conflicts(config)
    fields = ["ppg_network", "ppg_bearer", "ppg", "ppg_name", "ppg_ca", "ppg_user", "ppg_password_file"]
    assert [field for field, _ in found] == [f"wap.{field}" for field in fields]
    assert "pa55word" not in str(found)


def test_what_is_odd_or_not_used_is_worth_a_word() -> None:
    config = Config()
    assert not [field for field, _ in advice(config) if field.startswith("wap")]
    config.wap.ppg_user, config.wap.ppg_network = "gw", "IS-95 CDMA"
    assert [field for field, _ in advice(config) if field.startswith("wap")] == ["wap.ppg_network", "wap.ppg"]
