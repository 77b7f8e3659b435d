"""Bodies of the T8 door (TS 29.122 clause 5.7); must never hold a number: who is meant stands there as an opaque id."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gateway.model.errors import BadRequest

MAX_PAYLOAD_CHARS = 43_692
#: what the text of a push may hold; a longer payload is data alone
MAX_TEXT_CHARS = 16_384

DeliveryResult = Literal[
    "SUCCESS", "UNKNOWN", "FAILURE", "TRIGGERED", "EXPIRED", "UNCONFIRMED", "REPLACED", "TERMINATE"
]
Priority = Literal["NO_PRIORITY", "PRIORITY"]
Port = Annotated[int, Meta(ge=0, le=65_535)]


class DeviceTriggering(msgspec.Struct, kw_only=True, omit_defaults=True, rename="camel"):
    """A transaction, asked for and as it is. Members that are not known here are passed over."""

    self_: Annotated[str, Meta(max_length=2_048, description="URL of the transaction; ours")] = msgspec.field(
        default="", name="self"
    )
    external_id: Annotated[str, Meta(max_length=512, description="opaque id of the subscriber: `local@host`")] = ""
    msisdn: Annotated[str, Meta(max_length=64, description="refused: nobody outside the network names a number")] = ""
    supported_features: Annotated[str, Meta(max_length=64, pattern="^[A-Fa-f0-9]*$")] = ""
    validity_period: Annotated[int, Meta(ge=0, le=2**32 - 1, description="seconds it is kept")]
    priority: Annotated[Priority, Meta(description="PRIORITY: urgency high")]
    application_port_id: Annotated[Port, Meta(description="of the app on the device")]
    app_src_port_id: Port | None = None
    trigger_payload: Annotated[str, Meta(max_length=MAX_PAYLOAD_CHARS, description="base64")]
    notification_destination: Annotated[
        str, Meta(max_length=1_024, pattern=r"^https?://[^\s]+$", description="delivery reports are posted there")
    ]
    delivery_result: Annotated[DeliveryResult | None, Meta(description="what became of it; ours")] = None


class DeliveryReport(msgspec.Struct, kw_only=True):
    """DeviceTriggeringDeliveryReportNotification: posted to `notificationDestination`."""

    transaction: str
    result: DeliveryResult


class InvalidParam(msgspec.Struct, kw_only=True, omit_defaults=True):
    param: str
    reason: str = ""


class ProblemDetails(msgspec.Struct, kw_only=True, omit_defaults=True, rename="camel"):
    """TS 29.122 clause 5.2.1.2.12."""

    title: str
    status: int
    detail: str = ""
    cause: str = ""
    invalid_params: list[InvalidParam] | None = None


def parse_payload(text: str) -> bytes:
    """BadRequest."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest("triggerPayload is no base64", field="triggerPayload") from None


def text_of(payload: bytes) -> str:
    """What a pager can carry of it: the payload as text, where it is text; else empty."""
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return ""
    return text if len(text) <= MAX_TEXT_CHARS and all(c.isprintable() or c in "\r\n\t" for c in text) else ""
