"""Device triggering over Tsp: the gateway as a Services Capability Server asks the network's MTC-IWF (C10); must never
show whom it triggers, nor with what.

Sources: 3GPP TS 29.368 §5 (procedures), §6.4 (AVPs), §6.6 (Device-Action, Device-Notification).
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import Literal

from gateway.config.sections import Config
from gateway.diameter import codes
from gateway.diameter.avps import Malformed, build_group, build_octets, build_text, build_u32, parse_avps
from gateway.diameter.codes import Application, Command, Result
from gateway.diameter.messages import Message
from gateway.diameter.node import Node, parse_result
from gateway.diameter.peer import Unanswerable, require
from gateway.diameter.tbcd import build_tbcd
from gateway.identity.hss_mapping import parse_external_id
from gateway.model.subscriber import Subscriber
from gateway.notifiers.upstream import GARBAGE, Answer
from gateway.paging.errors import NO_NUMBER
from gateway.paging.trigger import tsp_errors
from gateway.paging.trigger.tsp_errors import parse_outcome
from gateway.paging.trigger.way import DeviceTrigger, OnOutcome, Outcome

NAME = "tsp"
Identify = Literal["msisdn", "external_id", "opaque_id"]
_NUMBER = re.compile(r"[0-9]{1,15}")
_MOST_U32 = 0xFFFFFFFF


class ActionType(IntEnum):
    """§6.4.6."""

    DEVICE_TRIGGER_REQUEST = 1
    DELIVERY_REPORT = 2
    DEVICE_TRIGGER_REPLACE = 4


#: Delivery-Outcome (§6.4.10) → what it is here, and the detail of a history
DELIVERY_OUTCOMES = {
    0: (Outcome.DELIVERED, ""),
    1: (Outcome.EXPIRED, ""),
    2: (Outcome.FAILED, "temporary error"),
    3: (Outcome.FAILED, "undeliverable"),
    4: (Outcome.UNCONFIRMED, ""),
}


def build_who(subscriber: Subscriber, trigger: DeviceTrigger, identify: Identify) -> bytes:
    """MSISDN or External Identifier (§6.4.2), as `trigger.identify` says; empty where it is not known."""
    if identify == "msisdn":
        digits = subscriber.msisdn.lstrip("+")
        return build_octets(codes.MSISDN, build_tbcd(digits)) if _NUMBER.fullmatch(digits) else b""
    if identify == "external_id":
        return build_text(codes.EXTERNAL_IDENTIFIER, subscriber.nai) if subscriber.nai else b""
    external_id = parse_external_id(trigger.external_id)
    return build_text(codes.EXTERNAL_IDENTIFIER, external_id.canonical) if external_id is not None else b""


def build_request(who: bytes, trigger: DeviceTrigger, scs_identity: str = "", old: int = 0) -> bytes:
    """What a Device-Action-Request has beside its head. `old`: reference of the trigger that this one replaces."""
    data = build_group(
        codes.TRIGGER_DATA,
        build_octets(codes.PAYLOAD, trigger.payload),
        build_u32(codes.PRIORITY_INDICATION, int(trigger.is_urgent)),
        build_u32(codes.APPLICATION_PORT_IDENTIFIER, trigger.port),
    )
    return build_group(
        codes.DEVICE_ACTION,
        who,
        build_text(codes.SCS_IDENTITY, scs_identity) if scs_identity else b"",
        build_u32(codes.REFERENCE_NUMBER, trigger.reference),
        build_u32(codes.OLD_REFERENCE_NUMBER, old) if old else b"",
        build_u32(codes.ACTION_TYPE, ActionType.DEVICE_TRIGGER_REPLACE if old else ActionType.DEVICE_TRIGGER_REQUEST),
        data,
        build_u32(codes.VALIDITY_TIME, min(max(trigger.validity_s, 1), _MOST_U32)),
    )


def parse_report(message: Message) -> tuple[int, Outcome, str]:
    """Reference, outcome and detail of a Device-Notification-Request. Unanswerable, Malformed."""
    report = parse_avps(require(message.avps, codes.DEVICE_NOTIFICATION))
    for kind in (codes.REFERENCE_NUMBER, codes.ACTION_TYPE, codes.DELIVERY_OUTCOME):
        require(report, kind)
    if report.u32(codes.ACTION_TYPE) != ActionType.DELIVERY_REPORT:
        raise Unanswerable(Result.INVALID_AVP_VALUE, build_octets(codes.ACTION_TYPE, bytes(4)))
    found = DELIVERY_OUTCOMES.get(report.u32(codes.DELIVERY_OUTCOME) or 0)
    if found is None:
        raise Unanswerable(Result.INVALID_AVP_VALUE, build_octets(codes.DELIVERY_OUTCOME, bytes(4)))
    return report.u32(codes.REFERENCE_NUMBER) or 0, *found


class TspWay:
    """trigger.way.TriggerWay and Replacing. The node is the gateway's: it is neither started nor closed here."""

    name = NAME

    def __init__(
        self,
        node: Node,
        on_outcome: OnOutcome,
        *,
        identify: Identify = "msisdn",
        mtc_iwf_host: str = "",
        scs_identity: str = "",
    ) -> None:
        self._node = node
        self._identify = identify
        self._on_outcome = on_outcome
        self._mtc_iwf_host = mtc_iwf_host
        self._scs_identity = scs_identity

    def start(self) -> None:
        """Hear what becomes of triggers."""
        self._node.on_request(Application.TSP, Command.DEVICE_NOTIFICATION, self._on_report)

    async def send(self, subscriber: Subscriber, trigger: DeviceTrigger) -> Answer:
        return await self._send(subscriber, trigger, 0)

    async def replace(self, old: int, subscriber: Subscriber, trigger: DeviceTrigger) -> tuple[Answer, bool]:
        """TS 23.682 §5.2.3.3: where the old one is out already, the network takes the new one as a trigger of its
        own."""
        answer = await self._send(subscriber, trigger, old)
        if answer.row is tsp_errors.ORIGINAL_SENT:
            return Answer(tsp_errors.OK, detail="ok"), False
        if answer.row in tsp_errors.NOT_REPLACED:
            return await self._send(subscriber, trigger, 0), False
        return answer, answer.row is tsp_errors.OK

    async def _send(self, subscriber: Subscriber, trigger: DeviceTrigger, old: int) -> Answer:
        who = build_who(subscriber, trigger, self._identify)
        if not who:
            return Answer(NO_NUMBER)
        try:
            answer = await self._node.request(
                Application.TSP,
                Command.DEVICE_ACTION,
                build_request(who, trigger, self._scs_identity, old),
                self._mtc_iwf_host,
            )
            told = answer.group(codes.DEVICE_NOTIFICATION)
            return parse_outcome(parse_result(answer), told.u32(codes.REQUEST_STATUS) if told is not None else None)
        except Malformed:
            return Answer(GARBAGE, detail="garbage")

    def _on_report(self, message: Message) -> bytes:
        reference, outcome, detail = parse_report(message)
        self._on_outcome(reference, outcome, detail)
        # TS 29.368 §6.6.5
        return build_u32(codes.AUTH_APPLICATION_ID, Application.TSP) + build_u32(
            codes.AUTH_SESSION_STATE, codes.NO_STATE_MAINTAINED
        )

    async def close(self) -> None:
        """Reports that come from now on are refused, so that the network may give them to another gateway."""
        self._node.off_request(Application.TSP, Command.DEVICE_NOTIFICATION)


def build_tsp(config: Config, node: Node, on_outcome: OnOutcome) -> TspWay:
    """As sections `trigger` and `diameter` say."""
    section = config.diameter
    return TspWay(
        node,
        on_outcome,
        identify=config.trigger.identify,
        mtc_iwf_host=section.mtc_iwf_host,
        scs_identity=section.scs_identity,
    )
