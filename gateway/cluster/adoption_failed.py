"""What is counted and said of a partition that could not be taken over; must never repeat what was said at length."""

from __future__ import annotations

import structlog

from gateway.cluster.adoption_deadline import Overdue
from gateway.cluster.journal_past import JournalLacking
from gateway.metrics import Metrics
from gateway.metrics.names import Metric
from gateway.model.errors import GatewayError, LogFenced

_log = structlog.get_logger(__name__)


def note_failed(metrics: Metrics, error: Exception, partition: int, epoch: int, adopt_timeout_s: float) -> int:
    """The epoch that the partition has got to at least: where the records were made anew, its journal is ahead."""
    failed = {JournalLacking: "refused", Overdue: "overdue"}.get(type(error), "failed")
    metrics.count(Metric.PARTITION_MOVES, label=failed)
    if isinstance(error, Overdue):
        _log.warning("adoption_overdue", partition=partition, epoch=epoch, without_a_step_s=adopt_timeout_s)
    elif isinstance(error, JournalLacking):
        pass  # it was said at length, once
    elif isinstance(error, GatewayError):  # NATS that does not answer, an owner after this one
        _log.warning("partition_not_adopted", partition=partition, epoch=epoch, reason=error.message)
    else:
        _log.error("partition_not_adopted", partition=partition, epoch=epoch, exc_info=error)
    return max(epoch, error.epoch) if isinstance(error, LogFenced) else epoch
