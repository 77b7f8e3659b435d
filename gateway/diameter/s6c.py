"""Asks the HSS by S6c whether a short message can go to somebody, and for the IMSI (C8); must never show either by an
error.

Sources: 3GPP TS 29.338 §5.2.1 (Send Routing Info for SM), §5.3.2.3, §5.3.2.4, §7.3; TS 23.003 §2.2.
"""

from __future__ import annotations

import re

from gateway.diameter import codes
from gateway.diameter.avps import Malformed, build_octets, build_text, build_u32
from gateway.diameter.codes import Application, Command, Experimental
from gateway.diameter.node import Node, Refused, ResultOf, parse_result
from gateway.diameter.tbcd import build_tbcd
from gateway.model.subscribers import Numbered, Numbers

#: SM-Delivery-Not-Intended (§5.3.3.14)
ONLY_IMSI_REQUESTED = 0
ABSENT = ResultOf(Experimental.ABSENT_USER, True)
#: there is no such subscriber, or none that gets short messages
NOBODY = tuple(
    ResultOf(code, True)
    for code in (Experimental.USER_UNKNOWN, Experimental.SERVICE_NOT_SUBSCRIBED, Experimental.SERVICE_BARRED)
)
_MSISDN = re.compile(r"[0-9]{1,15}")
_IMSI = re.compile(r"[0-9]{6,15}")


def build_request(msisdn: str, imsi: str, sc_address: str = "") -> bytes:
    """What a Send-Routing-Info-for-SM-Request has beside its head: by MSISDN, else by IMSI."""
    who = build_octets(codes.MSISDN, build_tbcd(msisdn)) if msisdn else build_text(codes.USER_NAME, imsi)
    centre = build_octets(codes.SC_ADDRESS, build_tbcd(sc_address)) if sc_address else b""
    return who + centre + build_u32(codes.SM_DELIVERY_NOT_INTENDED, ONLY_IMSI_REQUESTED)


class S6cRegister:
    """model.subscribers.HomeRegister. The node is the gateway's: it is not closed here."""

    def __init__(self, node: Node, hss_host: str = "", sc_address: str = "") -> None:
        self._node = node
        self._hss_host = hss_host
        self._sc_address = sc_address

    async def look_up(self, subscriber: Numbered) -> Numbers | None:
        msisdn, imsi = subscriber.msisdn.lstrip("+"), subscriber.imsi
        msisdn = msisdn if _MSISDN.fullmatch(msisdn) else ""
        imsi = imsi if _IMSI.fullmatch(imsi) else ""
        if not msisdn and not imsi:
            return None
        answer = await self._node.request(
            Application.S6C,
            Command.SEND_ROUTING_INFO_FOR_SM,
            build_request(msisdn, imsi, self._sc_address),
            self._hss_host,
        )
        result = parse_result(answer)
        if result in NOBODY:
            return None
        if result == ABSENT:
            return Numbers(msisdn, imsi, is_away=True)
        if not result.is_success:
            raise Refused
        found = answer.text(codes.USER_NAME)
        if found is not None and _IMSI.fullmatch(found) is None:
            raise Malformed("a User-Name is no IMSI", 5004)
        return Numbers(msisdn, found or imsi)

    async def close(self) -> None:
        pass
