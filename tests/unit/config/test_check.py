"""Rules between settings: each is broken once, and nothing else is reported."""

import os
from pathlib import Path

import pytest

from gateway.config import InvalidConfig, load
from gateway.config.check import advice


def broken(*overrides: str) -> list[tuple[str, str]]:
    with pytest.raises(InvalidConfig) as caught:
        load(overrides=overrides, environ={})
    return [(p.field, p.text) for p in caught.value.problems]


@pytest.mark.parametrize(
    ("overrides", "field", "words"),
    [
        (["edge.heartbeat_min_s=61"], "edge.heartbeat_min_s", "edge.heartbeat_s = 60"),
        (["edge.heartbeat_s=241"], "edge.heartbeat_s", "edge.heartbeat_max_s = 240"),
        (["edge.login_frame_bytes=70000"], "edge.login_frame_bytes", "edge.max_frame_bytes = 65_536"),
        (["edge.max_frame_bytes=300000"], "edge.max_frame_bytes", "edge.outbox_bytes"),
        (["delivery.ttl_s=2419201"], "delivery.ttl_s", "delivery.max_ttl_s"),
        (["api.max_body_bytes=2048"], "api.max_push_bytes", "api.max_body_bytes"),
        (["edge.max_frame_bytes=33000"], "api.max_push_bytes", "at most"),
        (["api.receipts_retry_s=301"], "api.receipts_retry_s", "api.receipts_retry_max_s"),
        (["api.port=7400"], "api.port", "edge.port"),
        (["edge.host="], "edge.host", "127.0.0.1"),
        (["store.path="], "store.path", "name a folder"),
        (["store.path=/dev/null"], "store.path", "no folder"),
        (["auth.device=jwt"], "auth.jwt_key_file", "needs it"),
        (["identity.host="], "identity.host", "no host name"),
        (["identity.host=push..example"], "identity.host", "no host name"),
        (["identity.domains=https://push.example"], "identity.domains", "no host name"),
        (["identity.classes=internet=chat"], "identity.classes", "apn:internet=chat"),
        (["identity.class_hosts=apn:internet=push.example"], "identity.class_hosts", "names no class"),
        (["identity.renew_s=50000"], "identity.renew_s", "more than half of identity.validity_s"),
        (["auth.device=jwt", "auth.jwt_key_file=/nonexistent/key"], "auth.jwt_key_file", "no file"),
    ],
)
def test_a_broken_rule_names_both_sides(overrides: list[str], field: str, words: str) -> None:
    ((found, text),) = broken(*overrides)
    assert found == field
    assert words in text


def test_the_same_port_on_two_addresses_is_fine() -> None:
    load(overrides=["api.port=7400", "api.host=127.0.0.2"], environ={})


def test_port_0_twice_is_fine() -> None:
    load(overrides=["api.port=0", "edge.port=0"], environ={})


def test_a_readable_key_file_will_do(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_text("x")
    load(overrides=["auth.device=jwt", f"auth.jwt_key_file={key}"], environ={})


def test_a_key_file_that_may_not_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = tmp_path / "key.pem"
    key.write_text("x")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "may not read" in broken("auth.device=jwt", f"auth.jwt_key_file={key}")[0][1]


@pytest.mark.parametrize(("names", "words"), [("ES256,HS256", "mixes"), ("", "at least one")])
def test_algorithms_of_two_kinds_or_none_are_refused(tmp_path: Path, names: str, words: str) -> None:
    key = tmp_path / "key.pem"
    key.write_text("x")
    found = broken("auth.device=jwt", f"auth.jwt_key_file={key}", f"auth.jwt_algorithms={names}")
    assert words in found[0][1]


def test_a_broken_rule_names_the_place_the_value_came_from() -> None:
    with pytest.raises(InvalidConfig) as caught:
        load(environ={"HELIOGRAPH_EDGE_HEARTBEAT_S": "1000"})
    assert "environment HELIOGRAPH_EDGE_HEARTBEAT_S" in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "fields"),
    [
        ([], []),
        (["api.host=0.0.0.0"], ["api.host", "api.public_urls"]),
        (["api.host=::1"], []),
        (["edge.host=0.0.0.0", "auth.device=open"], ["auth.device", "edge.host", "edge.memory_limit_bytes"]),
        (["store.sync=false"], ["store.sync"]),
        (["delivery.ttl_s=3"], ["delivery.ack_ms"]),
    ],
)
def test_advice_is_given_for_what_may_surprise(overrides: list[str], fields: list[str]) -> None:
    assert [field for field, _ in advice(load(overrides=overrides, environ={}))] == fields
