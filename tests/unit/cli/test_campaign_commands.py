"""`heliograph campaigns` against a small server: what is asked, what is shown, exit codes."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from command_api import Api

from gateway.cli import run
from gateway.cli.provider import NoAnswer, Provider

ID = "AAAAAAAAAAEr0mC1_oYpB7"
CARD = "card_" + "5d0c1f0f" * 4


def campaign(state: str, **fields: Any) -> dict[str, Any]:
    base = {
        "id": ID,
        "name": "list 12",
        "state": state,
        "why": "",
        "query": "tag:batch-7",
        "participants": 1_000,
        "counted": True,
        "held": 600,
        "out": 100,
        "under_way": 80,
        "over": 300,
        "results": {"done": 290, "failed": 10},
        "causes": {"card": 10},
        "per_s": 20.5,
        "at_once": 0,
        "canary": {"share": 0.01, "success": 0.95, "cards": 10, "over": 10, "good": 10},
        "created_at_ms": 1_700_000_000_000,
        "expires_at_ms": 1_700_000_600_000,
        "ended_at_ms": None,
        "rate": 12.5,
        "left_s": 3_725.0,
    }
    return base | fields


OVER = {
    "held": 0,
    "out": 0,
    "under_way": 0,
    "over": 1_000,
    "rate": 0.0,
    "left_s": None,
    "ended_at_ms": 1_700_000_500_000,
}


@pytest.fixture
def commands(tmp_path: Path) -> str:
    path = tmp_path / "list.apdu"
    path.write_text("# select\n00 A4 00 04 02 3F 00\n00D6000002CAFE\n")
    return str(path)


def test_a_campaign_of_a_query_is_made_and_its_id_is_alone_on_stdout(api: Api, commands: str, capsys) -> None:
    api.on("POST /v1/campaigns", {"id": ID, "state": "gathering", "participants": 0, "taken": None}, status=201)
    line = ["campaigns", "create", "list 12", commands, "-q", "tag:batch-7 and not capable", "--per-s", "0.5"]
    line += ["--canary", "1%", "--canary-success", "0.9", "--tar", "B00012", "--ttl", "60", "--paused"]
    assert run([*line, "--at-once", "7", "--notice", "Shop", "--idempotency-key", "k"]) == 0
    out, err = capsys.readouterr()
    assert out == ID + "\n"
    assert f"campaigns watch {ID}" in err
    assert api.asked[0][1:] == (
        {
            "name": "list 12",
            "commands": ["00a40004023f00", "00d6000002cafe"],
            "query": "tag:batch-7 and not capable",
            "per_s": 0.5,
            "at_once": 7,
            "start": False,
            "canary": {"share": 0.01, "success": 0.9},
            "tar": "B00012",
            "notice": "Shop",
            "ttl_s": 60,
            "idempotency_key": "k",
        },
        "Bearer app-key",
    )


def test_a_list_follows_the_campaign_and_refused_lines_are_told(
    api: Api, commands: str, tmp_path: Path, capsys
) -> None:
    (tmp_path / "cards").write_text(f"{CARD}\nnobody\n")
    api.on("POST /v1/campaigns", {"id": ID, "state": "gathering", "participants": 0, "taken": None}, status=201)
    taken = {"participants": 1, "duplicates": 0, "refused": 1, "lines": [{"line": 2, "error": "not a card id"}]}
    api.on(f"POST /v1/campaigns/{ID}/cards", taken)
    assert run(["campaigns", "create", "n", commands, "--cards", str(tmp_path / "cards")]) == 1
    out, err = capsys.readouterr()
    assert out == ID + "\n"
    assert "line 2: not a card id" in err
    assert api.asked[1][1] == [CARD.encode(), b"nobody"]
    assert run(["campaigns", "create", "n", commands, "--cards", str(tmp_path / "cards"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["taken"] == taken


def test_the_same_again_sends_no_second_list(api: Api, commands: str, tmp_path: Path, capsys) -> None:
    (tmp_path / "cards").write_text(f"{CARD}\n")
    api.on("POST /v1/campaigns", {"id": ID, "state": "running", "participants": 1, "taken": None})
    again = ["--cards", str(tmp_path / "cards"), "--idempotency-key", "k"]
    assert run(["campaigns", "create", "n", commands, *again]) == 0
    assert capsys.readouterr().out == ID + "\n"
    assert len(api.asked) == 1


def test_a_list_that_did_not_arrive_can_be_added_later(
    api: Api, commands: str, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    api.on("POST /v1/campaigns", {"id": ID, "state": "gathering", "participants": 0, "taken": None}, status=201)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(CARD.encode())))
    assert run(["campaigns", "create", "n", commands, "--cards", "-"]) == 1
    assert f"campaigns add {ID} FILE" in capsys.readouterr().err
    api.on(f"POST /v1/campaigns/{ID}/cards", {"participants": 1, "duplicates": 0, "refused": 0, "lines": []})
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(CARD.encode())))
    assert run(["campaigns", "add", ID, "-"]) == 0
    assert "1 cards take part" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["-q", "all", "--cards", "x"],
        ["-q", "all", "--canary", "2"],
        ["-q", "all", "--canary", "many"],
        ["-q", "all", "--canary", "1%", "--canary-success", "101%"],
        ["--cards", "/nowhere/cards"],
        ["-q", "all", "--per-s", "-1"],
    ],
)
def test_what_can_not_be_asked_for_is_wrong_usage(api: Api, commands: str, options: list[str], capsys) -> None:
    assert run(["campaigns", "create", "n", commands, *options]) == 2
    assert api.asked == []


def test_a_campaign_is_shown_and_listed(api: Api, capsys) -> None:
    api.on(f"GET /v1/campaigns/{ID}", campaign("running"))
    assert run(["campaigns", "show", ID]) == 0
    out = capsys.readouterr().out
    for text in (
        "running",
        "300 of 1,000 (30.0%)",
        "80, and 20 wait",
        "1:02:05",
        "10 good of 10 over of 10",
        "card=10",
    ):
        assert text in out
    api.on("GET /v1/campaigns?limit=2", {"campaigns": [campaign("running")], "after": "x"})
    api.on("GET /v1/campaigns?limit=1&after=x", {"campaigns": [campaign("done")], "after": "y"})
    assert run(["campaigns", "list", "--limit", "2"]) == 0
    out, err = capsys.readouterr()
    assert out.count("list 12") == 2
    assert "--limit" in err


def test_what_became_of_each_card_comes_in_pages(api: Api, capsys) -> None:
    row = {
        "card": CARD,
        "download": ID,
        "state": "failed",
        "done": 1,
        "way": "link",
        "calls": 2,
        "tries": 0,
        "cause": "card",
    }
    api.on(f"GET /v1/campaigns/{ID}/cards?state=failed&limit=1000&after=0", {"cards": [row], "after": 10_000})
    api.on(f"GET /v1/campaigns/{ID}/cards?state=failed&limit=1000&after=10000", {"cards": [row], "after": None})
    assert run(["campaigns", "cards", ID, "--state", "failed", "--limit", "0", "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines] == [row, row]
    assert run(["campaigns", "cards", ID, "--state", "failed", "--limit", "0"]) == 0
    assert capsys.readouterr().out.count(CARD) == 2


@pytest.mark.parametrize("word", ["pause", "resume", "stop"])
def test_a_word_is_sent_and_what_it_led_to_is_told(api: Api, word: str, capsys) -> None:
    api.on(f"POST /v1/campaigns/{ID}/{word}", campaign("paused"))
    assert run(["campaigns", word, ID]) == 0
    assert "paused; 300 of 1,000 cards are over" in capsys.readouterr().err
    assert run(["campaigns", word, ID, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "paused"


@pytest.mark.parametrize(
    ("last", "options", "code"),
    [
        (campaign("done", **OVER, results={"done": 900, "noticed": 100}), [], 0),
        (campaign("done", **OVER, results={"done": 990, "failed": 10}), [], 1),
        (campaign("done", **OVER, results={"done": 990, "failed": 10}), ["--fail-over", "1%"], 0),
        (campaign("done", **OVER, results={"done": 989, "failed": 11}), ["--fail-over", "0.01"], 1),
        (campaign("stopped", **OVER, results={"done": 1000}), ["--fail-over", "100%"], 1),
        (campaign("done", **(OVER | {"over": 0}), participants=0, results={}), ["--fail-over", "100%"], 1),
        (campaign("canary_failed", why="1 of 10 canaries ended well"), ["--fail-over", "100%"], 1),
        (campaign("running"), ["--timeout", "0.05"], 1),
        (campaign("running"), ["--fail-over", "x"], 2),
    ],
)
def test_it_is_followed_to_its_end_and_the_code_says_how_it_ended(
    api: Api, last: dict[str, Any], options: list[str], code: int, capsys
) -> None:
    api.on(f"GET /v1/campaigns/{ID}", campaign("gathering", participants=0, over=0), campaign("running"), last)
    assert run(["campaigns", "watch", ID, "--every", "0.05", *options]) == code
    err = capsys.readouterr().err
    if code != 2:
        assert "gathering: 0 of 0 over" in err
    if last["state"] == "canary_failed":
        assert f"campaigns resume {ID}" in err


def test_a_gateway_that_is_started_anew_is_waited_for(
    api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = [campaign("running"), NoAnswer("nobody answers at X; start one"), NoAnswer("the gateway did not answer")]
    answers.append(campaign("done", **OVER, results={"done": 1_000}))

    def get(*_: str) -> dict[str, Any]:
        answer = answers.pop(0)
        if isinstance(answer, NoAnswer):
            raise answer
        return answer

    monkeypatch.setattr(Provider, "get", get)
    monkeypatch.setattr("time.sleep", lambda _: None)
    assert run(["campaigns", "watch", ID]) == 0
    assert capsys.readouterr().err.count("nobody answers at X: asked again") == 1
    assert answers == []


def test_one_that_never_answered_or_answers_no_more_is_said_so(
    api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = [campaign("running")]

    def get(*_: str) -> dict[str, Any]:
        if answers:
            return answers.pop()
        raise NoAnswer("nobody answers at X; start one")

    monkeypatch.setattr(Provider, "get", get)
    assert run(["campaigns", "watch", ID, "--every", "0.05", "--timeout", "0.2"]) == 1
    assert run(["campaigns", "watch", ID]) == 1
    assert capsys.readouterr().err.count("heliograph: nobody answers at X; start one") == 2


def test_with_json_each_look_is_a_line(api: Api, capsys) -> None:
    api.on(f"GET /v1/campaigns/{ID}", campaign("running"), campaign("done", **OVER, results={"done": 1_000}))
    assert run(["campaigns", "watch", ID, "--every", "0.05", "--json"]) == 0
    assert [json.loads(line)["state"] for line in capsys.readouterr().out.splitlines()] == ["running", "done"]


def test_on_a_terminal_there_is_a_bar(api: Api, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    api.on(f"GET /v1/campaigns/{ID}", campaign("running"), campaign("done", **OVER, results={"done": 1_000}))
    assert run(["campaigns", "watch", ID, "--every", "0.05"]) == 0
    assert "1000/1000" in capsys.readouterr().err
