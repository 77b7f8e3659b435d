"""The notifiers' settings and answers as tables for docs/notifiers.md; must hold nothing that the code does not."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.notifiers.apns import errors as apns_errors
from gateway.notifiers.apns import settings as apns_settings
from gateway.notifiers.fcm import errors as fcm_errors
from gateway.notifiers.fcm import settings as fcm_settings
from gateway.notifiers.fields import Field
from gateway.notifiers.upstream import SHARED, Fault, Row
from gateway.notifiers.webhook import errors as webhook_errors
from gateway.notifiers.webhook import settings as webhook_settings
from gateway.notifiers.webpush import errors as webpush_errors
from gateway.notifiers.webpush import settings as webpush_settings
from gateway.paging import errors as paging_errors
from gateway.paging.ip import errors as ip_errors
from gateway.paging.ip import settings as ip_settings
from gateway.paging.service import errors as service_errors
from gateway.paging.service import settings as service_settings
from gateway.paging.sms import errors as sms_errors
from gateway.paging.sms import settings as sms_settings
from gateway.paging.trigger import errors as trigger_errors
from gateway.paging.trigger import settings as trigger_settings
from gateway.paging.trigger import tsp_errors
from gateway.paging.wap import errors as wap_errors
from gateway.paging.wap import settings as wap_settings

#: name → its settings and the rows of its table
NOTIFIERS: dict[str, tuple[Sequence[Field], Sequence[Row]]] = {
    "apns": (apns_settings.FIELDS, apns_errors.ROWS),
    "fcm": (fcm_settings.FIELDS, fcm_errors.ROWS),
    "webpush": (webpush_settings.FIELDS, webpush_errors.ROWS),
    "webhook": (webhook_settings.FIELDS, webhook_errors.ROWS),
    "sms": (sms_settings.FIELDS, sms_errors.ROWS),
    "service": (service_settings.FIELDS, service_errors.ROWS),
    "wap": (wap_settings.FIELDS, wap_errors.ROWS),
    "trigger": (trigger_settings.FIELDS, (*trigger_errors.ROWS, *tsp_errors.ROWS)),
    "ip": (ip_settings.FIELDS, ip_errors.ROWS),
}


def _describe_fields(fields: Sequence[Field]) -> list[str]:
    out = ["| setting | | meaning |", "|---|---|---|"]
    for field in fields:
        marks = [mark for mark, is_so in (("needed", field.required), ("secret", field.secret)) if is_so]
        default = f" Default: `{field.default}`." if field.default else ""
        out.append(f"| `{field.name}` | {', '.join(marks)} | {field.says}.{default} |")
    return out


def _describe_rows(rows: Sequence[Row]) -> list[str]:
    out = ["| status | reason | outcome | whose fault | meaning |", "|---|---|---|---|---|"]
    for row in rows:
        rest = f" The lane rests {row.pause_s} s where no Retry-After says else." if row.pause_s else ""
        if row.fault is Fault.EITHER:
            rest = f" Without Retry-After this delivery waits {row.pause_s} s, and the lane from a second address on."
        cells = (row.status or "–", f"`{row.reason}`", row.verdict, row.fault, f"{row.says}.{rest}")
        out.append(f"| {' | '.join(map(str, cells))} |")
    return out


def describe() -> str:
    """Markdown: for each notifier its settings and its answers, then what all have in common."""
    out: list[str] = []
    for name, (fields, rows) in NOTIFIERS.items():
        out += ["", f"### `{name}`: settings", "", *_describe_fields(fields)]
        out += ["", f"### `{name}`: answers", "", *_describe_rows(rows)]
    out += ["", "### Every notifier", "", *_describe_rows(SHARED)]
    out += ["", "### Every pager", "", *_describe_rows(paging_errors.ROWS), ""]
    return "\n".join(out)
