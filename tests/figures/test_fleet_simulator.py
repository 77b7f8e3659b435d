"""The simulator of fleets: no number without a source, nothing is lost, more of a thing never makes it worse."""

import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.curves import draw
from bench.simulator import __main__ as simulator
from bench.simulator import adoption, broadcasting, elections, growth, region_loss, rolling_restart
from bench.simulator.parameters import ASSUMED, DERIVED, MEASURED, NAMES, SETTING, Parameters, parse_setting
from bench.simulator.region_loss import Case, storm
from bench.simulator.result import Result, quantile
from gateway.config.sections import Config

ROOT = Path(__file__).parents[2]
P = Parameters()
#: small enough to be calculated in a blink
SMALL = P.changed(devices=1.2e7, reactors=4)


def plain(text: str) -> str:
    return re.sub(r"\s+", " ", text)


# --- parameters -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_says_where_it_is_from(name: str) -> None:
    value, source = next((value, source) for one, value, source in P if one == name)
    assert source.unit
    assert source.words
    if source.kind == MEASURED:
        assert plain(source.words) in plain((ROOT / source.place).read_text(encoding="utf-8")), "not in the page"
    elif source.kind == SETTING:
        section, setting = source.place.split(".")
        assert getattr(getattr(Config(), section), setting) == value, "not the default"
    elif source.kind == DERIVED:
        assert source.place
    else:
        assert source.kind == ASSUMED
        assert len(source.words) > 15


def test_a_parameter_without_a_source_would_be_found() -> None:
    assert {one.name for one in fields(Parameters)} == {name for name, _, source in P if source.kind}


def test_the_figures_of_nats_are_those_that_were_taken() -> None:
    taken = json.loads((ROOT / "docs" / "nats-figures.json").read_text())
    assert taken["publish"]["ms"]["p50"] == pytest.approx(P.publish_ms, rel=0.05)
    assert taken["publish"]["ms"]["p99"] == pytest.approx(P.publish_p99_ms, rel=0.05)
    assert taken["small"]["client_us"] == pytest.approx(P.message_us, rel=0.05)
    assert taken["small"]["servers_us"] == pytest.approx(P.message_servers_us, rel=0.05)
    none, *_, most = taken["idle"]
    assert (most["memory_mb"] - none["memory_mb"]) * 1e6 / most["streams"] == pytest.approx(P.stream_bytes, rel=0.05)
    assert (most["cores"] - none["cores"]) / most["streams"] == pytest.approx(P.stream_cpu, rel=0.05)


def test_the_calculated_gap_of_an_election_is_the_measured_one() -> None:
    drawn, taken = elections.gaps(P), elections.measured_gaps()
    for part in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert quantile(drawn, part) == pytest.approx(quantile(taken, part), abs=0.5)


@pytest.mark.parametrize("text", ["nonsense=1", "nodes", "nodes=many", "nodes=-1", "nodes=0", "nodes=inf", "nodes=nan"])
def test_a_setting_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_setting(text)


@given(st.text(max_size=40))
def test_any_setting_is_a_name_and_a_number_or_refused(text: str) -> None:
    try:
        name, value = parse_setting(text)
    except ValueError:
        return
    assert name in NAMES
    assert 0 <= value < float("inf")


# --- growth -----------------------------------------------------------------------------------------------------

SIZES = st.floats(1e3, 2e9)


@given(SIZES, SIZES)
@settings(max_examples=60)
def test_a_larger_fleet_never_needs_less(one: float, other: float) -> None:
    few, many = (growth.size(P, devices) for devices in sorted((one, other)))
    for name in ("nodes", "partitions", "pushes_per_s", "commits_per_s", "nats_clusters", "membership_share"):
        assert getattr(few, name) <= getattr(many, name) * (1 + 1e-9), name


@given(SIZES)
@settings(max_examples=60)
def test_every_device_has_a_node_and_no_node_more_than_it_holds_when_the_spare_ones_are_lost(devices: float) -> None:
    one = growth.size(P, devices)
    assert one.node_devices * one.nodes == pytest.approx(devices)
    assert devices <= P.devices_a_node * one.nodes / (1 + P.spare) * (1 + 1e-6)
    assert one.partitions & (one.partitions - 1) == 0


def test_a_commit_that_waits_longer_needs_fewer_nats_clusters() -> None:
    clusters = [growth.size(P, 1e9, wait).nats_clusters for wait in (2, 20, 50)]
    assert clusters == sorted(clusters, reverse=True)
    assert clusters[0] > clusters[-1]


def test_the_line_through_the_measured_points_of_nats_meets_them() -> None:
    message, row = growth.nats_costs(P)
    assert 1 / (message + row) == pytest.approx(P.nats_singly_per_s)
    assert 100 / (message + 100 * row) == pytest.approx(P.nats_hundreds_per_s)


# --- a region is lost -------------------------------------------------------------------------------------------


@given(
    devices=st.floats(10, 60_000),
    spread=st.sampled_from([0.0, 3.0, 30.0]),
    limited=st.booleans(),
    rate=st.floats(2_000, 20_000),
)
@settings(max_examples=25)
def test_every_device_ends_connected_once(devices: float, spread: float, limited: bool, rate: float) -> None:
    seen = storm(SMALL, devices, Case("", spread, limited=limited), rate)
    assert seen.came == pytest.approx(devices, abs=1)
    assert seen.until(1.0) < float("inf")
    # nothing is served faster than the control thread goes
    assert max(seen.connected) <= rate * region_loss.STEP_S * (1 + 1e-9)
    assert seen.until(1.0) >= min(devices / rate, spread or devices / rate) - 2


@pytest.mark.parametrize("case", region_loss.cases(SMALL), ids=lambda case: case.name)
def test_more_nodes_never_make_it_slower(case: Case) -> None:
    lost = 4
    times = []
    for nodes in (10, 14, 20):
        each = SMALL.devices / nodes * lost / (nodes - lost)
        times.append(storm(SMALL, each, case).until(1.0))
    assert times[0] >= times[1] - 1 >= times[2] - 2


def test_a_limit_keeps_a_storm_from_work_for_nobody() -> None:
    each = 2.2e6
    without, limited = (storm(P, each, Case("", 0, limited=limited)) for limited in (False, True))
    assert without.wasted > each
    assert limited.wasted == 0
    assert limited.until(1.0) < without.until(1.0)


def test_few_reactors_bound_the_queue_by_their_mailboxes() -> None:
    seen = storm(P.changed(reactors=4), 2.2e6, Case("", 0))
    assert max(seen.queued) <= 4 * P.mailbox_bytes / P.hello_bytes
    assert seen.wasted == 0


def test_a_queue_longer_than_what_logins_are_waited_for_never_ends_and_a_limit_ends_it() -> None:
    p = P.changed(reactors=24)
    assert storm(p, 2.2e6, Case("", 0)).until(1.0) == float("inf")
    assert storm(p, 2.2e6, Case("", 0, limited=True)).until(1.0) < 150


def test_a_spread_below_the_capacity_makes_no_queue() -> None:
    seen = storm(SMALL, 60_000, Case("", 60), 2_000)
    assert max(seen.queued) == pytest.approx(0, abs=1e-6)
    assert seen.until(1.0) == pytest.approx(60, abs=0.2)


# --- a node dies ------------------------------------------------------------------------------------------------


def test_no_partition_is_adopted_before_its_lease_may_be_over() -> None:
    took = adoption.adopt(P, 3.0, 1e5)
    assert took.first_s[0] > 3.0 - P.beat_s
    assert len(took.first_s) == len(took.last_s) == adoption.DRAWS * round(P.partitions / P.nodes)
    assert all(last > first for first, last in zip(took.first_s, took.last_s, strict=True))


@pytest.mark.parametrize("part", [0.5, 0.99])
def test_a_longer_lease_and_larger_partitions_take_longer(part: float) -> None:
    def at(lease: float, registrations: float) -> float:
        return quantile(adoption.adopt(P, lease, registrations).first_s, part)

    assert at(1, 1e5) < at(3, 1e5) < at(10, 1e5)
    assert at(3, 1e5) < at(3, 1e6) < at(3, 1e7)


def test_a_fleet_of_more_nodes_adopts_no_slower() -> None:
    p99 = [quantile(adoption.adopt(P.changed(nodes=nodes), 3, 1e6).first_s, 0.99) for nodes in (10, 40, 120)]
    assert p99 == sorted(p99, reverse=True)


# --- a broadcast ------------------------------------------------------------------------------------------------


@given(st.floats(1e5, 2e9), st.integers(1, 30))
@settings(max_examples=40)
def test_more_nats_clusters_never_make_a_broadcast_slower(devices: float, clusters: int) -> None:
    fewer, more = (broadcasting.broadcast(P, devices, count) for count in (clusters, clusters + 1))
    assert more.whole_s <= fewer.whole_s
    assert more.whole_s >= max(more.send_s, more.ack_s)


def test_it_takes_a_billion_no_longer_than_one_full_node() -> None:
    one = P.devices_a_node * 3 / (1 + P.spare)
    assert broadcasting.broadcast(P, 1e9).send_s == pytest.approx(broadcasting.broadcast(P, one).send_s, rel=0.05)


# --- rolling restart --------------------------------------------------------------------------------------------


@given(
    nodes=st.integers(3, 40),
    at_once=st.integers(1, 2),
    drain=st.floats(1, 300),
    where=st.sampled_from([rolling_restart.EVEN, rolling_restart.ROOM]),
)
@settings(max_examples=40)
def test_a_rolling_restart_loses_no_device_and_overruns_no_door(
    nodes: int, at_once: int, drain: float, where: str
) -> None:
    p = P.changed(nodes=nodes, devices=nodes * 1e6)
    took = rolling_restart.restart(p, drain, at_once, where)
    assert took.devices == pytest.approx(p.devices)
    assert took.moves >= 1 - 1e-9
    assert took.busiest <= rolling_restart.WELCOME_PART * region_loss.capacity(p) * (1 + 1e-9)


def test_sending_devices_where_there_is_room_keeps_nodes_from_filling_up() -> None:
    even, room = (
        rolling_restart.restart(P, 60, 1, where).most for where in (rolling_restart.EVEN, rolling_restart.ROOM)
    )
    assert even > 2.5  # e, nearly: each node passes on what it was given, and gets more of it the later its turn
    assert room < 1.35


def test_somebody_must_stay() -> None:
    with pytest.raises(ValueError, match="stay"):
        rolling_restart.restart(P.changed(nodes=4), 10, 4, rolling_restart.EVEN)


# --- elections --------------------------------------------------------------------------------------------------


def test_without_a_killed_server_nobody_waits() -> None:
    calm = elections.hour(P, 0, draws=5_000)
    assert (calm.met, calm.waited, calm.refused) == (0, 0, 0)
    assert len(calm.answer_ms) == 5_000


def test_every_push_is_answered_or_refused_and_more_kills_meet_more() -> None:
    once, thrice = (elections.hour(P, kills, draws=50_000) for kills in (1, 3))
    for seen in (once, thrice):
        assert len(seen.answer_ms) == pytest.approx(50_000 * (1 - seen.refused))
        assert seen.refused <= seen.met
        # a third of the streams, for as long as an election takes, of an hour
        assert seen.met < 3 * P.election_most_s / elections.HOUR_S
    assert thrice.met > once.met


# --- the whole --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results() -> list[Result]:
    return simulator.run([], SMALL.changed(nodes=30, lost_nodes=6))


def test_every_scenario_has_a_table_numbers_and_a_picture(results: list[Result]) -> None:
    assert [one.name for one in results] == list(simulator.SCENARIOS)
    for one in results:
        assert one.rows
        assert all(len(row) == len(one.columns) for row in one.rows)
        assert one.facts
        picture = draw(one.chart)
        assert picture == draw(one.chart)
        assert len(picture) < 100_000
        ElementTree.fromstring(picture)


def test_the_same_parameters_give_the_same_json(results: list[Result]) -> None:
    p = SMALL.changed(nodes=30, lost_nodes=6)
    text = simulator.build_json(results, p)
    assert text == simulator.build_json(simulator.run([], p), p)
    record = json.loads(text)
    assert set(record["scenarios"]) == set(simulator.SCENARIOS)
    assert set(record["parameters"]) == set(NAMES)


def test_a_number_that_is_never_reached_is_null_in_json() -> None:
    assert simulator.finite(float("inf")) is None
    assert simulator.build_number(float("inf")) == "never"


def test_it_runs_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["growth", "broadcast", "--set", "devices=2e7", "--json", "-", "--pictures", str(tmp_path)]
    assert simulator.main(words) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["scenarios"]["growth"]["rows"][-1]["devices"] == 2e7
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scale-broadcast.svg", "scale-growth.svg"]
    assert simulator.main(["--parameters"]) == 0
    assert "logins_per_s" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["nothing"], ["growth", "--set", "nodes=-3"], ["growth", "--set", "nods=3"]])
def test_a_word_that_is_not_there_is_wrong_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        simulator.main(words)
    assert stopped.value.code == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize("name", list(simulator.SCENARIOS))
def test_the_pictures_of_the_page_are_those_of_the_parameters(name: str) -> None:
    picture = ROOT / "docs" / "img" / f"scale-{name}.svg"
    assert picture.read_text(encoding="utf-8") == draw(simulator.SCENARIOS[name](P).chart), "run `make simulate`"
