"""Rules between settings, and advice on risky ones; must never change a value."""

from __future__ import annotations

import os
import re
from ipaddress import ip_address
from pathlib import Path

from gateway.config.sections import Config

#: what a NOTIFY frame needs beside title, text and data
NOTIFY_OVERHEAD_BYTES = 1024


def conflicts(config: Config) -> list[tuple[str, str]]:
    """(field, what is wrong) for every rule that is broken."""
    edge, auth, delivery, api = config.edge, config.auth, config.delivery, config.api
    found: list[tuple[str, str]] = []

    def at_most(field: str, value: float, limit_field: str, limit: float) -> None:
        if value > limit:
            found.append((field, f"{value:_} is more than {limit_field} = {limit:_}"))

    at_most("edge.heartbeat_min_s", edge.heartbeat_min_s, "edge.heartbeat_s", edge.heartbeat_s)
    at_most("edge.heartbeat_s", edge.heartbeat_s, "edge.heartbeat_max_s", edge.heartbeat_max_s)
    at_most("edge.login_frame_bytes", edge.login_frame_bytes, "edge.max_frame_bytes", edge.max_frame_bytes)
    at_most("edge.max_frame_bytes", edge.max_frame_bytes, "edge.outbox_bytes", edge.outbox_bytes)
    at_most("edge.max_frame_bytes", edge.max_frame_bytes, "edge.mailbox_bytes", edge.mailbox_bytes)
    at_most("delivery.ttl_s", delivery.ttl_s, "delivery.max_ttl_s", delivery.max_ttl_s)
    at_most("api.max_push_bytes", api.max_push_bytes, "api.max_body_bytes", api.max_body_bytes)
    if api.max_push_bytes + NOTIFY_OVERHEAD_BYTES > edge.max_frame_bytes:
        found.append(
            (
                "api.max_push_bytes",
                f"{api.max_push_bytes:_} leaves no room for the frame around it: at most edge.max_frame_bytes"
                f" - {NOTIFY_OVERHEAD_BYTES:_} = {edge.max_frame_bytes - NOTIFY_OVERHEAD_BYTES:_}",
            )
        )
    at_most("api.receipts_retry_s", api.receipts_retry_s, "api.receipts_retry_max_s", api.receipts_retry_max_s)
    if edge.port and edge.port == api.port and edge.host == api.host:
        found.append(("api.port", f"{api.port} is the device port too (edge.port); give them different ones"))
    for field, host in (("edge.host", edge.host), ("api.host", api.host)):
        if not host.strip():
            found.append((field, "is empty; 127.0.0.1 listens on this machine only, 0.0.0.0 on every address"))
    found += _tls_conflicts(config)
    if not config.store.path.strip():
        found.append(("store.path", "is empty; name a folder"))
    elif Path(config.store.path).exists() and not Path(config.store.path).is_dir():
        found.append(("store.path", f"{config.store.path!r} is there and is no folder"))
    if auth.device == "jwt":
        found += _jwt_conflicts(config)
    return found


def _jwt_conflicts(config: Config) -> list[tuple[str, str]]:
    auth = config.auth
    if not auth.jwt_key_file:
        return [("auth.jwt_key_file", "is empty, and auth.device = jwt needs it")]
    found: list[tuple[str, str]] = []
    key = Path(auth.jwt_key_file)
    if not key.is_file():
        found.append(("auth.jwt_key_file", f"there is no file {auth.jwt_key_file!r}"))
    elif not os.access(key, os.R_OK):
        found.append(("auth.jwt_key_file", f"may not read {auth.jwt_key_file!r}; check its owner and mode"))
    if not auth.jwt_algorithms:
        found.append(("auth.jwt_algorithms", "is empty; name at least one algorithm"))
    shared = [a for a in auth.jwt_algorithms if a.startswith("HS")]
    if shared and len(shared) < len(auth.jwt_algorithms):
        # a public key taken as the HS256 secret would let anyone sign
        found.append(("auth.jwt_algorithms", "mixes a shared-secret algorithm with public-key ones; keep one kind"))
    return found


def _tls_conflicts(config: Config) -> list[tuple[str, str]]:
    """Between settings only: what is in the files is looked at when they are loaded (api.tls)."""
    api = config.api
    found: list[tuple[str, str]] = []
    if bool(api.tls_cert) != bool(api.tls_key):
        found.append(("api.tls_key", "tls_cert and tls_key go together: set both, or none"))
    if api.tls_cert and api.tls_port and api.tls_port == api.port:
        found.append(("api.tls_port", f"{api.tls_port} is the plain port too (api.port); give them different ones"))
    if not api.tls_cert and (api.tls_sni or api.tls_client_ca or api.tls_client_auth != "none"):
        found.append(("api.tls_cert", "is empty, and other tls_ settings need it"))
    if api.tls_client_auth != "none" and not api.tls_client_ca:
        found.append(("api.tls_client_ca", f"is empty, and tls_client_auth = {api.tls_client_auth} needs it"))
    for url in api.public_urls:
        if not re.fullmatch(r"https?://[^/?#\s]+", url):
            found.append(("api.public_urls", f"{url!r} is no origin; one reads https://push.example.com"))
    return found


def advice(config: Config) -> list[tuple[str, str]]:
    """(field, what to think about): settings that are allowed and may surprise."""
    found: list[tuple[str, str]] = []
    if config.auth.device == "open" and not _is_loopback(config.edge.host):
        found.append(("auth.device", "open: whoever reaches the device port can be any device"))
    if not _is_loopback(config.edge.host):
        found.append(
            ("edge.host", "the device door is plain TCP: put a TLS proxy in front, device secrets travel on it")
        )
    if not _is_loopback(config.api.host):
        found.append(("api.host", "the provider API is plain HTTP: put a TLS proxy in front, API keys travel on it"))
    if not config.store.sync:
        found.append(("store.sync", "false: a power loss may lose pushes that were answered with 201"))
    if config.edge.memory_limit_bytes == 0 and not _is_loopback(config.edge.host):
        found.append(("edge.memory_limit_bytes", "0: nothing refuses logins before the kernel runs out of memory"))
    if config.delivery.ttl_s and config.delivery.ack_ms >= config.delivery.ttl_s * 1000:
        found.append(
            ("delivery.ack_ms", "is not shorter than delivery.ttl_s: pushes expire before a notifier is asked")
        )
    return found


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
