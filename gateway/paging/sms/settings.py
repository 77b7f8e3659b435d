"""Settings of the SMS pager, the process's and an app's; must never print a password."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.config.operator_sections import Paging
from gateway.config.paging import parse_source, read_smscs
from gateway.model.errors import ConfigError
from gateway.notifiers.fields import Field, build_refusal, check_fields
from gateway.paging.sms.link import LinkSettings
from gateway.paging.sms.pdu import NPI_E164, TON_ALPHANUMERIC, TON_INTERNATIONAL, TON_UNKNOWN, Address
from gateway.paging.udh import APP_PORTS

NAME = "sms"
#: short messages a push may take, where the app says nothing
PARTS = {"binary": 1, "text": 3}
MOST_PARTS = 10
FIELDS = (
    Field("mode", default="binary", says="binary: to the app's port, which wakes it; text: for the user to read"),
    Field("port", says="the port the app listens on, 16000 to 16999. Default: `paging.sms_port`"),
    Field("source", says="sender: a number, or at most 11 letters and digits. Default: `paging.sms_source`"),
    Field("parts", says="short messages that one push may take, 1 to 10; what is longer is cut. Default: 1, text 3"),
)


@dataclass(frozen=True, slots=True)
class AppSettings:
    is_text: bool
    port: int
    source: Address
    parts: int


def build_source(text: str) -> Address:
    """SMPP 3.4 §5.2.5: a name, an international number, or a short number of the network's own."""
    if not text:
        return Address(TON_UNKNOWN, 0, "")
    if text.lstrip("+").isdigit():
        international = text.startswith("+") or len(text) > 6
        return Address(TON_INTERNATIONAL if international else TON_UNKNOWN, NPI_E164, text.lstrip("+"))
    return Address(TON_ALPHANUMERIC, 0, text)


def build_app_settings(settings: Mapping[str, str], paging: Paging) -> AppSettings:
    """Ready to use; `check_settings` has looked at them, and what is not right is the default."""
    mode = settings.get("mode") or "binary"
    return AppSettings(
        is_text=mode == "text",
        port=_number(settings.get("port", ""), APP_PORTS) or paging.sms_port,
        source=build_source(settings.get("source") or paging.sms_source),
        parts=_number(settings.get("parts", ""), range(1, MOST_PARTS + 1)) or PARTS.get(mode, 1),
    )


def _number(text: str, allowed: range) -> int:
    """0 where it is none of these."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 and int(text) in allowed else 0


def check_settings(settings: Mapping[str, str]) -> None:
    """Raises BadRequest: field and fix."""
    check_fields(NAME, FIELDS, settings)
    if settings.get("mode", "") not in ("", *PARTS):
        raise build_refusal(NAME, "mode", "is binary or text")
    if settings.get("port") and not _number(settings["port"], APP_PORTS):
        raise build_refusal(NAME, "port", "is no application port: 16000 to 16999 are free for applications")
    if settings.get("parts") and not _number(settings["parts"], range(1, MOST_PARTS + 1)):
        raise build_refusal(NAME, "parts", f"is a number from 1 to {MOST_PARTS}")
    try:
        parse_source(settings.get("source", ""), "")
    except ConfigError:
        raise build_refusal(
            NAME, "source", "is no sender: a number, or at most 11 letters, digits, spaces, dots, lines"
        ) from None


def build_links(paging: Paging) -> list[LinkSettings]:
    """One for each SMSC. ConfigError; reads disk."""
    smscs = read_smscs(paging)
    context: ssl.SSLContext | None = None
    if any(smsc.tls for smsc in smscs):
        try:
            context = ssl.create_default_context(cafile=paging.smsc_ca or None)
        except (ssl.SSLError, OSError) as exc:
            raise ConfigError("holds no certificate in PEM; name the authority's file", field="paging.smsc_ca") from exc
        context.minimum_version = ssl.TLSVersion.TLSv1_2
    return [
        LinkSettings(
            smsc=smsc,
            bind=paging.smsc_bind,
            system_type=paging.smsc_system_type,
            tls=context if smsc.tls else None,
            window=paging.smsc_window,
            rate=paging.smsc_rate,
            enquire_s=paging.smsc_enquire_s,
            answer_s=paging.smsc_answer_s,
            reconnect_s=paging.smsc_reconnect_s,
            reconnect_max_s=paging.smsc_reconnect_max_s,
        )
        for smsc in smscs
    ]
