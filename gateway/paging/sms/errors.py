"""What an SMSC's answer to submit_sm means for the delivery; must never carry a number, an IMSI or a text.

Source: SMPP 3.4 §5.1.3, table 5-2. The vendor's own range is 0x400 to 0x4FF.
"""

from __future__ import annotations

from gateway.notifiers.upstream import Answer, Fault, Row, Verdict

_DEAD, _RETRY = Verdict.DEAD, Verdict.RETRY
_ADDRESS, _MESSAGE, _UPSTREAM = Fault.ADDRESS, Fault.MESSAGE, Fault.UPSTREAM

OK = Row(0, "ok", Verdict.OK, Fault.NONE, "every part was taken; receipts say later what became of each")
THROTTLED = Row(0x58, "RTHROTTLED", _RETRY, Fault.THROTTLE, "too fast for every SMSC: the lane rests")
FULL = Row(0x14, "RMSGQFUL", _RETRY, Fault.THROTTLE, "the queue of every SMSC is full: the lane rests")
HLR_UNKNOWN = Row(0, "hlr_unknown", _DEAD, _ADDRESS, "the HLR knows no such subscriber")
HLR_ABSENT = Row(
    0,
    "hlr_absent",
    _RETRY,
    Fault.ABSENT,
    "the HLR says that the terminal has left the network (purged): its return is waited for",
)
HLR_TIMEOUT = Row(0, "hlr_timeout", _RETRY, _UPSTREAM, "the HLR did not answer in paging.hlr_timeout_s")
HLR_FAILED = Row(0, "hlr_failed", _RETRY, _UPSTREAM, "the HLR can not be asked, or answered what is no answer")
TOO_LONG = Row(0, "too_long", _DEAD, _MESSAGE, "takes more short messages than the app allows (`parts`)")
NO_TEXT = Row(0, "no_text", _DEAD, _MESSAGE, "mode is text, and the push has neither title nor text")
NOT_BOUND = Row(0, "not_bound", _RETRY, _UPSTREAM, "the gateway is bound to no SMSC now")
LINK_LOST = Row(
    0,
    "link_lost",
    _RETRY,
    _UPSTREAM,
    "the connection broke before the answer; what was taken may come twice",
)
VENDOR = Row(0x400, "vendor", _RETRY, _MESSAGE, "a status of the SMSC vendor's own (0x400 to 0x4FF)")
OTHER = Row(0, "other_status", _RETRY, _MESSAGE, "a status that is not in this table")

#: those that an SMSC says
STATUSES = (
    Row(0x01, "RINVMSGLEN", _DEAD, _MESSAGE, "the message is too long for this SMSC"),
    Row(0x02, "RINVCMDLEN", _RETRY, _UPSTREAM, "the SMSC can not read the PDU"),
    Row(0x03, "RINVCMDID", _RETRY, _UPSTREAM, "the SMSC does not know submit_sm"),
    Row(0x04, "RINVBNDSTS", _RETRY, _UPSTREAM, "the bind does not allow sending: check smsc_bind"),
    Row(0x06, "RINVPRTFLG", _DEAD, _MESSAGE, "the priority is refused"),
    Row(0x07, "RINVREGDLVFLG", _DEAD, _MESSAGE, "receipts are refused"),
    Row(0x08, "RSYSERR", _RETRY, _UPSTREAM, "the SMSC has an error of its own"),
    Row(0x0A, "RINVSRCADR", _DEAD, Fault.CREDENTIAL, "the sender is refused: check the app's `source`"),
    Row(0x0B, "RINVDSTADR", _DEAD, _ADDRESS, "the SMSC knows no such subscriber"),
    FULL,
    Row(0x15, "RINVSERTYP", _DEAD, _MESSAGE, "the service type is refused"),
    Row(0x43, "RINVESMCLASS", _DEAD, _MESSAGE, "the SMSC takes no user data header: use mode text"),
    Row(0x45, "RSUBMITFAIL", _RETRY, _MESSAGE, "the SMSC could not take it now"),
    Row(0x48, "RINVSRCTON", _DEAD, Fault.CREDENTIAL, "the sender's type is refused: check the app's `source`"),
    Row(0x49, "RINVSRCNPI", _DEAD, Fault.CREDENTIAL, "the sender's numbering plan is refused: check `source`"),
    Row(0x50, "RINVDSTTON", _DEAD, _ADDRESS, "the type of number is refused"),
    Row(0x51, "RINVDSTNPI", _DEAD, _ADDRESS, "the numbering plan is refused: this SMSC takes no IMSI"),
    THROTTLED,
    Row(0x62, "RINVEXPIRY", _DEAD, _MESSAGE, "the validity period is refused"),
    Row(0x64, "RX_T_APPN", _RETRY, _MESSAGE, "the receiving application refuses it for now"),
    Row(0x65, "RX_P_APPN", _DEAD, _ADDRESS, "the receiving application refuses it for good"),
    Row(0x66, "RX_R_APPN", _DEAD, _ADDRESS, "the receiving application rejects it"),
)
ROWS = (
    OK,
    *STATUSES,
    VENDOR,
    OTHER,
    HLR_UNKNOWN,
    HLR_ABSENT,
    HLR_TIMEOUT,
    HLR_FAILED,
    TOO_LONG,
    NO_TEXT,
    NOT_BOUND,
    LINK_LOST,
)
_BY_STATUS = {row.status: row for row in STATUSES}


def parse_status(status: int) -> Answer:
    """The row of a submit_sm_resp's status."""
    if status == 0:
        return Answer(OK)
    row = _BY_STATUS.get(status) or (VENDOR if 0x400 <= status <= 0x4FF else OTHER)
    return Answer(row, detail=f"{row.reason} {status:#x}" if row in (VENDOR, OTHER) else row.reason)
