"""A small client of the provider API for the commands; must never print or keep a key.

Every failure becomes a ProviderFailed whose message says what to do next.
"""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit

import httpx

from gateway.cli.output import CommandFailed, say
from gateway.model.errors import ConfigError

TIMEOUT_S = 30.0
#: of many lines an answer is waited for as much longer as it takes to send and write them, also on a slow way and disk
LINES_BYTES_A_SECOND = 16_384
#: who follows something looks again for so long where the gateway is away, as in a restart
PATIENCE_S = 300.0


class ProviderFailed(CommandFailed):
    """The gateway answered with an error (then with its name, number and HTTP status), or not at all."""

    def __init__(self, message: str, *, name: str = "", code: int = 0, status: int = 0) -> None:
        super().__init__(f"{message} ({name}, {code})" if name else message)
        self.name, self.code, self.status = name, code, status


class NoAnswer(ProviderFailed):
    """Nobody is there, or the answer did not come."""


def _trust() -> ssl.SSLContext:
    """The system's authorities, or those of $SSL_CERT_FILE and $SSL_CERT_DIR, which OpenSSL looks at."""
    return ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE"), capath=os.environ.get("SSL_CERT_DIR"))


class Provider:
    """One connection to the API; use it in a `with`."""

    def __init__(self, url: str, key: str, *, transport: httpx.BaseTransport | None = None) -> None:
        self.url = url
        if not key.isascii() or not key.isprintable():
            raise ConfigError("the key is not one: a key reads hk_… and has no space, line end or accent in it")
        try:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
                raise ValueError
            self._http = httpx.Client(
                base_url=url,
                headers={"authorization": f"Bearer {key}"},
                timeout=TIMEOUT_S,
                transport=transport,
                trust_env=False,
                verify=_trust(),
            )
        except (httpx.InvalidURL, ValueError):
            raise ConfigError(f"{url!r} is not the URL of a gateway; one reads http://127.0.0.1:7480") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._http.close()

    def get(self, *path: str, **query: str) -> Any:
        return self._call("GET", path, params=query)

    def post(self, *path: str, body: Any = None) -> Any:
        return self._call("POST", path, json={} if body is None else body)

    def post_lines(self, *path: str, content: bytes) -> Any:
        """JSON lines. Of many the answer takes its time: it comes when all of them are durable."""
        timeout_s = TIMEOUT_S + len(content) / LINES_BYTES_A_SECOND
        headers = {"content-type": "application/x-ndjson"}
        return self._call("POST", path, content=content, headers=headers, timeout=timeout_s)

    def patch(self, *path: str, body: Any) -> Any:
        return self._call("PATCH", path, json=body)

    def delete(self, *path: str) -> Any:
        return self._call("DELETE", path)

    def _call(self, method: str, path: tuple[str, ...], **options: Any) -> Any:
        target = "/v1/" + "/".join(quote(part, safe="") for part in path)
        try:
            answer = self._http.request(method, target, **options)
        except httpx.ConnectError as exc:
            if "CERTIFICATE_VERIFY_FAILED" in str(exc):
                raise ProviderFailed(
                    f"the certificate of {self.url} is not trusted; name its authority in $SSL_CERT_FILE, a PEM file"
                ) from None
            raise NoAnswer(
                f"nobody answers at {self.url}; start a gateway with `heliograph serve`, or name another with --url"
            ) from None
        except httpx.HTTPError as exc:
            raise NoAnswer(f"the gateway at {self.url} did not answer ({type(exc).__name__})") from None
        if answer.status_code >= 400:
            raise _failure(answer)
        if not answer.content:
            return {}
        try:
            return answer.json()
        except ValueError:
            raise ProviderFailed(f"what answers at {self.url} is no Heliograph (its answer is not JSON)") from None


def look_again(look: Callable[[], dict[str, Any]], end: float | None) -> dict[str, Any]:
    """What `look` says of something that was there before. Where the gateway does not answer, as in a restart, it is
    asked again until `end` (monotonic), for PATIENCE_S at most."""
    last, told = time.monotonic() + PATIENCE_S, False
    last = last if end is None else min(last, end)
    while True:
        try:
            return look()
        except NoAnswer as failed:
            if time.monotonic() >= last:
                raise
            if not told:
                say(f"{str(failed).partition(';')[0]}: asked again until somebody does, for {PATIENCE_S:g} s at most")
            told = True
            time.sleep(min(1.0, max(0.0, last - time.monotonic())))


def name_field(field: str | None, message: str) -> str:
    """With the field in front, where the message does not name it: msgspec's ends with "(at field)"."""
    named = not field or message.startswith(field) or f"(at {field})" in message
    return message if named else f"{field}: {message}"


def _failure(answer: httpx.Response) -> ProviderFailed:
    try:
        error = answer.json()["error"]
        message, name, code = str(error["message"]), str(error["name"]), int(error["code"])
        field = str(error.get("field") or "")
    except (ValueError, KeyError, TypeError, AttributeError):
        return ProviderFailed(f"the gateway answered {answer.status_code}", status=answer.status_code)
    message = name_field(field, message)
    if name == "unknown_app":
        message = f"{message.rstrip('.')}; `heliograph apps list` shows them, `heliograph apps create NAME` makes one"
    return ProviderFailed(message, name=name, code=code, status=answer.status_code)


def app_key(key: str | None) -> str:
    """The key of an app: flag, then $HELIOGRAPH_KEY. Raises ConfigError."""
    found = key or os.environ.get("HELIOGRAPH_KEY")
    if not found:
        raise ConfigError(
            "an app's API key is needed: set HELIOGRAPH_KEY (make one with `heliograph apps key NAME`) or give --key"
        )
    return found.strip()


def operator_key(key: str | None, store: Path | None, config: Path | None = None) -> str:
    """The operator's key: flag, then the key file of the local store. Raises ConfigError.

    $HELIOGRAPH_KEY is not looked at: it holds an app's key for `send`.
    """
    if key:
        return key.strip()
    from gateway.auth.admin_key import FILE_NAME, load_or_create
    from gateway.cli.options import store_folder

    folder = store_folder(store, config)
    path = folder / FILE_NAME
    try:
        if not path.exists():
            raise ConfigError(f"{path} is not there; start the gateway once, or give the operator's key with --key")
        return load_or_create(path).text
    except PermissionError:
        raise ConfigError(f"may not read {path}; run this as the gateway's user, or give --key") from None
