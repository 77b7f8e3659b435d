"""What a push proxy gateway's answer means for the delivery; must never carry a number, a link or a text.

Source: WAP-247 (PAP 2.0) §9.14, codes by their thousands: 1 success, 2 the sender's fault, 3 the PPG's, 4 the service,
5 the terminal.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.notifiers.upstream import GARBAGE, Answer, Fault, Row, Verdict, parse_retry_after
from gateway.paging.sms import errors as sms_errors
from gateway.paging.wap.pap import BadAnswer, parse_answer

_OK, _DEAD, _RETRY = Verdict.OK, Verdict.DEAD, Verdict.RETRY
_ADDRESS, _MESSAGE, _UPSTREAM = Fault.ADDRESS, Fault.MESSAGE, Fault.UPSTREAM

OK = Row(1001, "ok", _OK, Fault.NONE, "1xxx: the PPG took it; without a PPG: the SMSC took every part")
DUPLICATE = Row(2007, "duplicate", _OK, Fault.NONE, "the PPG has this push already: an earlier try got through")
NO_LINK = Row(0, "no_link", _DEAD, _MESSAGE, "neither the push (`data.href`) nor the app (`href`) has a link")
BAD_LINK = Row(
    0, "bad_link", _DEAD, _MESSAGE, "`data.href` is no http or https URI, or is longer than `wap.href_bytes`"
)
NO_TEXT = Row(0, "no_text", _DEAD, _MESSAGE, "mode is si, and neither the push nor the app (`text`) has one")
TOO_LONG = Row(0, "too_long", _DEAD, _MESSAGE, "the link alone takes more short messages than `parts`")
UNAUTHORIZED = Row(
    401, "unauthorized", _RETRY, Fault.CREDENTIAL, "401, 403: the PPG refuses the login: check `wap.ppg_user`"
)
MOVED = Row(302, "redirect", _RETRY, Fault.CREDENTIAL, "3xx: no redirect is followed: check `wap.ppg`")
NOT_THERE = Row(404, "not_found", _RETRY, Fault.CREDENTIAL, "404, 405: there is no PPG at `wap.ppg`")
TOO_LARGE = Row(413, "too_large", _DEAD, _MESSAGE, "the PPG takes no message of this size")
THROTTLED = Row(429, "throttled", _RETRY, Fault.THROTTLE, "429: later; Retry-After is kept to")
LATER = Row(503, "later", _RETRY, _UPSTREAM, "408, 5xx without an answer of PAP: later; Retry-After is kept to")
REFUSED = Row(400, "refused", _DEAD, _MESSAGE, "any other 4xx without an answer of PAP")
OTHER_2 = Row(0, "other_2xxx", _DEAD, _MESSAGE, "another code of 2xxx: the PPG finds fault with the message")
OTHER_3 = Row(0, "other_3xxx", _RETRY, _MESSAGE, "another code of 3xxx: the PPG can not do it now")
OTHER_4 = Row(0, "other_4xxx", _RETRY, _UPSTREAM, "another code of 4xxx: the service failed")
ABORTED = Row(5000, "aborted", _RETRY, _ADDRESS, "5xxx: the terminal refused it, or broke off")

#: those that a PPG says
CODES = (
    Row(2000, "bad_request", _DEAD, _MESSAGE, "the PPG can not read the message"),
    Row(2001, "forbidden", _DEAD, _MESSAGE, "the PPG refuses it: a rule of its own, or too late by its clock"),
    Row(2002, "address_error", _DEAD, _ADDRESS, "the PPG can not use the address"),
    Row(2003, "address_not_found", _DEAD, _ADDRESS, "the PPG knows no such subscriber"),
    Row(2004, "push_id_not_found", _DEAD, _MESSAGE, "the PPG knows no such push"),
    Row(2005, "capabilities_mismatch", _DEAD, _ADDRESS, "the terminal can not show it"),
    Row(2006, "capabilities_unsupported", _DEAD, _ADDRESS, "the terminal can not do what is asked for"),
    DUPLICATE,
    Row(2008, "no_cancellation", _DEAD, _MESSAGE, "the push can not be taken back any more"),
    Row(3000, "ppg_error", _RETRY, _UPSTREAM, "the PPG has an error of its own"),
    Row(3001, "not_implemented", _DEAD, _MESSAGE, "the PPG does not know this operation"),
    Row(3002, "version_unsupported", _RETRY, Fault.CREDENTIAL, "the PPG does not speak PAP 2.0"),
    Row(3003, "not_possible", _DEAD, _MESSAGE, "the PPG can not do it: the push is over"),
    Row(3004, "no_capability_matching", _DEAD, _MESSAGE, "the PPG does not compare capabilities"),
    Row(3005, "no_multiple_addresses", _DEAD, _MESSAGE, "the PPG takes one address at a time"),
    Row(3006, "transformation_failed", _DEAD, _MESSAGE, "the PPG can not put it into binary form"),
    Row(3007, "method_not_possible", _DEAD, _ADDRESS, "the PPG can not deliver in this way"),
    Row(3008, "capabilities_unknown", _DEAD, _ADDRESS, "the PPG does not know what the terminal can do"),
    Row(3009, "network_unavailable", _RETRY, _MESSAGE, "the network is not there: check `wap.ppg_network`"),
    Row(3010, "bearer_unavailable", _RETRY, _MESSAGE, "the bearer is not there: check `wap.ppg_bearer`"),
    Row(3011, "no_replacement", _DEAD, _MESSAGE, "the PPG replaces no push"),
    Row(4000, "service_failed", _RETRY, _UPSTREAM, "the service failed"),
    Row(4001, "service_unavailable", _RETRY, _UPSTREAM, "the service is not there now"),
)
#: the PPG can not replace the push before: without that it may still take this one
NOT_REPLACED = frozenset((2004, 2008, 3001, 3003, 3011))
#: for the page; without a PPG those of `sms` hold too
ROWS = (
    OK,
    *CODES,
    OTHER_2,
    OTHER_3,
    OTHER_4,
    ABORTED,
    UNAUTHORIZED,
    MOVED,
    NOT_THERE,
    TOO_LARGE,
    THROTTLED,
    LATER,
    REFUSED,
    NO_LINK,
    BAD_LINK,
    NO_TEXT,
    TOO_LONG,
)
_BY_CODE = {row.status: row for row in CODES}
_BY_THOUSAND = {1: OK, 2: OTHER_2, 3: OTHER_3, 4: OTHER_4, 5: ABORTED}
_BY_STATUS = {
    401: UNAUTHORIZED,
    403: UNAUTHORIZED,
    404: NOT_THERE,
    405: NOT_THERE,
    408: LATER,
    413: TOO_LARGE,
    429: THROTTLED,
}


def parse_code(code: int) -> Answer:
    """The row of a code, 1000 to 5999."""
    row = _BY_CODE.get(code) or _BY_THOUSAND[code // 1000]
    return Answer(row, detail=f"PAP {code}")


def parse_exchange(status: int, headers: Mapping[str, str], body: bytes, push_id: str, now_ms: int) -> Answer:
    """What an answer over HTTP means. What PAP says in it counts, whatever the status beside it; but a login that is
    refused, or a redirect, is no word of PAP."""
    if status in (401, 403) or 300 <= status < 400:
        return Answer(_BY_STATUS.get(status, MOVED), detail=f"HTTP {status}")
    try:
        said = parse_answer(body)
    except BadAnswer:
        if 200 <= status < 300:
            return Answer(GARBAGE, detail="garbage")
        row = _BY_STATUS.get(status) or (LATER if status >= 500 else REFUSED if status >= 400 else GARBAGE)
        return Answer(row, parse_retry_after(headers.get("retry-after", ""), now_ms), detail=f"HTTP {status}")
    if said.push_id and said.push_id != push_id:
        return Answer(GARBAGE, detail="an answer to another push")
    answer = parse_code(said.code)
    if answer.row.verdict is _RETRY:
        return answer._replace(retry_after_ms=parse_retry_after(headers.get("retry-after", ""), now_ms))
    return answer


def parse_sent(answer: Answer) -> Answer:
    """What went out as short messages: the rows of `sms`, and OK under the pager's own."""
    return answer._replace(row=OK) if answer.row is sms_errors.OK else answer
