"""Settings of the WAP push pager, the process's and an app's; must never print a password."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.config.operator_sections import Paging, Wap
from gateway.config.paging import parse_source
from gateway.config.wap import Ppg, read_ppg
from gateway.model.errors import ConfigError
from gateway.notifiers.fields import Field, build_refusal, check_fields
from gateway.paging.sms.pdu import Address
from gateway.paging.sms.settings import MOST_PARTS, build_source
from gateway.paging.wap.documents import clean_text, is_link

NAME = "wap"
MODES = ("si", "sl")
PARTS = 3
#: what stands in a link for the push id and for the token
PUSH, TOKEN = "{push}", "{token}"
#: characters of the app's own text
MOST_TEXT = 200
FIELDS = (
    Field(
        "mode", default="si", says="si: a text with a link, shown to the user; sl: the terminal opens the link itself"
    ),
    Field(
        "href",
        says="the link, where a push has none (`data.href`); {push} and {token} in it become push id and token",
    ),
    Field("text", says="what the user reads where a push has neither title nor text"),
    Field(
        "source", says="sender without a PPG: a number, or at most 11 letters and digits. Default: `paging.sms_source`"
    ),
    Field(
        "parts", default=str(PARTS), says="short messages that one push may take, 1 to 10; a text that is longer is cut"
    ),
)


@dataclass(frozen=True, slots=True)
class AppSettings:
    is_loading: bool
    href: str
    text: str
    source: Address
    parts: int


@dataclass(frozen=True, slots=True)
class PpgSettings:
    """What a push proxy gateway is asked with."""

    ppg: Ppg
    context: ssl.SSLContext | None
    timeout_s: float
    network: str
    bearer: str
    authorization: str = field(repr=False, default="")


def fill(href: str, push_id: str, token: str) -> str:
    """The app's link for one push."""
    return href.replace(PUSH, push_id).replace(TOKEN, token)


def build_app_settings(settings: Mapping[str, str], paging: Paging) -> AppSettings:
    """Ready to use; `check_settings` has looked at them, and what is not right is the default."""
    parts = settings.get("parts", "")
    return AppSettings(
        is_loading=settings.get("mode") == "sl",
        href=settings.get("href", ""),
        text=clean_text(settings.get("text", "")),
        source=build_source(settings.get("source") or paging.sms_source),
        parts=int(parts) if _is_parts(parts) else PARTS,
    )


def _is_parts(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 3 and 1 <= int(text) <= MOST_PARTS


def check_settings(settings: Mapping[str, str], wap: Wap) -> None:
    """Raises BadRequest: field and fix."""
    check_fields(NAME, FIELDS, settings)
    if settings.get("mode", "") not in ("", *MODES):
        raise build_refusal(NAME, "mode", "is si or sl")
    href = settings.get("href", "")
    # a push id and a token have 22 characters each
    if href and not is_link(fill(href, "p" * 22, "t" * 22), wap.href_bytes):
        raise build_refusal(
            NAME,
            "href",
            f"is no link of at most {wap.href_bytes} bytes; write it as https://shop.example/m/{PUSH}",
        )
    if len(settings.get("text", "")) > MOST_TEXT:
        raise build_refusal(NAME, "text", f"is longer than {MOST_TEXT} characters")
    if settings.get("parts") and not _is_parts(settings["parts"]):
        raise build_refusal(NAME, "parts", f"is a number from 1 to {MOST_PARTS}")
    try:
        parse_source(settings.get("source", ""), "")
    except ConfigError:
        raise build_refusal(
            NAME, "source", "is no sender: a number, or at most 11 letters, digits, spaces, dots, lines"
        ) from None


def build_ppg_settings(wap: Wap) -> PpgSettings | None:
    """None where `wap.ppg` is empty. ConfigError; reads disk."""
    ppg = read_ppg(wap)
    if ppg is None:
        return None
    context: ssl.SSLContext | None = None
    if ppg.is_tls:
        try:
            context = ssl.create_default_context(cafile=wap.ppg_ca or None)
        except (ssl.SSLError, OSError) as exc:
            raise ConfigError("holds no certificate in PEM; name the authority's file", field="wap.ppg_ca") from exc
        context.minimum_version = ssl.TLSVersion.TLSv1_2
    login = base64.b64encode(f"{ppg.user}:{ppg.password}".encode()).decode() if ppg.user else ""
    return PpgSettings(
        ppg, context, wap.ppg_timeout_s, wap.ppg_network, wap.ppg_bearer, f"Basic {login}" if login else ""
    )
