"""An XMPP server on loopback: Debian's prosody, in a folder, on free ports; must never outlive who started it."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

from gateway.tour.operator.programs import Programs

NEEDED = {"prosody": "prosody"}
DOMAIN = "localhost"
ROOMS = f"rooms.{DOMAIN}"
_CONFIG = """run_as_root = true
pidfile = "{folder}/prosody.pid"
data_path = "{folder}/data"
log = {{ info = "*console" }}
interfaces = {{ "127.0.0.1" }}
c2s_ports = {{ {port} }}
c2s_direct_tls_ports = {{ {direct} }}
s2s_ports = {{}}
http_ports = {{ {http_port} }}
https_ports = {{}}
http_interfaces = {{ "127.0.0.1" }}
authentication = "{authentication}"
allow_unencrypted_plain_auth = {is_plain}
c2s_require_encryption = {is_secure}
limits = {{}}
{certificate}
modules_enabled = {{ "roster", "saslauth", "disco", "carbons", "pep", "ping", "mam", "offline", "presence", "message",
    "iq", "blocklist", "bookmarks" {tls} }}
modules_disabled = {{ "s2s", {no_tls} }}
VirtualHost "{domain}"
Component "{rooms}" "muc"
    modules_enabled = {{ "muc_mam" }}
    muc_log_by_default = true
    restrict_room_creation = false
    muc_room_locking = false
Component "upload.{domain}" "http_file_share"
    http_host = "{domain}"
    http_external_url = "http://{domain}:{http_port}/"
"""
_TLS = 'ssl = {{ certificate = "{certificate}", key = "{key}" }}'


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Prosody:
    """`accounts`: local part → password. `friends`: pairs of them who are on each other's rosters. `certificate` and
    `key`: files; with them nobody logs in without TLS."""

    def __init__(
        self,
        folder: Path,
        accounts: dict[str, str],
        friends: tuple[tuple[str, str], ...] = (),
        *,
        certificate: str = "",
        key: str = "",
        is_hashed: bool = False,
    ) -> None:
        self._folder, self._accounts, self._friends = folder, accounts, friends
        self._certificate, self._key = certificate, key
        # SCRAM needs no plain passwords: those are kept as the files below write them, and hashed at the first login
        self._is_hashed = is_hashed
        self._programs = Programs(folder)
        self._pid = 0
        self.port, self.direct_port, self.http_port = _free_port(), _free_port(), _free_port()

    def address(self, local_part: str) -> str:
        return f"{local_part}@{DOMAIN}"

    async def start(self) -> None:
        """Also again, with the data it had."""
        is_secure = bool(self._certificate)
        (self._folder / "prosody.cfg.lua").write_text(
            _CONFIG.format(
                folder=self._folder,
                port=self.port,
                direct=self.direct_port if is_secure else "",
                http_port=self.http_port,
                domain=DOMAIN,
                rooms=ROOMS,
                authentication="internal_hashed" if self._is_hashed else "internal_plain",
                is_plain=str(not is_secure).lower(),
                is_secure=str(is_secure).lower(),
                certificate=_TLS.format(certificate=self._certificate, key=self._key) if is_secure else "",
                tls=', "tls"' if is_secure else "",
                no_tls="" if is_secure else '"tls"',
            )
        )
        for local_part, password in self._accounts.items():
            self._keep("accounts", local_part, f'return {{ ["password"] = "{password}"; }};')
        for one, other in self._friends:
            for mine, theirs in ((one, other), (other, one)):
                item = f'["{self.address(theirs)}"] = {{ subscription = "both"; groups = {{}}; }};'
                self._keep("roster", mine, f"return {{ [false] = {{ version = 1; }}; {item} }};")
        self._pid = self._programs.start("prosody", "-F", "--config", str(self._folder / "prosody.cfg.lua"))
        for port in (self.port, self.http_port):
            await self._programs.listens("prosody", "127.0.0.1", port)

    def _keep(self, store: str, local_part: str, text: str) -> None:
        path = self._folder / "data" / DOMAIN / store / f"{local_part}.dat"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    async def kill(self) -> None:
        """As a crash would end it."""
        os.kill(self._pid, signal.SIGKILL)
        await self.stop()

    async def stop(self) -> None:
        await self._programs.close()
