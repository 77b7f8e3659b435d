"""What a request to an exposure function has to look like; must never accept what TS 29.122 does not describe.

Source: 3GPP TS 29.122 §5.7.2.1.2 (DeviceTriggering), §5.3.2.1.2 (MonitoringEventSubscription), §5.2.1 (simple types).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

Check = Callable[[Any], bool]
_MSISDN = re.compile(r"[0-9]{5,15}")
_EXTERNAL_ID = re.compile(r"[^@\s]+@[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")
_FEATURES = re.compile(r"[A-Fa-f0-9]*")
_DATE_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)")


def _matches(pattern: re.Pattern[str]) -> Check:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


def _is_number(low: int, high: int) -> Check:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_link(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    parts = urlsplit(value)
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.fragment


def _is_bytes(value: Any) -> bool:
    try:
        return isinstance(value, str) and len(base64.b64decode(value, validate=True)) > 0
    except (binascii.Error, ValueError):
        return False


def _is_one_of(*words: str) -> Check:
    return lambda value: value in words


_DEVICE: dict[str, Check] = {
    "externalId": _matches(_EXTERNAL_ID),
    "msisdn": _matches(_MSISDN),
    "supportedFeatures": _matches(_FEATURES),
    "notificationDestination": _is_link,
    "requestTestNotification": lambda value: isinstance(value, bool),
}
#: property → check; `self` and `deliveryResult` are the network's alone
TRIGGERING: dict[str, Check] = {
    **_DEVICE,
    "validityPeriod": _is_number(0, 2**31 - 1),
    "priority": _is_one_of("NO_PRIORITY", "PRIORITY"),
    "applicationPortId": _is_number(0, 65_535),
    "appSrcPortId": _is_number(0, 65_535),
    "triggerPayload": _is_bytes,
}
MONITORING: dict[str, Check] = {
    **_DEVICE,
    "monitoringType": _is_one_of("UE_REACHABILITY"),
    "reachabilityType": _is_one_of("SMS", "DATA"),
    "maximumNumberOfReports": _is_number(1, 2**31 - 1),
    "monitorExpireTime": _matches(_DATE_TIME),
}


def _check(body: Any, properties: dict[str, Check], required: tuple[str, ...]) -> list[str]:
    """What is wrong, in words that repeat no value."""
    if not isinstance(body, dict):
        return ["the body is no object"]
    wrong = [f"{name} is not known" if name in body and name not in properties else "" for name in body]
    wrong += [f"{name} is missing" for name in required if name not in body]
    wrong += [f"{name} is wrong" for name, holds in properties.items() if name in body and not holds(body[name])]
    if ("externalId" in body) == ("msisdn" in body):
        wrong.append("exactly one of externalId and msisdn")
    return [words for words in wrong if words]


def check_triggering(body: Any) -> list[str]:
    return _check(
        body,
        TRIGGERING,
        ("validityPeriod", "priority", "applicationPortId", "triggerPayload", "notificationDestination"),
    )


def check_monitoring(body: Any) -> list[str]:
    wrong = _check(body, MONITORING, ("notificationDestination", "monitoringType", "reachabilityType"))
    if isinstance(body, dict) and "maximumNumberOfReports" not in body and "monitorExpireTime" not in body:
        wrong.append("neither maximumNumberOfReports nor monitorExpireTime")
    return wrong
