"""Rules between settings, and advice on risky ones; must never change a value."""

from __future__ import annotations

import os
import re
import time
from ipaddress import ip_network
from pathlib import Path

from gateway.config import cluster, diameter, im, ims, ota, paging, radius, service, trigger, wap
from gateway.config.sections import Api, Config, Edge, Identity
from gateway.model.errors import ConfigError
from gateway.model.public_addresses import is_loopback

#: what a NOTIFY frame needs beside title, text and data
NOTIFY_OVERHEAD_BYTES = 1024
#: networks that may send PROXY headers; each accept looks through them
MAX_NETWORKS = 64
#: a certificate that ends sooner is worth a word
WARN_DAYS = 14
#: modules that know the sections of gateway/config/operator_sections.py, ota_section.py, im_section.py and
#: cluster_section.py
_SECTIONS = (paging, wap, trigger, radius, ims, service, diameter, ota, im, cluster)


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
    at_most(
        "delivery.notifier_open_s",
        delivery.notifier_open_s,
        "delivery.notifier_open_max_s",
        delivery.notifier_open_max_s,
    )
    for name, port in (("edge.port", edge.port), ("edge.tls_port", edge.tls_port)):
        if port > 0 and port == api.port and edge.host == api.host:
            found.append(("api.port", f"{api.port} is the device port too ({name}); give them different ones"))
    found += _door_conflicts(edge)
    for field, host in (("edge.host", edge.host), ("api.host", api.host)):
        if not host.strip():
            found.append((field, "is empty; 127.0.0.1 listens on this machine only, 0.0.0.0 on every address"))
    found += _tls_conflicts(config)
    found += _identity_conflicts(config.identity)
    for section in _SECTIONS:
        found += section.conflicts(config)
    if not config.store.path.strip():
        found.append(("store.path", "is empty; name a folder"))
    elif Path(config.store.path).exists() and not Path(config.store.path).is_dir():
        found.append(("store.path", f"{config.store.path!r} is there and is no folder"))
    if auth.device == "jwt":
        found += _jwt_conflicts(config)
    return found


def _door_conflicts(edge: Edge) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    if edge.port < 0 and edge.tls_port < 0:
        found.append(("edge.port", "-1, and edge.tls_port = -1: devices could not connect at all; open one of them"))
    if edge.port > 0 and edge.port == edge.tls_port:
        found.append(("edge.tls_port", f"{edge.tls_port} is the plain port too (edge.port); give them different ones"))
    if edge.proxy_protocol == "required":
        if edge.port < 0:
            found.append(("edge.proxy_protocol", "required, but edge.port = -1: it is spoken on the plain port"))
        if not edge.proxy_trusted:
            found.append(("edge.proxy_trusted", "is empty: name the load balancers' addresses, as in 10.0.0.0/24"))
    if len(edge.proxy_trusted) > MAX_NETWORKS:
        found.append(("edge.proxy_trusted", f"has {len(edge.proxy_trusted)} networks; at most {MAX_NETWORKS}"))
    for text in edge.proxy_trusted:
        try:
            ip_network(text)
        except ValueError as exc:
            found.append(("edge.proxy_trusted", f"{exc}; write an address or a network, as in 10.0.0.0/24"))
    if edge.tls_port >= 0:
        # takes a while to import, and most checks have no certificates
        from gateway.config.certificates import read_tls_files

        try:
            read_tls_files(edge, time.time)
        except ConfigError as exc:
            found.append((exc.field, exc.message))
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


def _identity_conflicts(identity: Identity) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    hosts = [("host", identity.host), *(("domains", each) for each in identity.domains)]
    for pair in identity.class_hosts:
        name, _, host = pair.rpartition("=")
        hosts.append(("class_hosts", host))
        if not any(each.rpartition("=")[0] == name for each in identity.classes):
            found.append(("identity.class_hosts", f"{pair!r} names no class of identity.classes"))
    for field, host in hosts:
        if not re.fullmatch(r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", host) or ".." in host:
            found.append((f"identity.{field}", f"{host!r} is no host name; one reads push.example.com"))
    for pair in identity.classes:
        if not re.fullmatch(r"(service|provider|apn):[^=\s]{1,64}=[A-Za-z0-9][A-Za-z0-9._-]{0,63}", pair):
            found.append(("identity.classes", f"{pair!r} is no class and app; one reads apn:internet=chat"))
    if identity.validity_s and identity.renewal == "overlap" and identity.renew_s * 2 > identity.validity_s:
        found.append(
            (
                "identity.renew_s",
                "is more than half of identity.validity_s: ids would be renewed as soon as they are made",
            )
        )
    return found


def _tls_conflicts(config: Config) -> list[tuple[str, str]]:
    """Of the provider door."""
    api = config.api
    found: list[tuple[str, str]] = []
    if bool(api.tls_cert) != bool(api.tls_key):
        found.append(("api.tls_key", "tls_cert and tls_key go together: set both, or none"))
    if api.tls_cert and api.tls_port and api.tls_port == api.port:
        found.append(("api.tls_port", f"{api.tls_port} is the plain port too (api.port); give them different ones"))
    if api.tls_cert and api.tls_port > 0 and api.tls_port == config.edge.tls_port and api.host == config.edge.host:
        found.append(("api.tls_port", f"{api.tls_port} is edge.tls_port too; give them different ones"))
    if not api.tls_cert and (api.tls_sni or api.tls_client_ca or api.tls_client_auth != "none"):
        found.append(("api.tls_cert", "is empty, and other tls_ settings need it"))
    if api.tls_client_auth != "none" and not api.tls_client_ca:
        found.append(("api.tls_client_ca", f"is empty, and tls_client_auth = {api.tls_client_auth} needs it"))
    if api.port < 0 and not api.tls_cert:
        found.append(
            ("api.port", "-1, and api.tls_cert is empty: providers could not connect at all; open one of them")
        )
    if api.tls_cert and api.tls_key:
        found += _api_files(api)
    for url in api.public_urls:
        if not re.fullmatch(r"https?://[^/?#\s]+", url):
            found.append(("api.public_urls", f"{url!r} is no origin; one reads https://push.example.com"))
    return found


def _api_files(api: Api) -> list[tuple[str, str]]:
    """What is wrong with the certificate files, each pair for itself."""
    from gateway.config.certificates import parse_names, read_pair

    found: list[tuple[str, str]] = []
    pairs = [("api.tls_cert", "api.tls_key", api.tls_cert, api.tls_key)]
    try:
        pairs += [("api.tls_sni", "api.tls_sni", cert, key) for _, cert, key in parse_names(api.tls_sni, "api.tls_sni")]
    except ConfigError as exc:
        found.append((exc.field, exc.message))
    for cert_field, key_field, cert, key in pairs:
        try:
            read_pair(cert, key, cert_field, key_field, time.time())
        except ConfigError as exc:
            found.append((exc.field, exc.message))
    return found


def advice(config: Config) -> list[tuple[str, str]]:
    """(field, what to think about): settings that are allowed and may surprise."""
    found: list[tuple[str, str]] = []
    if config.auth.device == "open" and not is_loopback(config.edge.host):
        found.append(("auth.device", "open: whoever reaches the device port can be any device"))
    edge = config.edge
    if not is_loopback(edge.host) and edge.port >= 0 and edge.proxy_protocol == "off":
        found.append(
            (
                "edge.host",
                "the device door is plain TCP: open edge.tls_port and close edge.port, or put a TLS proxy in front;"
                " device secrets travel on it",
            )
        )
    if edge.tls_port >= 0:
        found += _tls_advice(edge)
    if not is_loopback(config.api.host) and config.api.port >= 0:
        instead = "close api.port (-1)" if config.api.tls_cert else "set api.tls_cert and close api.port"
        found.append(
            (
                "api.host",
                f"the provider API is plain HTTP: {instead}, or put a TLS proxy in front; API keys travel on it",
            )
        )
    found += _api_advice(config.api)
    if not config.api.public_urls and (config.api.tls_cert or not is_loopback(config.api.host)):
        found.append(
            (
                "api.public_urls",
                "empty: VAPID tokens are taken for this address and names in its certificates only; say how they come",
            )
        )
    if config.api.t8_private:
        found.append(("api.t8_private", "true: an app's server can make the gateway post to hosts of your network"))
    if config.delivery.webpush_private:
        found.append(("delivery.webpush_private", "true: a device can make the gateway post to hosts of your network"))
    for section in _SECTIONS:
        found += section.advice(config)
    if not config.store.sync:
        found.append(("store.sync", "false: a power loss may lose pushes that were answered with 201"))
    if config.edge.memory_limit_bytes == 0 and not is_loopback(config.edge.host):
        found.append(("edge.memory_limit_bytes", "0: nothing refuses logins before the kernel runs out of memory"))
    if config.delivery.ttl_s and config.delivery.ack_ms >= config.delivery.ttl_s * 1000:
        found.append(
            ("delivery.ack_ms", "is not shorter than delivery.ttl_s: pushes expire before a notifier is asked")
        )
    return found


def _api_advice(api: Api) -> list[tuple[str, str]]:
    from gateway.config.certificates import is_open_to_others, parse_names, read_pair

    if not api.tls_cert:
        return []
    found: list[tuple[str, str]] = []
    further = [("api.tls_sni", cert, key) for _, cert, key in parse_names(api.tls_sni, "api.tls_sni")]
    for field, cert, key in [("api.tls_cert", api.tls_cert, api.tls_key), *further]:
        if is_open_to_others(key):
            found.append((field, f"{key!r} may be read by anybody on this machine: chmod 600"))
        days = int((read_pair(cert, key, field, field, time.time()).ends - time.time()) // 86_400)
        if days < WARN_DAYS:
            found.append((field, f"{cert!r} ends in {days} days"))
    return found


def _tls_advice(edge: Edge) -> list[tuple[str, str]]:
    from gateway.config.certificates import is_open_to_others, parse_names, read_tls_files

    found: list[tuple[str, str]] = []
    keys = [("edge.tls_key", edge.tls_key), *(("edge.tls_sni", key) for _, _, key in parse_names(edge.tls_sni))]
    for name, path in keys:
        if is_open_to_others(path):
            found.append((name, f"{path!r} may be read by anybody on this machine: chmod 600"))
    if edge.tls_client_ca and edge.tls_client_auth == "none":
        found.append(("edge.tls_client_auth", "none: edge.tls_client_ca is not used"))
    ends = read_tls_files(edge, time.time).ends()
    for host, end in ends.items():
        days = int((end - time.time()) // 86_400)
        if days < WARN_DAYS:
            found.append(("edge.tls_cert" if host == "default" else "edge.tls_sni", f"{host} ends in {days} days"))
    return found
