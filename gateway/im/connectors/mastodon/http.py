"""HTTP for Mastodon.py, which uses requests: only to the addresses of its server that were looked up, no redirects,
answers that are bounded in bytes and in time, and a way to end a request that hangs. Used in threads."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

#: of one answer in JSON
_ANSWER_BYTES = 8_388_608
_PIECE_BYTES = 65_536

logging.getLogger("urllib3").setLevel(logging.ERROR)  # each path at DEBUG, odd headers at WARNING


class _Places:
    """Where to connect to, and what is connected."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self.addresses = list(addresses)
        self.sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self.lock = threading.Lock()

    def connect(self, port: int, timeout: float) -> socket.socket:
        for address in self.addresses:
            try:
                made = socket.create_connection((address, port), timeout)
            except OSError:
                continue
            with self.lock:
                self.sockets.add(made)
            return made
        raise OSError("the server takes no connection")


class PinnedSession(requests.Session):
    """`request_s`: for one request, from its beginning to the last byte of its answer."""

    def __init__(self, addresses: Sequence[str], request_s: float) -> None:
        super().__init__()
        self.trust_env = False
        self.headers["Accept-Encoding"] = "identity"
        self._request_s = request_s
        self._places = _Places(addresses)
        adapter = _PinnedAdapter(self._places, request_s)
        self.adapters.clear()
        self.mount("https://", adapter)
        self.mount("http://", adapter)

    def request(self, method: Any, url: Any, *arguments: Any, **more: Any) -> requests.Response:
        """Whole, or an OSError of requests."""
        until = time.monotonic() + self._request_s
        more |= {"stream": True, "allow_redirects": False, "timeout": self._request_s}
        response = super().request(method, url, *arguments, **more)
        with contextlib.closing(response):
            if 300 <= response.status_code < 400 or response.headers.get("Content-Encoding", "identity") != "identity":
                raise requests.ConnectionError("a redirect, or a packed answer")
            pieces, size = [], 0
            while piece := response.raw.read1(_PIECE_BYTES):
                size += len(piece)
                if size > _ANSWER_BYTES or time.monotonic() > until:
                    raise requests.ConnectionError("an answer is too large or too slow")
                pieces.append(piece)
            response._content = b"".join(pieces)
            response._content_consumed = True
        return response

    def abort(self) -> None:
        """From another thread: what is under way fails at once."""
        with self._places.lock:
            sockets = list(self._places.sockets)
        for each in sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


class _PinnedAdapter(HTTPAdapter):
    def __init__(self, places: _Places, timeout: float) -> None:
        self._places, self._timeout = places, timeout
        super().__init__(pool_connections=1, pool_maxsize=2, max_retries=0)

    def init_poolmanager(self, *arguments: Any, **more: Any) -> None:
        super().init_poolmanager(*arguments, **more)
        places, timeout = self._places, self._timeout

        class Plain(HTTPConnection):
            def _new_conn(self) -> socket.socket:
                return _connect(self, places, timeout)

        class Secure(HTTPSConnection):
            def _new_conn(self) -> socket.socket:
                return _connect(self, places, timeout)

        class PlainPool(HTTPConnectionPool):
            ConnectionCls = Plain

        class SecurePool(HTTPSConnectionPool):
            ConnectionCls = Secure

        self.poolmanager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}


def _connect(connection: HTTPConnection, places: _Places, timeout: float) -> socket.socket:
    try:
        return places.connect(connection.port or 0, timeout)
    except OSError:
        raise urllib3.exceptions.NewConnectionError(connection, "the server takes no connection") from None
