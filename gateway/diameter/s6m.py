"""Asks the HSS by S6m which subscriber an External Identifier stands for (C7); must never show either by an error.

Sources: 3GPP TS 29.336 §5.2.1 (Subscriber-Information), §6.2.3, §6.2.4, §6.4.2 (User-Identifier), §6.4.11 (SIR-Flags);
TS 23.003 §19.7.2 (External Identifier).
"""

from __future__ import annotations

from gateway.diameter import codes
from gateway.diameter.avps import Avps, Malformed, build_group, build_text, build_u32, parse_avps
from gateway.diameter.codes import Application, Command, Experimental
from gateway.diameter.node import Node, Refused, ResultOf, parse_result
from gateway.diameter.tbcd import parse_tbcd
from gateway.model.subscribers import Numbers

#: S6m/S6n-Indicator (table 6.4.11/1): sent on S6m
ON_S6M = 1
#: Service-ID (§6.4.3)
DEVICE_TRIGGER = 0
#: nobody, or nobody who may be asked for: one answer for all of them
NOBODY = (
    ResultOf(Experimental.USER_UNKNOWN, True),
    ResultOf(Experimental.UNAUTHORIZED_SERVICE, True),
)


def build_request(external_id: str, scs_identity: str = "") -> bytes:
    """What a Subscriber-Information-Request has beside its head."""
    who = build_group(codes.USER_IDENTIFIER, build_text(codes.EXTERNAL_IDENTIFIER, external_id))
    service = build_u32(codes.SERVICE_ID, DEVICE_TRIGGER)
    scs = build_text(codes.SCS_IDENTITY, scs_identity) if scs_identity else b""
    return who + service + scs + build_u32(codes.SIR_FLAGS, ON_S6M)


def parse_answer(answer: Avps) -> Numbers:
    """IMSI and MSISDN of one that says success. Malformed where it has neither."""
    imsi = msisdn = ""
    for data in answer.all(codes.USER_IDENTIFIER):
        group = parse_avps(data)
        name, number = group.text(codes.USER_NAME), group.first(codes.MSISDN)
        if name is not None and not imsi:
            imsi = name
        if number is not None and not msisdn:
            msisdn = parse_tbcd(number)
    if imsi and not (imsi.isascii() and imsi.isdecimal() and 6 <= len(imsi) <= 15):
        raise Malformed("a User-Name is no IMSI", 5004)
    if not imsi and not msisdn:
        raise Malformed("an answer names nobody", 5005)
    return Numbers(msisdn, imsi)


class S6mRegister:
    """model.subscribers.ExternalIds."""

    def __init__(self, node: Node, hss_host: str = "", scs_identity: str = "") -> None:
        self._node = node
        self._hss_host = hss_host
        self._scs_identity = scs_identity

    async def find(self, external_id: str) -> Numbers | None:
        answer = await self._node.request(
            Application.S6M,
            Command.SUBSCRIBER_INFORMATION,
            build_request(external_id, self._scs_identity),
            self._hss_host,
        )
        result = parse_result(answer)
        if result in NOBODY:
            return None
        if not result.is_success:
            raise Refused
        return parse_answer(answer)
