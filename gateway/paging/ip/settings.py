"""What an app may choose of the IP pager; must never let it choose where a datagram goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from gateway.config.operator_sections import Ip
from gateway.notifiers.fields import Field, build_refusal, check_fields
from gateway.paging.udh import APP_PORTS

NAME = "ip"
FIELDS = (
    Field("port", says="the port the app listens on, 16000 to 16999. Default: `ip.port`"),
    Field(
        "content",
        default="text",
        says="text: title and text go along, as much as fits; none: nothing but the reason to connect",
    ),
)


class AppSettings(NamedTuple):
    port: int
    has_text: bool


def _port(text: str) -> int:
    """0 where it is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) == 5 and int(text) in APP_PORTS else 0


def build_app_settings(settings: Mapping[str, str], ip: Ip) -> AppSettings:
    """Ready to use; `check_settings` has looked at them, and what is not right is the default."""
    return AppSettings(_port(settings.get("port", "")) or ip.port, settings.get("content") != "none")


def check_settings(settings: Mapping[str, str]) -> None:
    """Raises BadRequest: field and fix."""
    check_fields(NAME, FIELDS, settings)
    if settings.get("port") and not _port(settings["port"]):
        raise build_refusal(NAME, "port", "is no application port: 16000 to 16999 are free for applications")
    if settings.get("content", "") not in ("", "text", "none"):
        raise build_refusal(NAME, "content", "is text or none")
