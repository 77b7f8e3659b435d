"""Says where a gateway that has started is found: to people on stdout, to programs in a file; must never show a key."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any, Protocol

import msgspec

from gateway.config.cluster import node_name
from gateway.config.sections import Api, Config


class Running(Protocol):
    """A gateway that has started, alone or as a node of a fleet."""

    config: Config

    @property
    def admin_key_file(self) -> Path: ...

    @property
    def edge(self) -> Any: ...

    @property
    def api(self) -> Any: ...

    @property
    def cards(self) -> Any:
        """None where nothing is done for cards."""
        ...

    @property
    def im(self) -> Any:
        """None where there is no IM."""
        ...

    def app_names(self) -> list[str]: ...


def write_ready_file(path: Path, gateway: Running) -> None:
    """Appears whole, so that who waits for it never reads half."""
    ready = {
        "pid": os.getpid(),
        "device_port": gateway.edge.port,
        "device_tls_port": gateway.edge.tls_port,
        "api_port": gateway.api.port,
        "api_tls_port": gateway.api.tls_port,
        "ota_port": -1 if gateway.cards is None else gateway.cards.port,
        "im_mail_port": -1 if gateway.im is None else gateway.im.mail_port,
    }
    draft = path.with_name(path.name + ".new")
    draft.write_bytes(msgspec.json.encode(ready))
    draft.replace(path)


def _next_steps(gateway: Running) -> str:
    """Three commands that work as they stand on this gateway, from the shell it was started in."""
    started_as = sys.argv[0]
    by_path = Path(started_as).name == "heliograph" and shutil.which("heliograph") != started_as
    command = started_as if by_path else "heliograph"
    where = f" --url {_api_url(gateway)}"
    url = "" if gateway.api.port == Api().port else where
    # nobody is to have a key of the app of IM (docs/im.md)
    apps = [name for name in gateway.app_names() if name != gateway.config.im.app]
    make_key = f"apps key {apps[0]}" if apps else "apps create shop"
    return (
        f"next:       {command} {make_key} --store {gateway.config.store.path}{url}   # prints an API key, once\n"
        "            export HELIOGRAPH_KEY=hk_…\n"
        f'            {command} send --everyone "Hello"{url}'
    )


def _doors(gateway: Running) -> str:
    host, edge = gateway.config.edge.host, gateway.edge
    doors = [f"{host}:{edge.port}"] if edge.port >= 0 else []
    doors += [f"{host}:{edge.tls_port} (TLS)"] if edge.tls_port >= 0 else []
    return ", ".join(doors)


def _api_url(gateway: Running) -> str:
    host, api = gateway.config.api.host, gateway.api
    return f"http://{host}:{api.port}" if api.port >= 0 else f"https://{host}:{api.tls_port}"


def _cards(gateway: Running) -> str:
    """Where the server of cards is, and what cards are told."""
    if gateway.cards is None:
        return ""
    ota, port = gateway.config.ota, gateway.cards.port
    address = ota.public_address or ota.host
    told = (address, ota.public_port or port)
    more = "" if told == (ota.host, port) else f"; cards are told {address} port {told[1]}"
    return f"cards:      {ota.host}:{port} (UDP){more}\n"


def _im(gateway: Running) -> str:
    """What users may bind, and where their mail comes in."""
    if gateway.im is None:
        return ""
    im, port = gateway.config.im, gateway.im.mail_port
    mail = f"; mail for {im.mail_domain} on {im.mail_host}:{port}" if port >= 0 else ""
    return f"im:         app {im.app}, networks: {', '.join(im.networks) or 'none'}{mail}\n"


def _fleet(gateway: Running) -> str:
    """Which fleet it is a node of, and as whom."""
    cluster = gateway.config.cluster
    return f"fleet:      {cluster.name}, as node {node_name(cluster)}\n" if cluster.url else ""


def greet(gateway: Running) -> None:
    url = _api_url(gateway)
    secure = (
        f"            https on port {gateway.api.tls_port}\n"
        if min(gateway.api.port, gateway.api.tls_port) >= 0
        else ""
    )
    print(
        f"devices:    {_doors(gateway)}\n"
        f"providers:  {url}  (try it: {url}/docs)\n"
        f"{secure}{_cards(gateway)}{_im(gateway)}{_fleet(gateway)}"
        f"store:      {gateway.config.store.path}\n"
        f"admin key:  {gateway.admin_key_file}\n"
        f"{_next_steps(gateway)}",
        flush=True,
    )
