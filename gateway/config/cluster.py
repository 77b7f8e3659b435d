"""Rules between the settings of `cluster`, and what a fleet can not do yet; must never change a value, nor repeat a
secret.
"""

from __future__ import annotations

import os
import re
import socket
import stat
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from gateway.config.cluster_section import Cluster
from gateway.config.problems import collect, described
from gateway.config.sections import Config
from gateway.model.device_address import parse_device_address
from gateway.model.errors import ConfigError
from gateway.model.public_addresses import is_loopback

#: the fleet's secret: the shortest and the longest
SECRET_BYTES, MAX_SECRET_BYTES = 32, 4_096
_NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")
_NODE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
#: sections whose state has one place, and a fleet has many
ALONE = ("paging", "service", "wap", "trigger", "radius", "ip", "ims", "diameter", "identity")
_EVERYBODY = ("0.0.0.0", "::")  # noqa: S104 - looked for, not bound


def node_name(cluster: Cluster) -> str:
    return cluster.node or socket.gethostname()


def split_list(text: str) -> list[str]:
    """What a setting names, comma separated."""
    return [part.strip() for part in text.split(",") if part.strip()]


def read_secret(cluster: Cluster) -> bytes:
    """The fleet's secret. ConfigError; reads disk: not for the loop."""
    if not cluster.secret_file:
        raise ConfigError(
            f"is empty, and a fleet (cluster.url) needs it: name a file of {SECRET_BYTES} random bytes or more, the"
            " same on each node",
            field="cluster.secret_file",
        )
    secret = _read_private(cluster.secret_file, "cluster.secret_file").rstrip(b"\r\n")
    if not SECRET_BYTES <= len(secret) <= MAX_SECRET_BYTES:
        raise ConfigError(
            f"{cluster.secret_file!r} has to hold {SECRET_BYTES} to {MAX_SECRET_BYTES:_} bytes"
            " (openssl rand -base64 48)",
            field="cluster.secret_file",
        )
    return secret


def _read_private(path: str, field: str) -> bytes:
    """A file that nobody but its owner may read."""
    try:
        with Path(path).open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise ConfigError(f"{path!r} can be read by others; chmod 600 it", field=field)
            return file.read(MAX_SECRET_BYTES + 3)
    except OSError as exc:
        raise ConfigError(f"cannot read {path!r}: {exc.strerror or exc}; check path and mode", field=field) from exc


def _check_urls(cluster: Cluster) -> None:
    if not split_list(cluster.url):  # the client would look for a server for ever
        raise ConfigError("names no NATS server: nats://host:4222, comma separated", field="cluster.url")
    for url in split_list(cluster.url):
        try:
            parts = urlsplit(url)
            is_one = parts.scheme in ("nats", "tls") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_one = False
        if not is_one:  # it may have a password in it
            raise ConfigError("names something that is no nats://host:4222 or tls://host:4222", field="cluster.url")


def _check_names(cluster: Cluster) -> None:
    if not _NAME.fullmatch(cluster.name):
        raise ConfigError(f"{cluster.name!r} is no name of a fleet: A-Z a-z 0-9 _ -, at most 32", field="cluster.name")
    name = node_name(cluster)
    if not _NODE.fullmatch(name) or ".." in name:
        what = "" if cluster.node else "is empty, and the host's name "
        raise ConfigError(f"{what}{name!r} is no name of a node: A-Z a-z 0-9 . _ -, at most 63", field="cluster.node")


def _check_files(cluster: Cluster) -> None:
    if cluster.credentials_file:
        _read_private(cluster.credentials_file, "cluster.credentials_file")
    if cluster.tls_ca and not os.access(cluster.tls_ca, os.R_OK):
        raise ConfigError(f"cannot read {cluster.tls_ca!r}; check path and mode", field="cluster.tls_ca")
    if cluster.spool and Path(cluster.spool).exists() and not Path(cluster.spool).is_dir():
        raise ConfigError(f"{cluster.spool!r} is there and is no folder", field="cluster.spool")


def _check_advertise(cluster: Cluster) -> None:
    if not cluster.advertise:
        return
    try:
        parse_device_address(cluster.advertise)
    except ValueError as exc:
        raise ConfigError(f"{cluster.advertise!r}: {exc}", field="cluster.advertise") from None


def _check_monitors(cluster: Cluster) -> None:
    for url in split_list(cluster.monitors):
        if not re.fullmatch(r"https?://[^/\s?#@]+", url):
            # not quoted: whoever writes a user into it writes a password, too
            raise ConfigError("holds what is no address as http://host:8222", field="cluster.monitors")
    if not split_list(cluster.monitors) and not cluster.allow_unsynced:
        raise ConfigError(
            "is empty: name the monitoring addresses of the NATS servers, each is asked whether it syncs every write"
            " (cluster.allow_unsynced starts without knowing)",
            field="cluster.monitors",
        )


def _check_sizes(cluster: Cluster) -> None:
    if cluster.partitions & (cluster.partitions - 1):
        raise ConfigError(f"{cluster.partitions} is no power of two", field="cluster.partitions")
    if cluster.beat_s * 3 > cluster.lease_s:
        raise ConfigError(
            f"{cluster.beat_s:g} is more than a third of cluster.lease_s = {cluster.lease_s:g}: one late beat would"
            " be a death",
            field="cluster.beat_s",
        )
    for name, limit in (("message_bytes", "journal_bytes"), ("snapshot_bytes", "journal_bytes")):
        value, most = getattr(cluster, name), getattr(cluster, limit)
        if value > most:
            raise ConfigError(f"{value:_} is more than cluster.{limit} = {most:_}", field=f"cluster.{name}")


def _needs_one(what: str) -> str:
    return (
        f"is set, and {what} can not be in a fleet (cluster.url): leave it out here, and serve {what} from a gateway"
        " of its own, without cluster.url (docs/cluster.md)"
    )


def _alone(config: Config) -> list[tuple[str, str]]:
    """What needs one machine, and is set."""
    found = []
    if config.im.app:
        found.append(("im.app", _needs_one("IM")))
    if config.ota.port >= 0:
        found.append(("ota.port", _needs_one("cards")))
    for name in ALONE:
        section = getattr(config, name)
        default = type(section)()
        changed = [
            field.name for field in fields(section) if getattr(section, field.name) != getattr(default, field.name)
        ]
        if changed:
            found.append((f"{name}.{changed[0]}", _needs_one("an operator's network")))
    return found


def conflicts(config: Config) -> list[tuple[str, str]]:
    """(field, what is wrong), as gateway.config.check has it."""
    cluster = config.cluster
    if not cluster.url:
        return []
    checks: tuple[Callable[[], object], ...] = (
        partial(_check_urls, cluster),
        partial(_check_names, cluster),
        partial(read_secret, cluster),
        partial(_check_files, cluster),
        partial(_check_advertise, cluster),
        partial(_check_monitors, cluster),
        partial(_check_sizes, cluster),
    )
    return described(collect(checks)) + _alone(config)


def advice(config: Config) -> list[tuple[str, str]]:
    """(field, what is risky)."""
    cluster = config.cluster
    found: list[tuple[str, str]] = []
    if not cluster.url:
        if cluster != Cluster():
            found.append(("cluster.url", "empty: this gateway is alone, and the other settings of cluster do nothing"))
        return found
    remote = [url for url in split_list(cluster.url) if not is_loopback(urlsplit(url).hostname or "")]
    if any(urlsplit(url).scheme == "nats" for url in remote) and not cluster.tls_ca:
        found.append(
            ("cluster.url", "nats:// to other machines is plain: pushes and device ids travel on it; use tls://")
        )
    if any(urlsplit(url).password or urlsplit(url).username for url in split_list(cluster.url)):
        found.append(
            ("cluster.url", "has credentials in it: whoever reads the configuration has them; use a .creds file")
        )
    if remote and not cluster.credentials_file and all(not urlsplit(url).username for url in remote):
        found.append(("cluster.credentials_file", "empty: whoever reaches the NATS servers can be a node of the fleet"))
    if cluster.allow_unsynced:
        found.append(("cluster.allow_unsynced", "true: what was answered with 201 can be lost when servers lose power"))
    if cluster.replicas < 3:
        found.append(("cluster.replicas", f"{cluster.replicas}: a NATS server that is gone takes the fleet with it"))
    if not cluster.advertise and config.edge.host in _EVERYBODY:
        found.append(("cluster.advertise", "empty: devices that others send away are not sent here"))
    if not config.store.sync:
        found.append(("store.sync", "false: does nothing in a fleet, whose journal is in NATS"))
    return found
