"""What the swarm decides without a network: latencies, options, limits in words, the control protocol's errors."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway._load.histogram import Histogram
from gateway.model.errors import ConfigError
from gateway.swarm.control import serve
from gateway.swarm.limits import find_shortages
from gateway.swarm.options import Options
from gateway.swarm.swarm import Swarm, name_of

MACHINE = {
    "/proc/sys/fs/file-max": "5000000",
    "/proc/sys/fs/file-nr": "1000\t0\t5000000",
    "/proc/sys/fs/nr_open": "1048576",
    "/proc/meminfo": "MemTotal: 25000000 kB\nMemAvailable: 20000000 kB\n",
    "/proc/sys/net/ipv4/ip_local_port_range": "32768\t60999",
}


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=200), st.floats(0, 1))
def test_quantiles_are_those_of_the_sorted_list_within_a_bucket(values: list[int], share: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    ordered = sorted(values)
    exact = ordered[min(len(ordered) - 1, max(0, -(-int(share * len(ordered) * 1_000_000) // 1_000_000) - 1))]
    got = histogram.quantile(share)
    assert exact <= got * 1.0001 + 1
    assert got <= max(exact * 1.016 + 1, ordered[0]) or got in ordered or share * len(ordered) % 1 < 1e-5
    assert histogram.quantile(1.0) == ordered[-1]


@given(st.lists(st.integers(0, 2**30), max_size=50), st.lists(st.integers(0, 2**30), max_size=50))
def test_merged_histograms_are_one_of_all_values(some: list[int], others: list[int]) -> None:
    one, other, both = Histogram(), Histogram(), Histogram()
    for value in some:
        one.add(value)
        both.add(value)
    for value in others:
        other.add(value)
        both.add(value)
    one.merge(other)
    assert one.summary() == both.summary()
    assert len(one) == len(some) + len(others)


@pytest.mark.parametrize(
    ("ack", "wanted"),
    [("all", (1.0, 0)), ("none", (0.0, 0)), ("0.9", (0.9, 0)), ("share:0.5", (0.5, 0)), ("late:4000", (1.0, 4000))],
)
def test_ack_modes(ack: str, wanted: tuple[float, int]) -> None:
    assert Options(ack=ack).acks() == wanted


@pytest.mark.parametrize("ack", ["", "some", "1.5", "-1", "late:", "late:0", "late:x", "nan:1"])
def test_another_ack_mode_is_refused_by_name(ack: str) -> None:
    with pytest.raises(ConfigError, match="--ack takes"):
        Options(ack=ack).acks()


def test_another_host_than_loopback_must_be_meant() -> None:
    with pytest.raises(ConfigError, match="--allow-remote"):
        Options(host="192.0.2.1").address()
    assert Options(host="192.0.2.1", allow_remote=True).sources() == (0, 0)
    assert Options(first_source=7).sources() == (7, 14_000)
    with pytest.raises(ConfigError, match="--first-source"):
        Options(first_source=-1).sources()
    with pytest.raises(ConfigError, match="--devices-a-source"):
        Options(devices_a_source=0).sources()


def shortages(devices: int = 10_000, threads: int = 1, files: int = 1_000_000, **machine: str) -> list[str]:
    texts = MACHINE | {path: text for path, text in machine.items() if path.startswith("/")}
    found = find_shortages(
        devices,
        threads,
        both_ends=True,
        files=files,
        devices_a_source=14_000,
        sources=1_000,
        read=lambda path: texts[path],
    )
    return [str(shortage) for shortage in found]


def test_a_machine_with_room_for_it_lacks_nothing() -> None:
    assert shortages() == []
    assert shortages(2_000_000, threads=110, files=20_000) == []


@pytest.mark.parametrize(
    ("options", "machine", "words"),
    [
        ({}, {"/proc/sys/fs/file-max": "10000"}, "sysctl -w fs.file-max="),
        ({"files": 5_000}, {}, "ulimit -n"),
        ({"files": 5_000}, {"/proc/sys/fs/nr_open": "5000"}, "sysctl -w fs.nr_open="),
        ({"devices": 4_000_000, "threads": 400}, {"/proc/sys/fs/file-max": "99000000"}, "GiB"),
        ({"devices": 15_000_000, "threads": 400}, {}, "source addresses"),
        ({}, {"/proc/sys/net/ipv4/ip_local_port_range": "60000 60999"}, "ip_local_port_range"),
    ],
    ids=["file-max", "ulimit", "nr_open", "memory", "sources", "ports"],
)
def test_what_is_short_is_said_with_the_command_that_mends_it(
    options: dict[str, Any], machine: dict[str, str], words: str
) -> None:
    assert any(words in text for text in shortages(**options, **machine))


def test_ends_have_the_names_of_the_errors_page() -> None:
    assert [name_of(reason) for reason in (0, 21, 26, 60_000)] == ["cut", "unauthorized", "draining", "error_60000"]


def test_the_control_protocol_answers_what_it_can_not_do() -> None:
    lines = [
        "",
        "nonsense",
        "[]",
        '{"do": 5}',
        '{"do": "fly"}',
        '{"do": "connect", "number": 5}',
        '{"do": "credentials"}',
    ]
    lines += [
        '{"do": "push", "targets": "nobody"}',
        '{"do": "push"}',
        '{"do": "stats"}',
        '{"do": "quit"}',
        '{"do": "fly"}',
    ]
    answers = io.StringIO()
    with Swarm(Options(port=1, threads=1, heartbeat_s=0)) as swarm:
        serve(swarm, io.StringIO("\n".join(lines)), answers)
    got = [json.loads(line) for line in answers.getvalue().splitlines()]
    assert len(got) == 9
    assert all("error" in answer for answer in got[:-1])
    assert "connect, drop" in got[3]["error"]
    assert "nobody to push to" in got[7]["error"]
    assert got[8]["online"] == 0


def test_more_gateways_are_named_one_by_one_and_checked() -> None:
    loopback = 0x7F000001
    assert Options(nodes=("127.0.0.2:7401",)).gateways() == [(loopback, 7400), (loopback + 1, 7401)]
    for wrong in ("127.0.0.1", "192.0.2.1:7400"):
        with pytest.raises(ConfigError, match="--node"):
            Options(nodes=(wrong,)).gateways()
    with pytest.raises(ConfigError, match="at most 64"):
        Options(nodes=("127.0.0.1:1",) * 64).gateways()
