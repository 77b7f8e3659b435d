"""Curves: the same points give the same small picture, with axes that say what they are."""

import json
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path

import pytest

from bench.curves import Chart, Line, Scale, draw, short
from bench.report import build_charts

POINTS = {
    "memory": [{"n": 1_000, "bytes": 900.0}, {"n": 40_000, "bytes": 229.5}],
    "latency": [{"n": 100, "p50_ms": 0.5, "p99_ms": 2.0}, {"n": 40_000, "p50_ms": 0.6, "p99_ms": 3.0}],
    "throughput": [{"batch": 1, "per_s": 9_000}, {"batch": 1_024, "per_s": 120_000}],
}


def test_every_curve_is_small_the_same_each_time_and_labelled() -> None:
    charts = build_charts(POINTS)
    assert sorted(charts) == ["curve-latency.svg", "curve-memory.svg", "curve-throughput.svg"]
    assert charts == build_charts(json.loads(json.dumps(POINTS)))
    for svg in charts.values():
        assert len(svg) < 40_000
        texts = {text for element in ElementTree.fromstring(svg).iter() if (text := element.text)}
        assert texts & {"devices on line", "pushes in a frame"}
        assert texts & {"bytes a device", "milliseconds", "accepts a second"}


def test_parts_that_were_not_measured_are_left_out() -> None:
    assert list(build_charts({"memory": POINTS["memory"]})) == ["curve-memory.svg"]


def test_every_point_lies_inside_the_picture() -> None:
    line = Line("<odd> & name", [(1, 0), (50, 3.2), (99, 7.7)])
    root = ElementTree.fromstring(draw(Chart("title", "x", "y", [line, Line("flat", [(1, 7.6), (99, 7.6)])], target=9)))
    circles = [element for element in root.iter() if element.tag.endswith("circle")]
    assert len(circles) == 5
    assert all(0 <= float(c.get("cx") or -1) <= 720 and 0 <= float(c.get("cy") or -1) <= 400 for c in circles)


def test_labels_at_the_ends_do_not_lie_on_each_other() -> None:
    lines = [Line(name, [(1, 5), (10, 5)]) for name in ("a", "b", "c")]
    root = ElementTree.fromstring(draw(Chart("title", "x", "y", lines)))
    heights = sorted(float(e.get("y") or 0) for e in root.iter() if e.text in ("a", "b", "c"))
    assert min(high - low for low, high in pairwise(heights)) >= 15


def test_ticks_are_round_and_inside() -> None:
    assert Scale(100, 40_000, 0, 1, log=True).ticks() == [100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000]
    assert Scale(0, 930, 0, 1, log=False).ticks() == [0, 200, 400, 600, 800, 1_000]
    assert [short(number) for number in (0, 1_500, 40_000, 2_000_000, 0.25)] == ["0", "1.5k", "40k", "2M", "0.25"]


def test_a_chart_without_points_is_refused() -> None:
    with pytest.raises(ValueError, match="no points"):
        draw(Chart("nothing", "x", "y", []))


def test_pictures_in_docs_are_those_of_the_points_in_docs() -> None:
    docs = Path(__file__).parents[2] / "docs"
    points = docs / "curves.json"
    drawn = build_charts(json.loads(points.read_text())) if points.exists() else {}
    assert {name: (docs / name).read_text() for name in drawn} == drawn
