"""The sink: what is counted is what a scrape shows, and no input can make it grow without end."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.metrics import Metric, Metrics
from gateway.metrics.sink import MAX_LABELS, OTHER, Histogram, build_page


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(process=False)


def samples(metrics: Metrics) -> dict[tuple[str, str], float]:
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def test_a_metric_without_label_is_there_from_the_start(metrics: Metrics) -> None:
    assert samples(metrics)["heliograph_links", ""] == 0


def test_counts_add_up_and_gauges_replace(metrics: Metrics) -> None:
    metrics.count(Metric.PUSHES, label="token")
    metrics.count(Metric.PUSHES, 2, label="token")
    metrics.count(Metric.PUSHES, label="tag")
    metrics.set(Metric.LINKS, 5)
    metrics.set(Metric.LINKS, 3)
    found = samples(metrics)
    assert found["heliograph_pushes_total", "token"] == 3
    assert found["heliograph_pushes_total", "tag"] == 1
    assert found["heliograph_links", ""] == 3


def test_sources_are_read_at_each_scrape_and_summed_with_each_other_and_with_counts(metrics: Metrics) -> None:
    live = [1.0]
    remove = metrics.add_source(lambda: [(Metric.LINKS, "", live[0]), (Metric.LOGINS, "ok", 4)])
    metrics.add_source(lambda: [(Metric.LINKS, "", 10)])
    metrics.count(Metric.LOGINS, label="ok")
    assert samples(metrics)["heliograph_links", ""] == 11
    live[0] = 2
    assert samples(metrics)["heliograph_links", ""] == 12
    assert samples(metrics)["heliograph_logins_total", "ok"] == 5
    remove()
    remove()
    assert metrics.value(Metric.LINKS) == 10


def test_new_label_values_past_the_bound_are_counted_as_other(metrics: Metrics) -> None:
    for n in range(MAX_LABELS + 10):
        metrics.count(Metric.PUSHES_REFUSED, label=f"e{n}")
    metrics.count(Metric.PUSHES_REFUSED, label="e0")
    assert metrics.value(Metric.PUSHES_REFUSED, "e0") == 2
    assert metrics.value(Metric.PUSHES_REFUSED, OTHER) == 10
    assert len(metrics.counters) == MAX_LABELS + 1


def test_a_histogram_counts_each_value_in_its_bucket_ends_included() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 9.0):
        histogram.observe(value)
    assert histogram.cumulative() == [("1.0", 2.0), ("2.0", 4.0), ("+Inf", 5.0)]
    assert histogram.total == 14.0


def test_a_histogram_is_rendered_with_buckets_sum_and_count(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = Metric.LINKS.spec._replace(name="heliograph_wait_seconds", kind="histogram", buckets=(0.1, 1.0))
    monkeypatch.setattr(Metric.LINKS, "_value_", spec)
    metrics.observe(Metric.LINKS, 0.05)
    metrics.observe(Metric.LINKS, 5)
    found = samples(metrics)
    assert found["heliograph_wait_seconds_bucket", "0.1"] == 1
    assert found["heliograph_wait_seconds_bucket", "+Inf"] == 2
    assert found["heliograph_wait_seconds_count", ""] == 2
    assert found["heliograph_wait_seconds_sum", ""] == 5.05


def test_label_values_are_escaped(metrics: Metrics) -> None:
    metrics.count(Metric.PUSHES, label='a"b\\c\nd')
    assert samples(metrics)["heliograph_pushes_total", 'a"b\\c\nd'] == 1


def test_process_figures_are_there() -> None:
    assert b"process_resident_memory_bytes" in Metrics().render()


@pytest.mark.parametrize("metric", Metric, ids=lambda m: m.name)
def test_names_follow_the_conventions(metric: Metric) -> None:
    spec = metric.spec
    assert spec.name.startswith("heliograph_")
    assert spec.kind in ("counter", "gauge", "histogram")
    assert spec.name.endswith("_total") == (spec.kind == "counter")
    assert bool(spec.buckets) == (spec.kind == "histogram")
    assert list(spec.buckets) == sorted(set(spec.buckets))
    assert spec.help
    assert not spec.help.endswith(".")
    if spec.kind == "histogram":
        assert spec.name.endswith(("_seconds", "_bytes"))


def test_names_are_unique() -> None:
    names = [metric.spec.name for metric in Metric]
    assert len(names) == len(set(names))
    assert len(Metric.__members__) == len(names), "two members with equal specs are one to an Enum"


def test_no_label_could_hold_a_subscriber() -> None:
    telling = {"token", "device", "account", "alias", "address", "key", "push", "id", "ip", "tag"}
    assert not telling & {metric.spec.label for metric in Metric}


def test_the_page_has_a_row_for_every_metric() -> None:
    page = build_page()
    assert all(f"| `{metric.spec.name}` | {metric.spec.kind} |" in page for metric in Metric)
