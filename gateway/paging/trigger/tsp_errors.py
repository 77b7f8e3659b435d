"""What an MTC-IWF's answer to a device trigger means for the delivery; must never carry a number or a payload.

Sources: 3GPP TS 29.368 §6.4.9 (Request-Status), RFC 6733 §7.1 (Result-Code).
"""

from __future__ import annotations

from gateway.diameter.node import ResultOf
from gateway.notifiers.upstream import Answer, Fault, Row, Verdict

_DEAD, _RETRY = Verdict.DEAD, Verdict.RETRY
_ADDRESS, _MESSAGE, _UPSTREAM = Fault.ADDRESS, Fault.MESSAGE, Fault.UPSTREAM
_CREDENTIAL, _THROTTLE, _NONE = Fault.CREDENTIAL, Fault.THROTTLE, Fault.NONE

OK = Row(2001, "SUCCESS", Verdict.OK, _NONE, "the network took the trigger; a report says later what became of it")
TOO_BUSY = Row(3004, "TOO_BUSY", _RETRY, _THROTTLE, "every peer is too busy", 5)
OTHER_PROTOCOL = Row(3000, "protocol_error", _RETRY, _UPSTREAM, "another answer 3xxx: the request was not understood")
OTHER_TRANSIENT = Row(4000, "transient_failure", _RETRY, _NONE, "an answer 4xxx: not now")
OTHER_PERMANENT = Row(5000, "permanent_failure", _DEAD, _MESSAGE, "another answer 5xxx: never like this")
OTHER_STATUS = Row(1, "other_request_status", _RETRY, _MESSAGE, "a Request-Status that is not in this table")

ORIGINAL_SENT = Row(
    112, "ORIGINALMESSAGESENT", Verdict.OK, _NONE, "the trigger to be replaced is out already; this one goes as its own"
)
REPLACE_FAILED = Row(110, "REPLACEFAIL", _RETRY, _MESSAGE, "the earlier trigger could not be replaced")

#: Request-Status of the Device-Notification in the answer
STATUSES = (
    Row(101, "INVPAYLOAD", _DEAD, _MESSAGE, "the payload is refused, for its length perhaps"),
    Row(102, "INVEXTID", _DEAD, _ADDRESS, "the network knows no such subscriber"),
    Row(103, "INVSCSID", _RETRY, _CREDENTIAL, "the gateway's name is refused: check diameter.scs_identity"),
    Row(104, "INVPERIOD", _DEAD, _MESSAGE, "the validity period is refused"),
    Row(105, "NOTAUTHORIZED", _DEAD, _ADDRESS, "this gateway may not trigger this subscriber"),
    Row(106, "SERVICEUNAVAILABLE", _DEAD, _ADDRESS, "this subscriber can not be triggered"),
    Row(107, "PERMANENTERROR", _DEAD, _MESSAGE, "the network will never do it"),
    Row(108, "QUOTAEXCEEDED", _RETRY, _THROTTLE, "the gateway's quota is used up", 60),
    Row(109, "RATEEXCEEDED", _RETRY, _THROTTLE, "the gateway triggers too fast", 5),
    REPLACE_FAILED,
    Row(111, "RECALLFAIL", _RETRY, _MESSAGE, "the earlier trigger could not be recalled"),
    ORIGINAL_SENT,
    Row(201, "TEMPORARYERROR", _RETRY, _NONE, "the network can not do it now"),
)
#: Result-Code of the answer
RESULTS = (
    Row(3001, "COMMAND_UNSUPPORTED", _RETRY, _UPSTREAM, "the peer knows no device triggering"),
    Row(3002, "UNABLE_TO_DELIVER", _RETRY, _UPSTREAM, "no peer has a way to the MTC-IWF: check mtc_iwf_host"),
    Row(3003, "REALM_NOT_SERVED", _RETRY, _CREDENTIAL, "nobody knows the realm: check destination_realm"),
    TOO_BUSY,
    Row(3007, "APPLICATION_UNSUPPORTED", _RETRY, _UPSTREAM, "no peer routes Tsp"),
    Row(3010, "UNKNOWN_PEER", _RETRY, _CREDENTIAL, "the gateway is not known there: check origin_host"),
    Row(5003, "AUTHORIZATION_REJECTED", _RETRY, _CREDENTIAL, "the gateway may not trigger devices"),
    Row(5012, "UNABLE_TO_COMPLY", _RETRY, _UPSTREAM, "the MTC-IWF failed"),
)
ROWS = (OK, *STATUSES, OTHER_STATUS, *RESULTS, OTHER_PROTOCOL, OTHER_TRANSIENT, OTHER_PERMANENT)
#: of a replacement: the network replaces none, or not this one, so a trigger of its own is tried
NOT_REPLACED = (REPLACE_FAILED, OTHER_STATUS, OTHER_PROTOCOL, OTHER_PERMANENT)
_BY_STATUS = {row.status: row for row in STATUSES}
_BY_RESULT = {row.status: row for row in RESULTS}


def parse_outcome(result: ResultOf, status: int | None) -> Answer:
    """The row of an answer: its Request-Status says more than its result, where there is one that is no success."""
    if status:
        row = _BY_STATUS.get(status, OTHER_STATUS)
        return Answer(row, detail=row.reason)
    if result.is_success:
        return Answer(OK, detail="ok")
    known = None if result.is_experimental else _BY_RESULT.get(result.code)
    if known is not None:
        return Answer(known, detail=known.reason)
    row = {3: OTHER_PROTOCOL, 4: OTHER_TRANSIENT}.get(result.code // 1000, OTHER_PERMANENT)
    return Answer(row, detail=f"{row.reason} {result.code}")
