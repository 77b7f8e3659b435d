"""Mastodon.py in threads: one request of an account at a time, a deadline on each. AuthFailed, Transient and Rejected
leave this, and nothing else; what a server said is in none of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from mastodon import Mastodon, MastodonError, MastodonNetworkError, MastodonRatelimitError

from gateway.im.connectors.mastodon.form import Login
from gateway.im.connectors.mastodon.http import PinnedSession
from gateway.model.im import AuthFailed, Rejected, Transient

#: what the library takes a server for: it asks none for its version
_VERSION = "4.3.0"
_LONGEST_S = 86_400.0
T = TypeVar("T")


class MastodonClient:
    def __init__(self, login: Login, addresses: list[str], threads: ThreadPoolExecutor, request_s: float) -> None:
        self._http = PinnedSession(addresses, request_s)
        self._threads, self._request_s = threads, request_s
        self._turn = asyncio.Lock()
        self._api = Mastodon(
            api_base_url=login.url,
            ratelimit_method="throw",
            request_timeout=request_s,
            session=self._http,
            mastodon_version=_VERSION,
            version_check_mode="created",
        )
        # not as an argument: the library would take the name of a file for the file, and send what is in it
        self._api.access_token = login.token

    async def run(self, request: Callable[[Mastodon], T]) -> T:
        async with self._turn:
            loop = asyncio.get_running_loop()
            running = loop.run_in_executor(self._threads, self._try, request)
            try:
                async with asyncio.timeout(self._request_s):
                    return await asyncio.shield(running)
            except TimeoutError:
                self._http.abort()
                running.add_done_callback(_forget)
                raise Transient("the server does not answer in time") from None
            except asyncio.CancelledError:
                self._http.abort()
                running.add_done_callback(_forget)
                raise

    def close(self) -> None:
        self._http.abort()
        self._http.close()

    def _try(self, request: Callable[[Mastodon], T]) -> T:
        try:
            return request(self._api)
        except Exception as exc:  # the library lets through whatever a server makes it stumble over
            raise classify(exc, self._api.ratelimit_reset) from None


def classify(failure: Exception, reset_at_s: object = None) -> AuthFailed | Transient | Rejected:
    if isinstance(failure, AuthFailed | Transient | Rejected):
        return failure
    if isinstance(failure, MastodonRatelimitError):
        pause = reset_at_s - time.time() if isinstance(reset_at_s, int | float) else 0.0
        return Transient("the server wants this slower", min(max(pause, 0.0), _LONGEST_S))
    if isinstance(failure, MastodonNetworkError) or not isinstance(failure, MastodonError):
        return Transient("the server does not answer as it should")
    status = failure.args[1] if len(failure.args) > 1 and isinstance(failure.args[1], int) else 0
    if status == 401:
        return AuthFailed("the server does not take the token, or has taken it back")
    if status == 403:
        return Rejected("the token does not allow this, or the account is suspended")
    if 400 <= status < 500 and status not in (408, 425):
        return Rejected("the server does not take this")
    return Transient("the server has trouble of its own")


def check_object(answer: object) -> Mapping[str, Any]:
    if not isinstance(answer, Mapping):
        raise Transient("the server does not answer as it should")
    return answer


def check_list(answer: object) -> list[Mapping[str, Any]]:
    if not isinstance(answer, list):
        raise Transient("the server does not answer as it should")
    return [each for each in answer if isinstance(each, Mapping)]


def _forget(done: asyncio.Future[Any]) -> None:
    if not done.cancelled():
        done.exception()  # nobody waits for it any more
