"""What the provider door of a node works with itself: who may ask, its own figures, how it is; must never hold anything
of a partition.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from gateway.api.ports import Backend
from gateway.config.sections import Config
from gateway.delivery.push_ids import PushIds
from gateway.fleet.app_book import AppBook
from gateway.fleet.book_keys import BookKeys
from gateway.metrics import Metrics
from gateway.model.cluster import Stranded


class _Elsewhere:
    """Stands where a gateway alone has its stores. Nothing that a node answers itself may look there."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"the door of a node has no {self._what}: it lies with the partitions")


def _is_connected(number: int) -> NoReturn:  # noqa: ARG001
    raise AttributeError("the door of a node has no registrations: they lie with the partitions")


def build_door_backend(
    config: Config,
    metrics: Metrics,
    book: AppBook,
    push_ids: PushIds,
    admin_hash: bytes,
    readiness: Callable[[], Sequence[str]],
    stranded: Callable[[], Sequence[Stranded]],
    service_keys: Any,
    is_fresh: Callable[[], bool],
) -> Backend:
    """`readiness`: why this node can not take pushes now; `stranded`: what nobody in the fleet serves;
    `is_fresh`: does the book have what the fleet has?"""
    directory: Any = book

    def elsewhere(what: str) -> Any:
        return _Elsewhere(what)

    return Backend(
        config=config.api,
        keys=BookKeys(book, admin_hash, is_fresh),
        directory=directory,
        receipts=elsewhere("receipts"),
        acceptor=elsewhere("acceptor"),
        batches=elsewhere("batches"),
        dispatcher=elsewhere("dispatcher"),
        memory=elsewhere("memory"),
        quotas=elsewhere("quotas"),
        schedules=elsewhere("schedules"),
        deaths=elsewhere("deaths"),
        push_ids=push_ids,
        metrics=metrics,
        is_connected=_is_connected,
        readiness=readiness,
        stranded=stranded,
        max_ttl_s=config.delivery.max_ttl_s,
        service_keys=service_keys,
    )
