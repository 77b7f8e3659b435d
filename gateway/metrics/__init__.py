"""Metrics: every name in one enum, counted on the control thread; no subscriber identity in a label."""

from gateway.metrics.names import Metric
from gateway.metrics.sink import Metrics

__all__ = ["Metric", "Metrics"]
