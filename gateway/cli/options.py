"""Options that several commands share, and what they resolve to; must import nothing heavy at the top."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gateway.cli.provider import Provider
    from gateway.config import Config

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="TOML file; default: $HELIOGRAPH_CONFIG.", show_default=False),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", "-s", metavar="SECTION.FIELD=VALUE", help="Override one setting; may be repeated. A list: a,b or JSON."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Url = Annotated[
    str | None,
    typer.Option(
        "--url", help="Provider API; default: $HELIOGRAPH_URL, else where the configuration says.", show_default=False
    ),
]
Key = Annotated[
    str | None,
    typer.Option("--key", help="API key; default: $HELIOGRAPH_KEY (better: a flag shows in `ps`).", show_default=False),
]
OperatorKey = Annotated[
    str | None,
    typer.Option("--key", help="The operator's key; default: the key file in the local store.", show_default=False),
]
StoreFolder = Annotated[
    Path | None,
    typer.Option("--store", help="Store folder; default: store.path of the configuration.", show_default=False),
]


def read_config(path: Path | None = None, overrides: list[str] | None = None) -> Config:
    """The configuration in force. Raises ConfigError."""
    from gateway.config import load

    return load(path, overrides=overrides or [])


def store_folder(store: Path | None, config: Path | None = None, overrides: list[str] | None = None) -> Path:
    """The folder of an existing store. Raises ConfigError where there is none."""
    from gateway.model.errors import ConfigError

    folder = store if store is not None else Path(read_config(config, overrides).store.path)
    if folder.is_dir():
        return folder
    if store is not None:
        raise ConfigError(f"there is no store at {folder}", field="--store")
    raise ConfigError(f"there is no store at {folder}; name its folder with --store", field="store.path")


def store_of_one(store: Path | None, config: Path | None, instead: str, overrides: list[str] | None = None) -> Path:
    """As `store_folder`, for what only the store of a gateway alone can do; `instead`: what to do in a fleet."""
    from gateway.model.errors import ConfigError
    from gateway.store.environment import is_of_node

    folder = store_folder(store, config, overrides)
    if is_of_node(folder):
        raise ConfigError(f"{folder} is of a node of a fleet: {instead} (docs/cluster.md)", field="store.path")
    return folder


def api_url(url: str | None, config: Path | None = None) -> str:
    """Where the provider API is: flag, $HELIOGRAPH_URL, configuration."""
    given = url or os.environ.get("HELIOGRAPH_URL")
    if given:
        return given.rstrip("/")
    api = read_config(config).api
    host = "127.0.0.1" if api.host in ("0.0.0.0", "") else "[::1]" if api.host == "::" else api.host  # noqa: S104
    if api.port < 0:  # TLS alone
        return f"https://{host}:{api.tls_port}"
    return f"http://{host}:{api.port}"


def open_as_operator(url: str | None, key: str | None, store: Path | None, config: Path | None) -> Provider:
    """The provider API with the operator's key. Raises ConfigError."""
    from gateway.cli.provider import Provider, operator_key

    return Provider(api_url(url, config), operator_key(key, store, config))
