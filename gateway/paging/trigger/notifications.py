"""Reads what the network posts about triggers and watched devices; must never give on a word that is not one of these
enumerations.

Source: 3GPP TS 29.122 §5.7.2.1.3 (DeviceTriggeringDeliveryReportNotification), §5.7.2.2.3 (DeliveryResult), §5.3.2.3.1
(MonitoringNotification), §5.2.1.2.4 (TestNotification).
"""

from __future__ import annotations

from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from gateway.paging.trigger.way import Outcome

#: what each result means for the trigger; None: it is under way still
RESULTS: dict[str, Outcome | None] = {
    "SUCCESS": Outcome.DELIVERED,
    "UNKNOWN": Outcome.FAILED,
    "FAILURE": Outcome.FAILED,
    "TRIGGERED": None,
    "EXPIRED": Outcome.EXPIRED,
    "UNCONFIRMED": Outcome.UNCONFIRMED,
    "REPLACED": None,
    "TERMINATE": Outcome.FAILED,
}
REACHABLE = "UE_REACHABILITY"


class BadNotification(ValueError):
    """The bytes are no notification of these kinds; the text never holds any of them."""


class Report(NamedTuple):
    """What became of a trigger."""

    transaction: str  # the last part of the resource's path
    result: str  # a key of RESULTS

    @property
    def outcome(self) -> Outcome | None:
        return RESULTS[self.result]


class Test(NamedTuple):
    """The network shows that it finds us."""


class Reachability(NamedTuple):
    """Of a watched device."""

    is_reachable: bool
    is_cancelled: bool  # nothing more comes


def resource_name(url: str) -> str:
    """The last part of a resource's path, by which it is known whatever a proxy makes of the host; "" of no URL."""
    try:
        return urlsplit(url).path.rstrip("/").rpartition("/")[2]
    except ValueError:
        return ""


def _decode(body: bytes) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadNotification("no JSON") from None
    if not isinstance(found, dict):
        raise BadNotification("no JSON object")
    return found


def _link(found: dict[str, Any], key: str) -> str:
    link = found.get(key)
    if not isinstance(link, str) or not resource_name(link):
        raise BadNotification(f"no {key}")
    return resource_name(link)


def parse_report(body: bytes) -> Report | Test:
    """What was posted to a trigger's notificationDestination. BadNotification."""
    found = _decode(body)
    if "transaction" not in found and "result" not in found:
        _link(found, "subscription")
        return Test()
    transaction, result = _link(found, "transaction"), found.get("result")
    if not isinstance(result, str) or not result:
        raise BadNotification("no result")
    # A word that came later than this release of the API (the enumeration is open) says no more than UNKNOWN does.
    return Report(transaction, result if result in RESULTS else "UNKNOWN")


def parse_monitoring(body: bytes) -> Reachability | Test:
    """What was posted to a watch's notificationDestination. BadNotification."""
    found = _decode(body)
    _link(found, "subscription")
    reports, cancelled = found.get("monitoringEventReports"), found.get("cancelInd") is True
    if reports is None:
        return Reachability(is_reachable=False, is_cancelled=True) if cancelled else Test()
    if not isinstance(reports, list) or not reports:
        raise BadNotification("no reports")
    kinds = [each.get("monitoringType") if isinstance(each, dict) else None for each in reports]
    if not all(isinstance(kind, str) for kind in kinds):
        raise BadNotification("no monitoringType")
    return Reachability(is_reachable=REACHABLE in kinds, is_cancelled=cancelled)
