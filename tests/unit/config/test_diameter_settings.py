"""Section diameter: what is wrong is named with its fix, what is risky is said (C7, C10)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.config.check import advice, conflicts
from gateway.config.diameter import read_peers, read_tls
from gateway.config.sections import Config
from gateway.diameter.node import build_node
from gateway.metrics import Metrics
from gateway.notifiers.local_tls import Authority

NAMED = {"origin_host": "pushgw.example.net", "origin_realm": "example.net"}


def config(**settings: Any) -> Config:
    made = Config()
    for name, value in {**NAMED, **settings}.items():
        setattr(made.diameter, name, value)
    return made


def wrong(made: Config) -> list[str]:
    return [field for field, _ in conflicts(made)]


def test_without_peers_nothing_else_is_needed() -> None:
    assert wrong(Config()) == []
    assert build_node(Config(), Metrics(process=False)) is None


def test_peers_are_read_with_their_ports() -> None:
    peers = ["dra.example.net:3870", "aaa://a.example.net", "aaas://b.example.net", "aaas://[::1]:1", "127.0.0.1:2"]
    assert [tuple(peer) for peer in read_peers(config(peers=peers).diameter)] == [
        ("dra.example.net", 3870, False),
        ("a.example.net", 3868, False),
        ("b.example.net", 5658, True),
        ("::1", 1, True),
        ("127.0.0.1", 2, False),
    ]
    assert wrong(config(peers=peers)) == []


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"peers": ["dra.example.net"]}, "peers"),
        ({"peers": ["http://dra.example.net:1"]}, "peers"),
        ({"peers": ["user@dra.example.net:1"]}, "peers"),
        ({"peers": ["dra:99999"]}, "peers"),
        ({"peers": ["aaa://dra/path"]}, "peers"),
        ({"peers": [""]}, "peers"),
        ({"peers": ["dra:1", "dra:1"]}, "peers"),
        ({"peers": [f"dra:{n}" for n in range(1, 20)]}, "peers"),
        ({"origin_host": ""}, "origin_host"),
        ({"origin_realm": ""}, "origin_realm"),
        ({"origin_host": "a b"}, "origin_host"),
        ({"hss_host": "hss_1"}, "hss_host"),
        ({"mtc_iwf_host": "-"}, "mtc_iwf_host"),
        ({"destination_realm": "a..b"}, "destination_realm"),
        ({"scs_identity": "é"}, "scs_identity"),
        ({"sc_address": "+49"}, "sc_address"),
        ({"answer_s": 10.0}, "answer_s"),
        ({"reconnect_s": 61.0}, "reconnect_s"),
        ({"peers": ["aaas://dra"], "tls_ca": "/no/such"}, "tls_ca"),
        ({"peers": ["aaas://dra"], "tls_cert": "/no/such"}, "tls_key"),
    ],
)
def test_what_is_wrong_is_named(settings: dict[str, Any], field: str) -> None:
    assert wrong(config(**{"peers": ["dra:3868"], **settings})) == [f"diameter.{field}"]


def test_everything_is_said_at_once(tmp_path: Path) -> None:
    nothing = "/no/such"
    made = config(
        peers=["aaas://dra", "dra", "http://x:1"],
        origin_host="",
        hss_host="hss_1",
        tls_ca=nothing,
        tls_cert=nothing,
        tls_key=nothing,
    )
    found = conflicts(made)
    fields = ["peers", "peers", "origin_host", "hss_host", "tls_ca", "tls_cert", "tls_key"]
    assert [field for field, _ in found] == [f"diameter.{field}" for field in fields]
    assert "entry 2" in found[0][1]
    assert "entry 3" in found[1][1]
    for _, words in found[-3:]:
        assert nothing in words
        assert "No such file" in words


def test_files_that_hold_something_else(tmp_path: Path) -> None:
    file = tmp_path / "nothing.pem"
    file.write_text("nothing")
    made = config(peers=["aaas://dra"], tls_ca=str(file), tls_cert=str(file), tls_key=str(file))
    (authority, authority_words), (pair, pair_words) = conflicts(made)
    assert (authority, pair) == ("diameter.tls_ca", "diameter.tls_cert")
    assert "holds no certificate" in authority_words
    assert "no pair" in pair_words


def test_an_hss_and_an_mtc_iwf_need_a_peer() -> None:
    made = config(s6c=True)
    made.identity.mapping, made.trigger.way = "hss", "tsp"
    assert wrong(made) == ["trigger.way", "diameter.peers", "diameter.peers"]


def test_plain_diameter_and_open_keys_are_worth_a_word(tmp_path: Path) -> None:
    def fields(made: Config) -> list[str]:
        return [field for field, _ in advice(made) if field.startswith("diameter")]

    assert fields(config(peers=["127.0.0.1:3868"])) == []
    assert fields(config(peers=["10.0.0.1:3868", "aaas://dra"])) == ["diameter.peers"]
    authority = Authority()
    issued = authority.issue(name="pushgw.example.net")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.write_text(issued.certificate)
    key.write_text(issued.key)
    key.chmod(0o644)
    made = config(
        peers=["aaas://dra"], tls_ca=str(authority.write(tmp_path)), tls_cert=str(certificate), tls_key=str(key)
    )
    assert wrong(made) == []
    assert read_tls(made.diameter) is not None
    assert fields(made) == ["diameter.tls_key"]


def test_a_node_is_built_as_the_section_says() -> None:
    node = build_node(config(peers=["dra:3868", "aaas://dra"]), Metrics(process=False))
    assert node is not None
    assert node.origin_host == "pushgw.example.net"
