"""Commands that speak to the provider API, against a small server on loopback that answers as the API does."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from command_api import Api

from gateway.auth.admin_key import FILE_NAME, load_or_create
from gateway.cli import run
from gateway.cli.provider import name_field

APP = {
    "name": "demo",
    "ack_ms": 0,
    "notifier_ack_ms": 0,
    "ttl": 0,
    "fallback": ["webhook"],
    "notifiers": {},
    "receipts_url": "",
    "receipts_signed": False,
    "keys": 1,
    "created_at": 1_700_000_000,
}


def push_view(state: str, *steps: str, figures: dict[str, int] | None = None) -> dict[str, Any]:
    delivery = {
        "token": "T" * 22,
        "state": steps[-1] if steps else "accepted",
        "at_ms": 1_000,
        "steps": [{"at_ms": 1_000 + n, "what": w, "channel": "edge", "detail": ""} for n, w in enumerate(steps)],
    }
    return {
        "id": "p1",
        "target": {"token": "T" * 22},
        "state": state,
        "accepted_at_ms": 1_000,
        "expires_at": 90_000,
        "urgency": "normal",
        "collapse_key": "",
        "body": "auto",
        "ack_ms": 3000,
        "notifier_ack_ms": 30_000,
        "fallback": None,
        "deliveries": [delivery],
        "figures": figures or {},
        "next_offset": None,
    }


@pytest.fixture
def store(tmp_path: Path) -> Path:
    load_or_create(tmp_path / FILE_NAME)
    return tmp_path


def test_apps_are_managed_with_the_operators_key_of_the_store(api: Api, store: Path, capsys) -> None:
    api.on("POST /v1/apps", {"app": APP, "key": "hk_new"}, status=201)
    assert run(["apps", "create", "demo", "--store", str(store)]) == 0
    out, err = capsys.readouterr()
    assert out == "hk_new\n", "a script takes the key from stdout"
    assert "demo" in err
    _, body, authorization = api.asked[0]
    assert body == {"name": "demo"}
    assert authorization == f"Bearer {(store / FILE_NAME).read_text().strip()}"


def test_a_notifier_is_set_up_from_files_and_leaves_what_is_not_named(api: Api, store: Path, tmp_path, capsys) -> None:
    (tmp_path / "key.p8").write_text("line 1\nline 2\n")
    kept = {"webhook": {"url": "***", "secret": "***"}, "apns": {"topic": "old", "key": "***", "ca": "x"}}
    api.on("GET /v1/apps/demo", {**APP, "notifiers": kept})
    api.on("PATCH /v1/apps/demo", {**APP, "fallback": ["apns", "webhook"]})
    command = ["apps", "notifier", "demo", "apns", "topic=com.example.shop", "ca="]
    command += [f"certificate=@{tmp_path / 'key.p8'}", "--fallback", "apns,webhook", "--store", str(store)]
    assert run(command) == 0
    assert api.asked[-1][1] == {
        "notifiers": {"apns": {"topic": "com.example.shop", "key": "***", "certificate": "line 1\nline 2"}},
        "fallback": ["apns", "webhook"],
    }
    assert "apns is set" in capsys.readouterr().err
    assert run(["apps", "notifier", "demo", "apns", "--remove", "--json", "--store", str(store)]) == 0
    assert api.asked[-1][1] == {"notifiers": {"apns": None}}


@pytest.mark.parametrize(
    ("raw", "secret"),
    [(b"word\n", "word"), (b"word\r\n", "word"), (b"word", "word"), (b"word\n\n", "word\n"), (b" word \n", " word ")],
)
def test_a_secret_in_a_file_ends_before_its_line_does(
    api: Api, store: Path, tmp_path: Path, raw: bytes, secret: str
) -> None:
    (tmp_path / "secret.txt").write_bytes(raw)
    api.on("GET /v1/apps/demo", APP)
    api.on("PATCH /v1/apps/demo", APP)
    given = f"secret=@{tmp_path / 'secret.txt'}"
    assert run(["apps", "notifier", "demo", "webhook", "url=https://a.example", given, "--store", str(store)]) == 0
    assert api.asked[-1][1]["notifiers"]["webhook"]["secret"] == secret


def test_a_notifier_that_is_not_there_can_not_be_taken_away(api: Api, store: Path, capsys) -> None:
    api.on("GET /v1/apps/demo", APP)
    assert run(["apps", "notifier", "demo", "sms", "--remove", "--store", str(store)]) == 0
    assert len(api.asked) == 1
    assert "has no settings of sms" in capsys.readouterr().err


def test_settings_of_an_app_are_shown_for_people(api: Api, store: Path, capsys) -> None:
    view = {**APP, "fallback": ["apns", "sms"], "notifiers": {"sms": {"mode": "binary", "port": "16002"}}}
    api.on("GET /v1/apps/demo", view)
    api.on("GET /v1/apps/demo/keys", {"keys": []})
    api.on("PATCH /v1/apps/demo", view)
    assert run(["apps", "show", "demo", "--store", str(store)]) == 0
    assert run(["apps", "notifier", "demo", "sms", "port=16002", "--store", str(store)]) == 0
    shown = capsys.readouterr()
    assert re.search(r"^notifier sms +mode=binary, port=16002", shown.out, re.MULTILINE)
    assert "fallback: apns, sms" in shown.err
    assert not set("[]{}'") & set(shown.out + shown.err)


def test_an_app_that_is_not_there_is_made_with_apps_create(api: Api, store: Path, capsys) -> None:
    error = {"error": {"code": 33, "name": "unknown_app", "message": "There is no such app.", "field": ""}}
    api.answers["GET /v1/apps/shop"] = [(404, error)]
    assert run(["apps", "notifier", "shop", "sms", "port=16002", "--store", str(store)]) == 1
    assert "apps create" in capsys.readouterr().err


@pytest.mark.parametrize("pair", ["topic", "=x", "key=@/nowhere/key.p8"])
def test_a_setting_that_is_none_is_said_so(api: Api, store: Path, capsys, pair: str) -> None:
    assert run(["apps", "notifier", "demo", "apns", pair, "--store", str(store)]) == 1
    assert not api.asked
    assert "Traceback" not in capsys.readouterr().err


def test_a_store_without_operators_key_says_what_to_do(api: Api, tmp_path: Path, capsys) -> None:
    assert run(["apps", "list", "--store", str(tmp_path)]) == 2
    assert "--key" in capsys.readouterr().err


def test_the_doors_of_an_app_are_set(api: Api, tmp_path: Path, capsys) -> None:
    pem, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    pem.write_text("a public key")
    certificate.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    api.on("PATCH /v1/apps/demo", APP)
    options = ["--webpush", "open", "--apns-topic", "com.example", "--apns-key", f"K:T:{pem}"]
    assert run(["apps", "doors", "demo", *options, "--apns-certificate", str(certificate), "--key", "k"]) == 0
    assert api.asked[0][1] == {
        "webpush": "open",
        "apns_topic": "com.example",
        "apns_keys": [{"key_id": "K", "team_id": "T", "public_key": "a public key"}],
        "apns_certificates": ["709e80c88487a2411e1ee4dfb9f22a861492d20c4765150c0c794abd70f8147c"],
    }
    assert "webpush" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "nothing to set"),
        (["--apns-key", "K:T"], "does not read KEY_ID:TEAM_ID"),
        (["--apns-key", "K:T:nowhere.pem"], "can not be read"),
        (["--apns-certificate", __file__], "is no PEM certificate"),
    ],
)
def test_doors_that_can_not_be_set(options: list[str], words: str, capsys) -> None:
    assert run(["apps", "doors", "demo", *options, "--key", "k"]) == 1
    assert words in capsys.readouterr().err


def test_apps_are_listed_for_people_and_programs(api: Api, store: Path, capsys) -> None:
    api.on("GET /v1/apps", {"apps": [APP]})
    assert run(["apps", "list", "--store", str(store)]) == 0
    assert "demo" in capsys.readouterr().out
    assert run(["apps", "list", "--key", "k", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"apps": [APP]}
    assert api.asked[-1][2] == "Bearer k"


def test_an_app_is_shown_with_its_keys(api: Api, capsys) -> None:
    api.on("GET /v1/apps/demo", APP)
    api.on("GET /v1/apps/demo/keys", {"keys": [{"id": "abc", "label": "ci", "created_at": 1}]})
    assert run(["apps", "show", "demo", "--key", "k"]) == 0
    out = capsys.readouterr().out
    assert "abc" in out
    assert "webhook" in out


def test_a_new_key_is_all_there_is_on_stdout(api: Api, capsys) -> None:
    api.on("POST /v1/apps/demo/keys", {"id": "abc", "key": "hk_x", "label": "ci", "created_at": 1}, status=201)
    assert run(["apps", "key", "demo", "--label", "ci", "--key", "k"]) == 0
    assert capsys.readouterr().out == "hk_x\n"
    assert api.asked[0][1] == {"label": "ci"}


def test_a_key_may_have_limits_of_its_own(api: Api) -> None:
    api.on("POST /v1/apps/demo/keys", {"id": "abc", "key": "hk_x", "label": "", "created_at": 1}, status=201)
    assert run(["apps", "key", "demo", "--per-s", "5", "--per-day", "100", "--key", "k"]) == 0
    assert api.asked[0][1] == {"limits": {"per_s": 5, "burst": 0, "per_day": 100}}
    assert run(["apps", "key", "demo", "--per-s", "-5", "--key", "k"]) == 2


def test_a_key_is_revoked(api: Api) -> None:
    api.on("DELETE /v1/apps/demo/keys/abc", None, status=204)
    assert run(["apps", "revoke", "demo", "abc", "--key", "k"]) == 0


def test_limits_of_a_key_are_changed(api: Api, capsys) -> None:
    api.on("PATCH /v1/apps/demo/keys/abc", {"id": "abc"})
    assert run(["apps", "limit", "demo", "abc", '{"per_s": 50}', "--key", "k"]) == 0
    assert api.asked[0][1] == {"limits": {"per_s": 50}}
    assert "key abc of app demo is changed" in "".join(capsys.readouterr())


def test_a_name_can_not_leave_its_place_in_the_path(api: Api) -> None:
    assert run(["apps", "show", "../push?x=1", "--key", "k"]) == 1
    assert api.asked[0][0] == "GET /v1/apps/..%2Fpush%3Fx%3D1"


def test_send_asks_for_exactly_what_was_given(api: Api, capsys) -> None:
    api.on("POST /v1/push", {"id": "p1", "targeted": 1}, status=201)
    assert run(["send", "--alias", "c17", "hello"]) == 0
    assert capsys.readouterr().out == "p1\n"
    assert api.asked[0][1] == {"target": {"alias": "c17"}, "urgency": "normal", "body": "auto", "text": "hello"}
    assert api.asked[0][2] == "Bearer app-key"


def test_send_takes_every_option(api: Api, tmp_path: Path) -> None:
    api.on("POST /v1/push", {"id": "p1"}, status=201)
    (tmp_path / "d.json").write_text('{"a": [1]}')
    command = ["send", "--versions", ">=2,<3", "--title", "t", "--data", f"@{tmp_path / 'd.json'}", "--ttl", "0"]
    command += ["--urgency", "very-low", "--collapse-key", "c", "--body", "on_demand", "--ack-ms", "500"]
    command += ["--fallback", "webhook", "--fallback", "stub", "--idempotency-key", "i", "--json"]
    assert run(command) == 0
    assert api.asked[0][1] == {
        "target": {"versions": ">=2,<3"},
        "title": "t",
        "data": {"a": [1]},
        "ttl": 0,
        "urgency": "very-low",
        "collapse_key": "c",
        "body": "on_demand",
        "ack_ms": 500,
        "fallback": ["webhook", "stub"],
        "idempotency_key": "i",
    }


def test_send_takes_time_spread_condition_and_languages(api: Api, tmp_path: Path) -> None:
    words = tmp_path / "words.json"
    words.write_text('{"de": {"title": "Hallo"}}')
    api.answers["POST /v1/push"] = [(201, {"id": "p1"})]
    condition = {"all": [{"tag": "vip"}, {"not": {"os": "ios"}}]}
    command = ["send", "Hi", "--where", json.dumps(condition), "--at", "2027-01-31T09:00+01:00", "--over", "600"]
    assert run([*command, "--localized", f"@{words}"]) == 0
    ((_, body, _),) = api.asked
    assert body["target"] == {"where": condition}
    assert (body["deliver_at"], body["over"]) == (1801382400, 600)
    assert body["localized"] == {"de": {"title": "Hallo"}}


def test_send_says_what_a_service_page_starts(api: Api) -> None:
    """C13."""
    api.answers["POST /v1/push"] = [(201, {"id": "p1"})] * 2
    command = ["send", "Hi", "--token", "t", "--fallback", "service"]
    assert run([*command, "--service", "chat", "--service-server", "1", "--service-params", "table=7"]) == 0
    assert run([*command, "--service", ""]) == 0  # whatever is there for the id
    bodies = [body for _, body, _ in api.asked]
    assert [body["service"] for body in bodies] == [{"aid": "chat", "server": 1, "params": "table=7"}, {"aid": ""}]


@pytest.mark.parametrize("arguments", [["--at", "tomorrow"], ["--where", "{"], ["--token", "t", "--tag", "x"]])
def test_a_moment_or_condition_that_is_none_is_wrong_usage(api: Api, arguments: list[str]) -> None:
    more = [] if "--where" in arguments or "--token" in arguments else ["--everyone"]
    assert run(["send", "Hi", *more, *arguments]) == 2
    assert not api.asked


def test_an_app_is_changed_by_what_is_named(api: Api, store: Path) -> None:
    api.answers["PATCH /v1/apps/demo"] = [(200, APP)]
    arguments = ["--store", str(store)]
    assert run(["apps", "change", "demo", '{"device_per_hour": 4}', *arguments]) == 0
    assert api.asked[-1][:2] == ("PATCH /v1/apps/demo", {"device_per_hour": 4})
    assert run(["apps", "change", "demo", "[1]", *arguments]) == 2


def test_a_chain_may_be_written_with_commas(api: Api) -> None:
    api.on("POST /v1/push", {"id": "p", "duplicate": False, "targeted": 1})
    assert run(["send", "--everyone", "x", "--fallback", "ip,sms", "--fallback", "webhook"]) == 0
    assert api.asked[0][1]["fallback"] == ["ip", "sms", "webhook"]


def test_no_fallback_is_an_empty_chain(api: Api) -> None:
    api.on("POST /v1/push", {"id": "p1"}, status=201)
    assert run(["send", "--everyone", "--no-fallback", "x"]) == 0
    assert api.asked[0][1]["fallback"] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["hello"],
        ["--token", "a", "--everyone", "x"],
        ["--everyone", "--data", "{"],
        ["--everyone", "--data", "@/nonexistent"],
        ["--everyone", "--fallback", "a", "--no-fallback", "x"],
        ["--everyone", "--fallback", " ,", "x"],
        ["--everyone", "--urgency", "extreme", "x"],
        ["--everyone", "--silent", "x"],
    ],
)
def test_wrong_usage_is_exit_code_2_and_asks_nothing(api: Api, arguments: list[str]) -> None:
    assert run(["send", *arguments]) == 2
    assert api.asked == []


@pytest.mark.parametrize("target", [["--everyone"], ["--alias", "ann"], ["--where", '{"os": "ios"}'], ["--token", "t"]])
def test_a_push_that_says_nothing_is_sent_only_where_that_is_meant(api: Api, target: list[str], capsys) -> None:
    api.on("POST /v1/push", {"id": "p"}, status=201)
    assert run(["send", *target]) == 2
    assert "--silent" in capsys.readouterr().err
    assert api.asked == []
    assert run(["send", *target, "--silent"]) == 0
    assert api.asked[0][1].keys() == {"target", "urgency", "body"}


@pytest.mark.parametrize(
    "content", [["--title", "t"], ["--data", "{}"], ["--localized", '{"de": {"text": "x"}}'], ["--service", ""]]
)
def test_words_are_not_all_that_a_push_can_say(api: Api, content: list[str]) -> None:
    api.on("POST /v1/push", {"id": "p"}, status=201)
    assert run(["send", "--token", "t", *content]) == 0


def test_send_without_a_key_says_how_to_get_one(api: Api, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.delenv("HELIOGRAPH_KEY")
    assert run(["send", "--everyone", "x"]) == 2
    assert "heliograph apps key" in capsys.readouterr().err


def test_wait_follows_a_push_until_it_is_acked(api: Api, capsys) -> None:
    api.on("POST /v1/push", {"id": "p1", "targeted": 1}, status=201)
    done = push_view("done", "accepted", "sent", "acked", figures={"acked": 1})
    api.on("GET /v1/push/p1", push_view("pending", "accepted"), push_view("pending", "accepted", "sent"), done)
    assert run(["send", "--token", "T" * 22, "x", "--wait"]) == 0
    out, err = capsys.readouterr()
    assert "acked via edge" in out
    assert err.count("accepted") == 1, "each step is said once"


def test_wait_fails_where_it_was_settled_without_ack(api: Api) -> None:
    api.on("POST /v1/push", {"id": "p1"}, status=201)
    api.on("GET /v1/push/p1", push_view("done", "accepted", "expired", figures={"expired": 1}))
    assert run(["send", "--token", "T" * 22, "x", "--wait"]) == 1


def test_wait_gives_up_in_time(api: Api, capsys) -> None:
    api.on("POST /v1/push", {"id": "p1"}, status=201)
    api.on("GET /v1/push/p1", push_view("pending", "accepted"))
    assert run(["send", "--token", "T" * 22, "x", "--wait", "--timeout", "0.1", "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["state"] == "pending"
    assert "not settled" in err


@pytest.mark.parametrize(
    ("figures", "settled"),
    [({}, False), ({"targeted": 2, "acked": 1}, False), ({"targeted": 2, "acked": 2}, True), ({"targeted": 0}, False)],
)
def test_a_broadcast_is_settled_when_all_it_was_for_have_acked(figures: dict[str, int], settled: bool) -> None:
    from gateway.cli.send import is_settled

    assert is_settled(push_view("live", figures=figures)) is settled
    assert is_settled(push_view("expired", figures=figures))


def test_a_push_and_a_token_are_shown(api: Api, capsys) -> None:
    api.on("GET /v1/push/p1", push_view("done", "accepted", "sent", "acked"))
    assert run(["inspect", "push", "p1"]) == 0
    assert "+2 ms" in capsys.readouterr().out
    view = {"token": "T", "app": "demo", "version": "1", "account": "", "alias": "", "tags": [], "connected": True}
    api.on("GET /v1/registrations/T", {**view, "created_at": 0})
    assert run(["inspect", "token", "T"]) == 0
    assert "yes" in capsys.readouterr().out


@pytest.mark.parametrize(("target", "words"), [({"everyone": True}, "everyone"), ({"tag": "eu"}, "tag eu")])
def test_a_target_is_shown_in_the_words_of_send(api: Api, target: dict[str, Any], words: str, capsys) -> None:
    api.on("GET /v1/push/p1", push_view("live") | {"target": target})
    assert run(["inspect", "push", "p1"]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("target"))
    assert line.split() == ["target", *words.split()]


def test_a_key_that_can_not_be_one_is_told_from_a_bad_url(api: Api, capsys) -> None:
    assert run(["send", "--everyone", "x", "--key", "hk_\u00e9"]) == 2
    assert "key" in capsys.readouterr().err
    assert run(["send", "--everyone", "x", "--url", "nonsense"]) == 2
    err = capsys.readouterr().err
    assert "'nonsense'" in err
    assert "key" not in err


def test_an_error_of_the_gateway_is_one_line_with_name_and_number(api: Api, capsys) -> None:
    error = {"code": 30, "name": "bad_request", "message": "too long", "field": "title"}
    api.on("POST /v1/push", {"error": error}, status=400)
    assert run(["send", "--everyone", "x"]) == 1
    assert capsys.readouterr().err == "heliograph: title: too long (bad_request, 30)\n"


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b'{"error": 1}'])
def test_an_error_that_is_not_ours_shows_its_status(api: Api, answer: bytes, capsys) -> None:
    api.on("POST /v1/push", answer, status=502)
    assert run(["send", "--everyone", "x"]) == 1
    assert "502" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("field", "message", "said"),
    [
        ("commands", "has 3 commands; at most 2", "commands: has 3 commands; at most 2"),
        ("commands[0]", "has no length", "commands[0]: has no length"),
        ("tar", "expected three bytes in hex (at tar)", "expected three bytes in hex (at tar)"),
        ("title", "title is too long", "title is too long"),
        ("", "No such card.", "No such card."),
        (None, "The body is not valid JSON", "The body is not valid JSON"),
    ],
)
def test_a_field_is_named_once_and_a_word_that_looks_like_it_is_none(
    field: str | None, message: str, said: str
) -> None:
    assert name_field(field, message) == said


def test_an_answer_that_is_not_json_is_said(api: Api, capsys) -> None:
    api.on("POST /v1/push", b"<html>")
    assert run(["send", "--everyone", "x"]) == 1
    assert "no Heliograph" in capsys.readouterr().err


def test_nobody_there_says_how_to_start_a_gateway(api: Api, capsys) -> None:
    from socket import socket

    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        assert run(["send", "--everyone", "x", "--url", f"http://127.0.0.1:{port}"]) == 1
    assert "heliograph serve" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["nonsense", "ftp://x", "http://[", "http://h:port"])
def test_a_url_that_is_none_is_wrong_usage(api: Api, url: str, capsys) -> None:
    assert run(["send", "--everyone", "x", "--url", url]) == 2


def test_the_url_comes_from_the_configuration_where_nothing_else_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from gateway.cli.options import api_url

    monkeypatch.delenv("HELIOGRAPH_URL", raising=False)
    monkeypatch.setenv("HELIOGRAPH_API_HOST", "0.0.0.0")
    monkeypatch.setenv("HELIOGRAPH_API_PORT", "9")
    assert api_url(None) == "http://127.0.0.1:9"
    assert api_url("http://x/") == "http://x"


def test_the_url_is_https_where_the_door_is_tls_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from gateway.cli import options
    from gateway.config.sections import Api, Config

    monkeypatch.delenv("HELIOGRAPH_URL", raising=False)
    monkeypatch.setattr(options, "read_config", lambda _path: Config(api=Api(port=-1, tls_port=10)))
    assert options.api_url(None) == "https://127.0.0.1:10"
