"""APNs, FCM and a push service of this machine as `heliograph local` runs them: the servers of tests, which here keep
nothing and tell what they took and what they refused; must never tell anybody but who started them."""

from __future__ import annotations

import json
from collections.abc import Callable

from gateway.notifiers.apns.local import LocalApns
from gateway.notifiers.fcm.local import LocalFcm
from gateway.notifiers.local_h2 import LocalServer, Reply, Request, Trouble
from gateway.notifiers.webpush.local import LocalPushService


class Telling(LocalServer):
    """In front of a local server in the order of bases, so that it sees each answer before the gateway does."""

    #: of a notification that was taken, a line
    on_taken: Callable[[str], None] = print
    #: of a request that was refused, a line
    on_refused: Callable[[str], None] = print

    async def respond(self, request: Request) -> Reply | Trouble:
        answer = await super().respond(request)
        self.requests.clear()
        for line in self.take():
            self.on_taken(line)
        if isinstance(answer, Reply) and answer.status >= 400:
            self.on_refused(f"{request.method} {request.path}: {answer.status} {_why(answer.body)}".rstrip())
        return answer

    def take(self) -> list[str]:
        """What was taken since then, a line each."""
        return []

    def set_up(self) -> tuple[dict[str, str], str]:
        """Settings of the app's notifier, and the address of a device that is known here."""
        return {}, ""


class ShownApns(Telling, LocalApns):
    def take(self) -> list[str]:
        lines = []
        for one in self.taken:
            priority = f", priority {one.headers['apns-priority']}" if "apns-priority" in one.headers else ""
            lines.append(f"{one.headers.get('apns-push-type', '')}{priority}, {_one_line(one.payload)}")
        self.taken.clear()
        return lines

    def set_up(self) -> tuple[dict[str, str], str]:
        return self.settings(), self.add_device("ab" * 32)


class ShownFcm(Telling, LocalFcm):
    def take(self) -> list[str]:
        lines = [_one_line({key: each for key, each in one.items() if key != "token"}) for one in self.taken]
        self.taken.clear()
        return lines

    def set_up(self) -> tuple[dict[str, str], str]:
        return self.settings(), self.add_device("device-of-a-trial")


class ShownPushService(Telling, LocalPushService):
    def take(self) -> list[str]:
        lines = []
        for one in self.taken:
            fields = ", ".join(f"{name} {one.headers[name]}" for name in ("urgency", "ttl") if name in one.headers)
            lines.append(f"{fields}, {_one_line(one.message)}")
        self.taken.clear()
        return lines

    def set_up(self) -> tuple[dict[str, str], str]:
        # Devices name the endpoint, so the gateway asks nobody on loopback unless it is told to.
        return {**self.settings(), "private": "yes"}, self.subscribe()


def _one_line(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(value)


def _why(body: bytes) -> str:
    """Apple's reason and Google's code; push services say none."""
    try:
        answer = json.loads(body or b"{}")
    except ValueError:
        return ""
    error = answer.get("error")
    if isinstance(error, dict):  # google.rpc, with an FcmError where it is about the message
        codes = [str(each["errorCode"]) for each in error.get("details", ()) if "errorCode" in each]
        return codes[0] if codes else str(error.get("status", ""))
    return str(answer.get("reason") or error or "")
