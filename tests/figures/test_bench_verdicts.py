"""From a measurement to a row of the table, a record in JSON and an exit code."""

import json
import math

import pytest

from bench.system import figures, take
from bench.system.figures import BY_ID, FIGURES, Measured, Run, UnknownFigure, build_record, judge, rounded, select
from bench.system.stage import BenchFailed
from bench.system.table import build_number, build_table
from gateway.cli import run


def measured(**fields: object) -> Measured:
    return Measured(**{"value": 1.0, "unit": "s", "n": 10, **fields})  # type: ignore[arg-type]


def test_there_are_twenty_four_figures_each_with_a_module() -> None:
    numbers = {"P": 14, "O": 3, "K": 4, "D": 3}
    every = [f"{letter}{number}" for letter, last in numbers.items() for number in range(1, last + 1)]
    assert [figure.id for figure in FIGURES] == every
    assert all(callable(figure.load()) for figure in FIGURES)


def test_figures_are_selected_in_the_order_of_the_table() -> None:
    assert [figure.id for figure in select(["p10", "P4"])] == ["P4", "P10"]
    assert select([]) == list(FIGURES)


def test_an_unknown_figure_is_named_with_those_there_are() -> None:
    with pytest.raises(UnknownFigure, match=r"P15.*P1 … P14, O1 … O3, K1 … K4 and D1 … D3"):
        select(["P15"])


@pytest.mark.parametrize(("ratio", "ok"), [(0.95, True), (0.949, False), (None, None)])
def test_a_ratio_must_reach_its_bound(ratio: float | None, ok: bool | None) -> None:
    assert judge(BY_ID["P4"], measured(ratio=ratio)) is ok


@pytest.mark.parametrize(("value", "ok"), [(256.0, True), (256.1, False)])
def test_a_value_must_not_pass_its_bound(value: float, ok: bool) -> None:
    assert judge(BY_ID["P1"], measured(value=value)) is ok


def test_every_target_of_a_figure_counts() -> None:
    assert judge(BY_ID["P6"], measured(ratio=0.4, more={"rate_ratio": 1.1})) is True
    assert judge(BY_ID["P6"], measured(ratio=0.4, more={"rate_ratio": 0.9})) is False
    # one that is missed is missed, whether or not the other could be taken
    assert judge(BY_ID["P6"], measured(ratio=None, more={"rate_ratio": 0.9})) is False
    assert judge(BY_ID["P6"], measured(ratio=0.4)) is None


def test_a_short_run_that_held_all_its_devices_misses_no_number_of_devices() -> None:
    held = measured(value=50_000, more={"lost": 0})
    assert judge(BY_ID["P2"], held, quick=True) is None
    assert judge(BY_ID["P2"], held) is False
    assert judge(BY_ID["P2"], measured(value=49_999, more={"lost": 1}), quick=True) is False


def test_a_record_has_what_a_program_asks_for() -> None:
    record = build_record(BY_ID["P4"], measured(value=90_123.4, unit="deliveries/s", floor=92_000.0, ratio=0.97961))
    assert {"value", "unit", "floor", "peer", "ratio", "target", "ok", "n", "note"} <= set(record)
    assert (record["value"], record["ratio"], record["target"], record["ok"]) == (90_123, 0.9796, 0.95, True)
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_a_record_names_further_targets_with_their_verdicts() -> None:
    record = build_record(BY_ID["P8"], measured(value=6e6, more={"bytes_an_entry": 40.0}))
    assert record["ok"] is False
    assert [(target["name"], target["ok"]) for target in record["further"]] == [("bytes_an_entry", False)]


def test_numbers_are_rounded_wherever_they_stand() -> None:
    assert rounded({"a": [1.23456, 12_345.6], "b": 7}) == {"a": [1.235, 12_346], "b": 7}
    assert rounded(0.0) == 0


@pytest.mark.parametrize(("number", "text"), [(None, "—"), (92_134, "92,134"), (0.953, "0.953"), (1_234.5, "1,234")])
def test_numbers_of_the_table_are_short(number: float | None, text: str) -> None:
    assert build_number(number) == text


def test_the_table_has_a_row_a_figure() -> None:
    records = {name: build_record(BY_ID[name], measured(ratio=1.0)) for name in ("P4", "P9")}
    table = build_table(records, quick=True)
    assert table.row_count == 2
    assert [column.header for column in table.columns][:3] == ["figure", "what", "value"]


def stand_in(monkeypatch: pytest.MonkeyPatch, ratio: float | None, failure: str = "") -> None:
    """Every figure gives this ratio, or fails."""

    async def taken(run: Run) -> Measured:
        run.say("under way")
        if failure:
            raise BenchFailed(failure)
        return measured(value=math.pi, ratio=ratio)

    monkeypatch.setattr(figures.Figure, "load", lambda _: taken)
    monkeypatch.setattr(take, "open_files", lambda: 1_024)


def test_a_met_target_is_exit_code_0_and_json_on_stdout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(monkeypatch, 0.99)
    assert run(["bench", "P4", "--quick", "--json", "-"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["P4"]["ok"] is True
    assert "under way" in err


def test_a_missed_target_is_exit_code_1_unless_that_is_not_wanted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(monkeypatch, 0.5)
    assert run(["bench", "P4"]) == 1
    out, err = capsys.readouterr()
    assert "MISSED" in out
    assert "missed: P4" in err
    assert run(["bench", "P4", "--no-fail"]) == 0


def test_a_figure_that_fails_leaves_the_others_and_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(monkeypatch, None, failure="the swarm ended")
    assert run(["bench", "P4", "P9", "--json", "-"]) == 1
    records = json.loads(capsys.readouterr().out)
    assert [(record["ok"], record["note"]) for record in records.values()] == [(False, "the swarm ended")] * 2


def test_what_was_not_taken_is_no_missed_target(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(monkeypatch, None)
    assert run(["bench", "P5"]) == 0
    assert "not taken" in capsys.readouterr().out


def test_wrong_usage_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "P15"]) == 2
    assert run(["bench", "--nonsense"]) == 2
    assert "P15" in capsys.readouterr().err


def test_the_list_names_every_figure_and_measures_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--list"]) == 0
    out = capsys.readouterr().out
    assert all(f" {figure.id} " in out for figure in FIGURES)
