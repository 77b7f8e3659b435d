"""`heliograph local apns`, `fcm` and `webpush`: outside push services on this machine, to try a notifier with; must
never listen anywhere else, nor leave a key where others can read it.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.local_server import serve_local
from gateway.cli.output import CommandFailed, say

if TYPE_CHECKING:
    from gateway.cli.local_upstreams import Telling

#: setting → file that its value is written to: what is a key, or has more than one line
_FILES = {"key": "key.p8", "ca": "ca.pem", "service_account": "service-account.json", "vapid_key": "vapid.pem"}
#: body of PUT /v1/registrations/{token}
_ADDRESSES = "addresses.json"

App = Annotated[str, typer.Option("--app", help="The app that the printed command sets up.")]
Folder = Annotated[
    Path | None,
    typer.Option("--folder", help="Where keys and addresses are written; default: local-NAME.", show_default=False),
]
_PORT = typer.Option("--port", min=0, max=65_535, help="0 takes a free one.")


def apns(
    port: Annotated[int, _PORT] = 8084,
    topic: Annotated[str, typer.Option("--topic", help="The app's bundle id.")] = "com.example.shop",
    app: App = "shop",
    folder: Folder = None,
) -> None:
    """An APNs (HTTP/2 over TLS): checks provider token and header fields as Apple does, prints what it takes. Ctrl-C
    ends it.

    Its key and certificate are new at each start: give the printed command again.

    [dim]heliograph local apns --topic com.example.shop[/dim]
    """
    from gateway.cli.local_upstreams import ShownApns

    _serve("apns", ShownApns(topic=topic), f"topic {topic}", port, app, folder)


def fcm(
    port: Annotated[int, _PORT] = 8085,
    project: Annotated[str, typer.Option("--project", help="Id of the project.")] = "shop-1234",
    app: App = "shop",
    folder: Folder = None,
) -> None:
    """An FCM (HTTP v1), its token endpoint too: checks the service account's signature, prints what it takes. Ctrl-C
    ends it.

    Its service account and certificate are new at each start: give the printed command again.

    [dim]heliograph local fcm --port 0[/dim]
    """
    from gateway.cli.local_upstreams import ShownFcm

    _serve("fcm", ShownFcm(project=project), f"project {project}", port, app, folder)


def webpush(port: Annotated[int, _PORT] = 8086, app: App = "shop", folder: Folder = None) -> None:
    """A push service and its browser: checks VAPID, decrypts as a browser does, prints what it takes. Ctrl-C ends it.

    Keys, certificate and subscription are new at each start: give the printed commands again.

    [dim]heliograph local webpush --app shop[/dim]
    """
    from gateway.cli.local_upstreams import ShownPushService

    _serve("webpush", ShownPushService(), "one browser", port, app, folder)


def _serve(name: str, server: Telling, what: str, port: int, app: str, folder: Path | None) -> None:
    folder = folder or Path(f"local-{name}")
    server.port = port
    server.on_taken = lambda line: print(line, flush=True)
    server.on_refused = lambda line: say(f"refused: {line}")

    async def start() -> tuple[str, str]:
        await server.start()
        settings, address = server.set_up()
        files = {file: settings[key] for key, file in _FILES.items() if key in settings}
        try:
            _write(folder, {**files, _ADDRESSES: json.dumps({"addresses": {name: address}}) + "\n"})
        except OSError as exc:
            await server.close()
            raise CommandFailed(f"{folder} can not be written: {os.strerror(exc.errno or 0)}") from None
        return f"{name.upper()} at {server.url}, {what}", (
            f"set the app up: {_command(app, name, settings, folder)}\n"
            'give a registration the address of its device: curl -X PUT -H "Authorization: Bearer $HELIOGRAPH_KEY"'
            f' -H "Content-Type: application/json" -d @{shlex.quote(str(folder / _ADDRESSES))}'
            " $HELIOGRAPH_URL/v1/registrations/TOKEN"
        )

    asyncio.run(serve_local(start, server.close, port))


def _command(app: str, name: str, settings: Mapping[str, str], folder: Path) -> str:
    words = [f"{key}=@{folder / _FILES[key]}" if key in _FILES else f"{key}={each}" for key, each in settings.items()]
    return shlex.join(["heliograph", "apps", "notifier", app, name, *words, "--fallback", name])


def _write(folder: Path, files: Mapping[str, str]) -> None:
    """Whoever reads the keys can push there: mode 600. OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        path = folder / name
        path.touch(mode=0o600)
        path.chmod(0o600)
        path.write_text(text)
