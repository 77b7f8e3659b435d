"""`heliograph cards` and `heliograph downloads` against a small server: what is asked, what is shown, exit codes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from command_api import Api

from gateway.cli import cards, run

CARD = "card_" + "5d0c1f0f" * 4
ICCID, KIC = "89441234567890123456", "a1b2c3d4" * 4
DOWNLOAD_ID = "AAAAAAAAAAEr0mC1_oYpB7"
EVIDENCE = [{"at_ms": 1_700_000_000_000, "what": "link_opened", "state": "capable", "detail": "4.2 s"}]
UNKNOWN = {"card": CARD, "state": "unknown", "since_ms": None, "until_ms": None, "evidence": []}
CAPABLE = {**UNKNOWN, "state": "capable", "since_ms": 1_700_000_000_000, "evidence": EVIDENCE}
SHOWN = {
    "id": CARD,
    "tags": ["batch-7"],
    "key_sets": [1, 2],
    "push_keys": 1,
    "data_keys": 2,
    "tar": "b00011",
    "push_tar": "b00011",
    "capability": {**CAPABLE, "evidence": None},
}


def download(state: str, *steps: str, done: int = 0) -> dict[str, Any]:
    return {
        "id": DOWNLOAD_ID,
        "card": CARD,
        "state": state,
        "created_at_ms": 1_700_000_000_000,
        "expires_at_ms": 1_700_000_600_000,
        "due_at_ms": None,
        "commands": 2,
        "done": done,
        "way": "link",
        "calls": 1,
        "tries": 0,
        "cause": "",
        "campaign": None,
        "steps": [{"at_ms": 1_700_000_000_000 + n, "what": what, "detail": ""} for n, what in enumerate(steps)],
    }


def call(*arguments: str) -> int:
    return run(["cards", *arguments, "--key", "operator-key"])


def refused(line: int, field: str, message: str) -> dict[str, Any]:
    return {"line": line, "error": {"code": 30, "name": "bad_request", "message": message, "field": field}}


@pytest.fixture
def cards_file(tmp_path: Path) -> Path:
    file = tmp_path / "cards.jsonl"
    card = json.dumps({"iccid": ICCID, "key_sets": [{"number": 1, "kic": KIC, "kid": KIC}], "tar": "B00011"})
    file.write_text(f"# of the first batch\n{card}\n\n{card}\n  {card}\n")
    return file


def test_cards_are_brought_in_in_pieces_and_lines_are_those_of_the_file(
    api: Api, cards_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cards, "CHUNK", 2)
    api.on(
        "POST /v1/cards",
        {"imported": 2, "refused": 0, "cards": [{"line": 1, "card": CARD}, {"line": 2, "card": CARD}]},
        {"imported": 0, "refused": 1, "cards": [refused(1, "iccid", "this is no ICCID: expected 18 to 20 digits")]},
    )
    assert call("import", str(cards_file), "--ids") == 1
    assert [len(body) for _, body, _ in api.asked] == [2, 1]
    assert {key for _, _, key in api.asked} == {"Bearer operator-key"}
    out, error = capsys.readouterr()
    assert out.split() == [CARD, CARD]
    assert "line 5: iccid: this is no ICCID" in error
    assert "2 imported, 1 refused" in error
    assert ICCID not in out + error
    assert KIC not in out + error


def test_an_import_is_told_to_programs_and_reads_stdin(
    api: Api, cards_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = [{"line": n, "card": CARD} for n in (1, 2, 3)]
    api.on("POST /v1/cards", {"imported": 3, "refused": 0, "cards": results})

    class Stdin:
        buffer = io.BytesIO(cards_file.read_bytes())

    monkeypatch.setattr("sys.stdin", Stdin)
    assert call("import", "-", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"imported": 3, "refused": 0, "errors": []}
    assert call("import", str(cards_file.parent / "nothing")) == 2


def test_a_file_without_cards_is_wrong_usage(api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "empty.jsonl"
    file.write_text("\n")
    assert call("import", str(file)) == 2
    assert f"{file} has no card" in capsys.readouterr().err
    assert api.asked == []


def test_many_refusals_are_counted_and_some_of_them_told(
    api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text("{}\n" * 50)
    api.on("POST /v1/cards", {"imported": 0, "refused": 50, "cards": [refused(n + 1, "iccid", "x") for n in range(50)]})
    assert call("import", str(file)) == 1
    error = capsys.readouterr().err
    assert error.count("line ") == cards.MOST_TOLD
    assert "and 30 more" in error


def test_a_card_is_found_by_its_number_alone(
    api: Api, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    api.on("POST /v1/cards/find", {"card": CARD})
    assert call("find", f"ICCID:{ICCID}") == 0
    assert capsys.readouterr().out.strip() == CARD
    monkeypatch.setattr("sys.stdin", io.StringIO("msisdn:+447700900123\n"))
    assert call("find", "-", "--json") == 0
    assert [body for _, body, _ in api.asked] == [{"iccid": ICCID}, {"msisdn": "+447700900123"}]
    for wrong in (ICCID, "imei:1", "imsi:"):
        assert call("find", wrong) == 2
        assert ICCID not in capsys.readouterr().err


def test_a_card_is_shown_removed_and_its_terminal_told_of(
    api: Api, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    api.on(f"GET /v1/cards/{CARD}", SHOWN)
    api.on(f"DELETE /v1/cards/{CARD}", None, status=204)
    api.on(f"GET /v1/cards/{CARD}/capability", CAPABLE)
    api.on(f"POST /v1/cards/{CARD}/terminal-changed", UNKNOWN)
    assert call("show", CARD) == 0
    out = capsys.readouterr().out
    assert [word for word in ("batch-7", "1, 2", "b00011", "capable", "2023-11-14") if word not in out] == []
    assert call("show", CARD, "--json") == 0
    assert json.loads(capsys.readouterr().out) == SHOWN
    assert call("capability", CARD) == 0
    assert "link_opened" in capsys.readouterr().out
    assert call("capability", CARD, "--changed", "--json") == 0
    assert json.loads(capsys.readouterr().out)["state"] == "unknown"
    assert call("remove", CARD, "--yes") == 0
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert call("remove", CARD) == 1, "nobody said yes"


def test_cards_are_listed_over_pages(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    other = "card_" + "0" * 32
    first = "GET /v1/cards?tag=a&capability=not_capable&limit=1000"
    api.on(first, {"count": 9, "cards": [other], "after": other})
    api.on(f"{first}&after={other}", {"count": 9, "cards": [CARD], "after": None})
    query = ["--tag", "a", "--capability", "not_capable"]
    assert call("list", *query) == 0
    out, error = capsys.readouterr()
    assert out.split() == [other, CARD]
    assert "2 shown of 9" in error
    assert call("list", *query, "--limit", "1", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"count": 9, "cards": [other], "more": True}
    assert call("list", "--capability", "perhaps") == 2


def test_a_terminal_is_asked_and_waited_for(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    place = f"GET /v1/cards/{CARD}/capability"
    api.on(f"POST /v1/cards/{CARD}/check", {"asked": True}, status=202)
    api.on(place, UNKNOWN)
    assert call("check", CARD) == 0
    assert "being called" in capsys.readouterr().err
    api.on(place, UNKNOWN, UNKNOWN, CAPABLE)
    assert call("check", CARD, "--wait") == 0
    no = [*EVIDENCE, {"at_ms": 1_700_000_000_001, "what": "terminal_result", "state": "not_capable", "detail": "30"}]
    api.on(place, CAPABLE, CAPABLE, {**CAPABLE, "state": "not_capable", "evidence": no})
    assert call("check", CARD, "--wait") == 1
    none = [*EVIDENCE, {"at_ms": 1_700_000_000_001, "what": "no_link", "state": "not_capable", "detail": ""}]
    api.on(place, UNKNOWN, {**CAPABLE, "state": "not_capable", "evidence": none})
    assert call("check", CARD, "--wait", "--timeout", "5") == 1
    # a card of which something was known is called once, whatever comes of it
    same = [*EVIDENCE, {"at_ms": 1_700_000_000_001, "what": "undelivered", "state": "capable", "detail": ""}]
    capsys.readouterr()
    api.on(place, CAPABLE, {**CAPABLE, "evidence": same})
    assert call("check", CARD, "--wait", "--timeout", "5") == 1
    assert "(undelivered): capable is what was known before" in capsys.readouterr().err
    api.on(place, UNKNOWN)
    assert call("check", CARD, "--wait", "--timeout", "0.01") == 1
    assert "nothing was concluded" in capsys.readouterr().err


@pytest.fixture
def commands(tmp_path: Path) -> str:
    file = tmp_path / "update.apdu"
    file.write_text("# select, then write\n00 A4 00 04 02 3F00   # the root\n\n00D6000002CAFE\n")
    return str(file)


def test_a_download_is_started_with_what_was_given(api: Api, commands: str, capsys: pytest.CaptureFixture[str]) -> None:
    api.on("POST /v1/downloads", {"id": DOWNLOAD_ID}, status=201)
    assert run(["downloads", "start", CARD, commands]) == 0
    assert capsys.readouterr().out.strip() == DOWNLOAD_ID
    options = ["--tar", "B00012", "--notice", "Go", "--ttl", "60", "--at", "4000000000", "--idempotency-key", "k"]
    assert run(["downloads", "start", CARD, commands, *options, "--json"]) == 0
    plain, whole = (body for _, body, _ in api.asked)
    assert plain == {"card": CARD, "commands": ["00a40004023f00", "00d6000002cafe"]}
    assert whole == {
        **plain,
        "tar": "B00012",
        "notice": "Go",
        "ttl_s": 60,
        "at": 4_000_000_000,
        "idempotency_key": "k",
    }


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "no command"), (b"00A4\nSECRET\n", "line 2"), (b"\xff\xfe", "line 1"), (b"123", "line 1")],
)
def test_a_file_without_commands_is_wrong_usage_and_not_repeated(
    api: Api, tmp_path: Path, content: bytes, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad.apdu"
    file.write_bytes(content)
    assert run(["downloads", "start", CARD, str(file)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "SECRET" not in error
    assert run(["downloads", "start", CARD, str(tmp_path / "nothing")]) == 2
    assert api.asked == []


@pytest.mark.parametrize(
    ("last", "code"),
    [(download("done", "accepted", "called", "executed", done=2), 0), (download("noticed", "accepted", "noticed"), 1)],
)
def test_a_download_is_followed_to_its_end(
    api: Api, commands: str, last: dict[str, Any], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    api.on("POST /v1/downloads", {"id": DOWNLOAD_ID}, status=201)
    api.on(f"GET /v1/downloads/{DOWNLOAD_ID}", download("waiting", "accepted"), last)
    assert run(["downloads", "start", CARD, commands, "--wait"]) == code
    out, error = capsys.readouterr()
    assert last["state"] in out
    assert error.count("accepted") == 1, "each step is told once"
    api.on(f"GET /v1/downloads/{DOWNLOAD_ID}", download("active", "accepted"))
    assert run(["downloads", "start", CARD, commands, "--wait", "--timeout", "0.01", "--json"]) == 1
    assert "not over after" in capsys.readouterr().err


def test_downloads_are_shown_stopped_and_listed(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    api.on(f"GET /v1/downloads/{DOWNLOAD_ID}", download("active", "accepted", "called", done=1))
    api.on(f"DELETE /v1/downloads/{DOWNLOAD_ID}", download("stopped", done=1), download("done", done=2))
    assert run(["downloads", "show", DOWNLOAD_ID]) == 0
    assert "1 of 2 commands" in capsys.readouterr().out
    assert run(["downloads", "stop", DOWNLOAD_ID]) == 0
    assert "stopped; 1 of 2" in capsys.readouterr().err
    assert run(["downloads", "stop", DOWNLOAD_ID]) == 0
    assert "over already: done" in capsys.readouterr().err
    api.on("GET /v1/downloads?state=failed&limit=2", {"downloads": [download("failed")], "after": DOWNLOAD_ID})
    more = f"GET /v1/downloads?state=failed&limit=1&after={DOWNLOAD_ID}"
    api.on(more, {"downloads": [download("failed")], "after": DOWNLOAD_ID})
    assert run(["downloads", "list", "--state", "failed", "--limit", "2"]) == 0
    out, error = capsys.readouterr()
    assert out.count(DOWNLOAD_ID) == 2
    assert "there are more" in error
    assert run(["downloads", "list", "--state", "perhaps"]) == 2
