"""Where the floors count, and the Prometheus text of it; must never keep a label value that names a subscriber."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from gateway.metrics.names import Metric

#: (metric, label value, value now); values of the same metric and label are added up
Reading = tuple[Metric, str, float]
Source = Callable[[], Iterable[Reading]]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
#: label values of one metric; past it a new one is counted under "other", so that no input can make the sink grow
MAX_LABELS = 200
OTHER = "other"


class Histogram:
    """Counts by bucket, their total and sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)  # the last is +Inf
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, float]]:
        """Buckets as the exposition format wants them: counts up to each bound."""
        out, seen = [], 0
        for bound, n in zip([*map(_bound, self.bounds), "+Inf"], self.counts, strict=True):
            seen += n
            out.append((bound, float(seen)))
        return out


class Metrics:
    """Counters, gauges and histograms by (metric, label value). Control thread only."""

    def __init__(self, *, process: bool = True) -> None:
        self.counters: dict[tuple[Metric, str], float] = {}
        self.gauges: dict[tuple[Metric, str], float] = {}
        self.histograms: dict[tuple[Metric, str], Histogram] = {}
        self._labels: dict[Metric, int] = {}
        self._sources: list[Source] = []
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Collector(self))
        if process:
            ProcessCollector(registry=self._registry)

    def count(self, metric: Metric, n: float = 1, label: str = "") -> None:
        """Add to a counter."""
        key = (metric, label)
        if key not in self.counters:
            key = self._admit(metric, label)
        self.counters[key] = self.counters.get(key, 0) + n

    def set(self, metric: Metric, value: float, label: str = "") -> None:
        """A gauge's value from now on."""
        key = (metric, label)
        if key not in self.gauges:
            key = self._admit(metric, label)
        self.gauges[key] = value

    def observe(self, metric: Metric, value: float, label: str = "") -> None:
        """One observation of a histogram (seconds or bytes, as its name says)."""
        key = (metric, label)
        if key not in self.histograms:
            key = self._admit(metric, label)
            self.histograms.setdefault(key, Histogram(metric.spec.buckets))
        self.histograms[key].observe(value)

    def add_source(self, source: Source) -> Callable[[], None]:
        """Read `source` at every scrape, for values counted elsewhere; returns what takes it out again."""
        self._sources.append(source)

        def remove() -> None:
            if source in self._sources:
                self._sources.remove(source)

        return remove

    def value(self, metric: Metric, label: str = "") -> float:
        """Counter or gauge as a scrape would show it now, sources included; 0 where nothing was counted."""
        return self.snapshot().get((metric, label), 0.0)

    def snapshot(self) -> dict[tuple[Metric, str], float]:
        """All counters and gauges, sources included."""
        out = {**self.counters, **self.gauges}
        for source in self._sources:
            for metric, label, value in source():
                out[metric, label] = out.get((metric, label), 0.0) + value
        return out

    def render(self) -> bytes:
        """Prometheus text exposition of everything, process figures included; serve it as CONTENT_TYPE."""
        return generate_latest(self._registry)

    def _admit(self, metric: Metric, label: str) -> tuple[Metric, str]:
        seen = self._labels.get(metric, 0)
        if seen >= MAX_LABELS:
            return metric, OTHER
        self._labels[metric] = seen + 1
        return metric, label


class _Collector(Collector):
    """Turns the figures into families when scraped; a metric without a label is there from the start, as 0."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Family]:
        figures: dict[Metric, dict[str, float]] = {}
        for (metric, label), value in self._metrics.snapshot().items():
            figures.setdefault(metric, {})[label] = value
        for metric in Metric:
            yield self._family(metric, figures.get(metric, {}))

    def _family(self, metric: Metric, figures: dict[str, float]) -> Family:
        spec = metric.spec
        labels = [spec.label] if spec.label else []
        if spec.kind == "histogram":
            family = HistogramMetricFamily(spec.name, spec.help, labels=labels)
            for (owner, label), histogram in self._metrics.histograms.items():
                if owner is metric:
                    family.add_metric([label] if labels else [], histogram.cumulative(), histogram.total)
            return family
        cls = CounterMetricFamily if spec.kind == "counter" else GaugeMetricFamily
        flat = cls(spec.name, spec.help, labels=labels)
        if not labels:
            flat.add_metric([], sum(figures.values()))
        else:
            for label, value in sorted(figures.items()):
                flat.add_metric([label], value)
        return flat


def _bound(value: float) -> str:
    return repr(float(value))


def build_page() -> str:
    """`docs/metrics.md`: one table."""
    out = [
        "# Metrics",
        "",
        "<!-- Generated from gateway/metrics/names.py: edit that file, then run `make docs`. -->",
        "",
        "`GET /metrics` on the provider port, Prometheus text format. A metric without a label is there from the",
        f"start; one with a label appears with its first value. Past {MAX_LABELS} label values new ones are counted as",
        f"`{OTHER}`.",
        "The usual `process_*` figures (CPU, resident memory, descriptors, start time) are there too.",
        "",
        "| name | type | label | meaning |",
        "|---|---|---|---|",
    ]
    for metric in Metric:
        spec = metric.spec
        label = f"`{spec.label}`" if spec.label else ""
        out.append(f"| `{spec.name}` | {spec.kind} | {label} | {spec.help} |")
    return "\n".join(out) + "\n"
