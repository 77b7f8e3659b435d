"""SIP servers, the app and the pagers as `ims` names them: what is wrong is named with its setting."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.check import advice, conflicts
from gateway.config.ims import SipServer, read_servers
from gateway.config.operator_sections import Ims
from gateway.config.sections import Config
from gateway.model.errors import ConfigError


def test_servers_are_read_with_their_names() -> None:
    assert read_servers(Ims()) == []
    found = read_servers(Ims(servers=["cscf.example.net:8448", "[::1]:8448"]))
    assert found == [SipServer("cscf.example.net:8448", "cscf.example.net", 8448), SipServer("::1:8448", "::1", 8448)]


@pytest.mark.parametrize(
    "servers", [["cscf"], [""], ["cscf:0"], ["tcp://cscf:1"], ["cscf:1", "cscf:1"], [f"cscf:{n}" for n in range(1, 18)]]
)
def test_what_is_no_server_is_refused(servers: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        read_servers(Ims(servers=servers))
    assert caught.value.field == "ims.servers"


@given(st.text(max_size=60))
def test_any_text_is_a_server_or_a_config_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        assert len(read_servers(Ims(servers=[text]))) == 1


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        ("servers", ["cscf"], "ims.servers"),
        ("app", "no app", "ims.app"),
        ("provider", "no;provider", "ims.provider"),
        ("pagers", [], "ims.pagers"),
        ("pagers", ["sms", "sms"], "ims.pagers"),
        ("pagers", ["S M S"], "ims.pagers"),
        ("reconnect_s", 31.0, "ims.reconnect_s"),
        ("refuse_ms", 30_000, "ims.refuse_ms"),
    ],
)
def test_check_config_names_the_setting(name: str, value: object, field: str) -> None:
    config = Config()
    assert conflicts(config) == []
    setattr(config.ims, name, value)
    assert [each for each, _ in conflicts(config)] == [field]


def test_advice_on_a_server_elsewhere_and_a_pager_that_is_not_there() -> None:
    config = Config()
    config.ims.servers = ["127.0.0.1:8448"]
    assert [field for field, _ in advice(config)] == ["ims.pagers"]
    config.ims.servers = ["cscf.example.net:8448"]
    config.ims.pagers = ["trigger"]
    assert [field for field, _ in advice(config)] == ["ims.servers"]


def test_every_server_that_is_none_is_named() -> None:
    config = Config()
    config.ims.servers = ["abc", "10.0.0.4:8448", "def"]
    found = conflicts(config)
    assert [field for field, _ in found] == ["ims.servers"] * 2
    assert ["'abc'" in found[0][1], "'def'" in found[1][1]] == [True, True]
    assert all("pcscf.example.net:8448" in words for _, words in found)
