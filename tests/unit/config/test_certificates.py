"""TLS and PROXY settings: what is wrong with files and words is named with its field and a fix."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import InvalidConfig, load
from gateway.config.certificates import parse_names, read_tls_files, tls_paths
from gateway.config.check import advice
from gateway.config.sections import Edge
from gateway.model.errors import ConfigError
from gateway.notifiers.local_tls import Authority

CA = Authority()


@pytest.fixture
def edge(tmp_path: Path) -> Edge:
    cert, key = CA.issue("localhost").write(tmp_path)
    key.chmod(0o600)
    return Edge(tls_port=0, tls_cert=str(cert), tls_key=str(key))


def overrides(edge: Edge, **further: str) -> list[str]:
    named = {"tls_port": "0", "tls_cert": edge.tls_cert, "tls_key": edge.tls_key, **further}
    return [f"edge.{name}={value}" for name, value in named.items()]


def broken(*texts: str) -> list[tuple[str, str]]:
    with pytest.raises(InvalidConfig) as caught:
        load(overrides=texts, environ={})
    return [(p.field, p.text) for p in caught.value.problems]


def test_good_files_are_read_and_named(edge: Edge, tmp_path: Path) -> None:
    cert, key = CA.issue("push.example.org", ends_days=10).write(tmp_path, "push")
    edge.tls_sni = [f"Push.example.org={cert}:{key}", f"*.example.net={cert}:{key}"]
    edge.tls_client_ca = str(CA.write(tmp_path))
    assert len(tls_paths(edge)) == 6
    edge.tls_client_auth = "optional"
    assert tls_paths(edge)[-1] == edge.tls_client_ca
    files = read_tls_files(edge, time.time)
    assert set(files.ends()) == {"default", "push.example.org", "*.example.net"}
    assert files.client_ca == CA.pem.encode()
    load(overrides=overrides(edge, tls_sni=",".join(edge.tls_sni)), environ={})


@pytest.mark.parametrize("entry", ["", "host", "host=cert", "host=:key", "=a:b", "a b=c:d", "*.=c:d", "ä.example=c:d"])
def test_an_entry_that_is_none_is_named(entry: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_names([entry])
    assert caught.value.field == "edge.tls_sni"


@given(st.text(max_size=60))
def test_any_text_is_a_host_with_files_or_a_config_error(text: str) -> None:
    try:
        ((host, cert, key),) = parse_names([text])
    except ConfigError:
        return
    assert host
    assert host == host.lower()
    assert cert
    assert key


def test_a_key_with_a_password_is_refused(edge: Edge) -> None:
    key = serialization.load_pem_private_key(Path(edge.tls_key).read_bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    Path(edge.tls_key).write_bytes(locked)
    assert broken(*overrides(edge)) == [
        (
            "edge.tls_key",
            f"{edge.tls_key!r} has a password, which nobody could type here; store it without one, mode 600",
        )
    ]


def test_a_certificate_that_begins_later_is_refused(edge: Edge) -> None:
    with pytest.raises(ConfigError, match="clock"):
        read_tls_files(edge, lambda: time.time() - 10 * 86_400)


def test_a_file_that_is_too_large_is_refused(edge: Edge) -> None:
    Path(edge.tls_cert).write_bytes(b"x" * 1_100_000)
    with pytest.raises(ConfigError, match="larger"):
        read_tls_files(edge, time.time)


@pytest.mark.parametrize(
    ("texts", "field", "words"),
    [
        (["edge.tls_port=0"], "edge.tls_cert", "is empty"),
        (["edge.port=-1"], "edge.port", "could not connect"),
        (["edge.proxy_protocol=required"], "edge.proxy_trusted", "is empty"),
        (["edge.proxy_trusted=10.0.0.1/8"], "edge.proxy_trusted", "host bits"),
        (["edge.proxy_trusted=balancer"], "edge.proxy_trusted", "write an address"),
        ([f"edge.proxy_trusted={','.join(['10.0.0.1'] * 65)}"], "edge.proxy_trusted", "at most 64"),
    ],
)
def test_a_broken_rule_names_its_field(texts: list[str], field: str, words: str) -> None:
    ((found, text),) = broken(*texts)
    assert found == field
    assert words in text


def test_one_port_for_two_doors_is_refused(edge: Edge) -> None:
    assert [field for field, _ in broken(*overrides(edge, tls_port="7400"))] == ["edge.tls_port"]
    assert [field for field, _ in broken(*overrides(edge, tls_port="7480"))] == ["api.port"]


def test_proxy_headers_need_the_plain_port(edge: Edge) -> None:
    texts = overrides(edge, port="-1", proxy_protocol="required", proxy_trusted="10.0.0.0/8")
    assert [field for field, _ in broken(*texts)] == ["edge.proxy_protocol"]


def test_advice_on_what_may_surprise(edge: Edge, tmp_path: Path) -> None:
    config = load(overrides=overrides(edge, port="-1", host="0.0.0.0"), environ={})
    assert "edge.host" not in dict(advice(config))
    Path(edge.tls_key).chmod(0o644)
    config.edge.tls_client_ca = edge.tls_cert
    found = dict(advice(config))
    assert "chmod 600" in found["edge.tls_key"]
    assert "not used" in found["edge.tls_client_auth"]
    short = CA.issue("localhost", ends_days=3).write(tmp_path, "short")
    config.edge.tls_cert, config.edge.tls_key = map(str, short)
    assert "ends in 2 days" in dict(advice(config))["edge.tls_cert"]
