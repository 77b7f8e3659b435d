"""What a terminal's answer, or its silence, means for the delivery; must never carry an address or a number.

Source: RFC 7252 §4.2 (reset), §5.9 and §12.1.2 (codes), RFC 8516 (4.29). 404 in the table is CoAP's 4.04.
"""

from __future__ import annotations

from gateway.model.coap import show_code
from gateway.notifiers.upstream import Answer, Fault, Row, Verdict
from gateway.paging.ip.datagram import Exchanged, What

_DEAD, _RETRY = Verdict.DEAD, Verdict.RETRY
_ADDRESS, _MESSAGE, _UPSTREAM = Fault.ADDRESS, Fault.MESSAGE, Fault.UPSTREAM

OK = Row(0, "ok", Verdict.OK, Fault.NONE, "the terminal acknowledged it")
OFFLINE = Row(
    0,
    "offline",
    _RETRY,
    Fault.ABSENT,
    "the subscriber is off line: kept, and tried as soon as the network says it is back",
)
NO_HOST = Row(
    0,
    "no_host",
    _DEAD,
    _ADDRESS,
    "on line, but at no address that is known: an IPv6 prefix alone, other APNs than `ip.apns`, a NAI that many have",
)
NOT_ALLOWED = Row(0, "not_allowed", _DEAD, _ADDRESS, "the address is in none of `ip.networks`, or no terminal's at all")
NO_ACK = Row(0, "no_ack", _RETRY, _ADDRESS, "no acknowledgement after `ip.retransmits`; it may have been taken")
RESET = Row(0, "reset", _RETRY, _ADDRESS, "the terminal knows nothing to do with it")
UNREACHABLE = Row(
    0, "unreachable", _RETRY, _ADDRESS, "nobody listens on the app's port there (ICMP), or no way leads there"
)
BUSY = Row(0, "busy", _RETRY, Fault.NONE, "`ip.at_once` datagrams are under way")
GGSN_TIMEOUT = Row(0, "ggsn_timeout", _RETRY, _UPSTREAM, "the GGSN did not answer in ip.ggsn_timeout_s")
GGSN_FAILED = Row(0, "ggsn_failed", _RETRY, _UPSTREAM, "the GGSN can not be asked, or answered what is no answer")
OTHER_4 = Row(400, "other_4xx", _DEAD, _MESSAGE, "the terminal refuses it for a reason that is not in this table")
OTHER_5 = Row(500, "other_5xx", _RETRY, _ADDRESS, "the terminal has an error that is not in this table")
OTHER = Row(0, "other_code", _RETRY, _ADDRESS, "the terminal answered with a code that is none of an answer")

CODES = (
    Row(400, "bad_request", _DEAD, _MESSAGE, "the terminal can not read the request"),
    Row(401, "unauthorized", _DEAD, _ADDRESS, "the terminal takes nothing from this gateway"),
    Row(402, "bad_option", _DEAD, _MESSAGE, "the terminal does not know an option of the request"),
    Row(403, "forbidden", _DEAD, _ADDRESS, "the terminal takes nothing from this gateway"),
    Row(404, "not_found", _DEAD, _ADDRESS, "nothing at `ip.path` takes pushes on this terminal"),
    Row(405, "method_not_allowed", _DEAD, _ADDRESS, "what is at `ip.path` takes no POST"),
    Row(413, "too_large", _DEAD, _MESSAGE, "more than the terminal takes"),
    Row(415, "content_format", _DEAD, _MESSAGE, "the terminal takes no application/octet-stream"),
    Row(429, "too_many_requests", _RETRY, _ADDRESS, "too many to this terminal (RFC 8516)"),
    Row(500, "internal_error", _RETRY, _ADDRESS, "the terminal's own error"),
    Row(503, "unavailable", _RETRY, _ADDRESS, "the terminal can not take it now"),
)
ROWS = (
    OK,
    OFFLINE,
    NO_HOST,
    NOT_ALLOWED,
    NO_ACK,
    RESET,
    UNREACHABLE,
    *CODES,
    OTHER_4,
    OTHER_5,
    OTHER,
    BUSY,
    GGSN_TIMEOUT,
    GGSN_FAILED,
)
_BY_CODE = {row.status: row for row in CODES}
_BY_WHAT = {
    What.ACKNOWLEDGED: OK,
    What.RESET: RESET,
    What.UNREACHABLE: UNREACHABLE,
    What.SILENT: NO_ACK,
    What.OWN: NOT_ALLOWED,
}


def parse_exchanged(exchanged: Exchanged) -> Answer:
    """The row of how an exchange ended."""
    if exchanged.what is not What.ANSWERED:
        row = _BY_WHAT[exchanged.what]
        return Answer(row, detail=row.reason)
    group, code = exchanged.code >> 5, exchanged.code
    if group == 2:
        return Answer(OK, detail="ok")
    row = _BY_CODE.get(group * 100 + (code & 31)) or {4: OTHER_4, 5: OTHER_5}.get(group, OTHER)
    return Answer(row, detail=f"{show_code(code)} {row.reason}")
