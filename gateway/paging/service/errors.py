"""What may become of a service page, beside what its bearer answers; must never say who was paged or with what."""

from __future__ import annotations

from gateway.notifiers.upstream import Fault, Row, Verdict

STARTED = Row(0, "started", Verdict.OK, Fault.NONE, "over the device's own link: it says that it has started the app")
NO_BEARER = Row(
    0,
    "no_bearer",
    Verdict.DEAD,
    Fault.ADDRESS,
    "the device did not answer over a link, and the gateway has no SMSC (`paging.smscs`)",
)
NO_SERVER = Row(
    0, "no_server", Verdict.DEAD, Fault.MESSAGE, "the app's `servers` is a list without the place that the push names"
)
#: a page by short message may have every answer of the pager sms as well
ROWS = (STARTED, NO_BEARER, NO_SERVER)
