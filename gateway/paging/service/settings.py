"""Settings of the pager service, the process's and an app's; must never let an app name a server that is not https."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.config.operator_sections import Service
from gateway.model.service_access import is_server
from gateway.model.service_page import MOST_AID, MOST_SERVERS, parse_servers
from gateway.notifiers.fields import Field, build_refusal, check_fields
from gateway.paging.udh import APP_PORTS

NAME = "service"
FIELDS = (
    Field("aid", says="application id that the terminal looks up, where a push names none. Default: the app's name"),
    Field(
        "servers",
        says=f"where a started app connects to: at most {MOST_SERVERS} https URLs with spaces between; a page names one"
        " by its place, and devices get the list when they register",
    ),
    Field("port", says="the port that terminals take pages on, 16000 to 16999. Default: `service.port`"),
)


@dataclass(frozen=True, slots=True)
class AppSettings:
    aid: str
    servers: tuple[str, ...]
    port: int


def build_app_settings(app: str, settings: Mapping[str, str], service: Service) -> AppSettings:
    """Ready to use; `check_settings` has looked at them."""
    port = settings.get("port", "")
    return AppSettings(
        aid=settings.get("aid") or app,
        servers=tuple(parse_servers(settings.get("servers", ""))),
        port=int(port) if _is_port(port) else service.port,
    )


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 6 and int(text) in APP_PORTS


def check_settings(settings: Mapping[str, str]) -> None:
    """BadRequest with the field and the fix."""
    check_fields(NAME, FIELDS, settings)
    aid, port = settings.get("aid", ""), settings.get("port", "")
    if len(aid) > MOST_AID or not aid.isprintable():
        raise build_refusal(NAME, "aid", f"has at most {MOST_AID} printable characters")
    if port and not _is_port(port):
        raise build_refusal(NAME, "port", "is a number from 16000 to 16999 (3GPP TS 23.040 §9.2.3.24.4)")
    servers = settings.get("servers", "").split()
    if len(servers) > MOST_SERVERS:
        raise build_refusal(NAME, "servers", f"has more than {MOST_SERVERS} entries")
    if not all(map(is_server, servers)):
        raise build_refusal(
            NAME, "servers", "has an entry that is no https URL; write each as https://app.example.com/service-access"
        )
