"""An HSS and an MTC-IWF that another library (python-diameter) speaks for, which has its own dictionary of what is in a
message.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diameter.message import Avp, Message
from diameter.message import constants as names
from diameter.message.commands.user_data import UserDataRequest
from diameter.node import Node as TheirNode
from diameter.node.application import SimpleThreadingApplication

from gateway.tour.operator.diameter_relay import GATEWAY_HOST, HSS_HOST, REALM, RELAY_HOST, free_ports

TGPP = names.VENDOR_TGPP

UNKNOWN_USER = (
    Avp.new(
        names.AVP_EXPERIMENTAL_RESULT,
        value=[Avp.new(names.AVP_VENDOR_ID, value=TGPP), Avp.new(names.AVP_EXPERIMENTAL_RESULT_CODE, value=5001)],
    ),
)


@dataclass
class Somebody:
    msisdn: str
    imsi: str


class TheirHss:
    """HSS (Sh, S6m, S6c) and MTC-IWF (Tsp) of the other library, with what they were asked, read by their names."""

    def __init__(self) -> None:
        (self.port,) = free_ports(1)
        self.by_impu: dict[str, Somebody] = {}
        self.by_external_id: dict[str, Somebody] = {}
        self.actions: list[Any] = []
        self.status = 0
        self._node = TheirNode(HSS_HOST, REALM, ip_addresses=["127.0.0.1"], tcp_port=self.port, vendor_ids=[TGPP])
        peer = self._node.add_peer(f"aaa://{RELAY_HOST}:3868", REALM, ip_addresses=["127.0.0.1"])
        self._apps = {
            application: SimpleThreadingApplication(application, is_auth_application=True, request_handler=handler)
            for application, handler in (
                (names.APP_3GPP_SH, self._on_user_data),
                (names.APP_3GPP_S6M, self._on_subscriber),
                (names.APP_3GPP_S6C, self._on_routing),
                (names.APP_3GPP_TSP, self._on_action),
            )
        }
        for application in self._apps.values():
            self._node.add_application(application, [peer])

    def start(self) -> None:
        self._node.start()

    def stop(self) -> None:
        self._node.stop(wait_timeout=5)

    def _on_user_data(self, _application: Any, request: UserDataRequest) -> Message:
        """By hand: the library's own answer has User-Data under the number of Cx (606), not of Sh (702)."""
        known = self.by_impu.get(request.user_identity.public_identity)
        if known is None:
            return self._answer(request, *UNKNOWN_USER)
        data = (
            "<?xml version='1.0'?><Sh-Data><PublicIdentifiers><MSISDN>"
            f"{known.msisdn}</MSISDN></PublicIdentifiers><Extension><IMSI>{known.imsi}</IMSI></Extension></Sh-Data>"
        ).encode()
        return self._answer(
            request,
            Avp.new(names.AVP_RESULT_CODE, value=2001),
            Avp.new(names.AVP_TGPP_SH_USER_DATA, TGPP, value=data),
        )

    def _answer(self, request: Any, *avps: Avp) -> Message:
        answer = request.to_answer()
        head = Message()
        head.header = answer.header
        for avp in (
            Avp.new(names.AVP_SESSION_ID, value=request.session_id),
            Avp.new(names.AVP_ORIGIN_HOST, value=HSS_HOST.encode()),
            Avp.new(names.AVP_ORIGIN_REALM, value=REALM.encode()),
            Avp.new(names.AVP_AUTH_SESSION_STATE, value=1),
            *avps,
        ):
            head.append_avp(avp)
        return head

    def _on_subscriber(self, _application: Any, request: Any) -> Message:
        known = self.by_external_id.get(request.user_identifier.external_identifier)
        if known is None:
            return self._answer(request, *UNKNOWN_USER)
        digits = known.msisdn + "f" * (len(known.msisdn) % 2)
        swapped = "".join(digits[at + 1] + digits[at] for at in range(0, len(digits), 2))
        inner = [
            Avp.new(names.AVP_USER_NAME, value=known.imsi),
            Avp.new(names.AVP_TGPP_MSISDN, TGPP, value=bytes.fromhex(swapped)),
        ]
        return self._answer(
            request,
            Avp.new(names.AVP_RESULT_CODE, value=2001),
            Avp.new(names.AVP_TGPP_USER_IDENTIFIER, TGPP, value=inner),
        )

    def _on_routing(self, _application: Any, request: Any) -> Message:
        digits = request.msisdn.hex()
        number = "".join(digits[at + 1] + digits[at] for at in range(0, len(digits), 2)).rstrip("f")
        known = next((each for each in self.by_impu.values() if each.msisdn == number), None)
        if known is None:
            return self._answer(request, *UNKNOWN_USER)
        return self._answer(
            request, Avp.new(names.AVP_RESULT_CODE, value=2001), Avp.new(names.AVP_USER_NAME, value=known.imsi)
        )

    def _on_action(self, _application: Any, request: Any) -> Message:
        self.actions.append(request.device_action)
        inner = [
            Avp.new(names.AVP_TGPP_REFERENCE_NUMBER, TGPP, value=request.device_action.reference_number),
            Avp.new(names.AVP_TGPP_ACTION_TYPE, TGPP, value=1),
            Avp.new(names.AVP_TGPP_REQUEST_STATUS, TGPP, value=self.status),
        ]
        return self._answer(
            request,
            Avp.new(names.AVP_RESULT_CODE, value=2001),
            Avp.new(names.AVP_TGPP_DEVICE_NOTIFICATION, TGPP, value=inner),
        )

    def report(self, reference: int, outcome: int) -> int:
        """A delivery report, by the relay to the gateway; the result of its answer. Blocks."""
        request = Message()
        request.header.command_code = names.CMD_3GPP_DEVICE_NOTIFICATION
        request.header.application_id = names.APP_3GPP_TSP
        request.header.is_request = request.header.is_proxyable = True
        inner = [
            Avp.new(names.AVP_TGPP_REFERENCE_NUMBER, TGPP, value=reference),
            Avp.new(names.AVP_TGPP_ACTION_TYPE, TGPP, value=2),
            Avp.new(names.AVP_TGPP_DELIVERY_OUTCOME, TGPP, value=outcome),
        ]
        for avp in (
            Avp.new(names.AVP_SESSION_ID, value=self._node.session_generator.next_id()),
            Avp.new(names.AVP_AUTH_APPLICATION_ID, value=names.APP_3GPP_TSP),
            Avp.new(names.AVP_AUTH_SESSION_STATE, value=1),
            Avp.new(names.AVP_ORIGIN_HOST, value=HSS_HOST.encode()),
            Avp.new(names.AVP_ORIGIN_REALM, value=REALM.encode()),
            Avp.new(names.AVP_DESTINATION_HOST, value=GATEWAY_HOST.encode()),
            Avp.new(names.AVP_DESTINATION_REALM, value=REALM.encode()),
            Avp.new(names.AVP_TGPP_DEVICE_NOTIFICATION, TGPP, value=inner),
        ):
            request.append_avp(avp)
        answer = self._apps[names.APP_3GPP_TSP].send_request(request, timeout=5)
        return int(answer.result_code)
