"""A Matrix homeserver on this machine: Synapse from PyPI (.ci/im), with SQLite, on a free port of loopback and in a
folder of its own; must never be reachable from anywhere but this machine, nor talk to other homeservers.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import os
import secrets
import socket
from pathlib import Path
from typing import Any, Self

import httpx

from gateway.tour.operator.programs import Programs

#: its Python, in the folder where .ci/im puts what comes from PyPI
PYTHON = "synapse/bin/python"
PATIENCE_S = 60.0
#: it is ended as trouble ends it, without a goodbye
END_S = 0.05
_LISTENER = "{{port: {port}, bind_addresses: ['127.0.0.1'], type: http, tls: false, resources: [{{names: [client]}}]}}"
_FAST = "{per_second: 10000, burst_count: 10000}"
_CONFIGURATION = (
    """server_name: "localhost"
pid_file: "{folder}/homeserver.pid"
listeners: ["""
    + _LISTENER
    + """]
database: {{name: sqlite3, args: {{database: "{folder}/homeserver.db"}}}}
log_config: "{folder}/log.yaml"
media_store_path: "{folder}/media"
signing_key_path: "{folder}/signing.key"
registration_shared_secret: "{shared}"
macaroon_secret_key: "{macaroon}"
form_secret: "{form}"
report_stats: false
trusted_key_servers: []
federation_domain_whitelist: []
url_preview_enabled: false
presence: {{enabled: true}}
max_upload_size: 20M
bcrypt_rounds: 4
rc_message: {fast}
rc_registration: {fast}
rc_login: {{address: {fast}, account: {fast}, failed_attempts: {fast}}}
rc_joins: {{local: {fast}, remote: {fast}}}
rc_joins_per_room: {fast}
rc_invites: {{per_room: {fast}, per_user: {fast}, per_issuer: {fast}}}
rc_room_creation: {fast}
rc_presence: {{per_user: {fast}}}
"""
)
_LOG = """version: 1
formatters: {plain: {format: "%(asctime)s %(name)s %(levelname)s %(message)s"}}
handlers: {console: {class: logging.StreamHandler, formatter: plain}}
root: {level: WARNING, handlers: [console]}
disable_existing_loggers: false
"""


def cache_folder() -> Path:
    """Where .ci/im puts what comes from PyPI and npm."""
    named = os.environ.get("HELIOGRAPH_SERVERS")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "heliograph"


class Synapse:
    """As a context manager. `more`: lines of configuration after ours."""

    def __init__(self, folder: Path, more: str = "") -> None:
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self._shared = secrets.token_hex(16)
        self._programs = Programs(folder, END_S)
        self._write(more)

    def _write(self, more: str) -> None:
        words = {name: secrets.token_hex(16) for name in ("macaroon", "form")}
        text = _CONFIGURATION.format(folder=self._folder, port=self.port, shared=self._shared, fast=_FAST, **words)
        (self._folder / "homeserver.yaml").write_text(text + more)
        (self._folder / "log.yaml").write_text(_LOG)
        key = base64.b64encode(secrets.token_bytes(32)).decode().rstrip("=")
        (self._folder / "signing.key").write_text(f"ed25519 a_1 {key}\n")
        (self._folder / "media").mkdir(exist_ok=True)

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Again on the same port with the same data, too."""
        python, configuration = str(cache_folder() / PYTHON), str(self._folder / "homeserver.yaml")
        self._programs.start(python, "-m", "synapse.app.homeserver", "--config-path", configuration)
        await self._answers()

    async def _answers(self) -> None:
        async with httpx.AsyncClient(trust_env=False) as client:
            for _ in range(int(PATIENCE_S / 0.1)):
                try:
                    if (await client.get(f"{self.url}/_matrix/client/versions")).is_success:
                        return
                except httpx.HTTPError:
                    pass
                await asyncio.sleep(0.1)
        log = (self._folder / "python.log").read_text(errors="replace")
        raise RuntimeError(f"synapse does not answer:\n{log[-2000:]}")

    async def stop(self) -> None:
        await self._programs.close()

    async def register(self, user: str, password: str) -> str:
        """A new account; its user id."""
        async with httpx.AsyncClient(trust_env=False, timeout=30.0) as client:
            address = f"{self.url}/_synapse/admin/v1/register"
            nonce: str = (await client.get(address)).json()["nonce"]
            words = "\x00".join((nonce, user, password, "notadmin")).encode()
            mac = hmac.new(self._shared.encode(), words, hashlib.sha1).hexdigest()
            body: dict[str, Any] = {
                "nonce": nonce,
                "username": user,
                "password": password,
                "admin": False,
                "mac": mac,
            }
            answer = await client.post(address, json=body)
            answer.raise_for_status()
            return str(answer.json()["user_id"])
