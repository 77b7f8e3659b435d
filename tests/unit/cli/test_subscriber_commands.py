"""`heliograph subscribers` against a small server: bodies, tables, and nobody is shown unasked."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from test_provider_commands import Api

from gateway.cli import run

KINDS = ["imsi", "imei", "impi", "msisdn", "impu", "nai", "ip", "mac"]
IMSI = "001010123456789"
OPAQUE = f"{'a' * 26}@push.example.com"
VIEW = {"id": OPAQUE, "url": "", "kinds": ["o-tmsi"], "app": None, "class": None, "from_ms": 1, "until_ms": None}
PAST = {"history": [{"network_ids": [{"kind": "imsi", "value": IMSI}], "from_ms": 1, "until_ms": 2, "why": "replaced"}]}
RESOLVED = {"network_ids": [{"kind": "imsi", "value": IMSI}], "kinds": ["o-tmsi"], "elsewhere": None}


@pytest.fixture
def api() -> Iterator[Api]:
    api = Api()
    api.answers |= {
        "POST /v1/subscribers": [(200, {"ids": [VIEW], "drawn": 1, "replaced": True})],
        "POST /v1/subscribers/ids": [(200, {"ids": []})],
        "POST /v1/subscribers/revoke": [(200, {"revoked": 1})],
        "POST /v1/subscribers/opt-out": [(200, {"out": ["*"]})],
        "POST /v1/subscribers/resolve": [(200, RESOLVED)],
        "POST /v1/subscribers/history": [(200, PAST), (200, {"history": []})],
    }
    thread = threading.Thread(target=api.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield api
    api.server.shutdown()
    thread.join()
    api.server.server_close()


def call(api: Api, *arguments: str) -> tuple[int, Any]:
    """(exit code, body that was posted)"""
    api.asked.clear()
    code = run(["subscribers", *arguments, "--url", api.url, "--key", "hk_operator_x"])
    return code, api.asked[0][1] if api.asked else None


def test_create_trigger_and_ids(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    code, body = call(api, "create", f"imsi:{IMSI}", "msisdn:+491511234567", "--app", "demo", "--permanent")
    assert (code, body["trigger"], body["app"], body["validity_s"]) == (0, "service", "demo", 0)
    assert body["network_ids"] == [{"kind": "imsi", "value": IMSI}, {"kind": "msisdn", "value": "+491511234567"}]
    out = capsys.readouterr().out
    assert OPAQUE in out
    assert "permanent" in out
    code, body = call(api, "trigger", "location_update", f"imsi:{IMSI}", "--keep", "--class", "apn:internet")
    assert (code, body["trigger"], body["replace"], body["class"]) == (0, "location_update", False, "apn:internet")
    assert "older ones ended" in capsys.readouterr().err
    assert call(api, "trigger", "attach", f"imsi:{IMSI}")[1]["replace"] is None
    assert call(api, "ids", f"imsi:{IMSI}") == (0, {"network_id": {"kind": "imsi", "value": IMSI}})
    assert call(api, "revoke", OPAQUE) == (0, {"id": OPAQUE})
    assert call(api, "opt-out", f"imsi:{IMSI}", "--back")[1]["out"] is False


def test_network_ids_come_from_stdin(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"imsi:{IMSI}\n\nnai:ann@example.com\n"))
    assert len(call(api, "create", "-")[1]["network_ids"]) == 2
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert call(api, "create", "-") == (2, None)


@pytest.mark.parametrize("given", ["SECRET", "SECRET:1", "imsi:"])
def test_an_error_names_the_place_and_not_the_value(api: Api, given: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(api, "ids", given) == (2, None)
    error = capsys.readouterr().err
    assert "network id 1" in error
    assert "SECRET" not in error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trigger", "attatch", f"imsi:{IMSI}"], ["attach", "location_update", "source_ip"]),
        (["trigger", "attach", f"imsi:{IMSI}", "--kind", "foo"], ["o-tmsi", "o-tmsn", "app-uid"]),
        (["create", f"imsi:{IMSI}", "--kind", "foo"], ["o-tmsi", "o-tmsn", "app-uid"]),
        (["ids", "foo:0010"], KINDS),
    ],
)
def test_a_word_that_is_none_is_wrong_usage_and_those_there_are_are_named(
    api: Api, arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(api, *arguments) == (2, None)
    error = capsys.readouterr().err
    assert [word for word in words if word not in error] == []


@pytest.mark.parametrize("command", ["create", "trigger", "ids", "opt-out", "forget"])
def test_the_help_names_every_kind(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["subscribers", command, "--help"]) == 0
    out = capsys.readouterr().out
    assert [kind for kind in KINDS if kind not in out] == []


def test_an_imei_alone_is_said_to_have_no_id(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    nothing = {"ids": [], "drawn": 0, "replaced": False}
    api.answers["POST /v1/subscribers"] = [(200, nothing)]
    assert call(api, "trigger", "attach", "imei:490154203237518")[0] == 0
    error = capsys.readouterr().err
    assert "no id stands for an IMEI alone" in error
    assert "490154" not in error
    refused = {"error": {"code": 44, "name": "unknown_subscriber", "message": "No such subscriber.", "field": None}}
    api.answers["POST /v1/subscribers"] = [(404, refused), (404, refused), (200, nothing)]
    assert call(api, "trigger", "attach", "imei:490154203237518")[0] == 1
    assert "nobody is known by this IMEI" in capsys.readouterr().err
    assert call(api, "trigger", "attach", "imei:490154203237518", "nai:ann@example.com")[0] == 1
    assert "No such subscriber" in capsys.readouterr().err
    assert call(api, "create", f"imsi:{IMSI}")[0] == 0
    assert "alone" not in capsys.readouterr().err


def test_resolve_asks_first(api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from typer import Abort

    def decline(*_: object, abort: bool, err: bool) -> bool:
        assert abort
        assert err
        raise Abort

    monkeypatch.setattr("typer.confirm", decline)
    assert call(api, "resolve", OPAQUE, "--app", "demo") == (1, None)
    assert IMSI not in capsys.readouterr().out
    assert call(api, "resolve", OPAQUE, "--app", "demo", "--yes") == (0, {"id": OPAQUE, "app": "demo"})
    assert IMSI in capsys.readouterr().out
    call(api, "resolve", OPAQUE, "--app", "demo", "--yes", "--json")
    assert json.loads(capsys.readouterr().out) == RESOLVED
    api.answers["POST /v1/subscribers/resolve"] = [(200, {**RESOLVED, "network_ids": [], "elsewhere": "https://x.net"})]
    call(api, "resolve", OPAQUE, "--app", "demo", "--yes")
    assert "https://x.net" in capsys.readouterr().err


def decline_all(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked; every question is answered with no."""
    from typer import Abort

    asked: list[str] = []

    def decline(text: str, *, abort: bool, err: bool) -> bool:
        assert abort
        assert err
        asked.append(text)
        raise Abort

    monkeypatch.setattr("typer.confirm", decline)
    return asked


def test_history_asks_first(api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked = decline_all(monkeypatch)
    assert call(api, "history", OPAQUE) == (1, None)
    assert len(asked) == 1
    assert call(api, "history", OPAQUE, "--yes") == (0, {"id": OPAQUE})
    out = capsys.readouterr().out
    assert f"imsi:{IMSI}" in out
    assert "replaced" in out
    assert call(api, "history", OPAQUE, "--yes")[0] == 0
    assert "no history" in capsys.readouterr().err


def test_forget_asks_first(api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked = decline_all(monkeypatch)
    assert call(api, "forget", f"imsi:{IMSI}") == (1, None)
    assert len(asked) == 1
    code, body = call(api, "forget", f"imsi:{IMSI}", "--yes")
    assert (code, body) == (0, {"network_id": {"kind": "imsi", "value": IMSI}, "forget": True})
    shown = capsys.readouterr()
    assert "1 id was live" in shown.err
    assert IMSI not in shown.out + shown.err
    # the answer to a question would be read from where the number comes from
    monkeypatch.setattr("sys.stdin", io.StringIO(f"imsi:{IMSI}\n"))
    assert call(api, "forget", "-") == (2, None)
    assert call(api, "forget", "-", "--yes")[0] == 0
    api.answers["POST /v1/subscribers/revoke"] = [(200, {"revoked": 3})]
    assert call(api, "forget", f"imsi:{IMSI}", "--yes")[0] == 0
    assert "3 ids were live" in capsys.readouterr().err
